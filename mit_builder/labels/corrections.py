"""A reviewer's corrections of who speaks: applied to labels, and carried over to a clip that was made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.arrays import read_arrays
from manifests.rows import Artifact, Clip, Correction, Review
from mit_builder.console.wording import counted
from mit_builder.labels.speaking import Flags, merged_periods, periods, runs

DIGEST_DIGITS = 16
"""Hex digits of a digest that a review keeps of what was shown."""


def corrected(speaking: Flags, corrections: Sequence[Correction]) -> tuple[Flags, Flags]:
    """Labels with corrections, and where those apply: (n_people, n_frames) bool -> two of the same shape."""
    labels, human = speaking.copy(), np.zeros_like(speaking)
    for correction in corrections:
        span = slice(correction.start_frame, correction.end_frame)
        labels[correction.person_id, span] = correction.speaking
        human[correction.person_id, span] = True
    return labels, human


def with_corrections(
    people: Sequence[Mapping[str, Any]], corrections: Sequence[Correction], merge_below_frames: int
) -> list[dict[str, Any]]:
    """People's rows by person_id, with `speaking`, what follows from it, and `human_periods`; scores stay."""
    labels, human = corrected(np.stack([np.asarray(person["speaking"], bool) for person in people]), corrections)
    result = []
    for person, flags, mask in zip(people, labels, human, strict=True):
        changed: dict[str, Any] = {"human_periods": runs(mask)}
        if mask.any():
            changed |= {
                "speaking": flags,
                "speak_periods": periods(flags, mask),
                "listen_periods": periods(~flags, mask),
                "speak_periods_merged": merged_periods(flags, merge_below_frames, mask),
                "listen_periods_merged": merged_periods(~flags, merge_below_frames, mask),
            }
        result.append({**person, **changed})
    return result


def human_mask(person: Mapping[str, Any]) -> Flags:
    """(n_frames,) bool: the frames of `human_periods`, in which a reviewer has set `speaking`."""
    mask = np.zeros(len(person["speaking"]), bool)
    for start, end in person["human_periods"]:
        mask[start:end] = True
    return mask


def label_tier(people: Sequence[Mapping[str, Any]], n_frames: int, tier: str) -> str:
    """Human where every frame of every person was set by a reviewer, else what made the labels."""
    n_human = sum(int(np.diff(person["human_periods"], axis=1).sum()) for person in people)
    return "human" if n_human == n_frames * len(people) else tier


def fitting(
    review: Review, clip: Clip, local: Callable[[Artifact], AbstractContextManager[Path]]
) -> tuple[tuple[Correction, ...], list[str]]:
    """The corrections that hold for a clip as it is now, and a line for each that is dropped.

    Where the people were found anew, a person is found again by the face that was shown: its box must hold the centre
    that the correction names. The people's artifact is opened only then.
    """
    same = review.people == clip.people.sha256[:DIGEST_DIGITS]
    if same or not review.corrections:
        faces = None
    else:
        with local(clip.people) as path:
            people = sorted(read_arrays(path), key=lambda person: int(person["person_id"]))
        faces = np.stack([person["face_boxes_xyxy"] for person in people])
    kept, dropped = [], []
    for correction in review.corrections:
        now = _now(correction, clip, faces)
        if isinstance(now, str):
            span = f"{correction.start_frame}..{correction.end_frame} of person {correction.person_id}"
            dropped.append(f"{clip.clip_id}: a correction of frames {span} is dropped: {now}")
        else:
            kept.append(now)
    return tuple(kept), dropped


def _now(correction: Correction, clip: Clip, faces: npt.NDArray[np.float32] | None) -> Correction | str:
    """The correction for the clip's people, or why there is none."""
    if not 0 <= correction.start_frame < correction.end_frame <= clip.n_frames:
        return f"the clip has {counted(clip.n_frames, 'frame')}"
    if faces is None:
        return (
            correction
            if correction.person_id < clip.n_people
            else f"the clip has {counted(clip.n_people, 'person', 'people')}"
        )
    x0, y0, x1, y1 = faces[:, (correction.start_frame + correction.end_frame) // 2].T
    x, y = correction.face_x_px, correction.face_y_px
    holds = np.flatnonzero((x0 <= x) & (x <= x1) & (y0 <= y) & (y <= y1))
    if correction.person_id in holds:
        return correction
    if len(holds) == 1:
        return replace(correction, person_id=int(holds[0]))
    return "the people were found anew and no face is where that person's was"
