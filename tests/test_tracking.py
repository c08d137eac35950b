from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mit_builder.labels.tracking import Track, Tracker, areas, match, overlaps, runs, suppress, sweep

BOX = np.array([100, 100, 150, 160], np.float32)
OTHER = np.array([400, 100, 450, 160], np.float32)

spans = st.dictionaries(
    st.integers(0, 9), st.tuples(st.integers(-5, 40), st.integers(-5, 40)).filter(lambda s: s[0] < s[1]), max_size=8
)


@settings(deadline=None)
@given(spans, st.integers(0, 30), st.integers(0, 30))
def test_sweep_equals_the_sets_of_every_single_frame(
    present: dict[int, tuple[int, int]], low: int, length: int
) -> None:
    within = (low, low + length)
    pieces = list(sweep(present, within))
    frames = [
        tuple(sorted(key for key, (start, end) in present.items() if start <= frame < end)) for frame in range(*within)
    ]
    assert [keys for (start, end), keys in pieces for _ in range(start, end)] == frames
    for (first, before), (second, after) in pairwise(pieces):
        assert first[1] == second[0]
        assert before != after, "intervals are maximal"
    assert all(start < end for (start, end), _ in pieces)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=40))
def test_runs_are_the_maximal_intervals_of_true(flags: list[bool]) -> None:
    found = list(runs(flags))
    covered = {frame for start, end in found for frame in range(start, end)}
    assert covered == {frame for frame, flag in enumerate(flags) if flag}
    assert all(first[1] < second[0] for first, second in pairwise(found))


def test_overlaps_of_known_boxes() -> None:
    table = overlaps([[0, 0, 10, 10], [20, 20, 20, 20]], [[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 20, 20]])
    np.testing.assert_allclose(table, [[50 / 150, 1, 0], [0, 0, 0]])
    assert overlaps(np.empty((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)
    np.testing.assert_array_equal(areas([[3, 3, 1, 9]]), [0])


def test_suppression_keeps_the_best_of_overlapping_boxes_and_drops_parts_of_faces() -> None:
    boxes = [[0, 0, 10, 10], [1, 1, 11, 11], [2, 6, 8, 10], [30, 0, 40, 10]]
    kept = suppress(boxes, [0.8, 0.9, 0.95, 0.5], max_iou=0.3, max_inside=2)
    assert kept.tolist() == [2, 1, 3]
    assert suppress(boxes, [0.8, 0.9, 0.7, 0.5], max_iou=0.3, max_inside=0.6).tolist() == [1, 3]


def test_matches_are_one_to_one_from_the_best_down() -> None:
    table = np.array([[0.6, 0.9], [0.5, 0.8], [0.7, 0.1]])
    assert match(table, 0.5) == [(0, 1), (2, 0)]
    assert match(np.empty((0, 3)), 0.5) == []


def follow(frames: dict[int, list[np.ndarray]], **options: int) -> list[Track]:
    tracker = Tracker(min_iou=0.5, max_gap_frames=12)
    for frame, boxes in frames.items():
        faces = np.array(boxes, np.float32).reshape(-1, 4)
        tracker.add(frame, faces, np.full(len(faces), 0.8, np.float32), faces * 2)
    return tracker.finish(**({"end_frame": 1000, "hold_frames": 2, "min_detections": 1} | options))


def test_gaps_up_to_the_limit_are_interpolated_linearly() -> None:
    (track,) = follow({10: [BOX], 23: [BOX + 6.5]})
    assert (track.start_frame, track.end_frame) == (10, 24)
    np.testing.assert_allclose(track.face_boxes_xyxy[:, 0], 100 + np.arange(14) / 2)
    np.testing.assert_allclose(track.boxes_xyxy, 2 * track.face_boxes_xyxy)
    assert np.flatnonzero(track.detected).tolist() == [0, 13]
    assert track.scores[1] == 0
    assert track.face_boxes_xyxy.dtype == np.float32


def test_a_longer_gap_ends_the_track() -> None:
    assert [(t.start_frame, t.end_frame) for t in follow({10: [BOX], 24: [BOX]})] == [(10, 11), (24, 25)]


def test_people_side_by_side_keep_their_tracks() -> None:
    left, right = follow({f: [OTHER + f, BOX + f] if f % 4 else [BOX + f, OTHER + f] for f in range(0, 40, 2)})
    np.testing.assert_allclose(left.face_boxes_xyxy[-1], BOX + 38)
    np.testing.assert_allclose(right.face_boxes_xyxy[-1], OTHER + 38)


def test_a_head_turned_quickly_is_followed_while_somebody_else_stays() -> None:
    turned = BOX + np.array([35, 0, 35, 0], np.float32)
    assert len(follow({0: [BOX, OTHER], 2: [BOX, OTHER], 4: [turned, OTHER]})) == 2
    assert len(follow({0: [BOX], 2: [BOX], 4: [turned]})) == 2, "alone it may as well be somebody else"


def test_all_tracks_end_where_the_picture_jumps() -> None:
    tracks = follow({0: [BOX, OTHER], 2: [BOX, OTHER], 4: [BOX + 30, OTHER + 30], 6: [BOX, OTHER]})
    assert [t.end_frame for t in tracks if t.start_frame == 0] == [3, 3]


def test_tracks_seen_at_the_last_look_reach_the_end_of_the_shot() -> None:
    seen = {f: [BOX, OTHER] if f < 6 else [BOX] for f in range(0, 10, 2)}
    ends = [t.end_frame for t in follow(seen, end_frame=10)]
    assert ends == [10, 5]


def test_short_tracks_are_dropped_and_the_tracker_is_empty_afterwards() -> None:
    assert follow({0: [BOX], 2: [BOX]}, min_detections=3) == []
    tracker = Tracker(min_iou=0.5, max_gap_frames=12)
    assert tracker.last_boxes().shape == (0, 4)
    tracker.add(0, BOX[None], np.ones(1, np.float32), BOX[None])
    assert tracker.lost(2, np.empty((0, 4), np.float32)).tolist() == [BOX.tolist()]
    assert tracker.lost(2, BOX[None]).shape == (0, 4)
    assert tracker.lost(14, np.empty((0, 4), np.float32)).shape == (0, 4), "given up after the longest gap"
    assert len(tracker.finish(end_frame=1, hold_frames=1, min_detections=1)) == 1
    assert tracker.finish(end_frame=1, hold_frames=1, min_detections=1) == []


@pytest.mark.parametrize("order", [1, -1])
def test_tracks_do_not_depend_on_the_order_of_detections(order: int) -> None:
    tracks = follow({f: [BOX + f, OTHER - f][::order] for f in range(0, 30, 2)})
    assert [t.face_boxes_xyxy[0].tolist() for t in tracks] == [BOX.tolist(), OTHER.tolist()]
