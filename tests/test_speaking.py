from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mit_builder.labels.speaking import interaction_labels, is_speaking, merged_periods, periods, smooth, smooth_voice

flag_lists = st.lists(st.booleans(), min_size=1, max_size=120)


def flags_of(text: str) -> np.ndarray:
    """ "#" speaks, "." does not."""
    return np.array([c == "#" for c in text])


def as_lists(found: np.ndarray) -> list[list[int]]:
    return found.tolist()


def test_smoothed_is_the_mean_of_three_frames_before_to_two_after() -> None:
    scores = np.array([5.0, -1.0, 2.0, 7.0, 0.0, 3.0, -4.0, 9.0, 1.0], np.float32)
    expected = [scores[max(i - 3, 0) : i + 3].mean() for i in range(len(scores))]
    np.testing.assert_allclose(smooth(scores), expected, rtol=1e-6)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 5])
def test_short_clips_have_a_smoothed_score_in_every_frame(n_frames: int) -> None:
    smoothed = smooth(np.ones((2, n_frames)))
    assert smoothed.shape == (2, n_frames)
    np.testing.assert_array_equal(smoothed, 1)


def test_voice_dropout_within_a_word_does_not_end_speech() -> None:
    probabilities = np.ones(40, np.float32)
    probabilities[18:23] = 0
    assert smooth_voice(probabilities).min() >= 0.4
    assert smooth_voice(np.zeros(40)).max() == 0


def test_nobody_speaks_without_voice_or_with_a_score_of_zero() -> None:
    smoothed = np.array([[1.0, 1.0, 0.0, -1.0]], np.float32)
    voice = np.array([0.25, 0.24, 1.0, 1.0], np.float32)
    assert is_speaking(smoothed, voice, 0.25).tolist() == [[True, False, False, False]]


def test_threshold_that_float32_cannot_hold_includes_its_own_value() -> None:
    assert is_speaking(np.ones((1, 1), np.float32), np.array([0.1], np.float32), 0.1).all()


def test_a_blip_of_two_frames_is_no_period_and_three_are() -> None:
    assert as_lists(periods(flags_of("......##......"))) == []
    assert as_lists(periods(flags_of("......###....."))) == [[6, 9]]


def test_periods_reach_the_ends_of_the_clip() -> None:
    assert as_lists(periods(flags_of("####....####"))) == [[0, 4], [8, 12]]


@given(flag_lists)
def test_speaking_and_listening_partition_the_clip(values: list[bool]) -> None:
    flags = np.array(values)
    for limit in (0, 3, 25):
        both = np.concatenate([merged_periods(flags, limit), merged_periods(~flags, limit)])
        both = both[np.argsort(both[:, 0])]
        assert both[0, 0] == 0
        assert both[-1, 1] == len(flags)
        np.testing.assert_array_equal(both[1:, 0], both[:-1, 1])


@given(flag_lists, st.integers(1, 40))
def test_no_merged_period_is_too_short_unless_the_clip_is(values: list[bool], limit: int) -> None:
    flags = np.array(values)
    both = np.concatenate([merged_periods(flags, limit), merged_periods(~flags, limit)])
    assert len(both) == 1 or (both[:, 1] - both[:, 0]).min() >= limit


@given(flag_lists)
def test_merging_below_zero_frames_changes_nothing(values: list[bool]) -> None:
    np.testing.assert_array_equal(merged_periods(np.array(values), 0), periods(np.array(values)))


def test_short_periods_merge_as_they_grow() -> None:
    flags = flags_of("#" * 40 + "." * 10 + "#" * 8 + "." * 12 + "#" * 40)
    assert as_lists(merged_periods(flags, 25)) == [[0, 40], [70, 110]]
    assert as_lists(merged_periods(flags, 35)) == [[0, 110]]


def test_short_period_at_the_end_belongs_to_its_neighbour() -> None:
    assert as_lists(merged_periods(flags_of("#" * 40 + "." * 10), 25)) == [[0, 50]]


def test_input_flags_are_left_as_they_were() -> None:
    flags = flags_of("#####...#####")
    merged_periods(flags, 25)
    np.testing.assert_array_equal(flags, flags_of("#####...#####"))


def test_turns_pass_over_silence_and_overlap() -> None:
    labels = interaction_labels([flags_of("####......#####...####...."), flags_of("....####.....#####....####")])
    assert labels.n_turns == 5
    assert labels.overlap_ratio == pytest.approx(2 / 24)
    assert labels.silence_ratio == pytest.approx(2 / 26)


def turns_of(*people: np.ndarray) -> int:
    """Changes of the sole speaker as somebody counts them who has `speak_periods` alone."""
    speaking = np.zeros((len(people), len(people[0])), bool)
    for flags, person in zip(speaking, people, strict=True):
        for start, end in periods(person):
            flags[start:end] = True
    sole = [int(column.argmax()) for column in speaking.T if column.sum() == 1]
    return sum(a != b for a, b in itertools.pairwise(sole))


def test_a_flicker_that_is_no_period_is_no_turn() -> None:
    first, second = flags_of("#" * 8 + "..." + "#" * 9), flags_of("." * 9 + "#" + "." * 10)
    assert interaction_labels([first, second]).n_turns == turns_of(first, second) == 0


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_turns_are_those_of_the_periods(frames: list[tuple[bool, bool, bool]]) -> None:
    people = np.array(frames).T
    assert interaction_labels(people).n_turns == turns_of(*people)


def test_a_turn_that_a_reviewer_set_counts_however_short() -> None:
    first, second = flags_of("#" * 8 + "..." + "#" * 9), flags_of("." * 9 + "#" + "." * 10)
    human = np.array([np.zeros(20, bool), second])
    assert interaction_labels([first, second], human).n_turns == 2


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80), st.integers(0, 40))
def test_what_a_reviewer_set_stays_in_all_periods(frames: list[tuple[bool, bool]], limit: int) -> None:
    flags, human = np.array(frames).T
    for speak, listen in (
        (periods(flags, human), periods(~flags, human)),
        (merged_periods(flags, limit, human), merged_periods(~flags, limit, human)),
    ):
        found = np.zeros((2, len(flags)), int)
        for row, intervals in zip(found, (speak, listen), strict=True):
            for start, end in intervals:
                row[start:end] += 1
        assert (found.sum(axis=0) == 1).all(), "they part the clip"
        assert np.array_equal(found[0, human], flags[human])


def test_a_run_is_merged_unless_a_reviewer_set_some_of_it() -> None:
    flags = flags_of("#" * 40 + "." * 10 + "#" * 40 + "." * 10 + "#" * 40)
    human = np.zeros(len(flags), bool)
    human[95] = True
    assert as_lists(merged_periods(flags, 25, human)) == [[0, 90], [100, 140]]


def test_overlap_is_unknown_where_nobody_speaks() -> None:
    labels = interaction_labels(np.zeros((3, 10), bool))
    assert (labels.n_turns, labels.overlap_ratio, labels.silence_ratio) == (0, None, 1.0)


def _parity_cases(shared_dir: Path) -> list[dict[str, object]]:
    path = shared_dir / "specs" / "mit_periods_parity.json"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    cases: list[dict[str, object]] = json.loads(path.read_text())["cases"]
    return cases


def test_smoothing_parity_with_the_mit_scripts(shared_dir: Path) -> None:
    for case in _parity_cases(shared_dir):
        expected = np.array(case["smoothed"])
        # The scripts never use a track's last score, which shows in the last frames alone.
        np.testing.assert_allclose(smooth(case["scores_rounded"])[:-3], expected[: len(expected) - 4], atol=1e-6)


def test_raw_periods_parity_with_the_mit_scripts(shared_dir: Path) -> None:
    n_equal = 0
    for case in _parity_cases(shared_dir):
        first, (start, end) = case["track_first_frame"], case["period"]
        smoothed = np.array(case["smoothed"])
        flags = smoothed > 0
        filtered = np.median(np.lib.stride_tricks.sliding_window_view(np.pad(smoothed, 2), 5), axis=1)
        inside = slice(start - first, end - first)
        ours = np.zeros(end - start, bool)
        for run in periods(flags):
            ours[max(run[0] - inside.start, 0) : max(run[1] - inside.start, 0)] = True
        theirs = np.zeros(end - start, bool)
        for run in case["raw"]["speak"]:
            theirs[run[0] : run[1]] = True
        # The scripts break at exact zeros and then look at the mean of one frame.
        is_clear = filtered[inside] != 0
        np.testing.assert_array_equal(ours[is_clear], theirs[is_clear])
        n_equal += bool((ours == theirs).all())
    assert n_equal >= 7
