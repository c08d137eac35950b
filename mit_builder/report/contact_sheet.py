"""Contact sheet: one picture from which a person can judge a clip at a glance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from manifests.rows import TIMELINE_FPS
from mit_builder.console.wording import counted
from mit_builder.report.drawing import (
    BACKGROUND,
    FAINT,
    INK,
    LISTENS,
    SPEAKS,
    Image,
    draw_people,
    resized,
    score_panel,
    text_size,
    write_text,
)
from mit_builder.report.view import ClipView

N_FRAMES_SHOWN = 8
WIDTH_PX = 1920
TITLE_PX = 40
GAP_PX = 6


def contact_sheet(view: ClipView) -> Image:
    """Eight frames at even distances with people, boxes and skeletons; below them the score strips of the whole clip.

    Returns:
        (h, 1920, 3) RGB uint8. A box is green where its person speaks, grey where not; marks on the strips show where
        the frames are from.

    Raises:
        MediaError: the clip's file has another number of frames than its labels.
    """
    wanted = [round((i + 0.5) * view.n_frames / N_FRAMES_SHOWN - 0.5) for i in range(N_FRAMES_SHOWN)]
    tiles = list(_tiles(view, wanted))
    panel = score_panel(view, WIDTH_PX)
    for number, frame in enumerate(wanted, start=1):
        x = panel.x_of(frame + 0.5)
        panel.image[:, x] = INK
        write_text(panel.image, str(number), (x + 3, 12), INK, scale=0.4)
    return np.concatenate([_title(view), grid(tiles), panel.image])


def write_contact_sheet(view: ClipView, path: Path) -> None:
    """Write `contact_sheet(view)` as a PNG.

    Raises:
        MediaError: the clip's file has another number of frames than its labels.
    """
    _, png = cv2.imencode(".png", contact_sheet(view)[..., ::-1])
    path.write_bytes(png.tobytes())


def tile_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height of one of the pictures: four beside one another, eight of upright ones."""
    columns = 4 if width_px >= height_px else N_FRAMES_SHOWN
    tile_width = (WIDTH_PX - (columns - 1) * GAP_PX) // columns
    return tile_width, round(height_px * tile_width / width_px)


def _tiles(view: ClipView, wanted: list[int]) -> Iterator[Image]:
    number = 0
    for frame in view.frames():
        if frame.index not in wanted:
            continue
        number += 1
        height, width = frame.image.shape[:2]
        tile_wh = tile_size(width, height)
        zoom = tile_wh[0] / width
        # Drawn at twice the size, then reduced: lines stay thin and smooth.
        large = resized(frame.image, (2 * tile_wh[0], 2 * tile_wh[1]))
        draw_people(large, view, frame.index, zoom=2 * zoom)
        tile = resized(large, tile_wh)
        label = f"{number}: {frame.index / TIMELINE_FPS:.2f} s"
        write_text(tile, label, (6, tile.shape[0] - 8), BACKGROUND, scale=0.55)
        write_text(tile, label, (5, tile.shape[0] - 9), INK, scale=0.55)
        yield tile


def grid(tiles: list[Image]) -> Image:
    """Pictures of one size (see `tile_size`) in rows of `WIDTH_PX`."""
    height, width = tiles[0].shape[:2]
    columns = (WIDTH_PX + GAP_PX) // (width + GAP_PX)
    rows = -(-len(tiles) // columns)
    grid = np.full((rows * (height + GAP_PX), WIDTH_PX, 3), BACKGROUND, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + GAP_PX), i % columns * (width + GAP_PX)
        grid[y : y + height, x : x + width] = tile
    return grid


def _title(view: ClipView) -> Image:
    image = np.full((TITLE_PX, WIDTH_PX, 3), BACKGROUND, np.uint8)
    people = counted(view.n_people, "person", "people")
    facts = f"{view.clip_id}   {people}   {view.duration_s:.1f} s   labels: {view.label_tier}"
    write_text(image, facts, (8, 27), INK, scale=0.7)
    x = WIDTH_PX - 8
    for words, colour in (("listens", LISTENS), ("speaks", SPEAKS), ("box:", FAINT)):
        x -= text_size(words, 0.6)[0] + 12
        write_text(image, words, (x, 26), colour, scale=0.6)
    return image
