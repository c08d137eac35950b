"""The bundled demo from the command to the Parquet, against its ground truth; the same mirrored and muted.

Another demo, built with other lines and another order of shots (scripts/build_demo.py), has to pass as well:
`MIT_BUILDER_TEST_DEMO=other/demo.mp4 pytest tests/e2e/test_demo.py`, with its truth.json beside it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

pytest.importorskip("mediapipe", reason="the embedded backends are not installed")

import demo_truth as dt
from tune_check import compare

from mit_builder.dataset.validate import validate
from mit_builder.driver.snapshot import Snapshot
from mit_builder.storage.source_catalog import DEMO
from mit_builder.storage.workspace import Workspace

pytestmark = pytest.mark.timeout(1500)


@dataclass(frozen=True)
class Outcome:
    place: Path
    output: str
    shots: list[tuple[int, int]]
    candidates: list[dt.Candidate]
    clips: list[dt.Clip]


def build(place: Path, *arguments: str) -> Outcome:
    program = [sys.executable, "-m", "mit_builder", "run", "--stage", "all", "--workspace", str(place)]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lanes = Snapshot.of(Workspace(place)).lanes
    shots = [(s.start_frame, s.end_frame) for e in lanes["shots"].ledger.entries() for s in e.outputs]
    found = [row for e in lanes["filter.select"].ledger.entries() for row in e.outputs]
    candidates = [dt.Candidate(row.start_frame, row.end_frame, row.reason) for row in found]
    rows: list[dict[str, Any]] = ds.dataset(sorted((place / "dataset").glob("*.parquet"))).to_table().to_pylist()
    return Outcome(place, done.stdout, sorted(shots), candidates, [dt.read_clip(row) for row in rows])


@pytest.fixture(scope="module")
def truth(demo_video: Path) -> tuple[dt.TrueShot, ...]:
    return dt.load_truth(demo_video.with_name("truth.json"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, demo_video: Path) -> Outcome:
    addresses = [] if demo_video == DEMO else [str(demo_video)]
    return build(tmp_path_factory.mktemp("demo") / "workspace", *addresses)


def test_a_run_without_sources_says_that_it_takes_the_demo(demo: Outcome, demo_video: Path) -> None:
    if demo_video != DEMO:
        pytest.skip("another demo was given")
    assert "no sources given: running the bundled demo" in demo.output


def test_shots_are_within_a_frame_of_the_truth(demo: Outcome, truth: tuple[dt.TrueShot, ...]) -> None:
    assert dt.boundary_error_frames(demo.shots, truth) <= 1


def test_exactly_the_steady_two_shots_are_kept(demo: Outcome, truth: tuple[dt.TrueShot, ...]) -> None:
    assert dt.wrong_verdicts(demo.candidates, truth) == []


def test_a_verdict_on_labels_reaches_the_dataset_and_survives_another_run(demo: Outcome, tmp_path: Path) -> None:
    place = tmp_path / "workspace"
    shutil.copytree(demo.place, place)
    listed = (place / "report" / "gallery.js").read_text().removeprefix("mitGallery(").removesuffix(");\n")
    clip = json.loads(f"[{listed}]")[0][0]
    silence = {
        "person_id": 0,
        "start_frame": 25,
        "end_frame": 75,
        "speaking": False,
        "face_x_px": 0.0,
        "face_y_px": 0.0,
    }
    verdict = {
        "clip_id": clip["id"],
        "verdict": "accept",
        "reason": "",
        "corrections": [silence, {**silence, "person_id": 1, "speaking": True}],
        "labels_checked": False,
        "people": clip["peopleKey"],
        "labels": clip["labelsKey"],
    }
    export = tmp_path / "verdicts.json"
    export.write_text(json.dumps({"format": "mit-builder-reviews", "version": 1, "reviews": [verdict]}))
    program = [sys.executable, "-m", "mit_builder"]
    subprocess.run([*program, "review", "-w", str(place), "--import", str(export)], check=True)
    for expected in ("1 unit worked on", "0 units worked on"):
        again = [*program, "run", "--engine", "serial", "--workspace", str(place)]
        done = subprocess.run(again, capture_output=True, text=True, check=True)
        assert expected in done.stdout
        rows = ds.dataset(sorted((place / "dataset").glob("*.parquet"))).to_table().to_pylist()
        people = next(row["people"] for row in rows if row["clip_id"] == clip["id"])
        assert [person["human_periods"] for person in people] == [[[25, 75]], [[25, 75]]]
        assert not any(people[0]["speaking"][25:75])
        assert all(people[1]["speaking"][25:75])
    assert validate(place) == []


def test_two_people_in_every_frame(demo: Outcome, truth: tuple[dt.TrueShot, ...]) -> None:
    assert len(demo.clips) == sum(shot.keep for shot in truth)
    assert [dt.frames_without_everybody(clip, truth) for clip in demo.clips] == [0] * len(demo.clips)


def test_who_speaks_when(demo: Outcome, truth: tuple[dt.TrueShot, ...]) -> None:
    scores = dt.score_speech(demo.clips, truth)
    assert scores.who_speaks >= 0.9, scores
    assert scores.sole_speaker >= 0.9, scores
    assert scores.balanced_accuracy >= 0.88, scores


def test_noses_eyes_and_shoulders_are_where_they_belong(demo: Outcome, truth: tuple[dt.TrueShot, ...]) -> None:
    pairs = [pair for clip in demo.clips for pair in dt.pair_people(clip, truth)]
    assert dt.nose_in_place(pairs) >= 0.95
    assert dt.on_own_side(pairs, dt.LEFT_EYE, dt.RIGHT_EYE) >= 0.95
    assert dt.on_own_side(pairs, dt.LEFT_SHOULDER, dt.RIGHT_SHOULDER) >= 0.95


def test_the_dataset_is_valid_and_pictures_were_drawn(demo: Outcome) -> None:
    assert validate(demo.place) == []
    pictures = {path.suffix for path in (demo.place / "report").iterdir()}
    assert {".png", ".mp4"} <= pictures
    assert (demo.place / "dataset" / "README.md").read_text().startswith("---")


@pytest.mark.parametrize(
    ("override", "kept", "new"),
    [("filter.min_face_px=300", 0, 0), ("filter.min_clip_s=15", 1, 0), ("filter.max_camera_motion_pct=5", 3, 1)],
)
def test_a_run_keeps_what_tune_foretells(
    demo: Outcome, demo_video: Path, tmp_path: Path, override: str, kept: int, new: int
) -> None:
    found = compare(demo.place, override, tmp_path)
    assert found.agrees, found
    if demo_video == DEMO:
        assert (len(found.foretold), len(found.new)) == (kept, new)


def test_the_mirrored_demo_gives_mirrored_keypoints(
    demo: Outcome, truth: tuple[dt.TrueShot, ...], demo_video: Path, tmp_path: Path
) -> None:
    mirrored_video = tmp_path / "mirrored.mp4"
    dt.mirror_video(demo_video, mirrored_video)
    options = ("--set", "run.overlays=0", "--set", "pose.stride=5")
    mirrored = build(tmp_path / "workspace", str(mirrored_video), *options)
    assert dt.wrong_verdicts(mirrored.candidates, truth) == []
    for original, other in zip(demo.clips, mirrored.clips, strict=True):
        errors = dt.mirror_error(original, other)
        assert max(errors.values()) <= 0.1, errors


def test_in_the_muted_demo_nobody_speaks(truth: tuple[dt.TrueShot, ...], demo_video: Path, tmp_path: Path) -> None:
    muted_video = tmp_path / "muted.mp4"
    dt.mute_video(demo_video, muted_video)
    options = ("--set", "filter.min_voice_activity=0", "--set", "run.overlays=0", "--set", "pose.stride=5")
    muted = build(tmp_path / "workspace", str(muted_video), *options)
    assert len(muted.clips) == sum(shot.keep for shot in truth)
    assert dt.talk_share(muted.clips) <= 0.02
