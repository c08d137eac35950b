from __future__ import annotations

import ctypes
import itertools
import json
from pathlib import Path
from typing import Any

import av
import build_demo
import numpy as np
import pytest
from demo.motion import random_motion
from demo.mouth import MouthCurves, letters, mouth_curves, speech_segments
from demo.scenes import LINES, PLANS, pan_offset_px, read_lines, schedule
from demo.voice import LIBRARY, Phoneme, Utterance
from demo.warp import FaceWarp, Pose

RATE_HZ = 1000


@pytest.fixture(scope="module")
def record(demo_video: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(demo_video.with_name("truth.json").read_text())
    return content


def people_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [person for shot in record["shots"] for person in shot["people"]]


def test_committed_video_is_small_and_as_long_as_its_truth_says(demo_video: Path, record: dict[str, Any]) -> None:
    assert demo_video.stat().st_size < 4_000_000
    assert demo_video.with_name("truth.json").stat().st_size < 400_000
    with av.open(str(demo_video)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.width, video.height, video.average_rate) == (1280, 720, 25)
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert sum(1 for _ in container.decode(video)) == record["n_frames"]
    assert 30 <= record["n_frames"] / 25 <= 45


def test_shots_of_the_truth_follow_each_other_and_hold_an_entry_a_frame(record: dict[str, Any]) -> None:
    edges = [(shot["start_frame"], shot["end_frame"]) for shot in record["shots"]]
    assert edges[0][0] == 0
    assert edges[-1][1] == record["n_frames"]
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(edges))
    for shot in record["shots"]:
        for person in shot["people"]:
            lengths = {len(values) for name, values in person.items() if name != "person"}
            assert lengths == {shot["end_frame"] - shot["start_frame"]}


def test_committed_shots_are_the_planned_ones(record: dict[str, Any]) -> None:
    for shot in record["shots"]:
        plan = PLANS[shot["name"]]
        assert (shot["keep"], shot["reason"]) == (plan.keep, plan.reason)
        assert [p["person"] for p in shot["people"]] == [seat.person for seat in plan.seats]
        if plan.keep:
            assert shot["end_frame"] - shot["start_frame"] >= 125
            assert all(sum(p["speaking"]) > 0 for p in shot["people"])
    assert {shot["name"] for shot in record["shots"]} == set(PLANS)


def test_first_two_shot_ends_with_two_seconds_of_silence(record: dict[str, Any]) -> None:
    two_shot = record["shots"][0]
    assert not any(any(person["speaking"][-50:]) for person in two_shot["people"])


def test_lips_move_in_speech_and_rest_in_silence(record: dict[str, Any]) -> None:
    for person in people_of(record):
        opening, speaking = np.array(person["mouth_open"]), np.array(person["speaking"], float)
        near_speech = np.convolve(speaking, np.ones(11), "same") > 0
        assert opening[~near_speech].max() == 0
        assert opening[speaking == 1].std() > 0.01


def test_faces_lie_inside_the_picture_with_the_left_eye_and_shoulder_further_right(record: dict[str, Any]) -> None:
    for person in people_of(record):
        box = np.array(person["face_boxes_xyxy"])
        assert (box[:, :2] > 0).all()
        assert (box[:, 2:] < [record["width_px"], record["height_px"]]).all()
        for point in ("eye", "shoulder"):
            left, right = (np.array(person[f"{side}_{point}_xy"]) for side in ("left", "right"))
            assert (left[:, 0] > right[:, 0]).all()


def test_sound_starts_and_stops_within_a_frame_of_the_speech_segments(demo_video: Path, record: dict[str, Any]) -> None:
    with av.open(str(demo_video)) as container:
        frames = list(container.decode(audio=0))
    rate_hz, first_s = frames[0].sample_rate, float(frames[0].pts * frames[0].time_base)
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
    loud = np.abs(samples) > 0.01
    for segment in record["speech"]:
        start, end = (round((segment[edge] - first_s) * rate_hz) for edge in ("start_s", "end_s"))
        reach = round(0.2 * rate_hz)
        heard = start - reach + np.flatnonzero(loud[start - reach : end + reach])
        assert abs(heard[0] - start) < rate_hz / 25
        assert abs(heard[-1] - end) < 2.5 * rate_hz / 25  # a last plosive or the room rings a little


def test_digits_after_the_first_sign_of_a_phoneme_are_variants() -> None:
    assert letters("t2") == "t"
    assert letters("i@3") == "i@"
    assert letters("0") == "0"
    assert letters("") == ""


def test_pauses_of_half_a_second_split_speech_and_shorter_ones_do_not() -> None:
    phonemes = [Phoneme(0.1, 0.3, "a"), Phoneme(0.3, 0.7, ""), Phoneme(0.7, 1.0, "b"), Phoneme(1.5, 2.0, "a")]
    assert speech_segments(phonemes) == [(0.1, 1.0), (1.5, 2.0)]


def test_mouth_opens_for_a_vowel_closes_for_a_bilabial_and_rests_otherwise() -> None:
    phonemes = [Phoneme(0.0, 0.4, "a"), Phoneme(0.4, 0.6, "m"), Phoneme(0.6, 1.0, "u")]
    curves = mouth_curves([(1.0, phonemes)], n_frames=75)
    assert curves.opening[30] > 0.9
    assert curves.opening[37] < 0.1
    assert curves.width[45] < -0.9
    assert not curves.opening[:20].any()
    assert not curves.opening[55:].any()


def test_frames_speak_whose_middle_lies_in_a_segment() -> None:
    assert build_demo.speaking_frames([(0.05, 0.15)], 5) == [0, 1, 1, 1, 0]


def utterance(duration_s: float) -> Utterance:
    return Utterance(np.zeros(round(duration_s * RATE_HZ), np.float32), RATE_HZ, ())


def test_lines_follow_each_other_and_the_shot_has_its_least_length() -> None:
    plan = PLANS["two_shot"]
    lines = (("A", "one"), ("B", "two"))
    spoken, n_frames = schedule(plan, lines, {line: utterance(4.0) for line in lines})
    assert [line.start_s for line in spoken] == [plan.lead_s, plan.lead_s + 4.0 + plan.gap_s]
    assert n_frames == round((plan.lead_s + 4.0 + plan.gap_s + 4.0 + plan.tail_s) * 25)
    assert schedule(plan, (), {}) == ((), round(plan.min_s * 25))


def test_panning_camera_moves_clearly_faster_than_a_tripod() -> None:
    offsets = np.array([pan_offset_px(PLANS["two_shot_pan"], frame) for frame in range(150)])
    assert np.median(np.abs(np.diff(offsets))) / 1280 * 100 > 0.3
    assert pan_offset_px(PLANS["two_shot"], 10) == 0


def test_a_script_gives_the_lines_of_its_shots() -> None:
    script = read_lines("# comment\n[single]\nB: Hello: you.\n\n[two_shot]\nA: Hi.\nB: Hi.\n")
    assert script == {"single": (("B", "Hello: you."),), "two_shot": (("A", "Hi."), ("B", "Hi."))}


@pytest.mark.parametrize("text", ["[three_shot]\n", "A: Hi.\n", "[single]\nA: Hi.\n", "[single]\nHi.\n"])
def test_a_script_with_an_unknown_shot_or_speaker_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="line "):
        read_lines(text)


def test_bundled_lines_belong_to_people_of_their_shots() -> None:
    for name, lines in LINES.items():
        assert {person for person, _ in lines} == {seat.person for seat in PLANS[name].seats}


@pytest.fixture(scope="module")
def warp() -> FaceWarp:
    """A made-up face: eyes at a height of 80, a mouth of 60 pixels at 150, a chin at 200."""
    points = np.tile([100.0, 100.0], (468, 1)) + np.random.default_rng(0).uniform(-40, 40, (468, 2))
    upper, lower = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308), (95, 88, 178, 87, 14, 317, 402, 318, 324)
    points[list(upper)] = np.stack([np.linspace(72, 128, 11), np.full(11, 150.0)], 1)
    points[list(lower)] = np.stack([np.linspace(72, 128, 11)[1:-1], np.full(9, 150.0)], 1)
    points[61], points[291], points[10], points[152] = (70, 150), (130, 150), (100, 20), (100, 200)
    return FaceWarp(points, pivot_xy=(100, 230), neck_y=(205, 240))


def grid() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x, y = np.meshgrid(np.arange(20.0, 180.0), np.arange(20.0, 260.0))
    return x, y


def test_a_face_at_rest_is_the_still_picture(warp: FaceWarp) -> None:
    x, y = grid()
    still_x, still_y, inside = warp.mouth(*warp.eyes(*warp.head(x, y, Pose()), 0), 0, 0)
    np.testing.assert_allclose(still_x, x, atol=1e-9)
    np.testing.assert_allclose(still_y, y, atol=1e-9)
    assert not ((inside.below_upper_lip > 0) & (inside.above_lower_lip > 0)).any()


def test_open_lips_are_as_far_apart_as_stated_and_nothing_folds(warp: FaceWarp) -> None:
    x, y = grid()
    _, still_y, inside = warp.mouth(x, y, 1, 0)
    between = (inside.below_upper_lip > 0) & (inside.above_lower_lip > 0)
    assert between[:, 80].sum() == pytest.approx(warp.lips_apart_px(1), abs=1.5)
    assert (np.diff(still_y, axis=0) > -1e-9).all()


def test_shoulders_stay_while_the_head_moves(warp: FaceWarp) -> None:
    x, y = grid()
    moved_x, moved_y = warp.head(x, y, Pose(turn_rad=0.05, shift_x_px=5, shift_y_px=3))
    below = y >= 240
    assert (moved_x[below] == x[below]).all()
    assert (moved_y[below] == y[below]).all()
    assert np.abs(moved_x - x)[y < 200].min() > 1


def test_forward_undoes_the_warps(warp: FaceWarp) -> None:
    pose = Pose(turn_rad=0.02, shift_x_px=3, shift_y_px=-2, yaw_px=2, opening=0.8, width=0.5)
    points = np.array([[80.0, 80.0], [120.0, 80.0], [100.0, 110.0], [100.0, 200.0]])
    seen = warp.forward(points, pose)
    x, y = warp.head(seen[:, 0], seen[:, 1], pose)
    x, y, _ = warp.mouth(x, y, pose.opening, pose.width)
    np.testing.assert_allclose(np.stack([x, y], 1), points, atol=0.1)


def test_the_same_seed_moves_the_same_and_another_differently() -> None:
    mouth = MouthCurves(np.zeros(100), np.zeros(100), np.zeros(100))
    first, again, other = (random_motion(mouth, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.yaw, again.yaw)
    assert np.abs(first.yaw - other.yaw).max() > 0


def test_a_demo_with_other_lines_is_rebuilt_with_its_truth(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="portraits are measured with the extra `embedded`")
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        pytest.skip(f"no {LIBRARY}: install espeak-ng")
    (tmp_path / "lines.txt").write_text("[single]\nB: Hello there.\n")
    build_demo.main(
        ["--output", str(tmp_path), "--lines", str(tmp_path / "lines.txt"), "--shots", "single", "--seed", "3"]
    )
    record = json.loads((tmp_path / "truth.json").read_text())
    (segment,) = record["speech"]
    assert segment["text"] == "Hello there."
    assert sum(record["shots"][0]["people"][0]["speaking"]) == pytest.approx(
        (segment["end_s"] - segment["start_s"]) * 25, abs=1
    )
    with av.open(str(tmp_path / "demo.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == record["n_frames"] == 50
