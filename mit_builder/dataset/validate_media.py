"""The part of `mit-build validate` that decodes: whether a row's media are what the row says."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.rows import SAMPLES_PER_FRAME, TIMELINE_FPS
from mit_builder.console.wording import counted
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import MediaError
from mit_builder.media.audio import read_flac
from mit_builder.media.clip import read_clip
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline

NEAREST_TOLERANCE_S = 0.0005
"""Frames as near as that to one another's place count as equally near: an MP4's clock may be rounded (90 kHz)."""

Array = npt.NDArray[Any]


def media_problems(row: Mapping[str, Any], files: DatasetFiles) -> Iterator[str]:
    """What is wrong with a row's `clip` and `audio`; `files` are those of its dataset."""
    with tempfile.TemporaryDirectory(prefix="mit-build-") as scratch:
        for column, suffix, check in (("clip", ".mp4", _mp4), ("audio", ".flac", _flac)):
            try:
                path = files.media(row[column], Path(scratch) / f"media{suffix}")
            except MediaError as error:
                yield f"{column}: {error}"
                continue
            if path is None:
                yield f"{column} has neither bytes nor a file beside the dataset"
                continue
            try:
                yield from check(row, path)
            except MediaError as error:
                yield f"{column} cannot be decoded: {error}"


def _mp4(row: Mapping[str, Any], path: Path) -> Iterable[str]:
    info, n_frames, index = probe(path), row["n_frames"], np.asarray(row["media_frame_index"])
    if not info.has_audio:
        yield "clip has no sound"
    misplaced = list(_steady(row, path) if row["media_fps"] == str(TIMELINE_FPS) else _native(index, path))
    yield from misplaced
    if misplaced:
        return
    if (info.width_px, info.height_px) != (row["width_px"], row["height_px"]):
        yield f"clip's picture is {info.width_px}x{info.height_px}, the row says {row['width_px']}x{row['height_px']}"
    lost = [frame.index for frame in read_clip(path, n_frames, index) if frame.source_index != index[frame.index]]
    if lost:
        yield f"clip does not decode in {len(lost)} of {n_frames} frames, first in frame {lost[0]}"


def _steady(row: Mapping[str, Any], path: Path) -> Iterable[str]:
    """What is wrong with the times of media at 25 frames a second."""
    timeline, n_frames = read_timeline(path, is_progressive=True), row["n_frames"]
    if timeline.source_fps != TIMELINE_FPS:
        yield f"clip runs at {timeline.source_fps} frames a second, must be {TIMELINE_FPS}"
    if not np.array_equal(row["media_frame_index"], np.arange(n_frames)):
        yield f"media_frame_index must be 0..{n_frames - 1} at {TIMELINE_FPS} frames a second"
    if not np.array_equal(timeline.source_frame_index, np.arange(n_frames)):
        yield f"clip is {counted(timeline.n_frames, 'frame')} on the timeline, must be {n_frames} with none repeated"


def _native(index: Array, path: Path) -> Iterable[str]:
    """What is wrong with the times of media that keep the source's: the nearest frame must be shown."""
    timeline = read_timeline(path, is_progressive=True)
    last = len(timeline.source_pts) - 1
    if (index[0], index[-1]) != (0, last):
        yield f"media_frame_index goes from {index[0]} to {index[-1]}, must from 0 to {last}, the clip's last frame"
        return
    due_s = (timeline.source_pts - timeline.source_pts[0]) * float(timeline.time_base)
    # Frame 0 is shown from the clip's start on, whenever it was due, so that no distance from it tells anything.
    shown_s, *beside_s = (
        np.abs(due_s[np.clip(index + step, 1, max(1, last))] - np.arange(len(index)) / TIMELINE_FPS)
        for step in (0, -1, 1)
    )
    off = np.flatnonzero((index > 0) & (shown_s > np.minimum(*beside_s) + NEAREST_TOLERANCE_S))
    if len(off):
        yield f"clip shows another frame than the nearest in {counted(len(off), 'frame')}, first in frame {off[0]}"


def _flac(row: Mapping[str, Any], path: Path) -> Iterable[str]:
    n_samples, expected = len(read_flac(path)), SAMPLES_PER_FRAME * row["n_frames"]
    if n_samples != expected:
        yield f"audio has {counted(n_samples, 'sample')}, must be {expected:,}"
