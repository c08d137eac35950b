from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manifests.rows import Shot, Video
from mit_builder.config.settings import ShotsSettings
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import MediaError
from mit_builder.media.write import ffmpeg_executable, write_video
from mit_builder.stage import Reject
from mit_builder.storage.workspace import Workspace
from stages.shots import DetectShots, shots_between

CUTS = (30, 47, 96)
N_FRAMES = 130


def scenes(fps_factor: int = 1) -> list[np.ndarray[Any, Any]]:
    """Four textured scenes that each drift a little, with hard cuts at `CUTS`."""
    rng = np.random.default_rng(5)
    frames = []
    for start, end in pairwise((0, *CUTS, N_FRAMES)):
        texture = np.kron(rng.integers(0, 256, (12, 30, 3), np.uint8), np.ones((10, 10, 1), np.uint8))
        frames += [np.roll(texture, i // (2 * fps_factor), axis=1)[:, :160] for i in range((end - start) * fps_factor)]
    return frames


@pytest.fixture(scope="module")
def cut_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shots") / "cuts.mp4"
    write_video(path, scenes(), width_px=160, height_px=120)
    return path


Find = Callable[..., list[Shot]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """The shots of a file."""

    def find(path: Path, **settings: Any) -> list[Shot]:
        workspace = Workspace(tmp_path / "ws")
        context = UnitContext(workspace, "0123456789abcdef", tmp_path)
        copy = tmp_path / f"copy{path.suffix}"
        copy.write_bytes(path.read_bytes())
        media = context.commit(copy, "videos", "v")
        video = Video("v", "s", "u", None, None, None, None, None, "public", media, 1.0, 25, "25", 160, 120, False)
        stage = DetectShots(ShotsSettings(**settings))
        stage.setup()
        return list(stage.process(video, context))

    return find


def intervals(shots: list[Shot]) -> list[tuple[int, int]]:
    return [(shot.start_frame, shot.end_frame) for shot in shots]


WHOLE = [(0, 30), (30, 47), (47, 96), (96, 130)]


@pytest.mark.parametrize("detector", ["adaptive", "content", "hash"])
def test_hard_cuts_are_found_at_their_frame(find: Find, cut_video: Path, detector: str) -> None:
    shots = find(cut_video, detector=detector)
    assert intervals(shots) == WHOLE
    assert {shot.video_id for shot in shots} == {"v"}


def test_cuts_are_counted_in_frames_of_the_25_fps_timeline(find: Find, tmp_path: Path) -> None:
    path = tmp_path / "fast.mp4"
    write_video(path, scenes(fps_factor=2), fps=50, width_px=160, height_px=120)
    assert intervals(find(path)) == WHOLE


def test_short_shots_are_left_out_and_move_no_cut(find: Find, cut_video: Path) -> None:
    assert intervals(find(cut_video, min_shot_frames=18)) == [(0, 30), (47, 96), (96, 130)]
    assert intervals(find(cut_video, min_shot_frames=35)) == [(47, 96)]


def test_a_video_that_is_shorter_than_any_shot_is_rejected(find: Find, cut_video: Path) -> None:
    with pytest.raises(Reject) as verdict:
        find(cut_video, min_shot_frames=131)
    assert verdict.value.reason == "too_short"
    assert verdict.value.measurements == {"n_frames": 130}


def test_a_video_of_which_every_shot_is_short_has_none(find: Find, cut_video: Path) -> None:
    assert find(cut_video, min_shot_frames=60) == []


def test_a_high_threshold_sees_one_shot_and_fades_are_found_by_brightness(
    find: Find, cut_video: Path, tmp_path: Path
) -> None:
    assert intervals(find(cut_video, detector="content", threshold=250)) == [(0, 130)]
    levels = [200] * 40 + [0] * 20 + [200] * 40
    path = tmp_path / "fade.mp4"
    write_video(path, (np.full((120, 160, 3), v, np.uint8) for v in levels), width_px=160, height_px=120)
    first, second = intervals(find(path, detector="threshold"))
    assert first[0] == 0
    assert 40 <= first[1] == second[0] <= 60
    assert second[1] == 100


def test_a_still_video_is_one_shot(find: Find, tmp_path: Path) -> None:
    path = tmp_path / "still.mp4"
    write_video(path, [np.full((120, 160, 3), 90, np.uint8)] * 40, width_px=160, height_px=120)
    assert intervals(find(path)) == [(0, 40)]


def test_a_file_that_does_not_decode_is_a_failure(find: Find, tmp_path: Path) -> None:
    path = tmp_path / "no.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(MediaError):
        find(path)


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ([], [(0, 100)]),
        ([50], [(0, 50), (50, 100)]),
        ([50, 50, 20], [(0, 20), (20, 50), (50, 100)]),
        ([0, 100, 130, -5], [(0, 100)]),
        ([5], [(5, 100)]),
        ([95], [(0, 95)]),
        ([50, 55], [(0, 50), (55, 100)]),
    ],
)
def test_shots_lie_between_cuts(cuts: list[int], expected: list[tuple[int, int]]) -> None:
    assert intervals(list(shots_between("v", cuts, 100, 12))) == expected


def test_a_jump_in_the_times_of_a_file_ends_the_shot(find: Find, tmp_path: Path) -> None:
    """The picture goes on as if nothing had happened; the second half's times begin 20 s later."""
    picture = scenes()[:30]
    parts = []
    for k in range(2):
        write_video(tmp_path / "part.mp4", picture, width_px=160, height_px=120)
        part = tmp_path / f"part{k}.ts"
        command = [ffmpeg_executable(), "-nostdin", "-y", "-v", "error", "-i", str(tmp_path / "part.mp4"), "-c", "copy"]
        subprocess.run([*command, "-output_ts_offset", str(20 * k), str(part)], check=True)
        parts.append(part.read_bytes())
    path = tmp_path / "jump.ts"
    path.write_bytes(b"".join(parts))
    assert intervals(find(path, detector="threshold")) == [(0, 30), (30, 60)]
