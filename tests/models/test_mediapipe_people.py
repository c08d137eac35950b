"""What the people detector of MediaPipe does beyond its contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mit_builder.contract.test_people import detect
from mit_builder.media.frames import read_frames
from mit_builder.models.mediapipe.people import body_boxes, s3fd_like, tiles, window


def test_lower_confidence_finds_at_least_as_much(demo_video: Path) -> None:
    pytest.importorskip("mediapipe")
    from mit_builder.models.mediapipe.people import MediapipePeople

    image = next(read_frames(demo_video)).image
    counts = []
    for confidence in (0.1, 0.4, 0.99):
        detector = MediapipePeople(confidence)
        counts.append(len(detect(detector, image).scores))
        detector.close()
    assert counts[0] >= counts[1] == 2
    assert counts[2] == 0, "the threshold reaches the graph"


def test_loading_and_detecting_prints_nothing(demo_video: Path) -> None:
    pytest.importorskip("mediapipe")
    code = (
        "import numpy as np; from mit_builder.models.mediapipe.people import MediapipePeople;"
        "d = MediapipePeople(0.4); d.detect([np.zeros((360, 640, 3), np.uint8)], thorough=[True]); d.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_mediapipe_is_not_imported_by_the_module() -> None:
    code = (
        "import sys, mit_builder.models.mediapipe.people as m; m.backend_name(); assert 'mediapipe' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_face_boxes_are_extended_upward_and_bodies_derived_from_the_face() -> None:
    face = np.array([[100, 100, 150, 150]], np.float32)
    np.testing.assert_allclose(s3fd_like(face), [[100, 86, 150, 150]])
    np.testing.assert_allclose(body_boxes(face, 1000, 350), [[15, 55, 235, 350]])


def test_tiles_cover_the_picture_and_overlap() -> None:
    covered = np.zeros((361, 641), int)
    for x, y, right, bottom in tiles(641, 361):
        covered[y:bottom, x:right] += 1
    assert covered.min() == 1
    assert covered.max() == 4


def test_windows_lie_in_the_picture() -> None:
    assert window(np.array([300, 100, 350, 160], np.float32), 640, 360) == (205, 10, 445, 250)
    assert window(np.array([-30, -40, 10, 10], np.float32), 640, 360) == (0, 0, 90, 85)
    x, y, right, bottom = window(np.array([900, 900, 910, 910], np.float32), 640, 360)
    assert (x, y, right, bottom) == (639, 359, 640, 360)
