"""Overlay: the clip as a video with sound, its labels drawn into it and its scores running below."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mit_builder.media.probe import probe
from mit_builder.media.write import write_video
from mit_builder.report.drawing import INK, Image, draw_people, panel_height, resized, score_panel
from mit_builder.report.view import ClipView

MIN_WIDTH_PX, MAX_WIDTH_PX, MAX_HEIGHT_PX = 720, 960, 800
"""Size of the picture in an overlay: wide enough for the strips, small enough for a laptop's screen."""


def write_overlay(view: ClipView, path: Path) -> None:
    """Write an MP4 with sound: boxes green where their person speaks, skeletons, score strips with a moving playhead.

    Raises:
        MediaError: the clip cannot be read or the file cannot be written.
    """
    info = probe(view.mp4)
    size_wh = scaled_size(info.width_px, info.height_px)
    zoom = _zoom(info.width_px, info.height_px)
    width_px = max(size_wh[0], MIN_WIDTH_PX)
    write_video(
        path,
        _frames(view, zoom, size_wh, width_px),
        width_px=width_px,
        height_px=size_wh[1] + panel_height(view.n_people),
        audio=view.flac,
    )


def scaled_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height, even numbers, in which a picture is shown."""
    zoom = _zoom(width_px, height_px)
    return _even(width_px * zoom), _even(height_px * zoom)


def _zoom(width_px: int, height_px: int) -> float:
    return min(max(1.0, MIN_WIDTH_PX / width_px), MAX_WIDTH_PX / width_px, MAX_HEIGHT_PX / height_px)


def _even(length_px: float) -> int:
    return 2 * round(length_px / 2)


def _frames(view: ClipView, zoom: float, size_wh: tuple[int, int], width_px: int) -> Iterator[Image]:
    panel = score_panel(view, width_px)
    left = (width_px - size_wh[0]) // 2
    canvas = np.zeros((size_wh[1] + panel.image.shape[0], width_px, 3), np.uint8)
    canvas[size_wh[1] :] = panel.image
    for frame in view.frames():
        picture = resized(frame.image, size_wh)
        draw_people(picture, view, frame.index, zoom=zoom)
        canvas[: size_wh[1], left : left + size_wh[0]] = picture
        shown = canvas.copy()
        x = panel.x_of(frame.index + 0.5)
        shown[size_wh[1] :, x - 1 : x + 1] = INK
        yield shown
