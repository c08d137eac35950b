"""Resuming, on real footage with the real stages: two short pieces of the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mediapipe", reason="the embedded backends are not installed")

from mit_builder.media.cut import cut_clip
from mit_builder.storage.scratch import sha256_of

BASE = ("filter.min_clip_s=2", "run.overlays=0", "shards.n_buckets=4")


def run(place: Path, *arguments: str, settings: tuple[str, ...] = BASE, engine: str = "serial") -> dict[str, Any]:
    """Run the command to its end; its JSON summary with the exit code."""
    sets = [part for setting in settings for part in ("--set", setting)]
    program = [
        sys.executable,
        "-m",
        "mit_builder",
        "run",
        "--json",
        "--engine",
        engine,
        "--workspace",
        str(place),
    ]
    done = subprocess.run([*program, *sets, *arguments], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**summary, "exit_code": done.returncode}


def worked_on(summary: dict[str, Any]) -> dict[str, int]:
    return {name: stage["worked_on"] for name, stage in summary["stages"].items() if stage["worked_on"]}


def shards(place: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in (place / "dataset").glob("*.parquet")}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, demo_video: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("videos")
    made = []
    for i, (start, end) in enumerate(((100, 160), (660, 770))):
        made.append(folder / f"part{i}.mp4")
        cut_clip(demo_video, start, end, made[-1], folder / f"part{i}.flac", crf=16, audio_kbps=128)
    return [str(path) for path in made]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, videos: list[str]) -> Path:
    """A workspace after an undisturbed run on Ray."""
    place = tmp_path_factory.mktemp("finished") / "workspace"
    summary = run(place, *videos, engine="ray")
    assert summary["exit_code"] == 0
    assert summary["dataset_clips"] == 2
    return place


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "workspace"))


def test_running_again_works_on_nothing_within_15_seconds(workspace: Path) -> None:
    before = shards(workspace)
    started = time.monotonic()
    summary = run(workspace, engine="ray")
    assert time.monotonic() - started < 15
    assert worked_on(summary) == {}
    assert shards(workspace) == before


def test_serial_engine_makes_the_same_dataset_as_ray(finished: Path, videos: list[str], tmp_path: Path) -> None:
    run(tmp_path / "serial", *reversed(videos))
    assert shards(tmp_path / "serial") == shards(finished)


def test_without_the_pose_ledger_only_pose_runs_again(workspace: Path) -> None:
    before = shards(workspace)
    shutil.rmtree(workspace / "manifests" / "pose")
    assert worked_on(run(workspace)) == {"pose": 2}
    assert shards(workspace) == before


def test_a_longer_minimum_drops_rows_without_inference_and_back_again_without_work(workspace: Path) -> None:
    before = shards(workspace)
    raised = run(workspace, settings=("filter.min_clip_s=2.5", *BASE[1:]))
    assert raised["dataset_clips"] == 1
    assert not {"filter.detect", "filter.cut", "pose", "speech"} & worked_on(raised).keys()
    lowered = run(workspace)
    assert lowered["dataset_clips"] == 2
    assert not {"filter.detect", "filter.cut", "pose", "speech"} & worked_on(lowered).keys()
    assert shards(workspace) == before


def test_a_failing_video_stops_nothing_and_why_tells_its_story(workspace: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"<html>not a video</html>")
    summary = run(workspace, str(broken))
    assert summary["exit_code"] == 1
    assert summary["dataset_clips"] == 2
    why = [sys.executable, "-m", "mit_builder", "why", "broken.mp4", "--workspace", str(workspace)]
    story = subprocess.run(why, capture_output=True, text=True, check=True).stdout
    assert "download" in story
    assert "failed (permanent)" in story
    assert worked_on(run(workspace)) == {}
    assert worked_on(run(workspace, "--stage", "download", "--retry-failed")) == {"download": 1}


def test_forcing_a_stage_with_equal_output_leaves_the_rest_alone(workspace: Path) -> None:
    assert worked_on(run(workspace, "--force-stage", "filter.cut")) == {"filter.cut": 2}
