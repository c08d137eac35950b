"""Face boxes for the speech model: from the pose where the face was seen, else the detector's.

Speech models were trained on S3FD's boxes, which reach from the forehead to the chin. The detector's boxes already look
like these; the pose's 68 points end at the brows, so their box is enlarged. The factors are medians over the frames of
five conversations (one rendered, three generated, one real) of the detector's box against that of the points.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from mit_builder.labels.keypoints import FACE, SEEN_SCORE
from mit_builder.labels.tracking import overlaps

Floats = npt.NDArray[np.float32]
FaceBoxSource = Literal["pose", "detector", "interpolated"]

WIDTH_OF_HEIGHT = 1.14
"""Width of the box / height of the points, brows to chin."""
ABOVE, BELOW = 0.47, -0.01
"""Reach beyond the highest and the lowest point / height of the points."""
MIN_IOU = 0.3
"""Points whose box overlaps the detector's by less are of something else, however sure the pose is: on 7,328 frames of
twelve real and generated clips it is at least 0.38."""


def speech_face_boxes(
    keypoints: Floats, detector_boxes_xyxy: Floats, face_detected: npt.NDArray[np.bool_]
) -> tuple[Floats, list[FaceBoxSource]]:
    """One person's face boxes for the speech model, and where each comes from.

    Args:
        keypoints: (n_frames, 133, 3) float32.
        detector_boxes_xyxy: (n_frames, 4) float32, S3FD-like, a box for every frame.
        face_detected: (n_frames,) bool; false where the detector's box is interpolated.

    Returns:
        (n_frames, 4) float32 without NaN, and n_frames sources: "pose" where the mean score of the 68 face points is
        at least 0.3 and their box overlaps the detector's by an IoU of at least 0.3.
    """
    points = keypoints[:, FACE]
    is_seen = (points[:, :, 2].mean(axis=1) >= SEEN_SCORE) & np.isfinite(points[:, :, :2]).all(axis=(1, 2))
    boxes = np.array(detector_boxes_xyxy, np.float32)
    posed = enlarged(points[:, :, :2])
    for frame in np.flatnonzero(is_seen):
        is_seen[frame] = overlaps(posed[None, frame], boxes[None, frame])[0, 0] >= MIN_IOU
    boxes[is_seen] = posed[is_seen]
    sources: list[FaceBoxSource] = [
        "pose" if seen else "detector" if detected else "interpolated"
        for seen, detected in zip(is_seen, face_detected, strict=True)
    ]
    return boxes, sources


def enlarged(points_xy: Floats) -> Floats:
    """(n, 68, 2) face points -> (n, 4) S3FD-like boxes."""
    low, high = points_xy.min(axis=1), points_xy.max(axis=1)
    height = high[:, 1] - low[:, 1]
    centre_x, half_width = (low[:, 0] + high[:, 0]) / 2, height * (WIDTH_OF_HEIGHT / 2)
    top, bottom = low[:, 1] - ABOVE * height, high[:, 1] + BELOW * height
    return np.stack([centre_x - half_width, top, centre_x + half_width, bottom], axis=1)
