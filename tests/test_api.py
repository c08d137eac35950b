"""The Python API, with stages that make true-shaped clips in milliseconds; tests/test_docs.py has the real ones."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_stages
import tiny_dataset

import mit_builder as mb
import mit_builder.pipeline_run
import mit_builder.report.write
from mit_builder.console import hints
from mit_builder.driver import snapshot
from mit_builder.removal.takedown import take_down
from mit_builder.storage.workspace import Workspace

TWO_SHOTS = "http://quick.test/a?frames=300&shots=2&title=Two"
BAD = "http://quick.test/bad?frames=none"
SMALL = {"filter.min_face_px": 30, "run.overlays": 1, "shards.n_buckets": 2, "download.host_interval_s": 0}
"""Faces of quick stages are 40 px wide."""


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with quick stages in the place of ours."""
    for name, module in quick_stages.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(mit_builder.pipeline_run, "check_all", lambda *arguments: [])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*sources: Any, **options: Any) -> mb.RunResult:
    return mb.run(sources, "ws", engine="serial", **{"settings": SMALL, **options})


def test_a_run_tells_in_records_what_came_of_it(quick: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("urls.txt").write_text(f"# mine\n{TWO_SHOTS}\n")
    result = run("urls.txt", BAD)
    assert result.counts["sources"] == 2
    assert result.counts["dataset_clips"] == len(result.clip_ids) == 2
    assert not result.is_whole
    (failure,) = result.failures
    assert (failure["stage"], failure["failure_class"]) == ("download", "permanent")
    assert failure["source"] == BAD
    assert result.rejected == []
    assert str(result).startswith("2 sources -> 1 video")
    assert "2 sources given, 2 in this workspace" in result.notes
    assert all(Path(path).is_file() for path in result.pictures)
    assert capfd.readouterr() == ("", "")
    narrow = run(settings={"filter.min_face_px": 41})
    assert [(row["reason"], row["stage"], row["source"]) for row in narrow.rejected] == [
        ("face_too_small", "filter.select", TWO_SHOTS)
    ] * 2
    assert {row["min_face_px"] for row in narrow.rejected} == {40.0}
    assert sorted((row["start_s"], row["end_s"]) for row in narrow.rejected) == [(0.0, 6.0), (6.0, 12.0)]
    assert mb.status("ws").counts["candidates"] == narrow.counts["candidates"] == {"face_too_small": 2}
    assert mb.status("ws").failures == narrow.failures == result.failures


def test_the_report_holds_what_a_run_skipped_as_well(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mit_builder.pipeline_run, snapshot):
        monkeypatch.setattr(module, "FROM_SOURCES", 1)
    apart = {**SMALL, "shards.n_buckets": 16}
    first, second = run(TWO_SHOTS, settings=apart).clip_ids
    result = run("http://quick.test/new?frames=300", settings=apart)
    assert any(note.startswith("settled before") for note in result.notes)
    (third,) = set(result.clip_ids) - {first, second}
    shown = Path("ws/report/gallery.js").read_text()
    assert all(clip_id in shown for clip_id in (first, second, third))
    assert mb.status("ws").counts["dataset_clips"] == 3
    before = Path("ws/report/index.html").read_bytes()
    mit_builder.report.write.write_report(Workspace("ws"), snapshot.Snapshot.of(Workspace("ws")), n_processes=1)
    assert Path("ws/report/index.html").read_bytes() == before


def test_settings_stick_until_they_are_unset(quick: Path) -> None:
    assert run(TWO_SHOTS, settings={**SMALL, "filter": {"min_face_px": 41}}).clip_ids == ()
    assert run(settings=None).clip_ids == ()
    assert len(run(settings={"filter.min_face_px": 39}).clip_ids) == 2
    assert run(settings=None, unset=["filter.min_face_px"]).counts["candidates"] == {"face_too_small": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"filter.min_face": 3}}, "unknown setting filter.min_face"),
        ({"settings": {"filter.min_face_px": "wide"}}, "setting filter.min_face_px"),
        ({"unset": ["filter.nothing"]}, "filter.nothing"),
        ({"stages": "poses"}, "no stage 'poses'"),
        ({"limit": 0}, "limit is at least 1"),
        ({"engine": "dask"}, "engine must be ray or serial"),
        ({"sources": ["nowhere.mp4"]}, "nowhere.mp4"),
    ],
)
def test_what_is_wrong_is_raised_and_leaves_no_workspace(quick: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(mb.ConfigError, match=re.escape(message)):
        mb.run(**{"workspace": "ws", "engine": "serial", **options})
    assert not list(Path("ws").glob("dataset/*"))


def test_what_is_advised_is_a_whole_command_of_this_workspace_and_the_caller_keeps_its_own(quick: Path) -> None:
    hints.begin("elsewhere")
    run(TWO_SHOTS, stages=["download"])
    with pytest.raises(mb.ConfigError, match=r"no dataset in ws yet: mit-build run --workspace ws --stage all"):
        mb.export("ws", "out")
    with pytest.raises(mb.ConfigError, match=r"no dataset in ws yet: mit-build run --workspace ws --stage all"):
        mb.open_dataset("ws")
    with pytest.raises(mb.ConfigError, match="no workspace at none"):
        mb.status("none")
    assert hints.say(hints.Hint.STATUS) == "mit-build status --workspace elsewhere"


def test_a_run_in_a_thread_leaves_signals_alone_and_keeps_another_out(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in signals]
    begun, go_on, found = threading.Event(), threading.Event(), list[Any]()
    prepare = mit_builder.pipeline_run._prepare

    def slowly(*arguments: Any) -> Any:
        begun.set()
        go_on.wait(30)
        return prepare(*arguments)

    monkeypatch.setattr(mit_builder.pipeline_run, "_prepare", slowly)
    thread = threading.Thread(target=lambda: found.append(run(TWO_SHOTS)))
    thread.start()
    assert begun.wait(30)
    with pytest.raises(mb.CannotContinue, match="another run is going on in this process"):
        mb.run([TWO_SHOTS], "other", engine="serial")
    assert not Path("other").exists()
    go_on.set()
    thread.join()
    assert len(found[0].clip_ids) == 2
    assert [signal.getsignal(number) for number in signals] == before
    assert len(run().clip_ids) == 2, "and the next may begin"


def test_an_error_lets_the_next_run_begin(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> Any:
        raise mb.CannotContinue("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(mit_builder.pipeline_run, "_prepare", fails)
        with pytest.raises(mb.CannotContinue, match="the disk is full"):
            run(TWO_SHOTS)
    assert len(run(TWO_SHOTS).clip_ids) == 2


def test_a_preview_shows_a_clip_and_what_was_rejected(quick: Path) -> None:
    result = run(TWO_SHOTS)
    shown = mb.preview("ws", result.clip_ids[0])
    assert Path(shown.video).is_file()
    assert Path(shown.picture).is_file()
    assert shown.note is None
    assert base64.b64encode(Path(shown.video).read_bytes()).decode() in shown._repr_html_()
    with pytest.raises(mb.ConfigError, match=f"the first: {result.clip_ids[0]}"):
        mb.preview("ws", "nothing")


def test_an_export_is_written(quick: Path) -> None:
    run(TWO_SHOTS)
    lines = mb.export("ws", "out", form="manifest")
    assert any("2 clips" in line for line in lines), lines
    assert list(Path("out").iterdir())
    with pytest.raises(mb.ConfigError, match="audio_encoder belongs to"):
        mb.export("ws", "other", form="hf", audio_encoder="module:Class")


def test_rows_are_read_by_number_and_by_name(tmp_path: Path) -> None:
    built = tiny_dataset.build(tmp_path)
    clips = mb.open_dataset(built.root)
    names = [clip.clip_id for clip in clips]
    assert len(clips) == len(names) == len(set(names)) > 2
    assert [clip.clip_id for clip in clips[1:]] == names[1:]
    assert clips[-1].clip_id == names[-1]
    with pytest.raises(IndexError):
        clips[len(names)]
    clip = clips[0]
    assert clip["people"] is clip.people
    person = clip.people[1]
    assert person.speaking.shape == (clip.n_frames,)
    assert person.keypoints.shape == (clip.n_frames, 133, 3)
    assert {"clip", "audio"} & set(clip) == set()
    assert "talk_share" in dir(person)
    with pytest.raises(AttributeError, match="no 'spoken': there are person_id"):
        person.spoken  # noqa: B018
    assert str(len(clips)) in repr(clips)
    assert clip.clip_id in repr(clip)


def test_frames_are_those_of_the_labels(tmp_path: Path) -> None:
    clip = mb.open_dataset(tiny_dataset.build(tmp_path).root)[0]
    frames = clip.video.frames()
    assert frames.shape == (clip.n_frames, clip.height_px, clip.width_px, 3)
    assert frames.dtype == np.uint8
    assert (clip.video.frames(3, 7) == frames[3:7]).all()
    assert clip.video.sound().shape == (clip.n_frames * 640,)
    assert clip.video.read()[4:8] == b"ftyp"
    assert base64.b64encode(clip.video.read()).decode() in clip._repr_html_()
    for start, end in ((-1, 3), (5, 5), (0, clip.n_frames + 1)):
        with pytest.raises(mb.ConfigError, match="give 0 <= start < end"):
            clip.video.frames(start, end)


def test_a_table_has_a_line_a_clip(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    clips = mb.open_dataset(tiny_dataset.build(tmp_path).root)
    table = clips.to_pandas(["clip_id", "n_people"])
    assert list(table.columns) == ["clip_id", "n_people"]
    assert list(table.clip_id) == [clip.clip_id for clip in clips]
    whole = clips.to_pandas()
    assert whole.people[0][0]["speaking"].tolist() == clips[0].people[0].speaking.tolist()
    assert "clip" not in whole
    with pytest.raises(mb.ConfigError, match="no column 'clip_ids'"):
        clips.to_pandas(["clip_ids"])


def test_what_was_taken_down_is_not_among_the_clips(tmp_path: Path) -> None:
    built = tiny_dataset.build(tmp_path)
    copy = tmp_path / "a copy of the dataset alone"
    shutil.copytree(built.root / "dataset", copy)
    before = [clip.clip_id for clip in mb.open_dataset(copy)]
    take_down(Workspace(built.root), [before[0]])
    for stones in (built.root / "dataset").glob("tombstones*"):
        shutil.copy(stones, copy)
    left = mb.open_dataset(copy)
    assert [clip.clip_id for clip in left] == before[1:]
    assert len(left) == len(before) - 1
    assert list(left.to_pandas(["clip_id"]).clip_id) == before[1:]


def test_public_names_are_there_and_are_documented() -> None:
    for name in mb.__all__:
        if name == "ClipDataset":
            pytest.importorskip("torch", reason="ClipDataset needs torch")
        assert getattr(mb, name).__doc__ or name == "__version__", name
    assert set(mb.__all__) <= set(dir(mb))
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        mb.rnu  # noqa: B018


def test_importing_takes_a_moment_and_no_model_and_no_ray() -> None:
    program = (
        "import json, sys, time; began = time.process_time(); import mit_builder as mb; "
        "took = time.process_time() - began; mb.run; "
        "print(json.dumps([took, [name for name in ('ray', 'torch', 'mediapipe') if name in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    took_s, models = json.loads(done.stdout)
    assert took_s < 0.3
    assert models == []
