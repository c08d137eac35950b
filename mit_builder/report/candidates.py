"""Pictures of a candidate that has no clip, most often because the filter rejected it: drawn from its video."""

from __future__ import annotations

import wave
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from manifests.arrays import read_arrays
from manifests.rows import AUDIO_RATE_HZ, TIMELINE_FPS, Candidate, Video
from manifests.schema import content_hash
from mit_builder.console.wording import counted
from mit_builder.media.audio import read_samples
from mit_builder.media.audio_tracks import sound_of
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import Timeline, read_timeline
from mit_builder.media.write import write_video
from mit_builder.report.contact_sheet import GAP_PX, N_FRAMES_SHOWN, WIDTH_PX, grid, tile_size
from mit_builder.report.drawing import BACKGROUND, INK, LISTENS, Image, person_colour, resized, write_text
from mit_builder.report.overlay import scaled_size
from mit_builder.storage.tombstones import withdraw
from mit_builder.storage.workspace import Workspace

MAX_FRAMES = 60 * TIMELINE_FPS
"""Longer stretches are drawn up to here: nobody may be in the picture for an hour."""
CAPTION_PX = 40

Tracks = Sequence[dict[str, Any]]


def preview_candidate(workspace: Workspace, row: Candidate, video: Video) -> list[str]:
    """Draw a candidate's stretch of the video with everybody's face, and a contact sheet; their keys.

    Boxes of the people it was judged by have colours, those of others in the picture are grey.

    Raises:
        MediaError: the video cannot be read or the file cannot be written.
        DamagedError: the video or its tracks are gone.
    """
    name = f"{row.clip_id}.{content_hash(row)[:8]}"
    keys = [f"report/{name}.{suffix}" for suffix in ("mp4", "png")]
    with workspace.artifact(row.tracks) as path:
        tracks = read_arrays(path)
    end_frame = min(row.end_frame, row.start_frame + MAX_FRAMES)
    with workspace.artifact(video.media) as source, workspace.own("report") as folder:
        timeline = read_timeline(source)
        sound, mp4, png = (folder / f"{name}.{suffix}" for suffix in ("wav", "mp4", "png"))
        _write_wav(
            sound,
            read_samples(
                source,
                row.start_frame,
                end_frame - row.start_frame,
                timeline=timeline,
                sound=sound_of(video, source).tracks,
            ),
        )
        tiles: list[Image] = []
        frames = _drawn(source, timeline, row, end_frame, tracks, tiles)
        first = next(frames)
        height_px, width_px = first.shape[:2]
        write_video(mp4, chain([first], frames), width_px=width_px, height_px=height_px, audio=sound)
        sheet = np.concatenate([_caption(row, WIDTH_PX), grid(tiles)])
        png.write_bytes(cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
        for path, key in zip((mp4, png), keys, strict=True):
            workspace.commit(path, key)
        withdraw(workspace, keys)
    return keys


def _drawn(
    source: Path, timeline: Timeline, row: Candidate, end_frame: int, tracks: Tracks, tiles: list[Image]
) -> Iterator[Image]:
    """The frames with faces and a caption; some of them are put into `tiles` on the way."""
    n_frames = end_frame - row.start_frame
    for_tiles = {row.start_frame + (2 * i + 1) * n_frames // (2 * N_FRAMES_SHOWN) for i in range(N_FRAMES_SHOWN)}
    caption = None
    for frame in read_frames(source, row.start_frame, end_frame, timeline=timeline):
        height, width = frame.image.shape[:2]
        wh = scaled_size(width, height)
        image = resized(frame.image, wh)
        _draw_faces(image, row, tracks, frame.index, wh[0] / width)
        if frame.index in for_tiles:
            tiles.append(resized(image, tile_size(width, height)))
        caption = _caption(row, wh[0]) if caption is None else caption
        yield np.concatenate([image, caption])


def _draw_faces(image: Image, row: Candidate, tracks: Tracks, frame: int, zoom: float) -> None:
    for track in tracks:
        at = frame - track["start_frame"]
        if not 0 <= at < len(track["face_boxes_xyxy"]):
            continue
        is_member = track["track_id"] in row.track_ids
        colour = person_colour(row.track_ids.index(track["track_id"])) if is_member else LISTENS
        x0, y0, x1, y1 = (round(float(v) * zoom) for v in track["face_boxes_xyxy"][at])
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, 2 if is_member else 1)


def _caption(row: Candidate, width_px: int) -> Image:
    image = np.full((CAPTION_PX, width_px, 3), BACKGROUND, np.uint8)
    verdict = f"rejected: {row.reason}" if row.verdict == "rejected" else "kept, no labels yet"
    people = counted(len(row.track_ids), "person", "people")
    seconds = (row.end_frame - row.start_frame) / TIMELINE_FPS
    words = f"{verdict}   {people}   {seconds:.1f} s from {row.start_frame / TIMELINE_FPS:.1f} s on"
    write_text(image, words, (GAP_PX + 2, CAPTION_PX - 14), INK, scale=0.6)
    return image


def _write_wav(path: Path, samples: Any) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(AUDIO_RATE_HZ)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
