"""COCO-WholeBody's 133 keypoints: names, groups, skeleton, and which points change places in a mirror.

"left" and "right" are the subject's. The 68 face points follow iBUG's order, which runs from the left of the image (the
subject's right) and is the same for all subjects.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manifests.rows import N_KEYPOINTS

BODY = slice(0, 17)
FEET = slice(17, 23)
FACE = slice(23, 91)
LEFT_HAND = slice(91, 112)
RIGHT_HAND = slice(112, 133)

BODY_PARTS: dict[str, tuple[int, ...]] = {
    "head": (0, 1, 2, 3, 4),
    "torso": (5, 6, 11, 12),
    "arms": (7, 8, 9, 10),
    "hands": (*range(91, 112), *range(112, 133)),
    "legs": (13, 14, 15, 16),
}
"""Points that tell how much of a person is seen: nose, eyes, ears; shoulders, hips; elbows, wrists; both hands; knees,
ankles. Feet are left out, because MediaPipe has no small toes."""

INNER_LIP_UPPER = (84, 85, 86)
"""Middle points of the inner upper lip, from the left of the image."""
INNER_LIP_LOWER = (90, 89, 88)
"""Points of the inner lower lip below those of `INNER_LIP_UPPER`."""
NOSE_BRIDGE = 50
"""Topmost point of the nose, between the eyes."""
CHIN = 31
"""Lowest point of the jaw line."""
SEEN_SCORE = 0.3
"""Score from which a point counts as seen (the usual display threshold of Sapiens)."""

_SIDED = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
_FOOT = ("big_toe", "small_toe", "heel")
_FACE_PARTS = (
    ("jaw", 17),
    ("right_brow", 5),
    ("left_brow", 5),
    ("nose_bridge", 4),
    ("nostrils", 5),
    ("right_eye", 6),
    ("left_eye", 6),
    ("outer_lip", 12),
    ("inner_lip", 8),
)
_FINGERS = ("thumb", "fore_finger", "middle_finger", "ring_finger", "pinky")


def visible_ratio(
    keypoints: npt.NDArray[np.float32], points: slice | tuple[int, ...], width_px: int, height_px: int
) -> float:
    """Share of points with a score of at least `SEEN_SCORE` inside the picture, over all frames.

    Args:
        keypoints: (n_frames, 133, 3).
        points: which of the 133.
        width_px: of the picture.
        height_px: of the picture.
    """
    x, y, score = np.moveaxis(keypoints[:, points], -1, 0)
    is_inside = (x >= 0) & (x <= width_px) & (y >= 0) & (y <= height_px)
    return float((is_inside & (score >= SEEN_SCORE)).mean())


def visible_ratios(keypoints: npt.NDArray[np.float32], width_px: int, height_px: int) -> dict[str, float]:
    """`visible_ratio` of the 17 body points and of each of `BODY_PARTS`, by the names of the columns."""
    parts: dict[str, slice | tuple[int, ...]] = {"body": BODY, **BODY_PARTS}
    return {
        f"{name}_visible_ratio": visible_ratio(keypoints, points, width_px, height_px) for name, points in parts.items()
    }


def _names() -> tuple[str, ...]:
    body = ["nose", *(f"{side}_{part}" for part in _SIDED for side in ("left", "right"))]
    feet = [f"{side}_{part}" for side in ("left", "right") for part in _FOOT]
    face = [f"face_{part}_{i}" for part, count in _FACE_PARTS for i in range(count)]
    hands = [
        f"{side}_hand_{joint}"
        for side in ("left", "right")
        for joint in ("root", *(f"{finger}_{i}" for finger in _FINGERS for i in range(1, 5)))
    ]
    return (*body, *feet, *face, *hands)


KEYPOINT_NAMES = _names()
"""Name of each of the 133 points; a name occurs once."""


def _hand_links(root: int) -> list[tuple[int, int]]:
    bases = range(root + 1, root + 21, 4)
    return [link for base in bases for link in ((root, base), *((j, j + 1) for j in range(base, base + 3)))]


SKELETON: tuple[tuple[int, int], ...] = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
    *((15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22)),
    *_hand_links(LEFT_HAND.start),
    *_hand_links(RIGHT_HAND.start),
)
"""The 65 links to draw: 19 of the body, 6 of the feet, 20 of each hand."""


def _swap() -> npt.NDArray[np.int64]:
    pairs = [(left, left + 1) for left in range(1, 17, 2)]
    pairs += [(17 + i, 20 + i) for i in range(3)]
    pairs += [(LEFT_HAND.start + i, RIGHT_HAND.start + i) for i in range(21)]
    pairs += [(23 + i, 39 - i) for i in range(8)]
    pairs += [(40 + i, 49 - i) for i in range(5)]
    pairs += [(54, 58), (55, 57), (59, 68), (60, 67), (61, 66), (62, 65), (63, 70), (64, 69)]
    pairs += [(71, 77), (72, 76), (73, 75), (78, 82), (79, 81), (83, 87), (84, 86), (88, 90)]
    table = np.arange(N_KEYPOINTS)
    for a, b in pairs:
        table[a], table[b] = b, a
    return table


SWAP = _swap()
"""(133,) int64: point i of a mirrored picture is what was point SWAP[i]."""


def mirrored(keypoints: npt.NDArray[np.float32], width_px: int) -> npt.NDArray[np.float32]:
    """Keypoints of the mirrored picture, left and right exchanged: (…, 133, 3) -> (…, 133, 3)."""
    result = keypoints[..., SWAP, :].copy()
    result[..., 0] = width_px - result[..., 0]
    return result
