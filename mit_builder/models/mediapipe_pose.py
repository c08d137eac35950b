"""MediaPipe's holistic model and face mesh as an estimator of COCO-WholeBody's 133 keypoints.

Each person is looked at in two windows of their own: the body (holistic: body, feet, hands) and the face (face mesh with
attention: 68 face points, nose and eyes). In both, the faces of the others are painted over, because holistic starts from
a face and readily takes the neighbour's: over four crowded clips this brought the share of frames with the right person
from 0-100% to 99-100%. Trackers belong to one person and one call, so nothing crosses clips.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.rows import N_KEYPOINTS, TIMELINE_FPS
from mit_builder.errors import StageUnavailable
from mit_builder.models.base import Floats, Image
from mit_builder.models.coco_wholebody import BODY, FACE, LEFT_HAND, RIGHT_HAND

Windows = npt.NDArray[np.int64]

_POSE_OF_BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""BlazePose's landmark for each of the 17 body points."""
_POSE_OF_FOOT = {17: 31, 19: 29, 20: 32, 22: 30}
"""BlazePose's landmarks of big toes and heels; it has no small toes (18, 21)."""
_LEFT_WRIST, _RIGHT_WRIST = 9, 10
_MESH_OF_FACE = (
    *(127, 234, 132, 58, 172, 150, 149, 148, 152, 377, 378, 379, 397, 288, 361, 454, 356),
    *(70, 63, 105, 66, 107, 336, 296, 334, 293, 300),
    *(168, 197, 5, 4, 75, 97, 2, 326, 305),
    *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),
    *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),
    *(78, 82, 13, 312, 308, 317, 14, 87),
)
"""Face mesh vertex for each of iBUG's 68 points, from the left of the image; the jaw's at even steps along the oval."""
_MESH_OF_HEAD = (4, 473, 468)
"""Tip of the nose, left and right iris: body points 0, 1, 2."""
_N_MESH = 468
"""Vertices before the irises."""

BODY_WINDOW = (2.2, 1.4, 5.5)
"""Reach of the body's window from the face's centre in face widths: to each side, up, down (measured on conversations)."""
FACE_WINDOW = 1.5
"""Side of the face's window in longer sides of the face box."""
STEADY_FRAMES = TIMELINE_FPS
"""Windows follow the mean box over this many frames: trackers expect a camera that does not jitter."""
MAX_NOSE_OFFSET = 0.8
"""A body is this person's if its nose lies within so many face widths of the face's centre."""
FULL_OVERLAP, MIN_OVERLAP = 0.65, 0.3
"""Intersection over union of mesh and face box: median for frontal faces, and what only a wrong face falls below (turned
faces: 0.5-0.58)."""
RETRY_FRAMES = 12
"""Frames for which a body is not searched again after both attempts failed."""
OUTSIDE_FACTOR = 0.1
"""Scores of points outside the picture are guesses: multiplied by this."""
_GREY = 128


class MediaPipePose:
    """133 keypoints on the CPU with the weights inside mediapipe's wheel."""

    def __init__(self) -> None:
        """Import mediapipe.

        Raises:
            StageUnavailable: mediapipe is not installed.
        """
        os.environ.setdefault("GLOG_minloglevel", "2")
        try:
            import mediapipe
        except ModuleNotFoundError as error:
            raise StageUnavailable("pose needs mediapipe: pip install 'mit-builder[embedded]'") from error
        self._solutions = mediapipe.solutions

    def estimate(self, frames: Iterable[Image], boxes_xyxy: Floats, face_boxes_xyxy: Floats) -> Iterator[Floats]:
        """See `PoseEstimator`. Scores: body, feet and hands BlazePose's visibility (hands: the wrist's), face points,
        nose and eyes the agreement of mesh and face box; a tenth of it outside the picture.
        """
        faces = np.asarray(face_boxes_xyxy, np.float32)
        body_windows = _steady(_around_bodies(np.asarray(boxes_xyxy, np.float32), faces))
        face_windows = _steady(_around_faces(faces))
        with ExitStack() as stack:
            people = [_Person(self._solutions, stack) for _ in faces]
            for i, image in enumerate(frames):
                scene = _Scene(np.asarray(image), faces[:, i])
                yield np.stack([p.look(scene, n, body_windows[n, i], face_windows[n, i]) for n, p in enumerate(people)])

    def close(self) -> None:
        """Nothing outlives a call of `estimate`."""


@dataclass(frozen=True)
class _Scene:
    """One frame and the faces in it."""

    image: Image
    faces_xyxy: Floats

    def view(self, person: int, window: Windows) -> Image:
        """The window's part of the image, the faces of the others painted grey where they are not over the own face."""
        left, top, right, bottom = window
        view = self.image[top:bottom, left:right].copy()
        offset = np.array([left, top, left, top])
        boxes = np.maximum(np.rint(self.faces_xyxy).astype(np.int64) - offset, 0)
        own = boxes[person]
        kept = view[own[1] : own[3], own[0] : own[2]].copy()
        for x0, y0, x1, y1 in np.delete(boxes, person, axis=0):
            view[y0:y1, x0:x1] = _GREY
        view[own[1] : own[3], own[0] : own[2]] = kept
        return view


class _Person:
    """The trackers of one person."""

    def __init__(self, solutions: Any, stack: ExitStack) -> None:
        self._holistic = stack.enter_context(solutions.holistic.Holistic(model_complexity=1))
        self._mesh = stack.enter_context(
            solutions.face_mesh.FaceMesh(max_num_faces=1, refine_landmarks=True, min_detection_confidence=0.3)
        )
        self._wait = 0

    def look(self, scene: _Scene, person: int, body_window: Windows, face_window: Windows) -> Floats:
        """(133, 3) float32 keypoints of this person."""
        keypoints = np.full((N_KEYPOINTS, 3), np.nan, np.float32)
        keypoints[:, 2] = 0
        self._add_body(keypoints, scene, person, body_window)
        self._add_face(keypoints, scene, person, face_window)
        height, width = scene.image.shape[:2]
        x, y = keypoints[:, 0], keypoints[:, 1]
        outside = (x < 0) | (y < 0) | (x > width) | (y > height)
        keypoints[outside, 2] *= OUTSIDE_FACTOR
        return keypoints

    def _add_body(self, keypoints: Floats, scene: _Scene, person: int, window: Windows) -> None:
        if self._wait:
            self._wait -= 1
            return
        for attempt in (window, _tighter(window, scene.faces_xyxy[person])):
            found = self._holistic.process(scene.view(person, attempt))
            if found.pose_landmarks is not None:
                pose = _pixels(found.pose_landmarks, attempt)
                if _nose_offset(pose[0, :2], scene.faces_xyxy[person]) <= MAX_NOSE_OFFSET:
                    _fill_body(keypoints, pose, found, attempt)
                    return
            self._holistic.reset()
        self._wait = RETRY_FRAMES

    def _add_face(self, keypoints: Floats, scene: _Scene, person: int, window: Windows) -> None:
        found = self._mesh.process(scene.view(person, window)).multi_face_landmarks
        if not found:
            return
        mesh = _pixels(found[0], window)
        score = _agreement(mesh[:_N_MESH, :2], scene.faces_xyxy[person])
        if score == 0:
            self._mesh.reset()
            return
        mesh[:, 2] = score
        keypoints[FACE] = mesh[list(_MESH_OF_FACE)]
        keypoints[: len(_MESH_OF_HEAD)] = mesh[list(_MESH_OF_HEAD)]


def _fill_body(keypoints: Floats, pose: Floats, found: Any, window: Windows) -> None:
    keypoints[BODY] = pose[list(_POSE_OF_BODY)]
    for point, landmark in _POSE_OF_FOOT.items():
        keypoints[point] = pose[landmark]
    for hand, landmarks, wrist in (
        (LEFT_HAND, found.left_hand_landmarks, _LEFT_WRIST),
        (RIGHT_HAND, found.right_hand_landmarks, _RIGHT_WRIST),
    ):
        if landmarks is not None:
            keypoints[hand] = _pixels(landmarks, window)
            keypoints[hand, 2] = keypoints[wrist, 2]


def _pixels(landmarks: Any, window: Windows) -> Floats:
    """Landmarks of a window as (n, 3) float32: x, y in pixels of the frame, visibility."""
    left, top, right, bottom = (int(v) for v in window)
    values = [
        (left + p.x * (right - left), top + p.y * (bottom - top), min(max(p.visibility, 0.0), 1.0))
        for p in landmarks.landmark
    ]
    return np.array(values, np.float32)


def _nose_offset(nose_xy: Floats, face_xyxy: Floats) -> float:
    centre = (face_xyxy[:2] + face_xyxy[2:]) / 2
    return float(np.hypot(*(nose_xy - centre)) / (face_xyxy[2] - face_xyxy[0]))


def _agreement(mesh_xy: Floats, face_xyxy: Floats) -> float:
    """0..1: how well the mesh lies in the face box; 0 for another face than this one."""
    low, high = mesh_xy.min(axis=0), mesh_xy.max(axis=0)
    common = np.maximum(np.minimum(high, face_xyxy[2:]) - np.maximum(low, face_xyxy[:2]), 0).prod()
    union = (high - low).prod() + (face_xyxy[2:] - face_xyxy[:2]).prod() - common
    overlap = float(common / union)
    return min(overlap / FULL_OVERLAP, 1.0) if overlap >= MIN_OVERLAP else 0.0
