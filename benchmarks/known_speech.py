"""Clips of finished workspaces together with what is known about who speaks in them, and the half each belongs to.

The halves: A, on which constants are chosen, holds the videos whose sha256 is an even number, B the others. B is
reported and never chosen on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mit_builder.dataset.reader import DatasetFiles
from mit_builder.driver.snapshot import Snapshot
from mit_builder.models.asd.lips import lip_opening
from mit_builder.storage.workspace import Workspace

sys.path += [str(Path(__file__).resolve().parent.parent / "tests" / "e2e")]
import demo_truth

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

BY_EYE = Path(__file__).with_name("speaking_times.json")
_NUMBERS = "{}.list.element"
COLUMNS = (
    "clip_id",
    "video_id",
    "title",
    "start_s",
    "fps",
    "n_frames",
    "width_px",
    _NUMBERS.format("voice_activity"),
    "people.list.element.face_boxes_xyxy.list.element.list.element",
    "people.list.element.keypoints.list.element.list.element.list.element",
    "people.list.element.speaking.list.element",
    "people.list.element.speaking_score_smoothed.list.element",
)


@dataclass(frozen=True)
class KnownClip:
    """One clip; people in the order of the dataset, frames of the clip.

    Attributes:
        half: "A" or "B".
        truth: where the speaking times come from: "rendered", "published" or "by eye".
        openings: (n_people, n_frames) lip openings, NaN where not seen.
        voice: (n_frames,) voice activity as stored.
        speaking: (n_people, n_frames) who truly speaks.
        counted: (n_people, n_frames) false where that is not known.
        labelled: (n_people, n_frames) the dataset's flags.
        scores: (n_people, n_frames) the dataset's smoothed scores.
    """

    name: str
    clip_id: str
    half: str
    truth: str
    openings: Floats
    voice: Floats
    speaking: Flags
    counted: Flags
    labelled: Flags
    scores: Floats


def half_of(sha256: str) -> str:
    """A for an even digest, B for an odd one."""
    return "AB"[int(sha256, 16) % 2]


def known_clips(workspace: Path, truth: Path | None, published: Path | None) -> Iterator[KnownClip]:
    """The clips of a workspace whose speaking times are known.

    Args:
        workspace: finished by `mit-build run`.
        truth: what scripts/build_demo.py wrote, if the workspace is a demo's.
        published: times in the form `{"NAME.mp4": {"left": [[start_s, end_s], …], …}}`.
    """
    digests = {
        row.video_id: row.media.sha256
        for entry in Snapshot.of(Workspace(workspace)).lanes["download"].ledger.entries()
        for row in entry.outputs
        if hasattr(row, "media")
    }
    shots = demo_truth.load_truth(truth) if truth else ()
    by_eye = json.loads(BY_EYE.read_text())["clips"]
    times = json.loads(published.read_text()) if published else {}
    for row in DatasetFiles(workspace).rows(COLUMNS):
        known = _rendered(row, shots) if shots else _published(row, times) or _by_eye(row, by_eye)
        if known:
            kind, speaking, counted = known
            name = f"{workspace.name if shots else row['title']} {row['start_s']:.1f} s"
            yield _clip(row, name, half_of(digests[row["video_id"]]), kind, speaking, counted)


Known = tuple[str, Flags, Flags]


def _rendered(row: Mapping[str, Any], shots: tuple[demo_truth.TrueShot, ...]) -> Known:
    clip = demo_truth.read_clip(row)
    shot = demo_truth.shot_of(clip.start_frame, clip.end_frame, shots)
    people = sorted(shot.people.values(), key=lambda person: person.face_boxes_xyxy[0, [0, 2]].sum())
    n_frames = shot.end_frame - shot.start_frame
    frames = np.arange(clip.start_frame, clip.end_frame) - shot.start_frame
    counted = np.tile((frames >= 0) & (frames < n_frames), (len(people), 1))
    return "rendered", np.stack([person.speaking[np.clip(frames, 0, n_frames - 1)] for person in people]), counted


def _published(row: Mapping[str, Any], times: Mapping[str, Any]) -> Known | None:
    title = f"_{row['title'].removesuffix('_gt')}"
    found = next((value for name, value in times.items() if title.endswith(f"_{Path(name).stem}")), None)
    if found is None or len(found) != len(row["people"]):
        return None
    speaking = np.stack([_within(_middles_s(row), found[side]) for side in sorted(found)])
    return "published", speaking, np.ones_like(speaking)


def _by_eye(row: Mapping[str, Any], times: Mapping[str, Any]) -> Known | None:
    found = times.get(row["title"])
    if found is None or len(found["speaking"]) != len(row["people"]):
        return None
    speaking, unsure = (
        np.stack([_within(_middles_s(row), spans) for spans in found[key]]) for key in ("speaking", "unsure")
    )
    return "by eye", speaking, ~unsure


def _middles_s(row: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """(n_frames,) the middle of every frame, seconds of the video."""
    return np.asarray(row["start_s"] + (np.arange(row["n_frames"]) + 0.5) / row["fps"])


def _within(middle_s: npt.NDArray[np.float64], spans: Any) -> Flags:
    """Which of these times lie in one of [start_s, end_s)."""
    inside = np.zeros(len(middle_s), bool)
    for start_s, end_s in spans:
        inside |= (start_s <= middle_s) & (middle_s < end_s)
    return inside


def _clip(row: Mapping[str, Any], name: str, half: str, truth: str, speaking: Flags, counted: Flags) -> KnownClip:
    people = row["people"]
    return KnownClip(
        name=name,
        clip_id=row["clip_id"],
        half=half,
        truth=truth,
        openings=lip_opening(np.stack([person["keypoints"] for person in people]).astype(np.float32)),
        voice=np.asarray(row["voice_activity"], np.float32),
        speaking=speaking,
        counted=counted,
        labelled=np.stack([person["speaking"] for person in people]).astype(bool),
        scores=np.stack([person["speaking_score_smoothed"] for person in people]).astype(np.float32),
    )


@dataclass(frozen=True)
class Agreement:
    """Shares of person-frames (who_speaks: of frames with one true speaker); NaN where there was nothing to count.

    A clip in which somebody always or never speaks has no balanced accuracy.
    """

    who_speaks: float
    balanced_accuracy: float
    speech_precision: float
    speech_recall: float
    silence_precision: float
    silence_recall: float


def agreement(clip: KnownClip, scores: Floats, labelled: Flags) -> Agreement:
    """How scores and flags (n_people, n_frames) agree with the truth in the counted frames."""
    expected, found = clip.speaking[clip.counted], labelled[clip.counted]
    one = clip.counted.all(axis=0) & (clip.speaking.sum(axis=0) == 1)
    recalls = [_share(found[expected]), _share(~found[~expected])]
    return Agreement(
        who_speaks=_share((scores.argmax(axis=0) == clip.speaking.argmax(axis=0))[one]),
        balanced_accuracy=float(np.mean(recalls)),
        speech_precision=_share(expected[found]),
        speech_recall=recalls[0],
        silence_precision=_share(~expected[~found]),
        silence_recall=recalls[1],
    )


def _share(right: Flags) -> float:
    return float(right.mean()) if len(right) else float("nan")
