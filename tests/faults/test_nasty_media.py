from __future__ import annotations

from pathlib import Path

import numpy as np
from faults.nasty_media import ENCODED, Trial, ffmpeg, not_what_they_seem

from mit_builder.media.write import write_video

GREY = np.full((48, 64, 3), 90, np.uint8)
OUTCOMES = {
    "empty.mp4": "failed: permanent",
    "zeros.mp4": "failed: permanent",
    "random.mp4": "failed: permanent",
    "page.mp4": "failed: permanent",
    "playlist.mp4": "failed: permanent",
    "concat.mp4": "failed: permanent",
    "really_an_mp4.avi": "done",
    "hole_in_the_middle.mp4": "done",  # this small file ends before the hole
    "bomb_16384x8192.mkv": "failed: permanent",
    "named_pipe.mp4": "refused",
    "link_out.mp4": "failed: permanent",
    "link_to_itself.mp4": "refused",
}


def test_what_is_not_what_it_seems_ends_with_a_class_and_leaves_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "base.mp4", [GREY] * 30, width_px=64, height_px=48)
    trial = Trial(tmp_path)
    paths = not_what_they_seem(tmp_path, (tmp_path / "base.mp4").read_bytes())
    assert {path.name: trial.outcome(path)[0] for path in paths} == OUTCOMES
    assert list(trial.workspace.scratch("trial").iterdir()) == []


def test_ten_hours_by_timestamps_alone_are_too_long(tmp_path: Path) -> None:
    write_video(tmp_path / "base.mp4", [GREY] * 30, width_px=64, height_px=48)
    ffmpeg(tmp_path / "base.mp4", ENCODED["ten_hours.mkv"], tmp_path / "x.mkv")
    assert Trial(tmp_path).outcome(tmp_path / "x.mkv")[0] == "rejected: too_long"
