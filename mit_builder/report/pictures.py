"""Pictures of some of the dataset's clips, with their labels, for the report's first page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from manifests.rows import Labelled
from manifests.schema import content_hash
from mit_builder.errors import DamagedError, MediaError
from mit_builder.media.clip import read_clip
from mit_builder.report.drawing import draw_people, resized
from mit_builder.report.view import ClipView, open_view
from mit_builder.storage.tombstones import withdraw
from mit_builder.storage.workspace import Workspace

PICTURES = "report/pictures"
N_PICTURES = 8
WIDTH_PX = 480


def update_pictures(workspace: Workspace, clips: Sequence[Labelled]) -> list[dict[str, Any]]:
    """Draw the pictures that are missing and remove those that no page shows.

    Args:
        workspace: where the clips are and the report goes.
        clips: the dataset's clips in order; those shown lie at even distances among them.

    Returns:
        For each picture its clip's `id` and `title`, and its `place` beside the page.
    """
    n = min(N_PICTURES, len(clips))
    chosen = {_key(row): row for row in (clips[i * len(clips) // n] for i in range(n))}
    there = set(workspace.names(PICTURES))
    workspace.delete(sorted(there - chosen.keys()))
    drawn = [key for key, row in chosen.items() if key in there or _draw(workspace, row, key)]
    return [
        {"id": row.clip.clip_id, "title": (row.video.title or "")[:120], "place": key.removeprefix("report/")}
        for key, row in ((key, chosen[key]) for key in drawn)
    ]


def _key(row: Labelled) -> str:
    version = content_hash(row.clip, row.pose, row.speech, row.corrections)[:8]
    return f"{PICTURES}/{row.clip.clip_id}.{version}.jpg"


def _draw(workspace: Workspace, row: Labelled, key: str) -> bool:
    """Draw one frame with the people's labels; whether the clip can be read."""
    try:
        with open_view(row, workspace.artifact) as view:
            frame = _telling_frame(view)
            shown = next(
                read_clip(view.mp4, view.n_frames, view.media_frame_index, start_frame=frame, end_frame=frame + 1)
            )
            # Drawn at twice the size, then reduced: lines stay thin and smooth.
            height, width = shown.image.shape[:2]
            wh = WIDTH_PX, round(height * WIDTH_PX / width)
            large = resized(shown.image, (2 * wh[0], 2 * wh[1]))
            draw_people(large, view, frame, zoom=2 * WIDTH_PX / width)
    except (MediaError, DamagedError):
        return False
    _, jpeg = cv2.imencode(".jpg", resized(large, wh)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    workspace.write(key, jpeg.tobytes())
    return not withdraw(workspace, [key])


def _telling_frame(view: ClipView) -> int:
    """The frame nearest to the middle in which somebody speaks; the middle where nobody ever does."""
    middle = view.n_frames // 2
    spoken = np.flatnonzero(view.speaking.any(axis=0))
    return int(spoken[np.abs(spoken - middle).argmin()]) if len(spoken) else middle
