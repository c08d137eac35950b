from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from demo_truth import (
    LEFT_EYE,
    LEFT_SHOULDER,
    MIRROR,
    NOSE,
    RIGHT_EYE,
    RIGHT_SHOULDER,
    Candidate,
    Clip,
    LabelledPerson,
    TruePerson,
    TrueShot,
    boundary_error_frames,
    frames_without_everybody,
    load_truth,
    mirror_error,
    mirror_video,
    mute_video,
    nose_in_place,
    on_own_side,
    pair_people,
    read_clip,
    score_speech,
    talk_share,
    wrong_verdicts,
)

WIDTH_PX = 1280
N_FRAMES = 200


def true_person(x_px: float, speaks: slice) -> TruePerson:
    speaking = np.zeros(N_FRAMES, bool)
    speaking[speaks] = True
    places = {
        NOSE: (0, 10),
        LEFT_EYE: (20, -20),
        RIGHT_EYE: (-20, -20),
        LEFT_SHOULDER: (90, 120),
        RIGHT_SHOULDER: (-90, 120),
    }
    points = {point: np.tile([x_px + dx, 300.0 + dy], (N_FRAMES, 1)) for point, (dx, dy) in places.items()}
    return TruePerson(np.tile([x_px - 50, 240.0, x_px + 50, 360.0], (N_FRAMES, 1)), speaking, points)


@pytest.fixture
def truth() -> tuple[TrueShot, ...]:
    people = {"A": true_person(300, slice(10, 80)), "B": true_person(900, slice(90, 160))}
    return (
        TrueShot("two_shot", 100, 100 + N_FRAMES, True, None, people),
        TrueShot("empty", 100 + N_FRAMES, 400, False, "too_few_people", {}),
    )


def labels_of(person: TruePerson) -> LabelledPerson:
    keypoints = np.ones((N_FRAMES, 133, 3))
    keypoints[..., :2] = (person.face_boxes_xyxy[:, :2] + np.arange(133)[:, None, None] / 2).swapaxes(0, 1)
    for point, xy in person.points.items():
        keypoints[:, point, :2] = xy
    score = np.where(person.speaking, 2.0, -2.0)
    return LabelledPerson(person.face_boxes_xyxy.copy(), keypoints, person.speaking.copy(), score)


@pytest.fixture
def perfect(truth: tuple[TrueShot, ...]) -> Clip:
    return Clip(100, WIDTH_PX, tuple(labels_of(person) for person in truth[0].people.values()))


def speaking_shifted(clip: Clip, frames: int) -> Clip:
    return replace(
        clip,
        people=tuple(
            replace(p, speaking=np.roll(p.speaking, frames), speaking_score=np.roll(p.speaking_score, frames))
            for p in clip.people
        ),
    )


def speaking_exchanged(clip: Clip) -> Clip:
    a, b = clip.people
    return replace(
        clip,
        people=(
            replace(a, speaking=b.speaking, speaking_score=b.speaking_score),
            replace(b, speaking=a.speaking, speaking_score=a.speaking_score),
        ),
    )


def mirrored(clip: Clip) -> Clip:
    people = []
    for person in reversed(clip.people):
        x0, y0, x1, y1 = person.face_boxes_xyxy.T
        keypoints = person.keypoints[:, MIRROR].copy()
        keypoints[..., 0] = WIDTH_PX - keypoints[..., 0]
        boxes = np.stack([WIDTH_PX - x1, y0, WIDTH_PX - x0, y1], axis=1)
        people.append(replace(person, face_boxes_xyxy=boxes, keypoints=keypoints))
    return replace(clip, people=tuple(people))


def test_perfect_labels_score_one(perfect: Clip, truth: tuple[TrueShot, ...]) -> None:
    scores = score_speech([perfect], truth)
    assert set(vars(scores).values()) == {1.0}
    pairs = pair_people(perfect, truth)
    assert nose_in_place(pairs) == 1
    assert on_own_side(pairs, LEFT_EYE, RIGHT_EYE) == on_own_side(pairs, LEFT_SHOULDER, RIGHT_SHOULDER) == 1
    assert frames_without_everybody(perfect, truth) == 0


def test_labels_a_second_late_score_lower(perfect: Clip, truth: tuple[TrueShot, ...]) -> None:
    scores = score_speech([speaking_shifted(perfect, 25)], truth)
    assert scores.sole_speaker == pytest.approx(1 - 50 / 140)
    assert scores.who_speaks < 0.9
    assert scores.speech_recall == scores.speech_precision == pytest.approx(45 / 70)
    assert scores.balanced_accuracy < 0.8


def test_exchanged_people_score_nothing(perfect: Clip, truth: tuple[TrueShot, ...]) -> None:
    scores = score_speech([speaking_exchanged(perfect)], truth)
    assert scores.who_speaks == scores.sole_speaker == scores.speech_recall == 0


def test_order_of_people_in_the_row_does_not_matter(perfect: Clip, truth: tuple[TrueShot, ...]) -> None:
    reversed_people = replace(perfect, people=perfect.people[::-1])
    assert score_speech([reversed_people], truth).who_speaks == 1


def test_a_clip_that_begins_inside_the_shot_is_compared_with_the_same_frames(
    perfect: Clip, truth: tuple[TrueShot, ...]
) -> None:
    people = tuple(
        LabelledPerson(p.face_boxes_xyxy[40:], p.keypoints[40:], p.speaking[40:], p.speaking_score[40:])
        for p in perfect.people
    )
    assert score_speech([Clip(140, WIDTH_PX, people)], truth).balanced_accuracy == 1


def test_always_speaking_has_half_the_balanced_accuracy_and_no_silence(
    perfect: Clip, truth: tuple[TrueShot, ...]
) -> None:
    talking = replace(perfect, people=tuple(replace(p, speaking=np.ones(N_FRAMES, bool)) for p in perfect.people))
    scores = score_speech([talking], truth)
    assert scores.balanced_accuracy == 0.5
    assert scores.silence_recall == 0
    assert np.isnan(scores.silence_precision)
    assert talk_share([talking]) == 1
    assert talk_share([perfect]) == pytest.approx(70 / 200)


def test_exchanged_eyes_and_missing_shoulders_are_on_no_side(perfect: Clip, truth: tuple[TrueShot, ...]) -> None:
    for person in perfect.people:
        person.keypoints[:, [LEFT_EYE, RIGHT_EYE]] = person.keypoints[:, [RIGHT_EYE, LEFT_EYE]]
        person.keypoints[:50, LEFT_SHOULDER, :2] = np.nan
    pairs = pair_people(perfect, truth)
    assert on_own_side(pairs, LEFT_EYE, RIGHT_EYE) == 0
    assert on_own_side(pairs, LEFT_SHOULDER, RIGHT_SHOULDER) == 0.75


def test_a_nose_beyond_a_quarter_face_is_out_of_place(perfect: Clip, truth: tuple[TrueShot, ...]) -> None:
    perfect.people[0].keypoints[:, NOSE, 0] += 26
    assert nose_in_place(pair_people(perfect, truth)) == 0.5


def test_frames_with_a_box_off_the_face_or_a_person_too_few_are_counted(
    perfect: Clip, truth: tuple[TrueShot, ...]
) -> None:
    perfect.people[1].face_boxes_xyxy[:7] += 200
    assert frames_without_everybody(perfect, truth) == 7
    assert frames_without_everybody(replace(perfect, people=perfect.people[:1]), truth) == N_FRAMES


def test_mirroring_twice_restores_every_keypoint() -> None:
    assert (MIRROR[MIRROR] == np.arange(133)).all()
    assert sorted(MIRROR) == list(range(133))


def test_mirrored_labels_agree_only_with_left_and_right_exchanged(perfect: Clip) -> None:
    assert mirror_error(perfect, mirrored(perfect)) == {"face": 0, "shoulders": 0}
    not_exchanged = mirrored(perfect)
    for person in not_exchanged.people:
        person.keypoints[:] = person.keypoints[:, MIRROR]
    assert mirror_error(perfect, not_exchanged)["shoulders"] == pytest.approx(1.8)
    half_missing = mirrored(perfect)
    for person in half_missing.people:
        person.keypoints[:, 23:60, :2] = np.nan
    assert mirror_error(perfect, half_missing)["face"] == np.inf


def test_boundaries_are_measured_both_ways(truth: tuple[TrueShot, ...]) -> None:
    assert boundary_error_frames([(100, 301), (301, 400)], truth) == 1
    assert boundary_error_frames([(100, 200), (200, 300), (300, 400)], truth) == 100
    assert boundary_error_frames([(100, 400)], truth) == 100
    assert boundary_error_frames([], truth) == np.inf


@pytest.mark.parametrize(
    ("candidates", "n_wrong"),
    [
        ([Candidate(101, 300, None), Candidate(300, 400, "too_few_people")], 0),
        ([Candidate(110, 300, None), Candidate(300, 400, "too_few_people")], 1),
        ([Candidate(100, 200, None), Candidate(200, 300, None), Candidate(300, 400, "too_few_people")], 1),
        ([Candidate(100, 300, "no_speech"), Candidate(300, 400, "too_short")], 2),
        ([Candidate(100, 300, None), Candidate(300, 400, None)], 1),
        ([Candidate(100, 300, None)], 1),
    ],
    ids=["right", "clip too short", "shot split", "wrong reasons", "empty shot kept", "shot without candidate"],
)
def test_verdicts_that_differ_are_named(candidates: list[Candidate], n_wrong: int, truth: tuple[TrueShot, ...]) -> None:
    assert len(wrong_verdicts(candidates, truth)) == n_wrong


def test_rows_and_the_committed_truth_are_read(demo_video: Path) -> None:
    truth = load_truth(demo_video.with_name("truth.json"))
    shot = next(shot for shot in truth if shot.keep)
    n_frames = shot.end_frame - shot.start_frame
    people = [
        {
            "face_boxes_xyxy": person.face_boxes_xyxy.tolist(),
            "keypoints": np.zeros((n_frames, 133, 3)).tolist(),
            "speaking": person.speaking.tolist(),
            "speaking_score_smoothed": person.speaking.astype(float).tolist(),
        }
        for person in shot.people.values()
    ]
    row: dict[str, Any] = {"start_s": shot.start_frame / 25, "fps": 25, "width_px": WIDTH_PX, "people": people}
    clip = read_clip(row)
    assert (clip.start_frame, clip.end_frame) == (shot.start_frame, shot.end_frame)
    assert score_speech([clip], truth).balanced_accuracy == 1


def decoded(path: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """First picture, and all samples."""
    with av.open(str(path)) as container:
        picture = next(container.decode(video=0)).to_ndarray(format="rgb24")
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return picture, sound


@pytest.fixture
def short_video(demo_video: Path, tmp_path: Path) -> Path:
    """The demo's first seconds, streams copied."""
    path = tmp_path / "short.mp4"
    with av.open(str(demo_video)) as source, av.open(str(path), "w") as target:
        streams = {
            s.index: target.add_stream_from_template(s) for s in (source.streams.video[0], source.streams.audio[0])
        }
        for packet in source.demux():
            if packet.dts is not None and packet.pts * packet.time_base < 3:
                packet.stream = streams[packet.stream_index]
                target.mux(packet)
    return path


def test_mirrored_copy_is_mirrored_and_sounds_the_same(short_video: Path, tmp_path: Path) -> None:
    mirror_video(short_video, tmp_path / "mirrored.mp4")
    (picture, sound), (mirror, same) = decoded(short_video), decoded(tmp_path / "mirrored.mp4")
    assert np.abs(picture[:, ::-1].astype(int) - mirror).mean() < 3
    np.testing.assert_array_equal(sound, same)


def test_muted_copy_has_the_same_pictures_and_silence_as_long(short_video: Path, tmp_path: Path) -> None:
    mute_video(short_video, tmp_path / "muted.mp4")
    (picture, sound), (same, silence) = decoded(short_video), decoded(tmp_path / "muted.mp4")
    np.testing.assert_array_equal(picture, same)
    assert not silence.any()
    assert abs(len(silence) - len(sound)) <= 2048
