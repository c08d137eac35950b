from __future__ import annotations

import numpy as np
import pytest

from mit_builder.dataset.pose_map import BODY_18, COLOURS_18, FINGER_COLOURS, HANDS, LIMBS_18, pose_map, with_neck
from mit_builder.labels.keypoints import KEYPOINT_NAMES

SIZE_WH = (320, 216)


def points(**seen: tuple[float, float]) -> np.ndarray:
    """(1, 133, 3): only the named points are seen."""
    values = np.full((1, 133, 3), np.nan, np.float32)
    values[..., 2] = 0
    for name, xy in seen.items():
        values[0, KEYPOINT_NAMES.index(name)] = (*xy, 0.9)
    return values


def test_colours_are_the_hue_circle_of_openpose() -> None:
    assert len(set(COLOURS_18)) == 18
    assert COLOURS_18[:4] == ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0))
    assert COLOURS_18[12] == (0, 0, 255)


def test_limbs_join_the_body_from_the_neck_out() -> None:
    names = [*KEYPOINT_NAMES, "neck"]
    limbs = [(names[BODY_18[a]], names[BODY_18[b]]) for a, b in LIMBS_18]
    assert limbs[0] == ("neck", "right_shoulder")
    assert limbs[3] == ("right_elbow", "right_wrist")
    assert limbs[11] == ("left_knee", "left_ankle")
    assert limbs[12] == ("neck", "nose")
    assert limbs[-1] == ("left_eye", "left_ear")
    assert len(HANDS) == 40
    assert (names[HANDS[20][0]], names[HANDS[20][1]]) == ("right_hand_root", "right_hand_thumb_1")


def test_a_limb_is_drawn_between_its_ends_and_nowhere_else() -> None:
    image = pose_map(points(right_elbow=(50, 100), right_wrist=(150, 100)), SIZE_WH)
    assert image.shape == (216, 320, 3)
    middle = image[100, 100].astype(int)
    assert np.abs(middle - 0.6 * np.array(COLOURS_18[3])).max() <= 2
    assert not image[:95].any()
    assert not image[106:].any()
    assert not image[:, :45].any()
    assert not image[:, 156:].any()


def test_a_limb_with_an_end_unseen_or_outside_is_left_out() -> None:
    for wrist, score in (((150, 100), 0.29), ((321, 100), 0.9), ((150, -1), 0.9)):
        keypoints = points(right_elbow=(50, 100), right_wrist=wrist)
        keypoints[0, KEYPOINT_NAMES.index("right_wrist"), 2] = score
        image = pose_map(keypoints, SIZE_WH)
        assert image[100, 50].any(), "the elbow itself is seen"
        assert not image[:, 60:].any()


def test_the_neck_is_the_middle_of_two_seen_shoulders() -> None:
    both = with_neck(points(left_shoulder=(100, 50), right_shoulder=(40, 70)))
    np.testing.assert_allclose(both[0, 133], (70, 60, 0.9))
    one = with_neck(points(left_shoulder=(100, 50)))
    assert one[0, 133, 2] == 0


def test_nobody_is_black_and_people_add_up() -> None:
    assert not pose_map(np.empty((0, 133, 3), np.float32), SIZE_WH).any()
    one, two = points(nose=(50, 50)), points(nose=(200, 150))
    both = pose_map(np.concatenate([one, two]), SIZE_WH)
    np.testing.assert_array_equal(both, np.maximum(pose_map(one, SIZE_WH), pose_map(two, SIZE_WH)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_side_is_drawn_where_its_points_lie_in_its_own_colours(side: str) -> None:
    names = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "eye", "ear")
    places = {"right": (2, 3, 4, 8, 9, 10, 14, 16), "left": (5, 6, 7, 11, 12, 13, 15, 17)}[side]
    for name, place in zip(names, places, strict=True):
        image = pose_map(points(**{f"{side}_{name}": (100, 60)}), SIZE_WH)
        assert tuple(image[60, 100]) == COLOURS_18[place], name
    toe = pose_map(points(**{f"{side}_big_toe": (100, 60)}), SIZE_WH)
    assert tuple(toe[60, 100]) == {"left": (85, 0, 255), "right": (0, 255, 170)}[side]


@pytest.mark.parametrize("side", ["left", "right"])
def test_both_hands_have_every_finger(side: str) -> None:
    seen = {f"{side}_hand_root": (20.0, 100.0)}
    for n, finger in enumerate(("thumb", "fore_finger", "middle_finger", "ring_finger", "pinky")):
        seen |= {f"{side}_hand_{finger}_{joint}": (20.0 + 60 * joint, 20.0 + 40 * n) for joint in range(1, 5)}
    image = pose_map(points(**seen), SIZE_WH)
    for n in range(5):
        y = 20 + 40 * n
        assert all(tuple(image[y, 20 + 60 * joint]) == (0, 0, 255) for joint in range(1, 5))
        for link in range(1, 4):
            near = np.subtract(image[y, 50 + 60 * link], FINGER_COLOURS[4 * n + link], dtype=int)
            assert np.abs(near).max() < 80


def test_face_points_are_white() -> None:
    image = pose_map(points(face_jaw_8=(100, 100)), SIZE_WH)
    assert image[100, 100].tolist() == [255, 255, 255]


@pytest.mark.parametrize("height_px", [1080, 2160])
def test_lines_grow_with_the_picture(height_px: int) -> None:
    """A limb is 2 * 3 pixels wide where the picture is 1080 pixels high."""
    zoom = height_px / 1080
    image = pose_map(
        points(right_elbow=(100 * zoom, 540 * zoom), right_wrist=(900 * zoom, 540 * zoom)), (1920, height_px)
    )
    assert abs(int(image[:, round(500 * zoom)].any(axis=1).sum()) - 6 * zoom) <= 1
