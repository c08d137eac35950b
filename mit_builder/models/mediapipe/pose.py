"""MediaPipe's holistic model and face mesh as an estimator of COCO-WholeBody's 133 keypoints.

Each person is looked at in two windows of their own: the body (holistic: body, feet, hands) and the face (face mesh
with attention: 68 face points, nose and eyes). In both, the faces of the others are painted over, because holistic
starts from a face and readily takes the neighbour's: for the worst person of a four-person clip this brought the frames
with the right body from 0% to 100%. Trackers belong to one person and one call, so nothing crosses clips.

The body model treats left and right unequally: mirrored pictures moved a shoulder by up to a fifth of the face's width,
the same way for seconds. So every few frames it also looks at the mirrored picture, and half of the difference is added
to the body's points until the next look (an eighth more time). It also answers differently where its window is another
one, so the window is framed by the mesh (mit_builder/models/mediapipe/person_windows.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from manifests.rows import N_KEYPOINTS
from mit_builder.config.settings import PoseSettings
from mit_builder.errors import ModelError, StageUnavailable
from mit_builder.labels.keypoints import BODY, FACE, LEFT_HAND, RIGHT_HAND, SWAP
from mit_builder.models.base import Floats, Image, PoseEstimator
from mit_builder.models.mediapipe.person_windows import Framing, Windows, around_bodies, around_faces, steady, tighter
from mit_builder.models.mediapipe.runtime import quiet

_POSE_OF_BODY = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""BlazePose's landmark for each of the 17 body points."""
_POSE_OF_FOOT = {17: 31, 19: 29, 20: 32, 22: 30}
"""BlazePose's landmarks of big toes and heels; it has no small toes (18, 21)."""
_LEFT_WRIST, _RIGHT_WRIST = 9, 10
_N_MOVED = 23
"""Body and foot points."""
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
_WEIGHTS = tuple(
    f"mediapipe/modules/{name}.tflite"
    for name in (
        "pose_detection/pose_detection",
        "pose_landmark/pose_landmark_full",
        "holistic_landmark/hand_recrop",
        "hand_landmark/hand_landmark_full",
        "face_detection/face_detection_short_range",
        "face_landmark/face_landmark_with_attention",
    )
)
_N_MESH = 468
"""Vertices before the irises."""

MAX_NOSE_OFFSET = 0.8
"""A body is this person's if its nose lies within so many face widths of the face's centre."""
FULL_OVERLAP, MIN_OVERLAP = 0.65, 0.3
"""Intersection over union of mesh and face box: median for frontal faces (turned faces: 0.5-0.58), and what only a
wrong face falls below."""
MESH_CONFIDENCE = 0.3
"""Detection threshold of the face mesh; that a face is there is known from the box."""
RETRY_FRAMES = 6
"""Frames for which nothing is searched after a failure: starting a tracker anew costs as much as several frames."""
FLIP_FRAMES = 3
"""Every so many frames the body is also looked for in the mirrored picture; the points move to its answer over as many.
"""
MAX_FLIP_OFFSET = 0.5
"""Where the two answers are further apart, in face widths, one of them is wrong and the point stays as it is."""
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
        try:
            with quiet():
                import mediapipe
        except ImportError as error:
            raise StageUnavailable("pose needs mediapipe: pip install 'mit-builder[embedded]'") from error
        self._solutions = mediapipe.solutions

    def estimate(self, frames: Iterable[Image], boxes_xyxy: Floats, face_boxes_xyxy: Floats) -> Iterator[Floats]:
        """See `PoseEstimator`. Scores: body, feet and hands BlazePose's visibility (hands: the wrist's), face points,
        nose and eyes the agreement of mesh and face box; a tenth of it outside the picture.
        """
        faces = np.asarray(face_boxes_xyxy, np.float32)
        body_windows = steady(around_bodies(np.asarray(boxes_xyxy, np.float32), faces))
        face_windows = steady(around_faces(faces))
        with ExitStack() as stack:
            people = [_Person(self._solutions, stack) for _ in faces]
            for i, image in enumerate(frames):
                scene = _Scene(np.asarray(image), faces[:, i])
                with quiet() if i == 0 else nullcontext():
                    found = [p.look(scene, n, body_windows[n, i], face_windows[n, i]) for n, p in enumerate(people)]
                yield np.stack(found)

    def close(self) -> None:
        """Nothing outlives a call of `estimate`."""


@dataclass(frozen=True)
class _View:
    """A square piece of a frame: image and the place of its top left corner in the frame.

    Square, because mediapipe projects landmarks of turned regions rightly only in square images.
    """

    image: Image
    left: int
    top: int

    def pixels(self, landmarks: Any) -> Floats:
        """Landmarks as (n, 3) float32: x, y in pixels of the frame, visibility 0..1."""
        side = len(self.image)
        values = [
            (self.left + p.x * side, self.top + p.y * side, min(max(p.visibility, 0.0), 1.0))
            for p in landmarks.landmark
        ]
        return np.array(values, np.float32)


@dataclass(frozen=True)
class _Scene:
    """One frame and the faces in it."""

    image: Image
    faces_xyxy: Floats

    def view(self, person: int, window: Windows) -> _View:
        """What a window shows, filled up to a square in grey.

        The faces of the others are grey too, except where they overlap the own face.
        """
        height, width = self.image.shape[:2]
        x0, y0 = np.clip(window[:2], 0, [width - 1, height - 1])
        x1, y1 = np.clip(window[2:], [x0 + 1, y0 + 1], [width, height])
        side = max(x1 - x0, y1 - y0)
        left, top = x0 - (side - (x1 - x0)) // 2, y0 - (side - (y1 - y0)) // 2
        square = np.full((side, side, 3), _GREY, np.uint8)
        square[y0 - top : y1 - top, x0 - left : x1 - left] = self.image[y0:y1, x0:x1]
        boxes = np.maximum(np.rint(self.faces_xyxy).astype(np.int64) - [left, top, left, top], 0)
        own = boxes[person]
        kept = square[own[1] : own[3], own[0] : own[2]].copy()
        for u0, v0, u1, v1 in np.delete(boxes, person, axis=0):
            square[v0:v1, u0:u1] = _GREY
        square[own[1] : own[3], own[0] : own[2]] = kept
        return _View(square, int(left), int(top))


class _Tracker:
    """One of mediapipe's solutions, following one person."""

    def __init__(self, solution: Any) -> None:
        self._solution = solution
        self._pause = 0
        self.restart()

    def restart(self) -> None:
        """Forget whom it followed. An empty picture lets the native code print what it prints once."""
        with quiet():
            self._solution.reset()
            self.look(np.zeros((64, 64, 3), np.uint8))

    def pause(self) -> None:
        """Pass over the next frames."""
        self._pause = RETRY_FRAMES

    def is_pausing(self) -> bool:
        """Whether this frame is to be passed over; counts it."""
        if self._pause == 0:
            return False
        self._pause -= 1
        return True

    def look(self, view: Image) -> Any:
        """What the solution finds.

        Raises:
            ModelError: the native code failed.
        """
        try:
            return self._solution.process(view)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"mediapipe failed: {' '.join(str(error).split())}") from error

    def close(self) -> None:
        """Free the graph."""
        self._solution.close()


class _Symmetry:
    """Moves one person's body and foot points half way to where the mirrored picture has them."""

    def __init__(self, mirrored: _Tracker) -> None:
        self._mirrored = mirrored
        self._n_frames = 0
        self._goal = np.zeros((_N_MOVED, 2), np.float32)
        self._shift = self._goal

    def correct(self, keypoints: Floats, view: _View, face_xyxy: Floats) -> None:
        """Move points of (133, 3) keypoints; the hands stay."""
        if self._n_frames % FLIP_FRAMES == 0:
            self._measure(keypoints, view, face_xyxy)
        if self._n_frames == 0:
            self._shift = self._goal
        self._n_frames += 1
        self._shift = self._shift + (self._goal - self._shift) / FLIP_FRAMES
        keypoints[:_N_MOVED, :2] += self._shift

    def close(self) -> None:
        """Free the graph."""
        self._mirrored.close()

    def _measure(self, keypoints: Floats, view: _View, face_xyxy: Floats) -> None:
        found = self._mirrored.look(np.ascontiguousarray(view.image[:, ::-1])).pose_landmarks
        pose = None if found is None else view.pixels(found)
        if pose is not None:
            pose[:, 0] = 2 * view.left + len(view.image) - pose[:, 0]
        if pose is None or _nose_offset(pose[0, :2], face_xyxy) > MAX_NOSE_OFFSET:
            self._mirrored.restart()
            return
        body = np.full((_N_MOVED, 2), np.nan, np.float32)
        for point, landmark in (*enumerate(_POSE_OF_BODY), *_POSE_OF_FOOT.items()):
            body[point] = pose[landmark, :2]
        apart = body[SWAP[:_N_MOVED]] - keypoints[:_N_MOVED, :2]
        is_near = np.hypot(apart[:, 0], apart[:, 1]) <= MAX_FLIP_OFFSET * (face_xyxy[2] - face_xyxy[0])
        self._goal = np.where(is_near[:, None], apart / 2, 0).astype(np.float32)


class _Person:
    """The trackers of one person."""

    def __init__(self, solutions: Any, stack: ExitStack) -> None:
        with quiet():
            holistic = solutions.holistic.Holistic(model_complexity=1)
            mesh = solutions.face_mesh.FaceMesh(refine_landmarks=True, min_detection_confidence=MESH_CONFIDENCE)
            mirrored = solutions.pose.Pose(model_complexity=1, smooth_landmarks=False)
        self._body = _Tracker(holistic)
        self._face = _Tracker(mesh)
        self._symmetry = _Symmetry(_Tracker(mirrored))
        self._framing = Framing()
        stack.callback(self._body.close)
        stack.callback(self._face.close)
        stack.callback(self._symmetry.close)

    def look(self, scene: _Scene, person: int, body_window: Windows, face_window: Windows) -> Floats:
        """(133, 3) float32 keypoints of this person."""
        keypoints = np.full((N_KEYPOINTS, 3), np.nan, np.float32)
        keypoints[:, 2] = 0
        mesh = self._mesh(scene, person, face_window)
        points = None if mesh is None else mesh[list(_MESH_OF_FACE)]
        self._add_body(keypoints, scene, person, self._framing.adjusted(body_window, scene.faces_xyxy[person], points))
        if mesh is not None:
            keypoints[FACE] = points
            keypoints[: len(_MESH_OF_HEAD)] = mesh[list(_MESH_OF_HEAD)]
        height, width = scene.image.shape[:2]
        x, y = keypoints[:, 0], keypoints[:, 1]
        outside = (x < 0) | (y < 0) | (x > width) | (y > height)
        keypoints[outside, 2] *= OUTSIDE_FACTOR
        return keypoints

    def _add_body(self, keypoints: Floats, scene: _Scene, person: int, window: Windows) -> None:
        if self._body.is_pausing():
            return
        face = scene.faces_xyxy[person]
        for attempt in (window, tighter(window, face)):
            view = scene.view(person, attempt)
            found = self._body.look(view.image)
            if found.pose_landmarks is not None:
                pose = view.pixels(found.pose_landmarks)
                if _nose_offset(pose[0, :2], face) <= MAX_NOSE_OFFSET:
                    _fill_body(keypoints, pose, found, view)
                    self._symmetry.correct(keypoints, view, face)
                    return
            self._body.restart()
        self._body.pause()

    def _mesh(self, scene: _Scene, person: int, window: Windows) -> Floats | None:
        """(478, 3) points of the face mesh, scored by how well it lies in the face box; None without one."""
        if self._face.is_pausing():
            return None
        view = scene.view(person, window)
        found = self._face.look(view.image).multi_face_landmarks
        if not found:
            return None
        mesh = view.pixels(found[0])
        mesh[:, 2] = _agreement(mesh[:_N_MESH, :2], scene.faces_xyxy[person])
        if mesh[0, 2] == 0:
            self._face.restart()
            self._face.pause()
            return None
        return mesh


def _fill_body(keypoints: Floats, pose: Floats, found: Any, view: _View) -> None:
    keypoints[BODY] = pose[list(_POSE_OF_BODY)]
    for point, landmark in _POSE_OF_FOOT.items():
        keypoints[point] = pose[landmark]
    for hand, landmarks, wrist in (
        (LEFT_HAND, found.left_hand_landmarks, _LEFT_WRIST),
        (RIGHT_HAND, found.right_hand_landmarks, _RIGHT_WRIST),
    ):
        if landmarks is not None:
            keypoints[hand] = view.pixels(landmarks)
            keypoints[hand, 2] = keypoints[wrist, 2]


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


def load(settings: PoseSettings) -> PoseEstimator:
    """The estimator of `pose.model` mediapipe.

    Raises:
        StageUnavailable: mediapipe is not installed.
    """
    return MediaPipePose()


def label(settings: PoseSettings) -> str:
    """What rows call it."""
    return backend_name()


@cache
def backend_name() -> str:
    """Name, version and weight digest, without importing mediapipe."""
    try:
        package = distribution("mediapipe")
    except PackageNotFoundError:
        return "mediapipe (missing)"
    digest = hashlib.sha256()
    for weights in _WEIGHTS:
        digest.update(Path(str(package.locate_file(weights))).read_bytes())
    return f"mediapipe {package.version} holistic {digest.hexdigest()[:12]}"
