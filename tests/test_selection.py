from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.rows import Artifact, Candidate, Tracks
from mit_builder.config.settings import SelectSettings
from stages.filter.selection import Selector, ShotSignals, sightings, split

N_FRAMES = 300
FILE = Artifact("tracks/x.parquet", "0" * 64, 0)


def track(
    track_id: int,
    start: int = 0,
    end: int = N_FRAMES,
    *,
    x: float | None = None,
    size: float = 100,
    score: float = 0.9,
    stride: int = 2,
    stillness: float | None = 3.0,
    beside: float | None = None,
    above: float | None = None,
) -> dict[str, Any]:
    """A row of TRACK: a square face of `size` at column `x` (each track its own place), found every `stride` frames."""
    n_frames = end - start
    left = 150 + 300 * track_id if x is None else x
    scores = np.zeros(n_frames, np.float32)
    scores[::stride] = score
    boxes = np.tile(np.array([left, 200, left + size, 200 + size], np.float32), (n_frames, 1))
    return {
        "track_id": track_id,
        "start_frame": start,
        "face_boxes_xyxy": boxes,
        "face_scores": scores,
        "face_detected": scores > 0,
        "boxes_xyxy": boxes,
        "stillness": stillness,
        "similarity_beside": beside,
        "similarity_above": above,
    }


def select(
    *rows: dict[str, Any],
    thresholds: Mapping[str, Any] | None = None,
    signals: Mapping[str, float] | None = None,
    n_frames: int = N_FRAMES,
    voice: np.ndarray | None = None,
    motion: np.ndarray | None = None,
) -> list[Candidate]:
    values = {"camera_motion_pct": 0.01, "voice_activity": 0.9, "brightness": 100.0, "sharpness": 50.0} | (
        signals or {}
    )
    columns = {name: np.full(n_frames, value, np.float32) for name, value in values.items()}
    if voice is not None:
        columns["voice_activity"] = voice.astype(np.float32)
    if motion is not None:
        columns["camera_motion_pct"] = motion.astype(np.float32)
    has_audio = not np.isnan(columns["voice_activity"]).any()
    shot = Tracks("v", 0, n_frames, 1920, 720, has_audio, len(rows), FILE, FILE, "fake")
    selector = Selector(shot, sightings(rows), ShotSignals(**columns), SelectSettings(**(thresholds or {})))
    return list(selector.candidates())


def spans(candidates: list[Candidate]) -> list[tuple[int, int, str | None]]:
    return [(c.start_frame, c.end_frame, c.reason) for c in candidates]


def test_two_people_all_through_the_shot_are_kept_with_everything_measured() -> None:
    (kept,) = select(track(0, x=900), track(1, x=200, size=80))
    assert (kept.verdict, kept.reason, kept.clip_id) == ("kept", None, "v_000000to000300")
    assert kept.track_ids == (1, 0), "from left to right"
    assert (kept.n_people, kept.n_bystanders, kept.bystander_area) == (2, 0, None)
    assert kept.min_face_px == pytest.approx(80)
    assert kept.face_area_ratio == pytest.approx(0.64)
    assert kept.camera_motion_pct == pytest.approx(0.01)
    assert kept.voice_activity == pytest.approx(1)
    assert kept.stillness == pytest.approx(3)
    assert (kept.brightness, kept.sharpness) == (100, 50)


def test_a_shot_without_enough_people_is_one_candidate() -> None:
    assert spans(select()) == [(0, 300, "too_few_people")]
    alone = select(track(0, 40, 200))
    assert spans(alone) == [(0, 300, "too_few_people")]
    assert (alone[0].n_people, alone[0].track_ids) == (1, (0,))
    assert alone[0].min_face_px == pytest.approx(100)


@pytest.mark.parametrize(
    ("reason", "rows", "thresholds", "signals"),
    [
        ("too_many_people", [track(i) for i in range(5)], {}, {}),
        ("face_too_small", [track(0), track(1, size=60)], {}, {}),
        ("face_sizes_differ", [track(0, size=100), track(1, size=65)], {}, {}),
        ("camera_motion", [track(0), track(1)], {}, {"camera_motion_pct": 0.2}),
        ("too_short", [track(0), track(1)], {"min_clip_s": 12.04}, {}),
        ("no_audio", [track(0), track(1)], {}, {"voice_activity": np.nan}),
        ("no_speech", [track(0), track(1)], {}, {"voice_activity": 0.1}),
        ("still_picture", [track(0), track(1, stillness=0.02)], {}, {}),
        ("bystander", [track(0, size=80), track(1, size=70), track(2, size=60)], {}, {}),
    ],
)
def test_each_reason(
    reason: str, rows: list[dict[str, Any]], thresholds: dict[str, float], signals: dict[str, float]
) -> None:
    (candidate,) = select(*rows, thresholds=thresholds, signals=signals)
    assert (candidate.verdict, candidate.reason) == ("rejected", reason)


@pytest.mark.parametrize("layout", ["beside", "above"])
def test_two_views_of_one_face_are_one_person(layout: str) -> None:
    first, second = track(0, x=300, **{layout: 0.93}), track(1, x=1300, **{layout: 0.93})
    if layout == "above":
        second["face_boxes_xyxy"] = first["face_boxes_xyxy"] + np.float32([0, 300, 0, 300])
    (candidate,) = select(first, second)
    assert (candidate.reason, candidate.track_ids, candidate.n_bystanders) == ("too_few_people", (0,), 1)
    assert candidate.view_similarity == pytest.approx(0.93)
    assert [c.verdict for c in select(first, second, thresholds={"max_view_similarity": 0.95})] == ["kept"]


def test_two_people_shown_twice_are_no_clip_because_their_second_views_stand_beside_them() -> None:
    rows = [track(i, x=x, beside=0.9) for i, x in enumerate([200, 600, 1160, 1560])]
    (candidate,) = select(*rows)
    assert (candidate.reason, candidate.track_ids, candidate.n_people) == ("bystander", (0, 1), 2)


def test_the_first_reason_is_named_and_all_measurements_kept() -> None:
    (candidate,) = select(
        track(0, size=50), track(1, size=30), signals={"camera_motion_pct": 0.5, "voice_activity": 0.0}
    )
    assert candidate.reason == "face_too_small"
    assert candidate.min_face_px == pytest.approx(30)
    assert candidate.face_area_ratio == pytest.approx(0.36)
    assert candidate.camera_motion_pct == pytest.approx(0.5)
    assert candidate.voice_activity == 0


def test_what_was_not_measured_rejects_nothing() -> None:
    (candidate,) = select(
        track(0, stillness=None), track(1, stillness=None), signals={"camera_motion_pct": float("nan")}
    )
    assert candidate.verdict == "kept"
    assert (candidate.camera_motion_pct, candidate.stillness) == (None, None)


def test_camera_motion_in_every_other_frame_only_is_not_overlooked() -> None:
    jerky = np.where(np.arange(N_FRAMES) % 5 < 3, 0.0, 0.6)
    (candidate,) = select(track(0), track(1), motion=jerky)
    assert candidate.reason == "camera_motion"
    assert candidate.camera_motion_pct == pytest.approx(0.24, abs=1e-3)


def test_single_jumps_of_the_measured_motion_do_not_count() -> None:
    spikes = np.where(np.arange(N_FRAMES) % 50 == 0, 5.0, 0.01)
    (candidate,) = select(track(0), track(1), motion=spikes)
    assert candidate.verdict == "kept"


def test_motion_fitted_in_less_than_a_tenth_of_the_frames_is_no_measurement() -> None:
    rare = np.where(np.arange(N_FRAMES) % 11 == 0, 2.0, np.nan)
    (candidate,) = select(track(0), track(1), motion=rare)
    assert (candidate.verdict, candidate.camera_motion_pct) == ("kept", None)


def test_exactly_five_seconds_are_long_enough() -> None:
    assert select(track(0, 0, 125), track(1, 0, 125))[0].reason is None
    assert select(track(0, 0, 124), track(1, 0, 124))[0].reason == "too_short"


def test_a_third_person_who_walks_in_splits_the_shot() -> None:
    candidates = select(track(0), track(1), track(2, 150, 300, x=10))
    assert spans(candidates) == [(0, 150, None), (150, 300, None)]
    assert [c.n_people for c in candidates] == [2, 3]


def test_small_faces_beside_enough_large_ones_are_bystanders_and_split_nothing() -> None:
    (candidate,) = select(track(0), track(1), track(2, 100, 200, size=50))
    assert (candidate.verdict, candidate.n_people, candidate.n_bystanders) == ("kept", 2, 1)
    assert candidate.bystander_area == pytest.approx(0.25)


def test_false_faces_neither_add_people_nor_split() -> None:
    flashes = [track(5, 100, 125, score=0.6), track(6, 50, 61, score=0.95), track(7, 130, 155, score=0.45)]
    (candidate,) = select(track(0), track(1), *flashes)
    assert (candidate.verdict, candidate.n_people, candidate.n_bystanders) == ("kept", 2, 0)


def test_a_face_that_is_seldom_found_counts_as_a_bystander() -> None:
    (candidate,) = select(track(0), track(1), track(2, stride=5, score=0.45))
    assert candidate.verdict == "rejected"
    assert (candidate.reason, candidate.n_bystanders) == ("bystander", 1)


def test_somebody_who_turned_away_inside_the_picture_is_still_there() -> None:
    first, second = select(track(0), track(1), track(2, 0, 130))
    assert (first.verdict, first.n_people) == ("kept", 3)
    assert (second.reason, second.n_bystanders) == ("bystander", 1)


def test_somebody_who_left_the_picture_is_gone() -> None:
    first, second = select(track(0), track(1), track(2, 0, 130, x=10))
    assert [first.verdict, second.verdict] == ["kept", "kept"]
    assert (second.n_people, second.n_bystanders) == (2, 0)


def test_somebody_tracked_anew_is_not_missed() -> None:
    candidates = select(track(0), track(1, 0, 150), track(2, 152, 300, x=460))
    assert [(c.verdict, c.n_people, c.n_bystanders) for c in candidates] == [("kept", 2, 0), ("kept", 2, 0)]


def test_long_stretches_are_split_in_their_longest_late_silence() -> None:
    voice = np.ones(2000)
    voice[300:420] = 0
    voice[640:660] = 0
    voice[700:730] = 0
    rows = [track(0, 0, 2000), track(1, 0, 2000)]
    candidates = select(*rows, n_frames=2000, voice=voice, thresholds={"max_clip_s": 30})
    assert (candidates[0].start_frame, candidates[0].end_frame) == (0, 715)
    assert candidates[-1].end_frame == 2000
    assert {c.verdict for c in candidates} == {"kept"}
    assert all(c.end_frame - c.start_frame <= 750 for c in candidates)


@settings(deadline=None)
@given(st.integers(0, 50), st.integers(1, 400), st.lists(st.booleans(), min_size=450, max_size=450), st.data())
def test_pieces_partition_the_interval_within_their_limits(
    start: int, length: int, silent: list[bool], data: st.DataObject
) -> None:
    longest = data.draw(st.integers(2, 120))
    shortest = data.draw(st.integers(1, longest))
    end = start + length
    pieces = list(split((start, end), np.array(silent), shortest, longest))
    assert pieces[0][0] == start
    assert pieces[-1][1] == end
    assert all(first[1] == second[0] for first, second in pairwise(pieces))
    assert all(last - first <= longest for first, last in pieces)
    assert all(last - first >= shortest for first, last in pieces[:-1])
    if length >= shortest and longest >= 2 * shortest:
        assert pieces[-1][1] - pieces[-1][0] >= shortest


MIN_PEOPLE, MAX_PEOPLE, MIN_CLIP_FRAMES = 2, 3, 50
PEOPLE = st.lists(
    st.tuples(st.integers(0, 180), st.integers(75, 200), st.sampled_from((30, 50, 70, 90, 140))), max_size=5
)
"""First frame, length (each counts as a person) and face size."""


def oracle(people: list[tuple[int, int, int]], n_frames: int) -> list[tuple[int, int, str | None]]:
    """The rule of the module frame by frame: who is large, else who is there; stretches that are too few are one."""
    spans = [(start, min(n_frames, start + length), size) for start, length, size in people]

    def state(frame: int) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
        there = tuple(i for i, (start, end, _) in enumerate(spans) if start <= frame < end)
        large = tuple(i for i in there if spans[i][2] >= 64)
        return (True, large, ()) if len(large) >= MIN_PEOPLE else (False, large, there)

    pieces: list[tuple[int, int, tuple[int, ...]]] = []
    for frame in range(n_frames):
        if frame and state(frame) == state(frame - 1):
            pieces[-1] = (pieces[-1][0], frame + 1, pieces[-1][2])
        else:
            enough, large, there = state(frame)
            biggest = sorted(there, key=lambda i: -spans[i][2])[:MAX_PEOPLE]
            pieces.append((frame, frame + 1, large if enough else tuple(biggest)))
    found: list[tuple[int, int, str | None]] = []
    is_lonely = False
    for start, end, group in pieces:
        was_lonely, is_lonely = is_lonely, len(group) < MIN_PEOPLE
        sizes = [spans[i][2] for i in group]
        if is_lonely and was_lonely:
            found[-1] = (found[-1][0], end, "too_few_people")
        elif is_lonely:
            found.append((start, end, "too_few_people"))
        elif len(group) > MAX_PEOPLE:
            found.append((start, end, "too_many_people"))
        elif min(sizes) < 64:
            found.append((start, end, "face_too_small"))
        elif (min(sizes) / max(sizes)) ** 2 < 0.5:
            found.append((start, end, "face_sizes_differ"))
        else:
            found.append((start, end, "too_short" if end - start < MIN_CLIP_FRAMES else None))
    return [(start, end, reason) for start, end, reason in found if end - start >= 12]


@settings(deadline=None, max_examples=100)
@given(PEOPLE)
def test_candidates_are_those_that_every_single_frame_asks_for(people: list[tuple[int, int, int]]) -> None:
    rows = [
        track(i, start, min(N_FRAMES, start + length), size=size)
        for i, (start, length, size) in enumerate(people)
        if min(N_FRAMES, start + length) - start >= 75
    ]
    shown = [(start, length, size) for start, length, size in people if min(N_FRAMES, start + length) - start >= 75]
    thresholds = {
        "min_people": MIN_PEOPLE,
        "max_people": MAX_PEOPLE,
        "min_clip_s": MIN_CLIP_FRAMES / 25,
        "max_bystander_area": 100,
    }
    assert spans(select(*rows, thresholds=thresholds)) == oracle(shown, N_FRAMES)
