from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_people
import numpy as np
import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("ultralytics") is None:
    pytest.skip("YOLO needs torch and ultralytics (extra paper)", allow_module_level=True)

import tiny_yolo
import torch

from mit_builder.config.settings import DetectSettings
from mit_builder.errors import ModelError, StageUnavailable
from mit_builder.labels.tracking import overlaps
from mit_builder.models.base import Detections
from mit_builder.models.yolo import people as yolo
from mit_builder.models.yolo.checkpoint import read_yolo
from mit_builder.models.yolo.people import YoloPeople, head_boxes, people
from stages.filter.shot_scan import ShotScan

WH = (640, 360)
FRONT = np.zeros((17, 3), np.float32)
"""Somebody who faces the camera: ears 100 px apart, shoulders 200."""
FRONT[:7] = [
    [300, 120, 0.98], [320, 100, 0.97], [280, 100, 0.97], [350, 110, 0.8], [250, 110, 0.8], [400, 230, 0.9],
    [200, 230, 0.9],
]  # fmt: skip
BODY = np.array([180, 20, 420, 340], np.float32)


def behind() -> np.ndarray:
    """The same person from behind: only ears and shoulders are seen, the person's left is on the left."""
    points = FRONT.copy()
    points[:3, 2] = 0.1, 0.05, 0.05
    points[[3, 4, 5, 6]] = points[[4, 3, 6, 5]]
    return points


def mirrored(points: np.ndarray) -> np.ndarray:
    swapped = points[..., [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15], :].copy()
    swapped[..., 0] = WH[0] - swapped[..., 0]
    return swapped


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> tiny_yolo.SquareNetwork:
    network = tiny_yolo.SquareNetwork()
    monkeypatch.setattr(yolo, "load_network", lambda config, weights: network)
    return network


def detector(confidence: float = 0.25, batch: int = 1) -> YoloPeople:
    made = YoloPeople(Path("none.pt"), "yolo26n-pose", confidence=confidence, device="cpu", batch=batch)
    made.batch = batch  # on the CPU it is one, whatever was asked for
    return made


def scene(wh: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    return fake_people.picture(fake_people.texture(*wh), boxes)


# Faces from points


def test_a_face_from_the_front_is_boxed_by_its_ears() -> None:
    ((left, top, right, bottom),) = head_boxes(FRONT[None])
    assert bottom - top == pytest.approx(163, abs=0.5), "1.63 times the distance of the ears"
    assert right - left == pytest.approx(0.78 * 163, abs=0.5)
    assert (left + right) / 2 == pytest.approx(300)
    assert (top + bottom) / 2 == pytest.approx(108 + 163 * (-0.12 + 2 * 0.046 - 2 * 0.037) / 5, abs=0.1)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (0.3, 0), (4, 1000), (1, -500)])
def test_the_box_follows_the_points(scale: float, shift: float) -> None:
    points = FRONT.copy()
    points[:, :2] = points[:, :2] * scale + shift
    np.testing.assert_allclose(head_boxes(points[None]), head_boxes(FRONT[None]) * scale + shift, rtol=1e-4)


@pytest.mark.parametrize("unseen", [[4], [3, 4]])
def test_hidden_points_change_the_box_little(unseen: list[int]) -> None:
    points = FRONT.copy()
    points[unseen] = [0, 0, 0.1]
    assert overlaps(head_boxes(points[None]), head_boxes(FRONT[None]))[0, 0] > 0.5


@pytest.mark.parametrize("points", [FRONT, behind()], ids=["front", "behind"])
def test_mirrored_points_give_the_mirrored_box(points: np.ndarray) -> None:
    back = head_boxes(mirrored(points)[None])
    back[:, [0, 2]] = WH[0] - back[:, [2, 0]]
    np.testing.assert_allclose(back, head_boxes(points[None]), atol=1e-3)


def test_a_turned_head_keeps_its_size() -> None:
    front = FRONT.copy()
    side = FRONT.copy()
    side[:5, 0] = [330, 325, 310, 0, 270]
    side[3, 2] = 0.1
    sizes = [np.ptp(head_boxes(points[None])[0, [1, 3]]) for points in (front, side)]
    assert sizes[1] / sizes[0] == pytest.approx(1, abs=0.35)


def test_of_somebody_seen_from_behind_there_is_the_head_with_a_low_score() -> None:
    found = people(BODY[None], [0.9], behind()[None], WH)
    assert found.scores == pytest.approx([0.9 * 0.1])
    ((left, top, right, bottom),) = found.face_boxes_xyxy
    assert bottom - top == pytest.approx(0.77 * 200)
    assert (left + right) / 2 == pytest.approx(300)
    assert (top + bottom) / 2 == pytest.approx(230 - 0.64 * 200)


def test_legs_alone_are_nobody() -> None:
    points = np.zeros((1, 17, 3), np.float32)
    points[:, 11:] = [300, 300, 0.9]
    assert len(people(BODY[None], [0.9], points, WH).scores) == 0


def test_one_point_is_no_face() -> None:
    points = np.zeros((1, 17, 3), np.float32)
    points[:, 0] = [300, 100, 0.9]
    assert np.isnan(head_boxes(points)).all()


def test_a_person_found_twice_is_one() -> None:
    found = people([BODY, BODY + 4], [0.6, 0.8], np.stack([FRONT, FRONT + np.float32([4, 4, 0])]), WH)
    assert found.scores == pytest.approx([0.8 * 0.98])


def test_bodies_contain_the_head_and_stay_in_the_picture() -> None:
    for moved in (0, -280, 330):
        points, body = FRONT + np.array([moved, -100, 0], np.float32), np.array([200, 60, 400, 500]) + [moved, 0] * 2
        found = people(body[None], [0.9], points[None], WH)
        assert (found.boxes_xyxy >= 0).all()
        assert (found.boxes_xyxy <= [*WH, *WH]).all()
        inside = np.clip(found.face_boxes_xyxy, 0, [*WH, *WH])
        assert (found.boxes_xyxy[:, :2] <= inside[:, :2]).all()
        assert (found.boxes_xyxy[:, 2:] >= inside[:, 2:]).all()


# Pictures in, people out


@pytest.mark.parametrize("wh", [(640, 360), (1280, 720), (362, 640), (501, 333), (200, 90)])
def test_boxes_are_those_of_the_picture_given(squares: tiny_yolo.SquareNetwork, wh: tuple[int, int]) -> None:
    side = wh[1] // 4
    place = (wh[0] // 8, wh[1] // 5, wh[0] // 8 + side, wh[1] // 5 + side)
    (found,) = detector().detect([scene(wh, place)], thorough=[False])
    ((left, _, right, _),) = found.face_boxes_xyxy
    assert (left + right) / 2 == pytest.approx((place[0] + place[2]) / 2, abs=0.03 * side + 1)
    assert right - left == pytest.approx(0.78 * 1.63 * 0.8 * side, rel=0.08)
    ((body_left, _, body_right, body_bottom),) = found.boxes_xyxy
    assert [body_left, body_right] == pytest.approx(
        [max(0, place[0] - side / 2), place[2] + side / 2], abs=0.04 * side + 1
    )
    assert body_bottom == pytest.approx(min(wh[1], place[3] + 2 * side), abs=0.04 * side + 1)


def test_the_network_sees_red_as_red(squares: tiny_yolo.SquareNetwork) -> None:
    seen: list[np.ndarray] = []
    squares.register_forward_pre_hook(lambda _, given: seen.append(given[0].numpy()))
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 255
    detector().detect([image], thorough=[False])
    assert seen[0].shape == (1, 3, 640, 640)
    np.testing.assert_array_equal(seen[0].mean(axis=(0, 2, 3)), [1, 0, 0])


def test_every_picture_gets_its_own_people(squares: tiny_yolo.SquareNetwork) -> None:
    images = [scene(WH, *[(40 + 60 * i, 100, 80 + 60 * i, 140)] * (i != 3)) for i in range(7)]
    found = detector(batch=3).detect(images, thorough=[False] * 7)
    assert squares.batches == [3, 3, 1]
    assert [len(d.scores) for d in found] == [1, 1, 1, 0, 1, 1, 1]
    centres = [d.face_boxes_xyxy[0, [0, 2]].mean() for d in found if len(d.scores)]
    np.testing.assert_allclose(centres, [60 + 60 * i for i in range(7) if i != 3], atol=1)
    for one, image in zip(found, images, strict=True):
        (alone,) = detector().detect([image], thorough=[False])
        np.testing.assert_array_equal(alone.face_boxes_xyxy, one.face_boxes_xyxy)


@pytest.mark.parametrize(("confidence", "n_people"), [(0.25, 2), (0.9, 2), (0.91, 0)])
def test_people_below_the_threshold_are_dropped(
    squares: tiny_yolo.SquareNetwork, confidence: float, n_people: int
) -> None:
    image = scene(WH, (100, 100, 160, 160), (400, 90, 460, 150))
    (found,) = detector(confidence).detect([image], thorough=[False])
    assert len(found.scores) == n_people


def test_a_cpu_takes_one_picture_at_a_time(squares: tiny_yolo.SquareNetwork) -> None:
    assert YoloPeople(Path("none"), "yolo26n-pose", confidence=0.2, device="cpu", batch=16).batch == 1


def test_what_torch_cannot_do_is_a_failure_of_the_model(
    squares: tiny_yolo.SquareNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(batch: torch.Tensor) -> Any:
        raise RuntimeError("CUDA out of\nmemory")

    monkeypatch.setattr(squares, "forward", forward)
    with pytest.raises(ModelError, match="yolo failed: CUDA out of memory"):
        detector().detect([scene(WH)], thorough=[False])


# The real network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_yolo.save(tmp_path_factory.mktemp("weights") / "tiny.pt", tiny_yolo.network())


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_yolo.config()
    monkeypatch.setattr(yolo, "architecture", lambda model: config)


def raw(monkeypatch: pytest.MonkeyPatch) -> list[list[np.ndarray]]:
    """What reaches `people`, picture by picture."""
    seen: list[list[np.ndarray]] = []

    def record(boxes: np.ndarray, scores: np.ndarray, points: np.ndarray, wh: Any) -> Detections:
        seen.append([boxes, scores, points])
        return people(boxes, scores, points, wh)

    monkeypatch.setattr(yolo, "people", record)
    return seen


@pytest.mark.parametrize("wh", [(640, 360), (360, 500)])
def test_predictions_are_those_of_ultralytics(
    weights: Path, tiny: None, monkeypatch: pytest.MonkeyPatch, wh: tuple[int, int]
) -> None:
    made = YoloPeople(weights, "yolo26n-pose", confidence=0.25, device="cpu", batch=1)
    made.batch = 2
    rng, ours = np.random.default_rng(5), raw(monkeypatch)
    images = [
        np.kron(rng.integers(0, 255, (wh[1] // 20, wh[0] // 20, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
        for _ in range(3)
    ]
    made.detect(images, thorough=[False] * 3)
    from ultralytics.models.yolo.pose import PosePredictor

    options = {"conf": 0.25, "rect": True, "nms": False, "verbose": False, "device": "cpu", "mode": "predict"}
    predictor = PosePredictor(overrides=options, _callbacks={})
    model = tiny_yolo.network(seed=1)
    model.load_state_dict(read_yolo(weights))
    theirs = predictor([image[..., ::-1] for image in images], model=model)
    torch.set_num_threads(1)
    assert len(theirs) == len(ours) == 3
    for result, (boxes, scores, points) in zip(theirs, ours, strict=True):
        assert len(scores) > 5
        wanted = rows(result.boxes.conf.numpy(), result.boxes.xyxy.numpy(), result.keypoints.data.numpy())
        found = rows(scores, boxes, points)
        np.testing.assert_allclose(found[:, 0], wanted[:, 0], atol=1e-3)
        # Scores of random weights are often equal but for rounding: such people may change places.
        left = list(range(len(wanted)))
        for person in found:
            same = min(left, key=lambda at: np.abs(wanted[at] - person).max())
            left.remove(same)
            np.testing.assert_allclose(person[0], wanted[same, 0], atol=1e-3)
            np.testing.assert_allclose(person, wanted[same], atol=0.1)


def rows(scores: np.ndarray, boxes_xyxy: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(n, 56): a score, a box and 17 points each."""
    return np.column_stack([scores, boxes_xyxy, points.reshape(-1, 51)])


def test_equal_pictures_give_equal_people_whatever_came_between(weights: Path, tiny: None) -> None:
    made = YoloPeople(weights, "yolo26n-pose", confidence=0.1, device="cpu", batch=8)
    rng = np.random.default_rng(0)
    first, other = (rng.integers(0, 255, (90, 160, 3), np.uint8) for _ in range(2))
    found = made.detect([first, other, first], thorough=[True, False, False])
    for name, values in vars(found[0]).items():
        np.testing.assert_array_equal(values, getattr(found[2], name))


def test_weights_of_another_size_are_refused(weights: Path) -> None:
    with pytest.raises(StageUnavailable, match=r"tiny.pt do not fit: \d+ tensors of another shape, first model"):
        YoloPeople(weights, "yolo26n-pose", confidence=0.1, device="cpu", batch=1)


def test_layers_that_only_training_needs_may_be_missing(tmp_path: Path, tiny: None) -> None:
    model = tiny_yolo.network()
    head = model.model[-1]
    head.cv2 = head.cv3 = head.cv4 = head.cv4_kpts = head.cv4_sigma = head.one2one_cv4_sigma = head.flow_model = None
    yolo.load_network(tiny_yolo.config(), tiny_yolo.save(tmp_path / "stripped.pt", model))
    del head.one2one_cv4_kpts[0]
    with pytest.raises(StageUnavailable, match="tensors"):
        yolo.load_network(tiny_yolo.config(), tiny_yolo.save(tmp_path / "broken.pt", model))


PRIVACY = """
import socket, subprocess, sys
import numpy as np, torch
from pathlib import Path

def refuse(*args, **kwargs):
    print("refused", args)
    raise SystemExit(9)

socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
subprocess.Popen.__init__ = refuse
sys.path[:0] = ["tests"]
import tiny_yolo
from mit_builder.models.yolo import people as yolo
config = tiny_yolo.config()
yolo.architecture = lambda model: config
made = yolo.YoloPeople(Path(sys.argv[1]), "tiny", confidence=0.1, device="cpu", batch=2)
made.detect([np.zeros((90, 160, 3), np.uint8)] * 3, thorough=[True] * 3)
unwanted = ("torchvision", "ultralytics.utils.events", "ultralytics.hub")
loaded = [name for name in sys.modules if name.startswith(unwanted)]
assert not loaded, loaded
from ultralytics.utils import ONLINE, SETTINGS
from ultralytics.utils.checks import AUTOINSTALL
assert (ONLINE, SETTINGS["sync"], AUTOINSTALL) == (False, False, False)
import os
assert not [name for name in os.environ if name.startswith("YOLO")]
"""


def test_nothing_is_sent_installed_printed_or_left_at_home(weights: Path, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", Path(__file__).parents[2]
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PRIVACY, str(weights)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [path.name for path in tmp_path.rglob("*")] == ["home"]


def test_reading_weights_needs_no_ultralytics(weights: Path) -> None:
    code = (
        "import sys, pathlib; from mit_builder.models.yolo.checkpoint import read_yolo;"
        "assert len(read_yolo(pathlib.Path(sys.argv[1]))) > 100; assert 'ultralytics' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(weights)], check=True, cwd=Path(__file__).parents[2])


# In a shot


class Scripted:
    """A detector that has seen two people in front and one from behind in every picture."""

    batch = 4

    def detect(self, images: list[np.ndarray], *, thorough: list[bool]) -> list[Detections]:
        far = np.array([210, 0, 0], np.float32)
        points = np.stack([FRONT - far, FRONT, behind() + far])
        bodies = np.stack([BODY - [210, 0] * 2, BODY, BODY + [210, 0] * 2])
        return [people(bodies, [0.9, 0.9, 0.9], points, WH) for _ in images]

    def look_again(self, image: np.ndarray, face_boxes_xyxy: np.ndarray) -> Detections:
        raise AssertionError("nobody was lost")

    def close(self) -> None:
        pass


def test_somebody_seen_from_behind_is_a_bystander_and_no_person() -> None:
    from manifests.rows import Artifact, Tracks
    from mit_builder.config.settings import SelectSettings
    from stages.filter.selection import Selector, ShotSignals, sightings

    scan = ShotScan(Scripted(), DetectSettings(), 0)
    for _ in range(150):
        scan.add(fake_people.texture(*WH))
    tracks, _, signals = scan.finish()
    rows = [
        {
            "track_id": i,
            "start_frame": t.start_frame,
            "face_boxes_xyxy": t.face_boxes_xyxy,
            "face_scores": t.scores,
            "face_detected": t.detected,
            "stillness": None,
            "similarity_beside": None,
            "similarity_above": None,
        }
        for i, t in enumerate(tracks)
    ]
    nothing = Artifact("tracks/x", "0" * 64, 0)
    shot = Tracks("v", 0, 150, *WH, True, 3, nothing, nothing, "scripted")
    sound = ShotSignals(signals.camera_motion_pct, np.ones(150, np.float32), signals.brightness, signals.sharpness)
    (candidate,) = Selector(shot, sightings(rows), sound, SelectSettings()).candidates()
    assert (candidate.n_people, candidate.n_bystanders) == (2, 1)
    assert candidate.bystander_area == pytest.approx((0.77 * 200 / 163) ** 2, rel=0.01)
    assert candidate.reason == "bystander"
