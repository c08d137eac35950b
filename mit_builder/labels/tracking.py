"""Boxes to tracks, and the algebra of intervals in which people are visible. Pure numpy.

Boxes are (n, 4) `xyxy`; intervals are half-open [start, end) in frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Interval = tuple[int, int]
Key = TypeVar("Key", bound=Any)

LOOSE_IOU = 0.1
"""Overlap that continues a track while somebody else's continues well: a head turned quickly (0.17 was seen)."""


def areas(boxes_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(n, 4) boxes -> (n,) areas in square pixels; an inverted box has none."""
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    sizes = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    return np.asarray(sizes[:, 0] * sizes[:, 1])


def intersections(first_xyxy: npt.ArrayLike, second_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(n, 4) and (m, 4) boxes -> (n, m) areas of the common parts, square pixels."""
    first = np.asarray(first_xyxy, np.float64).reshape(-1, 1, 4)
    second = np.asarray(second_xyxy, np.float64).reshape(1, -1, 4)
    sizes = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    return np.asarray(np.prod(np.clip(sizes, 0, None), axis=-1))


def overlaps(first_xyxy: npt.ArrayLike, second_xyxy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(n, 4) and (m, 4) boxes -> (n, m) intersection over union, 0..1; 0 where both are empty."""
    common = intersections(first_xyxy, second_xyxy)
    union = areas(first_xyxy)[:, None] + areas(second_xyxy)[None, :] - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def suppress(
    boxes_xyxy: npt.ArrayLike, scores: npt.ArrayLike, *, max_iou: float, max_inside: float
) -> npt.NDArray[np.int64]:
    """Non-maximum suppression: indices of the boxes that stay, best score first.

    Args:
        boxes_xyxy: (n, 4).
        scores: (n,); of equal ones the earlier wins.
        max_iou: a box that overlaps a better one by more goes.
        max_inside: so does one of which a larger share lies inside a better one, or the reverse (a part of a face that
            was found as a face of its own).
    """
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    common, sizes = intersections(boxes, boxes), areas(boxes)
    smaller = np.minimum(sizes[:, None], sizes[None, :])
    inside = np.divide(common, smaller, out=np.zeros_like(common), where=smaller > 0)
    clash = (overlaps(boxes, boxes) > max_iou) | (inside > max_inside)
    kept: list[int] = []
    for index in np.argsort(-np.asarray(scores, np.float64), kind="stable").tolist():
        if not clash[index, kept].any():
            kept.append(index)
    return np.array(kept, np.int64)


@dataclass(frozen=True)
class Track:
    """One face followed through a shot.

    Attributes:
        start_frame: frame of the first box.
        face_boxes_xyxy: (n_frames, 4) float32, one for every frame; linear between detections, held to the shot's end.
        boxes_xyxy: (n_frames, 4) float32, the whole body in the same way.
        scores: (n_frames,) float32 score of the detection, 0 in frames without one.
        detected: (n_frames,) whether a face was detected in the frame.
    """

    start_frame: int
    face_boxes_xyxy: Floats
    boxes_xyxy: Floats
    scores: Floats
    detected: Flags

    @property
    def end_frame(self) -> int:
        """Frame after the last box."""
        return self.start_frame + len(self.detected)


@dataclass
class _Trail:
    """Detections of one face so far."""

    frames: list[int] = field(default_factory=list)
    boxes: list[Floats] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add(self, frame: int, box: Floats, score: float) -> None:
        self.frames.append(frame)
        self.boxes.append(box)
        self.scores.append(score)


class Tracker:
    """Joins the detections of successive frames by overlap of the faces.

    A face continues the track whose last box it overlaps most, at least by `min_iou`, if no more than `max_gap_frames`
    frames lie in between; pairs are made from the largest overlap down. Where somebody continues like that, `LOOSE_IOU`
    is enough for the others. Where several people were followed and nobody does, the picture jumped (a cut that was not
    found, a jerk of the camera): all tracks end.
    """

    def __init__(self, *, min_iou: float, max_gap_frames: int) -> None:
        self._min_iou = min_iou
        self._max_gap_frames = max_gap_frames
        self._active: list[_Trail] = []
        self._ended: list[_Trail] = []

    def lost(self, frame: int, face_boxes_xyxy: Floats) -> Floats:
        """Last boxes (n, 4) of the tracks that none of this frame's faces would continue."""
        active = [trail for trail in self._active if self._is_near(trail, frame)]
        found = {row for row, _ in self._pairs(active, face_boxes_xyxy)}
        lost = [trail.boxes[-1][:4] for row, trail in enumerate(active) if row not in found]
        return np.array(lost, np.float32).reshape(-1, 4)

    def last_boxes(self) -> Floats:
        """Faces (n, 4) of the tracks that may go on, as last seen."""
        return np.array([trail.boxes[-1][:4] for trail in self._active], np.float32).reshape(-1, 4)

    def add(self, frame: int, face_boxes_xyxy: Floats, scores: Floats, boxes_xyxy: Floats) -> None:
        """Take the detections of a frame later than all before: (n, 4) faces, (n,) scores, (n, 4) bodies."""
        self._end(lambda trail: not self._is_near(trail, frame))
        both = np.concatenate([face_boxes_xyxy, boxes_xyxy], axis=1)
        pairs = self._pairs(self._active, face_boxes_xyxy)
        if not pairs and len(both) > 1 and self._n_followed() > 1:
            self._end(lambda _: True)
        for row, column in pairs:
            self._active[row].add(frame, both[column], float(scores[column]))
        taken = {column for _, column in pairs}
        for column in range(len(both)):
            if column not in taken:
                self._active.append(_Trail())
                self._active[-1].add(frame, both[column], float(scores[column]))

    def finish(self, *, end_frame: int, hold_frames: int, min_detections: int) -> list[Track]:
        """All tracks by first frame, then from left to right; the tracker is empty afterwards.

        Args:
            end_frame: frame after the last.
            hold_frames: a track last seen no more than this before the end (the stride of detection) goes on to it.
            min_detections: tracks of fewer are dropped.
        """
        self._end(lambda _: True)
        trails = [trail for trail in self._ended if len(trail.frames) >= min_detections]
        self._ended = []
        trails.sort(key=lambda trail: (trail.frames[0], trail.boxes[0].tolist()))
        last = end_frame - hold_frames
        return [_filled(trail, end_frame if trail.frames[-1] >= last else trail.frames[-1] + 1) for trail in trails]

    def _end(self, is_over: Callable[[_Trail], bool]) -> None:
        self._ended += [trail for trail in self._active if is_over(trail)]
        self._active = [trail for trail in self._active if not is_over(trail)]

    def _is_near(self, trail: _Trail, frame: int) -> bool:
        return frame - trail.frames[-1] - 1 <= self._max_gap_frames

    def _n_followed(self) -> int:
        """Tracks that were seen at the last look and at the one before."""
        last = max((trail.frames[-1] for trail in self._active), default=0)
        return sum(trail.frames[-1] == last and len(trail.frames) > 1 for trail in self._active)

    def _pairs(self, trails: Sequence[_Trail], face_boxes_xyxy: Floats) -> list[tuple[int, int]]:
        table = overlaps(np.array([trail.boxes[-1][:4] for trail in trails]), face_boxes_xyxy)
        pairs = match(table, self._min_iou)
        if not pairs:
            return []
        for row, column in pairs:
            table[row, :], table[:, column] = 0, 0
        return pairs + match(table, min(LOOSE_IOU, self._min_iou))


def match(scores: npt.NDArray[np.float64], minimum: float) -> list[tuple[int, int]]:
    """Greedy one-to-one pairs (row, column) of an (n, m) table, best first, each at least `minimum`."""
    pairs: list[tuple[int, int]] = []
    rows: set[int] = set()
    columns: set[int] = set()
    for flat in np.argsort(-scores, axis=None, kind="stable").tolist():
        row, column = divmod(flat, scores.shape[1])
        if scores[row, column] < minimum:
            break
        if row not in rows and column not in columns:
            pairs.append((row, column))
            rows.add(row)
            columns.add(column)
    return pairs


def _filled(trail: _Trail, end_frame: int) -> Track:
    start = trail.frames[0]
    every = np.arange(start, end_frame)
    known = np.array(trail.boxes, np.float64)
    boxes = np.stack([np.interp(every, trail.frames, column) for column in known.T], axis=1).astype(np.float32)
    scores = np.zeros(len(every), np.float32)
    scores[np.array(trail.frames) - start] = trail.scores
    return Track(start, boxes[:, :4], boxes[:, 4:], scores, scores > 0)


def sweep(spans: Mapping[Key, Interval], within: Interval) -> Iterator[tuple[Interval, tuple[Key, ...]]]:
    """Cut `within` into maximal intervals during which exactly the same set is present.

    O(n log n + output) in the number of spans. Spans that do not reach into `within` do not count.

    Args:
        spans: who is present when.
        within: the interval to cut; empty gives nothing.

    Yields:
        ((start, end), keys in ascending order), in order and without holes; an empty set is a set.
    """
    low, high = within
    changes: dict[int, list[tuple[Key, bool]]] = {}
    for key, span in spans.items():
        arrival, departure = max(span[0], low), min(span[1], high)
        if arrival < departure:
            changes.setdefault(arrival, []).append((key, True))
            changes.setdefault(departure, []).append((key, False))
    present: set[Key] = set()
    for start, end in pairwise(sorted({low, max(low, high), *changes})):
        for key, arrives in changes.get(start, ()):
            (present.add if arrives else present.discard)(key)
        yield (start, end), tuple(sorted(present))


def runs(flags: npt.ArrayLike) -> Iterator[Interval]:
    """Maximal intervals in which a (n,) array of flags is true."""
    padded = np.concatenate([[False], np.asarray(flags, bool), [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
