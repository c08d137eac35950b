"""Frames of the clip timeline as RGB images, upright and with square pixels, read as a stream."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

from mit_builder.errors import MediaError
from mit_builder.media.clock import Clock
from mit_builder.media.deinterlace import deinterlaced
from mit_builder.media.probe import Geometry, decoded_video, open_media, video_stream
from mit_builder.media.timeline import Entry, Timeline, entry_points, read_timeline

Image = npt.NDArray[np.uint8]

_HDR_CURVES = frozenset({ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67})
_UNSPECIFIED_MATRIX = 2
"""AVCOL_SPC_UNSPECIFIED."""


@dataclass(frozen=True)
class Frame:
    """One frame of the clip timeline."""

    index: int
    """Position on the video's 25 fps timeline."""
    source_index: int
    """Rank of the shown source frame in display order; an earlier one than the timeline's where that never decodes."""
    image: Image
    """(h, w, 3) RGB, read-only: successive frames that show one source frame share one array."""


def read_frames(
    path: Path,
    start_frame: int = 0,
    end_frame: int | None = None,
    *,
    timeline: Timeline | None = None,
    max_side_px: int | None = None,
) -> Iterator[Frame]:
    """Read frames [start_frame, end_frame) of the clip timeline; decoding begins at the keyframe before the first.

    Args:
        path: the video.
        start_frame: first frame on the clip timeline.
        end_frame: frame after the last; None for the end of the video.
        timeline: the video's timeline, where it is known already.
        max_side_px: shrink images whose longer side exceeds it.

    Raises:
        MediaError: unreadable, a range outside the timeline, or nothing decodes.
    """
    timeline = timeline or read_timeline(path)
    end_frame = timeline.n_frames if end_frame is None else end_frame
    if not 0 <= start_frame <= end_frame <= timeline.n_frames:
        raise MediaError(f"{path.name}: frames {start_frame}..{end_frame} are not within 0..{timeline.n_frames}")
    wanted = timeline.source_frame_index[start_frame:end_frame].tolist()
    if not wanted:
        return
    ranked = _ranked_from(path, timeline, wanted[0])
    shown, following = next(ranked), next(ranked, None)
    converter = RgbConverter(timeline.geometry, max_side_px)
    image: Image | None = None
    for index, rank in enumerate(wanted, start_frame):
        while following is not None and following[0] <= rank:
            shown, following, image = following, next(ranked, None), None
        if image is None:
            image = converter.image(shown[1])
        yield Frame(index, shown[0], image)


def read_source_frames(path: Path, first: int, last: int, *, timeline: Timeline) -> Iterator[tuple[int, Image]]:
    """Read every frame of the source from rank `first` to rank `last`, with its rank.

    It begins with the frame that `read_frames` shows for the first rank, which is another where that never decodes.

    Raises:
        MediaError: unreadable, or nothing decodes.
    """
    ranked = _ranked_from(path, timeline, first)
    shown = next(ranked)
    converter = RgbConverter(timeline.geometry)
    for rank, frame in ranked:
        if rank > last:
            break
        if rank > first:
            yield shown[0], converter.image(shown[1])
        shown = rank, frame
    yield shown[0], converter.image(shown[1])


class RgbConverter:
    """Makes decoded frames of one stream upright RGB images with square pixels.

    Where the stream names no colour matrix, pictures wider than 1279 or higher than 576 are BT.709 and others BT.601,
    as players assume. PQ and HLG (HDR) are brought to BT.709 as libswscale maps them (from PyAV 18 on).
    """

    def __init__(self, shape: Geometry, max_side_px: int | None = None) -> None:
        width, height = shape.scaled_wh
        shrink = 1.0 if max_side_px is None else min(1.0, max_side_px / max(width, height))
        self._shape = shape
        self._wh = max(1, round(width * shrink)), max(1, round(height * shrink))
        self._interpolation = Interpolation.AREA if shrink < 1 else Interpolation.BILINEAR
        # Kept for all frames: setting one up costs more than converting a picture, and seconds where it maps HDR.
        self._reformatter = VideoReformatter()

    def image(self, frame: VideoFrame) -> Image:
        """(h, w, 3) RGB uint8, read-only."""
        is_hdr = frame.color_trc in _HDR_CURVES
        is_unnamed = frame.colorspace == _UNSPECIFIED_MATRIX and not frame.format.is_rgb
        assumed = Colorspace.ITU709 if frame.width >= 1280 or frame.height > 576 else Colorspace.ITU601
        converted = self._reformatter.reformat(
            frame,
            self._wh[0] * self._shape.views_wh[0],
            self._wh[1] * self._shape.views_wh[1],
            format="rgb24",
            src_colorspace=assumed if is_unnamed else None,
            interpolation=self._interpolation,
            dst_color_trc=ColorTrc.BT709 if is_hdr else None,
            dst_color_primaries=ColorPrimaries.BT709 if is_hdr else None,
            threads=1,
        )
        first_view = np.asarray(converted.to_ndarray(), np.uint8)[: self._wh[1], : self._wh[0]]
        image = self._shape.upright(first_view)
        image.flags.writeable = False
        return image


def _ranked_from(path: Path, timeline: Timeline, rank: int) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded frames with their ranks, ascending, the first at or before `rank` if any such frame decodes.

    Raises:
        MediaError: nothing decodes.
    """
    # A picture of two fields needs the one before as well, so that it is the same wherever reading began.
    for entry in entry_points(timeline, rank if timeline.field_order is None else max(0, rank - 1)):
        frames = _ranked(path, timeline, entry)
        first = next(frames, None)
        if first is not None and (first[0] <= rank or entry is None):
            return chain((first,), frames)
        frames.close()
    raise MediaError(f"{path.name}: no video frame can be decoded")


def _ranked(path: Path, timeline: Timeline, entry: Entry | None) -> Generator[tuple[int, VideoFrame], None, None]:
    """Decode from an entry point on. What is shown before its keyframe may lack references and is passed over."""
    with open_media(path) as container:
        stream = video_stream(container, path)
        if entry is None:
            frames = decoded_video(container, stream, timeline.clock.packets(container, stream))
        else:
            frames = _frames_from(container, stream, timeline.clock, entry)
        if timeline.field_order is not None:
            frames = deinterlaced(frames, timeline.field_order, timeline.time_base)
        last = -1 if entry is None else _rank_of(timeline, entry[0]) - 1
        for n, frame in enumerate(frames):
            rank = n if timeline.is_counted or frame.pts is None else _rank_of(timeline, frame.pts)
            if rank > last:
                last = rank
                yield rank, frame


def _frames_from(container: InputContainer, stream: VideoStream, clock: Clock, entry: Entry) -> Iterator[VideoFrame]:
    """Decoded frames from a keyframe on, or from before it.

    libavformat seeks in MP4 and Matroska by presentation times: a decoding time, which is smaller, leads a whole group
    of pictures too early. In MPEG-TS it seeks by decoding times, and a presentation time leads past the keyframe.
    """
    shown_at, decoded_at = entry
    container.seek(shown_at, stream=stream)
    frames = decoded_video(container, stream, clock.packets(container, stream))
    first = next(frames, None)
    if first is not None and first.pts is not None and first.pts <= shown_at:
        return chain((first,), frames)
    container.seek(decoded_at, stream=stream)
    return decoded_video(container, stream, clock.packets(container, stream))


def _rank_of(timeline: Timeline, pts: int) -> int:
    return int(np.searchsorted(timeline.source_pts, pts, side="right")) - 1
