"""From a shot's face tracks to candidates: stretches in which the same people are visible, measured and judged.

Pure arithmetic on what filter.detect stored; see `stages.filter.detect` for the reasons a candidate is rejected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS, Candidate, Reason, Tracks, clip_id
from mit_builder.config.settings import SelectSettings
from mit_builder.labels.speaking import smooth_voice
from mit_builder.labels.tracking import Flags, Floats, Interval, areas, overlaps, runs, sweep

LONG_FRAMES, LONG_SCORE = 50, 0.5
CLEAR_FRAMES, CLEAR_SCORE = 12, 0.7
"""A track is a person if it is long, or clear: so many frames, and detections that score so much in the mean. The
MIT scripts follow faces for at least 12 frames. False faces (hands, ornaments, backs of heads) in the development clips
lasted at most 1.1 s and scored at most 0.65."""
MIN_DETECTED = 0.5
"""Share of a person's frames, of those that were looked at, with a face; a sparser track is a glimpse."""
GLIMPSE_FRAMES = 25
"""Shorter tracks that are no person do not count at all."""
MOTION_FRAMES = 5
"""Camera motion is averaged over so many frames before the median: sources repeat pictures (a webcam that drops frames,
24 shown as 30), so that single frames jump between nothing and too much."""
MIN_FITTED = 0.1
"""Share of frames with camera motion below which the candidate has none."""
MIN_SIGHT_FRAMES, MIN_GLIMPSE_SHARE = 12, 0.1
"""Somebody counts if seen for so many frames of the candidate; a glimpse, if seen for this share of them."""
LEAVING_FACES = 0.5
"""Somebody last seen within this many face sizes of the picture's edge has left it; others have turned away."""


@dataclass(frozen=True)
class Sighting:
    """A face track as selection sees it.

    Attributes:
        span: frames of the video in which it is visible.
        boxes_xyxy: (n_frames, 4) face boxes.
        areas: (n_frames,) areas of the face boxes, square pixels.
        stillness: see `TRACK`; None where unknown.
        similarity_beside: see `TRACK`; None where unknown.
        similarity_above: see `TRACK`; None where unknown.
        is_person: whether it counts as a person; else it is a glimpse, which can only be a bystander.
    """

    track_id: int
    span: Interval
    boxes_xyxy: Floats
    areas: npt.NDArray[np.float64]
    stillness: float | None
    similarity_beside: float | None
    similarity_above: float | None
    is_person: bool

    @property
    def view_similarity(self) -> float | None:
        """How well the face is found in another half of the picture."""
        known = [value for value in (self.similarity_beside, self.similarity_above) if value is not None]
        return max(known, default=None)

    def is_second_view(self, max_similarity: float, wh: tuple[int, int]) -> bool:
        """Whether it is the right or lower one of two views of one face, in a picture of this size."""
        x, y = (self.boxes_xyxy[:, :2] + self.boxes_xyxy[:, 2:]).mean(axis=0) / 2
        beside, above = (value or 0.0 for value in (self.similarity_beside, self.similarity_above))
        return bool((beside > max_similarity and x > wh[0] / 2) or (above > max_similarity and y > wh[1] / 2))

    def within(self, interval: Interval) -> slice:
        """Its frames that lie in an interval, as indices into its arrays."""
        start, end = max(interval[0], self.span[0]), min(interval[1], self.span[1])
        return slice(start - self.span[0], max(start, end) - self.span[0])

    def mean_area(self, interval: Interval) -> float | None:
        """Mean face area in an interval, None where it is not visible there."""
        seen = self.areas[self.within(interval)]
        return float(seen.mean()) if len(seen) else None


@dataclass(frozen=True)
class ShotSignals:
    """What was measured in every frame of a shot, (n_frames,) float32 each; NaN where there is no value."""

    camera_motion_pct: Floats
    voice_activity: Floats
    brightness: Floats
    sharpness: Floats

    def voiced(self, threshold: float) -> Flags | None:
        """(n_frames,) whether somebody speaks (probability averaged over 9 frames); None without audio."""
        if np.isnan(self.voice_activity).any():
            return None
        return np.asarray(smooth_voice(self.voice_activity) > threshold)


def sightings(rows: Sequence[Mapping[str, Any]]) -> list[Sighting]:
    """Rows of `TRACK`, as `read_arrays` gives them, without tracks too short to mean anything."""
    found = []
    for row in rows:
        n_frames, detected = len(row["face_detected"]), np.flatnonzero(row["face_detected"])
        stride = int(np.diff(detected).min(initial=n_frames))
        score = float(row["face_scores"][detected].mean())
        is_long = n_frames >= LONG_FRAMES and score >= LONG_SCORE
        is_clear = n_frames >= CLEAR_FRAMES and score >= CLEAR_SCORE
        is_dense = len(detected) * stride >= MIN_DETECTED * n_frames
        if is_clear or n_frames >= GLIMPSE_FRAMES:
            found.append(
                Sighting(
                    track_id=row["track_id"],
                    span=(row["start_frame"], row["start_frame"] + n_frames),
                    boxes_xyxy=row["face_boxes_xyxy"],
                    areas=areas(row["face_boxes_xyxy"]),
                    stillness=row["stillness"],
                    similarity_beside=row["similarity_beside"],
                    similarity_above=row["similarity_above"],
                    is_person=bool((is_long or is_clear) and is_dense),
                )
            )
    return found


class Selector:
    """Makes the candidates of one shot."""

    def __init__(self, shot: Tracks, seen: Sequence[Sighting], signals: ShotSignals, settings: SelectSettings) -> None:
        self._shot = shot
        self._signals = signals
        self._settings = settings
        self._span = (shot.start_frame, shot.end_frame)
        self._seen = {sighting.track_id: sighting for sighting in seen}
        self._people = {key: s.span for key, s in self._seen.items() if s.is_person and not self._is_second_view(s)}
        self._large = {key: span for key, span in self._people.items() if self._is_large(self._seen[key])}
        self._most = max((len(present) for _, present in sweep(self._people, self._span)), default=0)
        self._voiced = signals.voiced(settings.voice_threshold)

    def candidates(self) -> Iterator[Candidate]:
        """All candidates in order; changes of people within 12 frames make none."""
        for interval, group in self._stretches():
            if interval[1] - interval[0] >= MIN_SIGHT_FRAMES:
                yield self._candidate(interval, group)

    def _stretches(self) -> Iterator[tuple[Interval, tuple[int, ...]]]:
        lonely: list[tuple[Interval, tuple[int, ...]]] = []
        for interval, group in self._groups():
            if len(group) < self._settings.min_people:
                lonely.append((interval, group))
                continue
            yield from self._joined(lonely)
            lonely = []
            for piece in self._pieces(interval):
                yield piece, group
        yield from self._joined(lonely)

    def _groups(self) -> Iterator[tuple[Interval, tuple[int, ...]]]:
        """Intervals with the same people of sufficient size; where those are too few, with all people."""
        for interval, group in sweep(self._large, self._span):
            if len(group) >= self._settings.min_people:
                yield interval, group
                continue
            for part, everyone in sweep(self._people, interval):
                by_size = sorted(everyone, key=lambda key: -(self._seen[key].mean_area(part) or 0.0))
                yield part, tuple(by_size[: self._settings.max_people])

    def _joined(self, lonely: Sequence[tuple[Interval, tuple[int, ...]]]) -> Iterator[tuple[Interval, tuple[int, ...]]]:
        """One stretch for neighbouring intervals with too few people, with those of the fullest, then longest one."""
        if lonely:
            whole = (lonely[0][0][0], lonely[-1][0][1])
            _, group = max(lonely, key=lambda item: (len(item[1]), item[0][1] - item[0][0]))
            yield whole, group

    def _pieces(self, interval: Interval) -> Iterator[Interval]:
        shortest, longest = self._shortest, math.floor(self._settings.max_clip_s * TIMELINE_FPS)
        silent = np.zeros(self._span[1] - self._span[0], bool) if self._voiced is None else ~self._voiced
        offset = self._span[0]
        within = (interval[0] - offset, interval[1] - offset)
        for start, end in split(within, silent, shortest, max(shortest, longest)):
            yield start + offset, end + offset

    @property
    def _shortest(self) -> int:
        return math.ceil(self._settings.min_clip_s * TIMELINE_FPS)

    def _is_large(self, sighting: Sighting) -> bool:
        return bool(math.sqrt(sighting.areas.mean()) >= self._settings.min_face_px)

    def _is_second_view(self, sighting: Sighting) -> bool:
        wh = (self._shot.width_px, self._shot.height_px)
        return sighting.is_second_view(self._settings.max_view_similarity, wh)

    def _candidate(self, interval: Interval, group: Sequence[int]) -> Candidate:
        people = sorted(
            (self._seen[key] for key in group),
            key=lambda s: float(s.boxes_xyxy[s.within(interval)][0, [0, 2]].sum()),
        )
        sizes = [s.mean_area(interval) or 0.0 for s in people]
        others = self._bystanders(interval, group)
        still = [s.stillness for s in people if s.stillness is not None]
        similar = [s.view_similarity for s in people if s.view_similarity is not None]
        frames = slice(interval[0] - self._span[0], interval[1] - self._span[0])
        measured = {
            "min_face_px": math.sqrt(min(sizes)) if sizes else None,
            "face_area_ratio": min(sizes) / max(sizes) if sizes else None,
            "camera_motion_pct": _median(_steadied(self._signals.camera_motion_pct[frames]), MIN_FITTED),
            "voice_activity": None if self._voiced is None else float(self._voiced[frames].mean()),
            "stillness": min(still) if still else None,
            "view_similarity": max(similar, default=None),
            "bystander_area": max(others.values()) / min(sizes) if others and sizes else None,
            "brightness": float(self._signals.brightness[frames].mean()),
            "sharpness": _median(self._signals.sharpness[frames], 0.0),
        }
        reason = self._reason(interval, sizes, measured)
        return Candidate(
            clip_id=clip_id(self._shot.video_id, *interval),
            video_id=self._shot.video_id,
            start_frame=interval[0],
            end_frame=interval[1],
            track_ids=tuple(s.track_id for s in people),
            n_people=sum(math.sqrt(size) >= self._settings.min_face_px for size in sizes),
            tracks=self._shot.tracks,
            verdict="kept" if reason is None else "rejected",
            reason=reason,
            n_bystanders=self._at_once(others, interval),
            detector=self._shot.detector,
            **measured,
        )

    def _reason(
        self, interval: Interval, sizes: Sequence[float], measured: Mapping[str, float | None]
    ) -> Reason | None:
        """First test that fails, in the order of `Reason`; what was not measured fails none."""
        s = self._settings

        def above(name: str, limit: float) -> bool:
            value = measured[name]
            return value is not None and value > limit

        def below(name: str, limit: float) -> bool:
            value = measured[name]
            return value is not None and value < limit

        tests: list[tuple[Reason, bool]] = [
            ("too_few_people", len(sizes) < s.min_people),
            ("too_many_people", len(sizes) > s.max_people),
            ("face_too_small", below("min_face_px", s.min_face_px)),
            ("face_sizes_differ", below("face_area_ratio", s.min_face_area_ratio)),
            ("camera_motion", above("camera_motion_pct", s.max_camera_motion_pct)),
            ("too_short", interval[1] - interval[0] < self._shortest),
            ("no_audio", not self._shot.has_audio),
            ("no_speech", below("voice_activity", s.min_voice_activity)),
            ("still_picture", below("stillness", s.min_stillness)),
            ("bystander", above("bystander_area", s.max_bystander_area)),
        ]
        return next((reason for reason, fails in tests if fails), None)

    def _bystanders(self, interval: Interval, group: Sequence[int]) -> dict[int, float]:
        """Mean face area of everybody else who is in the picture during an interval, by track."""
        others: dict[int, float] = {}
        for key, sighting in self._seen.items():
            window, area = sighting.within(interval), sighting.mean_area(interval)
            least = MIN_SIGHT_FRAMES if sighting.is_person else MIN_GLIMPSE_SHARE * (interval[1] - interval[0])
            if key not in group and area is not None and window.stop - window.start >= least:
                others[key] = area
        missing = self._most - len(group) - self._at_once(others, interval)
        turned_away = sorted(self._turned_away(interval, group), key=lambda item: -item[1])
        return others | dict(turned_away[: max(0, missing)])

    def _turned_away(self, interval: Interval, group: Sequence[int]) -> Iterator[tuple[int, float]]:
        """People (track, face area) seen before or after an interval who cannot have left the picture meanwhile.

        A head that turns away ends its track, and the person would go uncounted. Somebody close to a member of the
        group is taken for that member, tracked anew.
        """
        for key in self._people:
            sighting = self._seen[key]
            if sighting.span[1] <= interval[0]:
                box, at = sighting.boxes_xyxy[-1], interval[0]
            elif sighting.span[0] >= interval[1]:
                box, at = sighting.boxes_xyxy[0], interval[1] - 1
            else:
                continue
            places = [self._seen[k].boxes_xyxy[self._seen[k].within((at, at + 1))] for k in group]
            is_member = bool(overlaps(_grown(box), np.concatenate([box[:0].reshape(0, 4), *places])).any())
            if not is_member and self._is_inside(box):
                yield key, float(areas(box)[0])

    def _is_inside(self, box_xyxy: Floats) -> bool:
        margin = LEAVING_FACES * math.sqrt(float(areas(box_xyxy)[0]))
        low, high = box_xyxy[:2], np.array([self._shot.width_px, self._shot.height_px]) - box_xyxy[2:]
        return bool((low >= margin).all() and (high >= margin).all())

    def _at_once(self, others: Mapping[int, float], interval: Interval) -> int:
        """Largest number of these people in the picture at once; those who turned away are there all the time."""
        spans = {key: self._seen[key].span for key in others}
        hidden = sum(not (span[0] < interval[1] and span[1] > interval[0]) for span in spans.values())
        return hidden + max((len(present) for _, present in sweep(spans, interval)), default=0)


def split(interval: Interval, silent: Flags, shortest: int, longest: int) -> Iterator[Interval]:
    """Cut an interval into pieces of at most `longest` frames, each in the middle of a silence.

    The cut lies in the last third of the longest piece possible, where the silence is longest (of equal ones the last);
    without a silence there, as late as possible. No piece is shorter than `shortest`, unless no cut leaves both sides
    that long: then only the last piece is.

    Args:
        interval: frames, as indices into `silent`.
        silent: (n_frames,) flags.
        shortest: frames.
        longest: frames, at least `shortest`.
    """
    start, end = interval
    while end - start > longest:
        latest = max(start + shortest, min(start + longest, end - shortest))
        earliest = min(latest, max(start + shortest, start + longest - longest // 3))
        quiet = [(first + earliest, last + earliest) for first, last in runs(silent[earliest : latest + 1])]
        cut = latest
        if quiet:
            first, last = max(quiet, key=lambda run: (run[1] - run[0], run[0]))
            cut = (first + last) // 2
        yield start, cut
        start = cut
    yield start, end


def _grown(box_xyxy: Floats) -> Floats:
    """A box half a face larger on every side."""
    margin = (box_xyxy[2:] - box_xyxy[:2]) / 2
    return np.concatenate([box_xyxy[:2] - margin, box_xyxy[2:] + margin])


def _steadied(values: Floats) -> Floats:
    """Mean over the 5 frames around each that has a value, as far as they have one; NaN stays."""
    known = ~np.isnan(values)
    window = np.ones(MOTION_FRAMES)
    totals = np.convolve(np.where(known, values, 0), window)[MOTION_FRAMES // 2 :][: len(values)]
    counts = np.convolve(known, window)[MOTION_FRAMES // 2 :][: len(values)]
    return np.where(known, totals / np.maximum(counts, 1), np.nan).astype(np.float32)


def _median(values: Floats, min_share: float) -> float | None:
    known = values[~np.isnan(values)]
    if not len(known) or len(known) < min_share * len(values):
        return None
    return float(np.median(known))
