"""The frames of a clip as everybody reads them: one for each 1/25 s of its timeline, whatever rate its media have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mit_builder.errors import MediaError
from mit_builder.media.frames import Frame, read_frames
from mit_builder.media.timeline import read_timeline

Index = Sequence[int] | npt.NDArray[np.int64]


def media_frames(n_frames: int, media_frame_index: Index) -> Index:
    """The media's frame for every frame of a clip's timeline; an index that is not given names each frame itself."""
    return media_frame_index if len(media_frame_index) else range(n_frames)


def read_clip(
    path: Path,
    n_frames: int,
    media_frame_index: Index = (),
    *,
    start_frame: int = 0,
    end_frame: int | None = None,
    max_side_px: int | None = None,
) -> Iterator[Frame]:
    """Read a clip's MP4 along the clip's timeline.

    Args:
        path: the clip's MP4.
        n_frames: frames on the clip's timeline.
        media_frame_index: (n_frames,) the MP4's frame that each of them shows; empty where that is frame k for k.
        start_frame: first frame to read.
        end_frame: frame after the last; None for the clip's end.
        max_side_px: shrink images whose longer side exceeds it.

    Yields:
        Frames with their place on the timeline; `source_index` is the frame of the MP4.

    Raises:
        MediaError: unreadable, or the index does not fit the MP4 or the timeline.
    """
    index = np.asarray(media_frames(n_frames, media_frame_index), np.int64)
    if len(index) != n_frames:
        raise MediaError(f"{path.name}: media_frame_index has {len(index)} values for {n_frames} frames")
    timeline = read_timeline(path, is_progressive=True)
    n_found, n_named = len(timeline.source_pts), int(index[-1]) + 1
    if n_found != n_named:
        raise MediaError(f"{path.name} has {n_found} frames in place of {n_named}")
    timeline = replace(timeline, source_frame_index=index)
    return read_frames(path, start_frame, end_frame, timeline=timeline, max_side_px=max_side_px)
