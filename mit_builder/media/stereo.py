"""Stereoscopic 3D: two views of one scene in each picture, side by side or one on top of the other.

Where the stream says so, and the first picture does not say otherwise, the first view alone is read. Where it does not,
a face whose place in the other half of the picture shows the same face is one person seen twice (`half_similarity`).
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame

Grey = npt.NDArray[np.uint8]
Layout = Literal["beside", "above"]
"""Where the second view lies: to the right of the first, or below it."""

_PACKED: dict[int, tuple[int, int]] = {1: (2, 1), 2: (1, 2), 5: (2, 1)}
"""AVStereo3DType: side by side, top-bottom, side by side with quincunx subsampling."""
_MIN_ASPECT, _MAX_ASPECT = 1.0, 2.5
"""A view narrower than high beside the other, or flatter above it, was squeezed to half to fit ("half SBS")."""
_TAG_SIZE_PX, _TAG_SHIFT_PX, _TAG_LEVELS, MIN_TAG_SIMILARITY = 96, 12, 6.0, 0.3
"""Halves of a first picture with contrast (standard deviation, grey levels) that correlate less are no two views."""
_PARALLAX, _SKEW = 0.08, 0.02
"""How far views may be shifted against each other: share of their width (cinema has 0.02 to 0.03), of their height."""
_WINDOW = 0.25
"""The window compared is the face and this share of its sides around it."""


def n_views_wh(frame: VideoFrame) -> tuple[int, int]:
    """Views beside and on top of each other in every picture of a stream, by its first one."""
    # frame.side_data would make a cycle, see probe.
    side_data: Any = SideDataContainer(frame)  # type: ignore[call-arg]  # PyAV's stub knows motion vectors alone
    if SideDataType.STEREO3D not in side_data:
        return 1, 1
    across, down = _PACKED.get(int(np.frombuffer(bytes(side_data[SideDataType.STEREO3D]), np.int32)[0]), (1, 1))
    if (across, down) == (1, 1):
        return 1, 1
    grey = frame.reformat(_TAG_SIZE_PX * across, _TAG_SIZE_PX * down, format="gray").to_ndarray()
    first, second = grey[:_TAG_SIZE_PX, :_TAG_SIZE_PX], grey[-_TAG_SIZE_PX:, -_TAG_SIZE_PX:]
    has_contrast = min(first.std(), second.std()) > _TAG_LEVELS
    middle = first[2:-2, _TAG_SHIFT_PX:-_TAG_SHIFT_PX]
    is_true = not has_contrast or cv2.matchTemplate(second, middle, cv2.TM_CCOEFF_NORMED).max() >= MIN_TAG_SIMILARITY
    return (across, down) if is_true else (1, 1)


def unsqueezed(view_wh: tuple[int, int], views: tuple[int, int]) -> tuple[int, int]:
    """Size of a view that was not squeezed to half."""
    width, height = view_wh
    if views[0] > 1 and width < _MIN_ASPECT * height:
        return 2 * width, height
    if views[1] > 1 and width > _MAX_ASPECT * height:
        return width, 2 * height
    return view_wh


def half_similarity(grey: Grey, face_xyxy: npt.NDArray[np.float32]) -> dict[Layout, float]:
    """How well a face is found at its place in the other half of the picture; also mirrored.

    Args:
        grey: (h, w) picture.
        face_xyxy: the face in it.

    Returns:
        Correlation, -1..1 (1: the same picture); a layout is left out where the face lies across its border.
    """
    turned = np.ascontiguousarray(grey.T)
    similarities: dict[Layout, float | None] = {
        "beside": _beside(grey, face_xyxy, (_PARALLAX, _SKEW)),
        "above": _beside(turned, face_xyxy[[1, 0, 3, 2]], (_SKEW, _PARALLAX)),
    }
    return {layout: value for layout, value in similarities.items() if value is not None}


def _beside(grey: Grey, face_xyxy: npt.NDArray[np.float32], shift: tuple[float, float]) -> float | None:
    """Best correlation of a face with its place in the other of the halves left and right."""
    height, half = grey.shape[0], grey.shape[1] // 2
    left, top, right, bottom = (float(value) for value in face_xyxy)
    offset = half if left + right > 2 * half else 0
    margin_x, margin_y = _WINDOW * (right - left), _WINDOW * (bottom - top)
    x0, x1 = max(0, round(left - margin_x) - offset), min(half, round(right + margin_x) - offset)
    y0, y1 = max(0, round(top - margin_y)), min(height, round(bottom + margin_y))
    if x1 - x0 < right - left or y1 - y0 < 0.5 * (bottom - top):
        return None
    face = np.ascontiguousarray(grey[y0:y1, offset + x0 : offset + x1])
    other = grey[:, half - offset : 2 * half - offset]
    across, down = round(shift[0] * half), round(shift[1] * height)
    rows, columns = slice(max(0, y0 - down), y1 + down), slice(max(0, x0 - across), x1 + across)
    searched = [np.ascontiguousarray(view[rows, columns]) for view in (other, other[:, ::-1])]
    return max(float(cv2.matchTemplate(view, face, cv2.TM_CCOEFF_NORMED).max()) for view in searched)
