"""The candidates that were rejected most narrowly, with a picture each where that is cheap."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from manifests.arrays import read_arrays
from manifests.rows import TIMELINE_FPS, Candidate, Video
from mit_builder.config.settings import SelectSettings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.driver.counts import RunCounts, margin
from mit_builder.errors import DamagedError, MediaError
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import read_timeline
from mit_builder.report.drawing import person_colour
from mit_builder.storage.workspace import Workspace

REJECTS_KEY = "report/rejects.js"
PICTURES = "report/rejects"
N_PICTURES = 12
"""Candidates of each reason that get a picture: decoding one may take a second in a long video."""
PICTURE_WIDTH_PX = 400
MAX_VIDEO_S = 3600.0
"""Longer videos give no pictures: finding a frame means reading the index of the whole file."""


@dataclass(frozen=True)
class _Reject:
    row: Candidate
    values: dict[str, Any]
    picture: str


def update_rejects(
    workspace: Workspace, tally: RunCounts, select: SelectSettings, videos: Callable[[], Mapping[str, Video]]
) -> list[dict[str, Any]]:
    """Write the list of borderline rejects and the pictures it lacks; what it lists.

    Args:
        workspace: where the report goes.
        tally: of a walk.
        select: thresholds that the candidates were judged by.
        videos: gives the videos by video_id; asked where anything is listed.
    """
    found = list(_nearest(tally, select))
    there = set(workspace.names(PICTURES))
    wanted = {reject.picture: reject for reject in found if reject.picture}
    missing = sorted(wanted.keys() - there) if workspace.root else []
    known = videos() if found else {}
    for picture in missing:
        if _draw(workspace, wanted[picture], known.get(wanted[picture].row.video_id)):
            there.add(picture)
    workspace.delete(sorted(there - set(wanted)))
    listed = [
        {
            **reject.values,
            "picture": reject.picture.removeprefix("report/") if reject.picture in there else None,
            "media": known[reject.row.video_id].media.key if reject.row.video_id in known else None,
            "preview": hints.on_page(workspace.uri, Hint.PREVIEW, clip_id=reject.row.clip_id),
        }
        for reject in found
    ]
    text = f"mitRejects({json.dumps(listed, separators=(',', ':'))});\n".encode()
    if not workspace.exists(REJECTS_KEY) or workspace.read(REJECTS_KEY) != text:
        workspace.write(REJECTS_KEY, text)
    return listed


def _nearest(tally: RunCounts, select: SelectSettings) -> Iterator[_Reject]:
    for heap in (tally.borderline[reason] for reason in sorted(tally.borderline)):
        nearest = heapq.nlargest(len(heap), heap, key=lambda item: (item[0], item[2].clip_id))
        for n, (_, _, row) in enumerate(nearest):
            picture = f"{PICTURES}/{row.clip_id}.{row.tracks.sha256[:8]}.jpg" if n < N_PICTURES else ""
            yield _Reject(row, _values(row, select), picture)


def _values(row: Candidate, select: SelectSettings) -> dict[str, Any]:
    missed = margin(row, select)
    assert missed is not None, "only candidates with a margin are borderline"
    measured = {
        "people": len(row.track_ids),
        "face px": row.min_face_px,
        "face ratio": row.face_area_ratio,
        "camera %": row.camera_motion_pct,
        "voice": row.voice_activity,
        "stillness": row.stillness,
        "view similarity": row.view_similarity,
        "bystander": row.bystander_area,
    }
    return {
        "id": row.clip_id,
        "reason": missed.reason,
        "setting": missed.setting,
        "value": missed.value,
        "limit": missed.limit,
        "frames": row.end_frame - row.start_frame,
        "start": row.start_frame / TIMELINE_FPS,
        "measured": measured,
    }


def _draw(workspace: Workspace, reject: _Reject, video: Video | None) -> bool:
    """Draw the middle frame with the people's faces; whether there is one."""
    if video is None or video.duration_s > MAX_VIDEO_S:
        return False
    frame = (reject.row.start_frame + reject.row.end_frame) // 2
    try:
        with workspace.artifact(video.media) as path:
            shown = next(iter(read_frames(path, frame, frame + 1, timeline=read_timeline(path))))
        image = _with_faces(np.array(shown.image), workspace, reject.row, frame)
    except (MediaError, DamagedError):
        return False
    zoom = PICTURE_WIDTH_PX / image.shape[1]
    small = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", np.asarray(small)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    workspace.write(reject.picture, jpeg.tobytes())
    return True


def _with_faces(image: Any, workspace: Workspace, row: Candidate, frame: int) -> Any:
    with workspace.artifact(row.tracks) as path:
        tracks = [track for track in read_arrays(path) if track["track_id"] in row.track_ids]
    width_px = max(2, image.shape[1] // 240)
    for person, track in enumerate(tracks):
        at = frame - track["start_frame"]
        if 0 <= at < len(track["face_boxes_xyxy"]):
            x0, y0, x1, y1 = (round(float(v)) for v in track["face_boxes_xyxy"][at])
            cv2.rectangle(image, (x0, y0), (x1, y1), person_colour(person), width_px)
    return image
