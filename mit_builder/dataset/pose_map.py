"""Pose maps: keypoints as coloured figures on black, in the style of OpenPose, as pose-driven models take them.

As Sapiens' script for 133 points draws them: a neck between the shoulders, limbs as filled ellipses (opacity 0.6), then
the joints as discs, in the 18 colours of OpenPose; feet and hands coloured, face points white; threshold 0.3. A limb
with an end outside the picture or below the threshold is left out. Sizes are those of a picture 1080 pixels high and
shrink with it.
"""

from __future__ import annotations

import colorsys
import math

import cv2
import numpy as np
import numpy.typing as npt

from mit_builder.labels.keypoints import FACE, LEFT_HAND, RIGHT_HAND, SEEN_SCORE

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Colour = tuple[int, int, int]

HALF_WIDTH_PX, RADIUS_PX = 3, 3
"""Of limbs and joints, in a picture of `REFERENCE_HEIGHT_PX`."""
REFERENCE_HEIGHT_PX = 1080
OPACITY = 0.6
WHITE: Colour = (255, 255, 255)
NECK = 133
"""Index of the added point."""

BODY_18 = (0, NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""OpenPose's 18 points in COCO-WholeBody's numbers: nose, neck, arms, legs (right before left), eyes, ears."""
LIMBS_18 = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""Limbs between positions of `BODY_18`; the n-th has the n-th colour."""
FEET_LINKS = ((15, 17), (15, 18), (15, 19), (16, 20), (16, 21), (16, 22))
FEET_COLOURS: tuple[Colour, ...] = ((85, 0, 255),) * 3 + ((0, 255, 170),) * 3


def _wheel(n: int) -> tuple[Colour, ...]:
    """`n` colours around the hue circle, red first."""
    triples = (colorsys.hsv_to_rgb(i / n, 1, 1) for i in range(n))
    return tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in triples)


COLOURS_18 = _wheel(18)
FINGER_COLOURS = _wheel(20)


def _hand_links(root: int) -> tuple[tuple[int, int], ...]:
    return tuple((root if j % 4 == 0 else root + j, root + j + 1) for j in range(20))


HANDS = tuple(link for hand in (LEFT_HAND, RIGHT_HAND) for link in _hand_links(hand.start))


def pose_map(keypoints: Floats, size_wh: tuple[int, int]) -> Image:
    """The figures of all people of one frame on black.

    Args:
        keypoints: (n_people, 133, 3) x, y, score in pixels of the picture.
        size_wh: of the picture.

    Returns:
        (h, w, 3) RGB uint8.
    """
    image = np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    for points in with_neck(keypoints):
        draw_person(image, points)
    return image


def with_neck(keypoints: Floats) -> Floats:
    """(…, 133, 3) -> (…, 134, 3): the mean of the shoulders is added, seen where both are."""
    shoulders = keypoints[..., 5:7, :]
    neck = np.concatenate([shoulders[..., :2].mean(-2), shoulders[..., 2:].min(-2)], axis=-1)
    return np.concatenate([keypoints, neck[..., None, :]], axis=-2)


def draw_person(image: Image, points: Floats) -> None:
    """Draw one person's 134 points (see `with_neck`) into a picture."""
    height, width = image.shape[:2]
    scale = height / REFERENCE_HEIGHT_PX
    half_width, radius = max(1, round(HALF_WIDTH_PX * scale)), max(1, round(RADIUS_PX * scale))
    with np.errstate(invalid="ignore"):
        x, y, score = points.T
        seen = (score >= SEEN_SCORE) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    xy = np.where(seen[:, None], points[:, :2], 0)
    for (a, b), colour in zip(LIMBS_18, COLOURS_18, strict=False):
        start, end = BODY_18[a], BODY_18[b]
        if seen[start] and seen[end]:
            _ellipse(image, xy[start], xy[end], half_width, colour)
    for (a, b), colour in zip(FEET_LINKS, FEET_COLOURS, strict=True):
        if seen[a] and seen[b]:
            _ellipse(image, xy[a], xy[b], half_width, colour)
    for (a, b), colour in zip(HANDS, FINGER_COLOURS * 2, strict=True):
        if seen[a] and seen[b]:
            cv2.line(image, _pixel(xy[a]), _pixel(xy[b]), colour, max(1, half_width - 1), cv2.LINE_AA)
    _discs(image, xy, seen, BODY_18, COLOURS_18, radius)
    _discs(image, xy, seen, range(17, 23), FEET_COLOURS, radius)
    _discs(image, xy, seen, range(LEFT_HAND.start, RIGHT_HAND.stop), [(0, 0, 255)] * 42, radius)
    _discs(image, xy, seen, range(FACE.start, FACE.stop), [WHITE] * 68, radius)


def _pixel(xy: Floats) -> tuple[int, int]:
    return round(float(xy[0])), round(float(xy[1]))


def _ellipse(image: Image, start: Floats, end: Floats, half_width: int, colour: Colour) -> None:
    """A limb, blended into the rectangle that it covers alone: a picture has room for dozens."""
    middle, along = (start + end) / 2, end - start
    length, angle = float(np.hypot(*along)), math.degrees(math.atan2(float(along[1]), float(along[0])))
    axes = max(1, round(length / 2)), half_width
    polygon = np.asarray(cv2.ellipse2Poly(_pixel(middle), axes, round(angle), 0, 360, 10))
    left, top = np.maximum(polygon.min(axis=0), 0)
    right, bottom = np.minimum(polygon.max(axis=0) + 1, (image.shape[1], image.shape[0]))
    if left >= right or top >= bottom:
        return
    part = image[top:bottom, left:right]
    painted = part.copy()
    cv2.fillConvexPoly(painted, polygon - (left, top), colour)
    part[:] = cv2.addWeighted(part, 1 - OPACITY, painted, OPACITY, 0)


def _discs(
    image: Image,
    xy: Floats,
    seen: npt.NDArray[np.bool_],
    points: tuple[int, ...] | range,
    colours: tuple[Colour, ...] | list[Colour],
    radius: int,
) -> None:
    for point, colour in zip(points, colours, strict=True):
        if seen[point]:
            cv2.circle(image, _pixel(xy[point]), radius, colour, cv2.FILLED)
