"""What the pose estimator of MediaPipe does beyond its contract, and the tables that all estimators share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from manifests.rows import N_KEYPOINTS
from mit_builder.contract import plugin
from mit_builder.contract.plugin import Scene
from mit_builder.contract.test_pose import estimate
from mit_builder.labels.keypoints import BODY, KEYPOINT_NAMES, SKELETON, SWAP

scene = plugin.scene


def test_swap_table_is_its_own_inverse_and_follows_the_names() -> None:
    np.testing.assert_array_equal(SWAP[SWAP], np.arange(N_KEYPOINTS))
    for i, name in enumerate(KEYPOINT_NAMES):
        if name.startswith(("left_", "right_")):
            side, _, part = name.partition("_")
            assert KEYPOINT_NAMES[SWAP[i]] == f"{'right' if side == 'left' else 'left'}_{part}"


def test_skeleton_links_each_hand_and_foot_to_its_own_side() -> None:
    assert len(SKELETON) == 65
    assert {(SWAP[a], SWAP[b]) for a, b in SKELETON} | {(SWAP[b], SWAP[a]) for a, b in SKELETON} >= set(SKELETON)
    assert BODY.stop == 17


def test_another_process_gives_the_same_bits(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    from mit_builder.models.mediapipe.pose import MediaPipePose

    seen = estimate(MediaPipePose(), scene)
    given, result = tmp_path / "scene.npz", tmp_path / "found.npy"
    np.savez(given, frames=np.stack(scene.frames), boxes=scene.boxes_xyxy, faces=scene.face_boxes_xyxy)
    program = (
        "import sys, numpy as np\n"
        "from mit_builder.models.mediapipe.pose import MediaPipePose\n"
        "s = np.load(sys.argv[1])\n"
        "np.save(sys.argv[2], np.stack(list(MediaPipePose().estimate(s['frames'], s['boxes'], s['faces'])), axis=1))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(given), str(result)], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(result), seen)
