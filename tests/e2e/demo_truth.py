"""Scores a dataset made of the demo against what is known about it (numpy only), and makes mirrored and muted copies.

Rows are those of the dataset's Parquet as `pyarrow.Table.to_pylist` gives them; the truth is the JSON that
`scripts/build_demo.py` writes beside its video (documented in manifests/demo/README.md).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

NOSE, LEFT_EYE, RIGHT_EYE, LEFT_SHOULDER, RIGHT_SHOULDER = 0, 1, 2, 5, 6
FACE_POINTS = slice(23, 91)
"""The 68 face points of COCO-WholeBody."""


def _mirror_index() -> npt.NDArray[np.int64]:
    """For every keypoint of COCO-WholeBody the one that takes its place in a mirrored picture."""
    body = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    feet = [20, 21, 22, 17, 18, 19]
    jaw = list(range(16, -1, -1))
    brows = list(range(26, 16, -1))
    nose = [27, 28, 29, 30, 35, 34, 33, 32, 31]
    eyes = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    lips = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
    face = [23 + point for point in jaw + brows + nose + eyes + lips]
    hands = [*range(112, 133), *range(91, 112)]
    return np.array(body + feet + face + hands)


MIRROR = _mirror_index()


@dataclass(frozen=True)
class TruePerson:
    """One person of a shot; the first axis counts the shot's frames."""

    face_boxes_xyxy: Array
    speaking: Flags
    points: Mapping[int, Array]
    """Keypoint of COCO-WholeBody -> (n, 2)."""


@dataclass(frozen=True)
class TrueShot:
    """A shot, its expected verdict and its people."""

    name: str
    start_frame: int
    end_frame: int
    keep: bool
    reason: str | None
    people: Mapping[str, TruePerson]


@dataclass(frozen=True)
class Candidate:
    """A verdict of the filter."""

    start_frame: int
    end_frame: int
    reason: str | None
    """None if kept."""


@dataclass(frozen=True)
class LabelledPerson:
    """One person of a dataset row; the first axis counts the clip's frames."""

    face_boxes_xyxy: Array
    keypoints: Array
    """(n, 133, 3)."""
    speaking: Flags
    speaking_score: Array
    """Smoothed."""


@dataclass(frozen=True)
class Clip:
    """A dataset row."""

    start_frame: int
    width_px: int
    people: tuple[LabelledPerson, ...]

    @property
    def n_frames(self) -> int:
        """Frames with labels."""
        return len(self.people[0].speaking)

    @property
    def end_frame(self) -> int:
        """Frame after the last, in the video."""
        return self.start_frame + self.n_frames


@dataclass(frozen=True)
class Pair:
    """The same person in the truth and in a clip, over the frames that both have."""

    true: TruePerson
    labelled: LabelledPerson


@dataclass(frozen=True)
class SpeechScores:
    """Shares of frames or person-frames, 0..1; NaN where there was nothing to count."""

    who_speaks: float
    """Frames with one true speaker in which that person has the highest smoothed score."""
    sole_speaker: float
    """Frames with one true speaker in which exactly that person is labelled speaking."""
    balanced_accuracy: float
    """Mean of the recalls of speech and of silence over all person-frames."""
    speech_precision: float
    speech_recall: float
    silence_precision: float
    silence_recall: float


def load_truth(path: Path) -> tuple[TrueShot, ...]:
    """Read truth.json."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        TrueShot(
            **{key: shot[key] for key in ("name", "start_frame", "end_frame", "keep", "reason")},
            people={person["person"]: _true_person(person) for person in shot["people"]},
        )
        for shot in record["shots"]
    )


def _true_person(record: Mapping[str, Any]) -> TruePerson:
    names = {
        NOSE: "nose_xy",
        LEFT_EYE: "left_eye_xy",
        RIGHT_EYE: "right_eye_xy",
        LEFT_SHOULDER: "left_shoulder_xy",
        RIGHT_SHOULDER: "right_shoulder_xy",
    }
    return TruePerson(
        np.array(record["face_boxes_xyxy"], float),
        np.array(record["speaking"], bool),
        {point: np.array(record[name], float) for point, name in names.items()},
    )


def read_clip(row: Mapping[str, Any]) -> Clip:
    """The labels of a dataset row."""
    return Clip(
        round(row["start_s"] * row["fps"]),
        row["width_px"],
        tuple(
            LabelledPerson(
                np.array(person["face_boxes_xyxy"], float),
                np.array(person["keypoints"], float),
                np.array(person["speaking"], bool),
                np.array(person["speaking_score_smoothed"], float),
            )
            for person in row["people"]
        ),
    )


def boundary_error_frames(found: Sequence[tuple[int, int]], truth: Sequence[TrueShot]) -> float:
    """Largest distance between a true boundary and the nearest found one, or the reverse; shots are half-open."""
    expected = np.array(sorted({edge for shot in truth for edge in (shot.start_frame, shot.end_frame)}))
    edges = np.array(sorted({edge for shot in found for edge in shot}))
    if not len(edges):
        return float("inf")
    distance = np.abs(expected[:, None] - edges[None])
    return float(max(distance.min(0).max(), distance.min(1).max()))


def shot_of(start_frame: int, end_frame: int, truth: Sequence[TrueShot]) -> TrueShot:
    """The true shot that shares most frames with an interval."""
    return max(truth, key=lambda shot: min(end_frame, shot.end_frame) - max(start_frame, shot.start_frame))


def wrong_verdicts(candidates: Iterable[Candidate], truth: Sequence[TrueShot], tolerance_frames: int = 1) -> list[str]:
    """What differs from the expected verdicts, a line each; empty if all is right.

    A shot to keep must give exactly one kept candidate that begins and ends with it; any other shot only rejected ones,
    all for the expected reason, and at least one.
    """
    by_shot: dict[str, list[Candidate]] = {shot.name: [] for shot in truth}
    for candidate in candidates:
        by_shot[shot_of(candidate.start_frame, candidate.end_frame, truth).name].append(candidate)
    wrong = []
    for shot in truth:
        found = by_shot[shot.name]
        if [c.reason for c in found] != [shot.reason] and (shot.keep or {c.reason for c in found} != {shot.reason}):
            wrong.append(f"{shot.name}: expected {shot.reason or 'kept'}, found {[c.reason or 'kept' for c in found]}")
        elif shot.keep:
            off = max(abs(found[0].start_frame - shot.start_frame), abs(found[0].end_frame - shot.end_frame))
            if off > tolerance_frames:
                wrong.append(f"{shot.name}: kept clip is {off} frames off the shot")
    return wrong


def pair_people(clip: Clip, truth: Sequence[TrueShot]) -> list[Pair]:
    """Match the clip's people to those of its shot by where their faces are, over the frames that both have."""
    shot = shot_of(clip.start_frame, clip.end_frame, truth)
    start, end = max(clip.start_frame, shot.start_frame), min(clip.end_frame, shot.end_frame)
    in_shot, in_clip = (slice(start - zero, end - zero) for zero in (shot.start_frame, clip.start_frame))
    true = [_cut_true(person, in_shot) for person in shot.people.values()]
    labelled = [_cut_labelled(person, in_clip) for person in clip.people]
    order = _match([person.face_boxes_xyxy for person in true], [person.face_boxes_xyxy for person in labelled])
    return [Pair(true[i], labelled[j]) for i, j in order]


def _cut_true(person: TruePerson, frames: slice) -> TruePerson:
    points = {point: xy[frames] for point, xy in person.points.items()}
    return TruePerson(person.face_boxes_xyxy[frames], person.speaking[frames], points)


def _cut_labelled(person: LabelledPerson, frames: slice) -> LabelledPerson:
    return LabelledPerson(
        person.face_boxes_xyxy[frames], person.keypoints[frames], person.speaking[frames], person.speaking_score[frames]
    )


def _match(first: Sequence[Array], second: Sequence[Array]) -> list[tuple[int, int]]:
    """Pairs of indices of face boxes (n, 4) with the least sum of median distances between centres."""
    if len(first) > len(second):
        return [(i, j) for j, i in _match(second, first)]
    cost = np.array([[np.median(np.linalg.norm(_centre(a) - _centre(b), axis=1)) for b in second] for a in first])
    best = min(
        itertools.permutations(range(len(second)), len(first)),
        key=lambda order: sum(cost[i, j] for i, j in enumerate(order)),
    )
    return list(enumerate(best))


def _centre(boxes_xyxy: Array) -> Array:
    return (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2


def _width(boxes_xyxy: Array) -> Array:
    return boxes_xyxy[:, 2] - boxes_xyxy[:, 0]


def frames_without_everybody(clip: Clip, truth: Sequence[TrueShot]) -> int:
    """Frames in which not every true face holds the centre of its labelled box, or the number of people is wrong."""
    shot = shot_of(clip.start_frame, clip.end_frame, truth)
    if len(clip.people) != len(shot.people):
        return clip.n_frames
    pairs = pair_people(clip, truth)
    everybody = np.ones(len(pairs[0].true.speaking), bool)
    for pair in pairs:
        centre, box = _centre(pair.labelled.face_boxes_xyxy), pair.true.face_boxes_xyxy
        everybody &= ((centre > box[:, :2]) & (centre < box[:, 2:])).all(1)
    return clip.n_frames - int(everybody.sum())


def score_speech(clips: Iterable[Clip], truth: Sequence[TrueShot]) -> SpeechScores:
    """Speaking labels against the truth, over all frames of all clips."""
    who, sole, true, labelled = [], [], [], []
    for clip in clips:
        pairs = pair_people(clip, truth)
        expected = np.stack([pair.true.speaking for pair in pairs])
        found = np.stack([pair.labelled.speaking for pair in pairs])
        scores = np.stack([pair.labelled.speaking_score for pair in pairs])
        one = expected.sum(0) == 1
        who.append((scores.argmax(0) == expected.argmax(0))[one])
        sole.append((found == expected).all(0)[one])
        true.append(expected.ravel())
        labelled.append(found.ravel())
    expected, found = np.concatenate(true), np.concatenate(labelled)
    speech_recall, silence_recall = _share(found[expected]), _share(~found[~expected])
    return SpeechScores(
        who_speaks=_share(np.concatenate(who)),
        sole_speaker=_share(np.concatenate(sole)),
        balanced_accuracy=(speech_recall + silence_recall) / 2,
        speech_precision=_share(expected[found]),
        speech_recall=speech_recall,
        silence_precision=_share(~expected[~found]),
        silence_recall=silence_recall,
    )


def _share(right: Flags) -> float:
    return float(right.mean()) if len(right) else float("nan")


def talk_share(clips: Iterable[Clip]) -> float:
    """Share of person-frames that are labelled speaking."""
    return _share(np.concatenate([person.speaking for clip in clips for person in clip.people]))


def nose_in_place(pairs: Iterable[Pair]) -> float:
    """Share of person-frames whose nose is within a quarter of the face's width of the true face's centre column."""
    right = []
    for pair in pairs:
        box = pair.true.face_boxes_xyxy
        off = np.abs(pair.labelled.keypoints[:, NOSE, 0] - _centre(box)[:, 0])
        right.append(off < _width(box) / 4)
    return _share(np.concatenate(right))


def on_own_side(pairs: Iterable[Pair], left: int, right: int) -> float:
    """Share of person-frames in which two keypoints (left and right eye, or shoulders) are not exchanged.

    The left one must be further right in the picture than the right one and nearer to the true left point.
    """
    correct = []
    for pair in pairs:
        found_left, found_right = pair.labelled.keypoints[:, left, :2], pair.labelled.keypoints[:, right, :2]
        to_left, to_right = (np.linalg.norm(found_left - pair.true.points[p], axis=1) for p in (left, right))
        correct.append((found_left[:, 0] > found_right[:, 0]) & (to_left < to_right))
    return _share(np.concatenate(correct))


def mirror_error(original: Clip, mirrored: Clip) -> dict[str, float]:
    """How far the mirrored video's keypoints are from the mirrored keypoints, left and right exchanged.

    Returns the median distance in face widths over the 68 face points ("face") and both shoulders ("shoulders"), over
    people and frames. A point with an estimate in only one of the two counts as infinitely far.
    """
    start, end = max(original.start_frame, mirrored.start_frame), min(original.end_frame, mirrored.end_frame)
    first = [_cut_labelled(p, slice(start - original.start_frame, end - original.start_frame)) for p in original.people]
    second = [
        _cut_labelled(p, slice(start - mirrored.start_frame, end - mirrored.start_frame)) for p in mirrored.people
    ]
    width_px = original.width_px
    boxes = [_mirrored_boxes(person.face_boxes_xyxy, width_px) for person in first]
    distances = []
    for i, j in _match(boxes, [person.face_boxes_xyxy for person in second]):
        expected = first[i].keypoints[:, MIRROR, :2] * [-1, 1] + [width_px, 0]
        distance = np.linalg.norm(expected - second[j].keypoints[..., :2], axis=-1) / _width(boxes[i])[:, None]
        one_missing = np.isnan(expected).any(-1) != np.isnan(second[j].keypoints[..., :2]).any(-1)
        distances.append(np.where(one_missing, np.inf, distance))
    every = np.concatenate(distances)
    shoulders = [LEFT_SHOULDER, RIGHT_SHOULDER]
    return {"face": float(np.nanmedian(every[:, FACE_POINTS])), "shoulders": float(np.nanmedian(every[:, shoulders]))}


def _mirrored_boxes(boxes_xyxy: Array, width_px: int) -> Array:
    x0, y0, x1, y1 = boxes_xyxy.T
    return np.stack([width_px - x1, y0, width_px - x0, y1], axis=1)


def mirror_video(source: Path, target: Path) -> None:
    """Exchange left and right; the sound is copied."""
    video = ffmpeg.input(str(source))
    _write(ffmpeg.output(video.video.hflip(), video.audio, str(target), vcodec="libx264", crf=16, acodec="copy"))


def mute_video(source: Path, target: Path) -> None:
    """Replace the sound by silence of the same length; the pictures are copied."""
    video = ffmpeg.input(str(source))
    silence = video.audio.filter("volume", 0)
    _write(ffmpeg.output(video.video, silence, str(target), vcodec="copy", acodec="aac"))


def _write(output: Any) -> None:
    output.global_args("-loglevel", "error").overwrite_output().run(cmd=imageio_ffmpeg.get_ffmpeg_exe())
