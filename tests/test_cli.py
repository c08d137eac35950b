from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import time
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import fakes
import pyarrow.parquet as pq
import pytest
from yt_dlp.globals import supported_js_runtimes

import mit_builder.pipeline_run
from manifests.ledger import Entry, Ledger
from manifests.rows import Artifact, Shot, Video, clip_id, short_id
from manifests.sound_track import SoundTrack
from mit_builder import __version__
from mit_builder.cli import why
from mit_builder.cli.main import main
from mit_builder.config.backends import SETTINGS
from mit_builder.dataset.index import parse_index
from mit_builder.driver import finished_sources, preflight, snapshot
from mit_builder.errors import StageUnavailable
from mit_builder.pipeline import STAGES, STEPS
from mit_builder.storage.lease import lease
from mit_builder.storage.workspace import Workspace

Check = preflight.Check
QUICK = ("--set", "download.host_interval_s=0", "--set", "run.retry_base_s=0")
A, E = "http://fake.test/a", "http://fake.test/e"
BAD = "http://fake.test/bad?pose=fail"


class Cli(Protocol):
    """Exit code, standard output and standard error of `mit-build ARGUMENTS`."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """The program in an empty folder, with fake stages in the place of ours; pictures are not drawn."""
    modules: dict[str, Any] = defaultdict(lambda: types.ModuleType("fake"))
    for step in STEPS:
        module, _, name = step.stage.partition(":")
        setattr(modules[module], name, fakes.CLASSES[step.name])
    for module, fake in modules.items():
        monkeypatch.setitem(sys.modules, module, fake)
    monkeypatch.setattr(mit_builder.pipeline_run, "check_all", lambda *arguments: [])
    monkeypatch.setattr(mit_builder.pipeline_run, "_report", lambda *arguments: [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    # A shell that starts the tests in the background has them ignore SIGINT.
    before_int = signal.signal(signal.SIGINT, signal.default_int_handler)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    yield call
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, before_int)


def run(cli: Cli, *arguments: str) -> tuple[int, str, str]:
    return cli("run", "--engine", "serial", "-w", "ws", "--set", "shards.n_buckets=2", *QUICK, *arguments)


def ledger_rows(stage: str) -> int:

    return sum(pq.read_metadata(part).num_rows for part in Path("ws/manifests", stage).glob("*.parquet"))


def test_a_run_says_where_everything_is_and_a_second_one_does_nothing(cli: Cli) -> None:
    code, out, err = run(cli, A, E)
    assert (code, err) == (0, "")
    assert "2 sources given, 2 in this workspace" in out
    assert "2 sources -> 2 videos" in out
    assert "4 clips in the dataset" in out
    assert "make sure that you may download and use them" in out
    code, out, _ = run(cli)
    assert code == 0
    assert "no sources given: going on with the 2 of this workspace" in out
    assert "0 units worked on: everything was done already" in out
    assert "make sure" not in out


def test_a_failed_item_makes_exit_code_1_and_is_listed(cli: Cli) -> None:
    code, out, err = run(cli, A, BAD)
    assert (code, err) == (1, "")
    assert "2 pose failed (permanent)" in out
    code, out, _ = cli("status", "-w", "ws", "--failed")
    assert code == 0
    assert out.startswith("permanent: not tried again unless asked: mit-build retry --workspace ws --class permanent\n")
    assert "       2 pose: told to fail: fail\n" in out
    assert "Traceback" not in out
    assert run(cli)[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stage", "poses"), f"no stage 'poses': choose all, or of {', '.join(STAGES)}"),
        (("--force-stage", "x"), "no stage 'x'"),
        (("--set", "filter.min_face=3"), "unknown setting filter.min_face"),
        (("--set", "nonsense"), "must look like"),
        (("--set", "filter.min_face_px=wide"), "setting filter.min_face_px"),
        (("--config", "none.yaml"), "cannot read settings file none.yaml"),
        (("--profile", "huge"), "setting profile"),
        (("--engine", "spark"), "--engine must be ray or serial, not spark"),
        (("--sources", "none.txt"), "no such source list: none.txt"),
        (("none.mp4",), "no such file, folder or URL: none.mp4"),
        (("ftp://host/a",), "cannot fetch ftp://host/a"),
        (("-w", "file"), "cannot use workspace"),
        (("-w", "nonsense://x"), "cannot use workspace nonsense://…: give a folder, or s3://"),
    ],
)
def test_a_request_that_cannot_be_is_one_line_and_exit_code_2(
    cli: Cli, arguments: tuple[str, ...], message: str
) -> None:
    Path("file").touch()
    code, out, err = cli("run", "--engine", "serial", "-w", "ws", *arguments)
    assert code == 2
    assert err.startswith("mit-build: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "arguments", [("run", "--limit", "0"), ("run", "--nonsense"), ("nonsense",), ("why",), ("run", "--sources")]
)
def test_wrong_usage_is_exit_code_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    code, _, err = cli(*arguments)
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("why", "x"),
        ("gc",),
        ("preview", "x"),
        ("status", "--json"),
        ("status", "--failed"),
        ("trace",),
        ("plan", "--check"),
        ("retry",),
        ("takedown", "x"),
        ("export", "-o", "out"),
        ("report",),
        ("tune",),
    ],
)
def test_a_workspace_that_does_not_exist_is_not_made(cli: Cli, arguments: tuple[str, ...]) -> None:
    code, _, err = cli(*arguments, "-w", "none")
    assert code == 2
    assert "no workspace at none: give --workspace, or start with mit-build run --workspace none" in err
    assert not Path("none").exists()


def test_who_looks_at_a_workspace_leaves_it_as_it_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def there() -> list[tuple[Path, int]]:
        return [(path, path.stat().st_mtime_ns) for path in sorted(Path().rglob("*"))]

    run(cli, A, BAD)
    run(cli, "--stage", "download", "http://fake.test/pending")
    Path("out").mkdir()
    for module in (mit_builder.pipeline_run, snapshot):
        monkeypatch.setattr(module, "FROM_SOURCES", 0)
    monkeypatch.setattr(finished_sources, "WRITE_ROWS", 0)
    before = there()
    for arguments in (
        ("status",),
        ("status", "--failed"),
        ("status", "--json"),
        ("why", A),
        ("doctor",),
        ("doctor", "-w", "none"),
        ("trace", "--output", os.devnull),
        ("plan", "--check"),
        ("tune",),
        ("validate", "ws"),
        ("validate", "none"),
    ):
        place = () if {"-w", "validate"} & set(arguments) else ("-w", "ws")
        assert cli(*arguments, *place)[0] in (0, 1, 2, 3)
        assert there() == before, arguments


def test_a_folder_in_which_nothing_was_run_says_so(cli: Cli) -> None:
    Path("empty").mkdir()
    code, _, err = cli("status", "-w", "empty")
    assert code == 2
    assert "nothing was run in" in err
    assert list(Path("empty").iterdir()) == []


def test_missing_weights_are_exit_code_3_and_leave_the_units_pending(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_weights(self: fakes.FakePose) -> None:
        raise StageUnavailable("no weights: mit-build weights fetch it")

    monkeypatch.setattr(fakes.FakePose, "setup", without_weights)
    code, out, err = run(cli, A)
    assert code == 3
    assert err == "mit-build: stage pose cannot start: no weights: mit-build weights fetch it\n"
    assert "2 pose pending: no weights" in out
    monkeypatch.undo()


def test_what_will_fail_is_said_before_anything_is_done(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [
        preflight.Check("a", "ok", "fine"),
        preflight.Check("disk", "failed", "full"),
        preflight.Check("b", "failed", "gone"),
    ]
    monkeypatch.setattr(mit_builder.pipeline_run, "check_all", lambda *arguments: checks)
    assert run(cli, A)[::2] == (3, "mit-build: disk: full; b: gone\n")
    assert not Path("ws/manifests/download").exists()


def test_a_run_asks_only_for_what_its_stages_need(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mit_builder.pipeline_run, "check_all", preflight.check_all)
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda module: None)
    assert run(cli, A, "--stage", "download", "--stage", "shots")[0] == 0
    for stage, packages in (("pose", ["mediapipe"]), ("speech", ["silero"]), ("filter", ["mediapipe", "silero"])):
        code, _, err = run(cli, A, "--stage", stage)
        assert code == 3
        assert [name for name in ("mediapipe", "silero") if name in err] == packages
    assert run(cli, A, "--stage", "download", "--force-stage", "pose")[0] == 3


@pytest.mark.parametrize(("stage", "told"), [("all", 1), ("download", 1), ("pose", 0)])
def test_that_youtube_needs_javascript_is_said_once_before_it_is_asked(
    cli: Cli, stage: str, told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_packages", lambda *arguments: [])
    monkeypatch.setattr(preflight, "_models", lambda *arguments: [])
    monkeypatch.setattr(mit_builder.pipeline_run, "check_all", preflight.check_all)
    for name in preflight.JAVASCRIPT:
        monkeypatch.setitem(supported_js_runtimes.value, name, lambda: types.SimpleNamespace(info=None))
    line = "YouTube needs a JavaScript runtime, deno or node >= 22: pip install deno; without it formats are missing"
    code, out, err = run(cli, "--stage", stage, A, "https://youtu.be/x", "https://www.youtube.com/watch?v=y")
    assert code == 0
    assert (out + err).replace("\n", " ").count(line) == told
    assert line not in run(cli, "-w", "other", A)[1]


def test_a_full_disk_is_exit_code_3(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mit_builder.driver.runner.CHECK_SPACE_S", 0.0)
    code, _, err = run(cli, A, "--set", "run.min_free_gb=1e9")
    assert code == 3
    assert "mit-build gc" in err
    assert len(err.splitlines()) == 1


def test_a_workspace_in_use_is_exit_code_3(cli: Cli) -> None:
    run(cli, A)
    with lease(Workspace("ws")):
        for arguments in (("run", "--engine", "serial", "-w", "ws"), ("gc", "-w", "ws")):
            code, _, err = cli(*arguments)
            assert code == 3
            assert err.startswith("mit-build: another run uses this workspace (process ")
        assert cli("status", "-w", "ws")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_exit_code_130_and_keeps_what_is_done(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def interrupted(self: fakes.FakePose, text: str) -> None:
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(fakes.FakePose, "obey", interrupted)
        code, _, err = run(cli, A)
    assert (code, err) == (130, "mit-build: interrupted; to go on: mit-build run --workspace ws --engine serial\n")
    assert ledger_rows("filter.cut") > 0
    assert run(cli)[0] == 0
    assert ledger_rows("filter.cut") == 2


def test_what_was_interrupted_before_its_sources_were_kept_is_not_said_to_go_on(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(mit_builder.pipeline_run, "open_sources", interrupted)
    assert run(cli, A)[::2] == (130, "mit-build: interrupted; the same command begins anew\n")


def test_a_plan_leaves_the_dataset_as_it_is(cli: Cli) -> None:
    run(cli, A, E)
    before = {path: path.read_bytes() for path in Path("ws/dataset").iterdir()}
    more = [f"http://fake.test/more{i}" for i in range(4)]
    code, out, _ = cli("plan", "--probe", "2", "--engine", "serial", "-w", "ws", *QUICK, *more)
    assert (code, "forecast for 6 sources from 2 of them" in out) == (0, True)
    assert {path: path.read_bytes() for path in Path("ws/dataset").iterdir()} == before
    assert "12 clips in the dataset" in run(cli)[1]


def test_what_a_playlist_holds_counts_for_the_playlist_in_a_plan(cli: Cli) -> None:
    lists = [f"http://fake.test/list{i}?list=a{i},b{i}" for i in range(3)]
    code, out, _ = cli("plan", "--probe", "2", "--engine", "serial", "-w", "ws", "--json", *QUICK, *lists)
    made = json.loads(out.splitlines()[-1])
    assert (code, len(made["sample"])) == (0, 2)
    assert set(made["stages"]) == set(fakes.CLASSES) - {"shards"}
    ledger = Ledger(Workspace("ws"), "pose", fakes.FakePose.emits)
    took_s = sum(entry.duration_s for entry in ledger.entries())
    assert made["stages"]["pose"]["work_s"]["value"] == pytest.approx(1.5 * took_s)


def test_what_to_try_next_keeps_settings_and_can_be_pasted(cli: Cli) -> None:
    Path("mine.yaml").write_text("shards:\n  n_buckets: 2\n")
    given = ("--config", "mine.yaml", "--set", "filter.min_clip_s=1", "--set", "download.proxy=http://me:secret@proxy")
    code, out, _ = cli("run", "--engine", "serial", "-w", "my films", *given, *QUICK, A)
    next_one = next(line for line in out.splitlines() if line.startswith("  mit-build run"))
    assert (code, "secret" in out) == (0, False)
    words = shlex.split(next_one)
    assert words[1:6] == ["run", "--workspace", "my films", "--engine", "serial"]
    words[words.index("download.proxy=…")] = "download.proxy=http://me:secret@proxy"
    code, out, _ = cli(*words[1:])
    assert (code, "settings differ" in out) == (0, False)
    assert "0 units worked on" in out
    assert "  mit-build status --workspace 'my films'" in out
    code, out, _ = cli("retry", "-w", "my films", "--class", "permanent", "--engine", "serial")
    assert "  mit-build retry --workspace 'my films' --class permanent --engine serial\n" in out


def test_json_output_is_one_object_a_line_and_ends_with_the_result(cli: Cli) -> None:
    code, out, err = run(cli, A, BAD, "--json")
    assert (code, err) == (1, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert {line["event"] for line in lines} <= {"note", "progress", "end"}
    end = lines[-1]
    assert end["event"] == "end"
    assert (end["sources"], end["videos"], end["dataset_clips"]) == (2, 2, 2)
    assert end["stages"]["pose"]["failed"] == {"permanent": 2}
    _, out, _ = cli("status", "-w", "ws", "--json")
    (line,) = out.splitlines()
    assert json.loads(line)["candidates"] == {"kept": 4, "too_short": 2}
    _, out, _ = cli("status", "-w", "ws", "--failed", "--json")
    (group,) = json.loads(out)
    assert (group["stage"], group["class"], len(group["units"])) == ("pose", "permanent", 2)


def test_chosen_stages_run_and_the_others_wait(cli: Cli) -> None:
    code, out, _ = run(cli, A, "--stage", "download,shots", "--stage", "filter.detect")
    assert code == 0
    assert "3 filter.select pending" in out
    assert ledger_rows("filter.detect") == 1
    code, out, _ = run(cli, "--stage", "filter")
    assert "2 pose pending" in out
    assert ledger_rows("filter.cut") == 2
    assert not Path("ws/dataset").exists()
    assert run(cli, "--stage", "all")[0] == 0
    assert (ledger_rows("filter.detect"), ledger_rows("pose")) == (1, 2)


def test_a_forced_stage_is_done_again(cli: Cli) -> None:
    run(cli, A)
    code, out, _ = run(cli, "--force-stage", "filter")
    assert code == 0
    assert "6 units worked on" in out
    assert (ledger_rows("filter.select"), ledger_rows("pose")) == (6, 2)


def test_limit_takes_the_first_sources(cli: Cli) -> None:
    Path("list.txt").write_text(f"{A}\n{E}\n")
    _, out, _ = run(cli, "--sources", "list.txt", "--limit", "1", "--json")
    assert json.loads(out.splitlines()[-1])["videos"] == 1
    _, out, _ = run(cli, "--json")
    assert json.loads(out.splitlines()[-1])["videos"] == 2


def test_retry_failed_does_the_failed_units_of_the_chosen_stage_again(cli: Cli) -> None:
    Path("flag").touch()
    bad = f"http://fake.test/bad?pose=fail&while={Path('flag').absolute()}"
    assert run(cli, A, bad)[0] == 1
    Path("flag").unlink()
    assert run(cli)[0] == 1
    _, out, _ = run(cli, "--stage", "pose", "--retry-failed")
    assert "2 units worked on" in out
    assert run(cli)[0] == 0


def test_a_run_over_a_few_sources_keeps_what_is_known_of_settled_ones_true(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (mit_builder.pipeline_run, snapshot):
        monkeypatch.setattr(module, "FROM_SOURCES", 2)
    Path("flag").touch()
    bad = f"http://fake.test/bad?pose=fail&while={Path('flag').absolute()}"
    assert run(cli, bad, A, E)[0] == 1
    Path("flag").unlink()
    few = ("--limit", "1", "--retry-failed", "--stage", "pose")
    code, out, _ = run(cli, *few)
    assert (code, "2 units worked on" in out) == (0, True)
    assert run(cli)[0] == 0
    assert json.loads(cli("status", "-w", "ws", "--json")[1])["dataset_clips"] == 6
    assert "0 units worked on" in run(cli)[1]


def test_retry_takes_one_class_and_the_settings_of_the_last_run(cli: Cli) -> None:
    Path("flag").touch()
    bad = [f"http://fake.test/{how}?pose={how}&while={Path('flag').absolute()}" for how in ("fail", "transient")]
    assert run(cli, A, *bad, "--set", "filter.min_clip_s=1")[0] == 1
    Path("flag").unlink()
    code, out, _ = cli("retry", "--class", "permanent", "-w", "ws", "--engine", "serial")
    assert "3 pose failed (transient)" in out
    assert code == 1
    assert "settings differ" not in out
    assert cli("retry", "-w", "ws", "--engine", "serial")[0] == 0
    assert cli("status", "-w", "ws", "--failed")[1] == "no failed units\n"


def test_a_changed_setting_is_said(cli: Cli) -> None:
    run(cli, A)
    _, out, _ = run(cli, "--set", "filter.min_clip_s=8")
    line = "settings differ from the last run here: filter.min_clip_s 5.0 -> 8.0; 1 of 2 clips leaves the dataset"
    assert f"{line}, no model runs again\n" in out
    assert "1 clip in the dataset" in out


def test_counts_and_their_nouns_agree(cli: Cli) -> None:
    """With one of everything: a source, a video, a clip, a shard, a failed unit."""
    said = [*run(cli, f"{A}?lengths=130"), *run(cli, "--set", "filter.min_clip_s=6"), *run(cli, "--unset", "filter")]
    Path("ws/clips/orphan.mp4").write_text("x")
    for command in ("status", "gc", "tune", "doctor", "trace"):
        said += cli(command, "-w", "ws")[1:]
    said += cli("why", f"{A}?lengths=130", "-w", "ws")[1:]
    text = "\n".join(map(str, said))
    assert "1 source -> 1 video (0.1 min) -> 1 shot -> 1 candidate -> 1 kept (0.1 min) -> 1 clip in the dataset" in text
    verbs = ("1 is", "1 has", "1 leaves")
    assert [found for found in re.findall(r"(?<![\d.,:-])1 \w+s\b", text) if found not in verbs] == []


def test_narrow_misses_are_named_with_the_setting_that_would_let_them_in(cli: Cli) -> None:
    _, out, _ = run(cli, A, "--set", "filter.min_clip_s=7")
    look = "mit-build tune --workspace ws --set filter.min_clip_s=5.97"
    assert f"1 candidate missed min_clip_s=7 (6) by < 20%; what another value would change: {look}\n" in out


def test_init_writes_a_file_that_a_run_takes_and_never_overwrites(cli: Cli) -> None:
    code, out, _ = cli("init", "mine.yaml")
    assert (code, "then mit-build run --config mine.yaml" in out) == (0, True)
    assert run(cli, A, "--set", "filter.min_clip_s=1")[0] == 0
    assert "settings differ" not in run(cli, "--config", "mine.yaml")[1], "as it is it changes nothing"
    Path("mine.yaml").write_text("filter:\n  min_clip_s: 8\n")
    code, _, err = cli("init", "mine.yaml")
    assert (code, err) == (2, "mit-build: mine.yaml exists: give another name, or delete it first\n")
    assert run(cli, A, "--config", "mine.yaml")[0] == 0
    assert "1 clip in the dataset" in cli("status", "-w", "ws")[1]
    assert cli("init", "no/such/folder.yaml")[0] == 2


@pytest.mark.parametrize("by", ["address", "source", "video", "clip"])
def test_why_tells_the_story_of_a_source_a_video_or_a_clip(cli: Cli, by: str) -> None:
    run(cli, A, BAD)
    video_id = short_id("content", "bad")
    clip = clip_id(video_id, 50, 200)
    wanted = {"address": BAD, "source": fakes.source("bad?pose=fail").source_id, "video": video_id, "clip": clip}
    code, out, _ = cli("why", wanted[by], "-w", "ws")
    assert code == 0
    assert f"pose {clip}: failed (permanent): told to fail: fail" in out
    assert f"{clip}: kept" in out
    stories = [line.partition(" ")[0] for line in out.splitlines() if not line.startswith(" ")]
    assert [name for name in stories if name in ("download", "shots")] == ["download", "shots"]
    assert short_id("content", "a") not in out
    assert "Traceback" not in out
    assert "Traceback" in cli("--debug", "why", wanted[by], "-w", "ws")[1]


def test_why_tells_which_sound_is_heard() -> None:
    chosen = SoundTrack(2, 48_000, 2, (0.5, 0.5), "original", -33.5, "eng", "Main", ("original",))
    other = SoundTrack(1, 48_000, 1, (), "not chosen", None, None, None, ())
    media = Artifact("videos/v", "0", 1)
    video = Video(
        "v", "s", "file:v.mkv", None, None, None, None, None, "public", media, 1.0, 25, "25", 64, 48, True,
        sound=(other, chosen), gain_db=10.5,
    )  # fmt: skip
    assert list(why._sound(video)) == [
        "  sound track 1: not heard (not chosen)",
        "  sound track 2 [eng, Main, original]: heard (original), -33.5 dBFS",
        "  the models listen with a gain of +10.5 dB",
    ]


def test_why_goes_once_over_the_ledger(cli: Cli) -> None:
    run(cli, A)
    ledger = Ledger(Workspace("ws"), "shots", (Shot,))
    ledger.append([Entry(short_id("content", str(i)), "k", "done") for i in range(10_000)], run_id="large")
    before_s = time.process_time()
    assert "shots" in cli("why", A, "-w", "ws")[1]
    assert time.process_time() - before_s < 3  # with a look at all rows for each of them it takes 12 s


def test_why_names_the_test_that_a_candidate_failed_with_its_measurements(cli: Cli) -> None:
    run(cli, A)
    clip = clip_id(short_id("content", "a"), 0, 50)
    _, out, _ = cli("why", clip, "-w", "ws")
    assert f"{clip}: rejected too_short: min_face_px 100, " in out


def test_why_tells_that_a_clip_is_left_out_of_the_dataset(cli: Cli) -> None:
    clip = clip_id(short_id("content", "a"), 50, 200)
    run(cli, A)
    assert "left out" not in cli("why", clip, "-w", "ws")[1]
    run(cli, "--set", "shards.min_body_visible=1")
    assert f"fate of {clip}: left out of the dataset: body_not_visible" in cli("why", clip, "-w", "ws")[1]


def test_why_tells_verdicts_and_duplicates(cli: Cli) -> None:
    run(cli, "http://fake.test/x?shots=reject", "http://fake.test/y?video=same", "http://fake.test/z?video=same")
    assert 'rejected: told_to {"answer": 42}' in cli("why", short_id("content", "x"), "-w", "ws")[1]
    keeper, copy = sorted(fakes.source(f"{name}?video=same").source_id for name in "yz")
    assert f"rejected: duplicate same video as source {keeper}" in cli("why", copy, "-w", "ws")[1]


def test_why_of_something_unknown_is_exit_code_2(cli: Cli) -> None:
    run(cli, A)
    code, _, err = cli("why", "nothing", "-w", "ws")
    assert (code, err) == (
        2,
        "mit-build: nothing named nothing here; mit-build status --workspace ws --videos shows what there is\n",
    )


def test_gc_removes_orphans_only(cli: Cli) -> None:
    run(cli, A)
    run(cli, "--set", "filter.min_clip_s=8")
    workspace = Workspace("ws")
    before = workspace.names("")
    for key in (
        "clips/orphan.0123abcd.mp4",
        "poses/deep/orphan.0123abcd.parquet",
        ".scratch/killed/half",
        ".partial/x/half",
    ):
        path = Path("ws", key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert cli("gc", "-w", "ws", "--dry-run")[1].endswith("2 files would go\n")
    assert Path("ws/clips/orphan.0123abcd.mp4").exists()
    assert cli("gc", "-w", "ws")[:2] == (0, "2 files removed\n")
    # What only an older setting's rows name stays: moved back, it is found again.
    assert workspace.names("") == before
    assert not Path("ws/.scratch/killed").exists()
    assert not Path("ws/.partial/x").exists()
    assert run(cli, "--unset", "filter.min_clip_s")[0] == 0
    assert parse_index(workspace.read("dataset/index.json").decode()).shards[0].n_clips == 2


def test_describe_names_every_step_with_its_rows(cli: Cli) -> None:
    code, out, _ = cli("describe")
    assert code == 0
    steps, *lists = out.split("\n\n")
    assert [line.split()[0] for line in steps.splitlines() if not line.startswith(" ")] == [step.name for step in STEPS]
    assert [line.split()[2] for line in (text.splitlines()[0] for text in lists[:-1])] == list(SETTINGS.values())
    assert lists[-1].startswith("stages of other packages")
    assert "  makes Clip: clip_id: string" in out


def test_doctor_says_what_is_wrong_with_its_exit_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"^ok +memory +[\d.]+ of [\d.]+ GB of memory are free|^warning +memory ", cli("doctor")[1], re.M)
    monkeypatch.setattr("mit_builder.cli.doctor.check_engine", lambda settings: [])
    monkeypatch.setattr("mit_builder.cli.doctor.check_all", lambda *arguments: [preflight.Check("disk", "ok", "fine")])
    monkeypatch.setattr("mit_builder.cli.doctor.check_writable", lambda place: [])
    assert cli("doctor", "-w", "ws") == (0, "ok       disk             fine\n", "")
    monkeypatch.setattr(
        "mit_builder.cli.doctor.check_all", lambda *arguments: [preflight.Check("disk", "failed", "full")]
    )
    code, out, _ = cli("doctor", "-w", "ws", "--json")
    assert (code, json.loads(out)) == (3, [{"name": "disk", "verdict": "failed", "text": "full"}])


def test_the_version_is_shown(cli: Cli) -> None:
    assert cli("--version") == (0, f"mit-build {__version__}\n", "")


def test_a_damaged_ledger_part_is_said_by_status_and_set_aside_by_the_next_run(cli: Cli, tmp_path: Path) -> None:
    run(cli, A, E)
    (part,) = (tmp_path / "ws" / "manifests" / "pose").iterdir()
    part.write_bytes(part.read_bytes()[:-5])
    damaged = f"manifests/pose/{part.name} is damaged"
    assert f"{damaged}: the next run does again what only it held" in cli("status", "-w", "ws")[1]
    assert part.exists()
    code, out, err = run(cli)
    assert (code, err) == (0, "")
    assert f"{damaged}, it lies in damaged/ now" in out
    assert (tmp_path / "ws" / "damaged" / "pose" / part.name).is_file()
    assert "damaged" not in cli("status", "-w", "ws")[1]
    assert "0 units worked on" in run(cli)[1]


def test_a_workspace_that_takes_nothing_ends_a_run_with_one_line(cli: Cli, tmp_path: Path) -> None:
    run(cli, A)
    (tmp_path / "ws" / "mit-build.yaml").unlink()
    (tmp_path / "ws" / "mit-build.yaml").mkdir()
    code, _, err = run(cli, A)
    assert code == 3
    assert len(err.splitlines()) == 1
    assert err.startswith("mit-build: cannot write mit-build.yaml in workspace ")


def test_a_playlist_is_looked_at_again_when_asked_and_by_default_after_a_day(cli: Cli, tmp_path: Path) -> None:
    entries = tmp_path / "entries"
    entries.write_text("a")
    channel = f"http://fake.test/channel?list={entries}"
    run(cli, channel, "--stage", "download")
    entries.write_text("a,b")
    assert "0 units worked on" in run(cli, "--stage", "download")[1]
    assert "2 units worked on" in run(cli, "--stage", "download", "--refresh")[1]
    assert "0 units worked on" in run(cli, "--stage", "download", "--set", "download.refresh_s=3600")[1]
    assert "1 unit worked on" in run(cli, "--stage", "download", "--set", "download.refresh_s=0")[1]


def test_rows_without_an_address_are_said_also_to_machines(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "urls.csv").write_text(f"url; title\n{A};x\n;y\n;z\n")
    _, out, _ = run(cli, "--sources", "urls.csv", "--stage", "download", "--json")
    said = [json.loads(line) for line in out.splitlines()]
    line = "urls.csv: 2 rows without an address skipped: lines 3, 4"
    assert {"event": "note", "text": line} in said
    assert said[-1]["sources"] == 1


def test_a_folder_with_files_of_somebody_else_becomes_no_workspace(cli: Cli) -> None:
    for name in ("project/clips/holiday.mp4", "project/dataset/a.parquet", "project/report/index.html"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text("mine")
    code, _, err = cli("run", A, "--engine", "serial", "-w", "project")
    assert (code, "project is no workspace and not empty (it holds clips): give another --workspace" in err) == (
        2,
        True,
    )
    for arguments in (("gc",), ("gc", "--dry-run")):
        code, _, err = cli(*arguments, "-w", "project")
        assert (code, "project is no workspace" in err) == (2, True)
    assert {path.read_text() for path in Path("project").rglob("*") if path.is_file()} == {"mine"}


def test_gc_leaves_files_that_no_run_has_named(cli: Cli) -> None:
    run(cli, A)
    mine, ours = Path("ws/clips/holiday.mp4"), Path("ws/clips/gone.0123abcd.mp4")
    for path in (mine, ours):
        path.write_text("x")
    code, out, _ = cli("gc", "--dry-run", "-w", "ws")
    assert (code, out) == (0, "clips/gone.0123abcd.mp4\n1 file would go\n")
    cli("gc", "-w", "ws")
    assert (mine.exists(), ours.exists()) == (True, False)


def test_validate_names_a_damaged_part_of_the_ledger(cli: Cli) -> None:
    run(cli, A)
    (part, *_) = Path("ws/manifests/speech").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:-100] + bytes(100))
    code, out, _ = cli("validate", "ws")
    assert (code, f"manifests/speech/{part.name}: is damaged" in out) == (1, True)


def test_after_a_run_of_some_stages_the_others_are_advised(cli: Cli) -> None:
    _, out, _ = run(cli, A, "--stage", "download")
    assert "  mit-build run --workspace ws --stage all\n" in out
