"""A clip's labels in the form that the report's page draws from: small, and readable from a disk without a server.

A page that was opened from a disk may not fetch files, but it may run scripts. So the labels of a clip are a script of
one call, `mitClip(name, header, words, bytes)`, that the page puts in when the clip is shown. `words` are int16 arrays
in which neighbouring frames differ little: the differences, zigzag coded, low bytes before high bytes, deflated, in
base64. mit_builder/report/static/labels.js is the inverse.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.arrays import read_arrays
from manifests.rows import TIMELINE_FPS, Correction, Labelled
from manifests.schema import content_hash, to_dict
from manifests.signatures import unsigned
from mit_builder.dataset.plugged import plugged_columns
from mit_builder.labels.corrections import DIGEST_DIGITS, corrected
from mit_builder.labels.keypoints import BODY, FACE, FEET, LEFT_HAND, RIGHT_HAND, SEEN_SCORE
from mit_builder.labels.speaking import interaction_labels
from mit_builder.report.view import Local

FORMAT = 1
"""Raised when the page needs other data: all clips are then encoded anew."""
MEASURES = 2
"""Raised when `encode_clip` measures otherwise: figures that were kept of clips are then taken anew."""
SCORE_STEPS = 100
"""Steps of a score in `words` for a difference of 1."""
DEFLATE_LEVEL = 1
"""Of clips of 7 to 17 s level 4 gives 3 to 8 % less bytes and takes twice as long."""
GROUPS: dict[str, tuple[slice, ...]] = {
    "body": (BODY,),
    "feet": (FEET,),
    "face": (FACE,),
    "hands": (LEFT_HAND, RIGHT_HAND),
}
"""Keypoint groups whose mean score the report shows."""

Measured = dict[str, Any]
People = list[dict[str, Any]]


@dataclass(frozen=True)
class Shown:
    """A clip that the report shows.

    Attributes:
        row: the clip with its labels.
        name: of its data: another one whenever something in them differs.
        state: another one whenever its data or its corrections differ, so whatever is measured of it.
    """

    row: Labelled
    name: str
    state: str


def shown(row: Labelled) -> Shown:
    """A clip with its names, which are hashes of all that is encoded; a report of thousands asks for each of them."""
    clip, speech = row.clip, row.speech
    read = [artifact.sha256 for artifact in (clip.people, row.pose.poses, speech.speech, speech.voice)]
    what = (clip.n_frames, clip.width_px, clip.height_px, speech.min_voice_activity)
    name = f"{clip.clip_id}.{content_hash(FORMAT, read, what)[:8]}"
    return Shown(row, name, content_hash(MEASURES, name, row.corrections)[:16])


def encode_clip(clip: Shown, local: Local) -> tuple[str, Measured]:
    """A clip's script, and what the report's figures need of it.

    Args:
        clip: the clip.
        local: opens an artifact as a local file; media is not opened.
    """
    row = clip.row
    with ExitStack() as stack:
        people, poses, speech, voice = (
            read_arrays(stack.enter_context(local(artifact)))
            for artifact in (row.clip.people, row.pose.poses, row.speech.speech, row.speech.voice)
        )
    tables = [sorted(table, key=lambda person: int(person["person_id"])) for table in (people, poses, speech)]
    joined = [{**a, **b, **c} for a, b, c in zip(*tables, strict=True)]
    activity = np.array([frame["voice_activity"] for frame in voice], np.float32)
    return _script(clip, joined, activity), _measure(joined, row.corrections)


def _measure(people: People, corrections: Sequence[Correction]) -> Measured:
    model = np.stack([np.asarray(person["speaking"], bool) for person in people])
    speaking, human = corrected(model, corrections)
    scores = np.stack([person["keypoints"][..., 2] for person in people])
    interaction = interaction_labels(speaking, human)
    return {
        "talk": [_rounded(share) for share in speaking.mean(axis=1)],
        "body": [_rounded(person["body_visible_ratio"]) for person in people],
        "turns": interaction.n_turns,
        "overlap": None if interaction.overlap_ratio is None else _rounded(interaction.overlap_ratio),
        "silence": _rounded(interaction.silence_ratio),
        "changed": int((speaking != model).sum()),
        "human": _rounded(human.mean()),
        "scores": {
            name: _rounded(np.concatenate([scores[..., part] for part in parts], axis=-1).mean())
            for name, parts in GROUPS.items()
        },
    }


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 4)


def _script(clip: Shown, people: People, voice_activity: npt.NDArray[np.float32]) -> str:
    row = clip.row
    keypoints = np.stack([person["keypoints"] for person in people])
    header = {
        "fps": TIMELINE_FPS,
        "frames": row.clip.n_frames,
        "width": row.clip.width_px,
        "height": row.clip.height_px,
        "people": len(people),
        "voiceGate": row.speech.min_voice_activity,
    }
    words = (
        _pixels(_stacked(people, "boxes_xyxy")),
        _pixels(_stacked(people, "face_boxes_xyxy")),
        _pixels(_held(keypoints)),
        _steps(_stacked(people, "speaking_score_smoothed")),
    )
    seen = keypoints[..., 2] >= SEEN_SCORE  # a point without an estimate has score 0
    flags = (
        np.packbits(seen, axis=-1, bitorder="little"),
        _stacked(people, "speaking").astype(np.uint8),
        np.clip(voice_activity * 255, 0, 255).round().astype(np.uint8),
    )
    parts = json.dumps(clip.name), json.dumps(header), json.dumps(_words(words)), json.dumps(_bytes(flags))
    return f"mitClip({','.join(parts)});\n"


def _stacked(people: People, column: str) -> npt.NDArray[Any]:
    return np.stack([person[column] for person in people])


def _held(keypoints: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n_people, n_frames, 133, 2): x and y, where there is no estimate those of the last frame that has one."""
    points = keypoints[..., :2].copy()
    known = np.isfinite(points).all(axis=-1)
    n_frames = points.shape[1]
    for person, point in np.argwhere(~known.all(axis=1)):
        last = np.maximum.accumulate(np.where(known[person, :, point], np.arange(n_frames), 0))
        points[person, :, point] = np.nan_to_num(points[person, last, point])
    return points


def _pixels(values: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """(n_people, n_frames, …) in quarters of a pixel where that fits, so up to 8191 px."""
    return np.asarray(np.clip(np.round(values * 4), -32767, 32767), np.int16)


def _steps(values: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    return np.asarray(np.clip(np.round(values * SCORE_STEPS), -32767, 32767), np.int16)


def _words(arrays: tuple[npt.NDArray[np.int16], ...]) -> str:
    """Differences from frame to frame of (n_people, n_frames, …) arrays, one array after the other."""
    coded = []
    for array in arrays:
        difference = np.diff(array, axis=1, prepend=np.zeros_like(array[:, :1]))
        coded.append(((difference << 1) ^ (difference >> 15)).astype("<u2").ravel())
    planes = np.concatenate(coded).view(np.uint8).reshape(-1, 2).T
    return _deflated(np.ascontiguousarray(planes))


def _bytes(arrays: tuple[npt.NDArray[np.uint8], ...]) -> str:
    return _deflated(np.concatenate([array.ravel() for array in arrays]))


def _deflated(data: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(data.tobytes(), DEFLATE_LEVEL)).decode()


def facts(of: Shown) -> dict[str, Any]:
    """What the page says about a clip besides its measurements; strings from outside among it."""
    row, clip, video = of.row, of.row.clip, of.row.video
    return {
        "id": clip.clip_id,
        "data": of.name,
        "state": of.state,
        "media": clip.mp4.key,
        "title": (video.title or "")[:120],
        "url": unsigned(video.source_url),
        "licence": (video.licence or "")[:60],
        "start": round(clip.start_frame / TIMELINE_FPS, 2),
        "frames": clip.n_frames,
        "width": clip.width_px,
        "height": clip.height_px,
        "people": clip.n_people,
        "tier": row.speech.label_tier,
        "peopleKey": clip.people.sha256[:DIGEST_DIGITS],
        "labelsKey": row.speech.speech.sha256[:DIGEST_DIGITS],
        "corrections": [to_dict(correction) for correction in row.corrections],
    } | ({"plugged": plugged_columns(row)} if row.plugged else {})
