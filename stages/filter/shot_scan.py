"""Looks through one shot, frame by frame in order: faces into tracks, what they look like, camera motion, light."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import get_args

import cv2
import numpy as np

from mit_builder.config.settings import DetectSettings
from mit_builder.labels.tracking import Track, Tracker, areas, overlaps
from mit_builder.media.camera import Grey, background_movement, small_grey
from mit_builder.media.stereo import Layout, half_similarity
from mit_builder.media.stillness import LAG_FRAMES, SHORT_FRAMES, face_changes, stillness
from mit_builder.models.base import Detections, Floats, Image, PeopleDetector

MIN_DETECTIONS = 3
"""Tracks of fewer detections are not kept at all: all single false boxes of the development clips were shorter."""
MIN_FACE_PX = 16.0
"""Root of a face's area below which it is not followed (MIT scripts: 16)."""
SAME_FACE_IOU = 0.3
"""Detections that overlap by more are one face."""
LOOK_FRAMES = 6
"""Faces are compared with themselves and with the other half of the picture no sooner than after so many frames."""


@dataclass(frozen=True)
class Signals:
    """Per frame of the shot, (n_frames,) float32; NaN where there is no value."""

    camera_motion_pct: Floats
    brightness: Floats
    sharpness: Floats


@dataclass(frozen=True)
class Looks:
    """What a face looked like along its track.

    Attributes:
        stillness: its own movement in half a second, % of its size (root mean square); None where unknown.
        similarity_beside: how well it is found at its place in the other of the halves left and right (median of
            correlations); None where it lies across the border.
        similarity_above: the same of the halves above and below.
    """

    stillness: float | None
    similarity_beside: float | None
    similarity_above: float | None


@dataclass(frozen=True)
class _Look:
    """One face in one frame.

    Attributes:
        long: `face_changes` over half a second; NaN where the shot is younger.
        short: the same over two frames.
        similarity: to its place in the other half, by layout.
    """

    long: float
    short: float
    similarity: dict[Layout, float]


@dataclass(frozen=True)
class _Waiting:
    """A frame that was not looked at yet.

    Attributes:
        grey: it, small.
        scale: size of `grey` / size of the frame.
        image: the frame itself, where faces are to be searched in it.
    """

    grey: Grey
    scale: float
    image: Image | None


class ShotScan:
    """Takes the frames of one shot in order; nothing is carried over from the shot before.

    Frames wait until the detector has as many as it takes best; what comes out is the same however many that are.
    """

    def __init__(self, detector: PeopleDetector, settings: DetectSettings, start_frame: int) -> None:
        self._detector = detector
        self._settings = settings
        self._start_frame = start_frame
        self._tracker = Tracker(min_iou=settings.track_iou, max_gap_frames=settings.max_gap_frames)
        self._motion: list[float] = []
        self._brightness: list[float] = []
        self._sharpness: list[float] = []
        self._n_frames = 0
        self._waiting: list[_Waiting] = []
        self._before: Grey | None = None
        self._repeats = 0
        self._past: deque[Grey] = deque(maxlen=LAG_FRAMES)
        self._looked = -LOOK_FRAMES
        self._looks: dict[tuple[int, bytes], _Look] = {}

    def add(self, image: Image) -> None:
        """Take the next frame, (h, w, 3) RGB."""
        grey = small_grey(image)
        is_searched = (self._n_frames + len(self._waiting)) % self._settings.detect_stride == 0
        self._waiting.append(_Waiting(grey, grey.shape[1] / image.shape[1], image if is_searched else None))
        if sum(frame.image is not None for frame in self._waiting) in (0, self._detector.batch):
            self._look()

    def finish(self) -> tuple[list[Track], list[Looks], Signals]:
        """Tracks, the looks of each, and the signals of every frame."""
        self._look()
        tracks = self._tracker.finish(
            end_frame=self._start_frame + self._n_frames,
            hold_frames=self._settings.detect_stride,
            min_detections=MIN_DETECTIONS,
        )
        signals = Signals(
            camera_motion_pct=np.array(self._motion, np.float32),
            brightness=np.array(self._brightness, np.float32),
            sharpness=np.array(self._sharpness, np.float32),
        )
        return tracks, [self._looks_of(track) for track in tracks], signals

    def _look(self) -> None:
        """Search the faces of all waiting frames at once, then go through the frames in order."""
        images = [frame.image for frame in self._waiting if frame.image is not None]
        offsets = [offset for offset, frame in enumerate(self._waiting, self._n_frames) if frame.image is not None]
        thorough = [offset % self._settings.tile_stride == 0 for offset in offsets]
        detections = iter(self._detector.detect(images, thorough=thorough) if images else ())
        for frame in self._waiting:
            self._take(frame, None if frame.image is None else self._completed(frame.image, next(detections)))
        self._waiting = []

    def _take(self, frame: _Waiting, found: Detections | None) -> None:
        self._brightness.append(float(frame.grey.mean()))
        self._sharpness.append(float(cv2.Laplacian(frame.grey, cv2.CV_32F).var()))
        self._measure_motion(frame.grey, frame.scale)
        if found is not None:
            number = self._start_frame + self._n_frames
            self._look_at(frame.grey, frame.scale, number, found.face_boxes_xyxy)
            self._tracker.add(number, found.face_boxes_xyxy, found.scores, found.boxes_xyxy)
        self._past.append(frame.grey)
        self._n_frames += 1

    def _completed(self, image: Image, found: Detections) -> Detections:
        """What was found, with lost faces that are found again at their place, without faces too small to follow."""
        frame = self._start_frame + self._n_frames
        lost = self._tracker.lost(frame, found.face_boxes_xyxy)
        if len(lost):
            found = joined(found, self._detector.look_again(image, lost))
        large = areas(found.face_boxes_xyxy) >= MIN_FACE_PX**2
        return Detections(found.face_boxes_xyxy[large], found.scores[large], found.boxes_xyxy[large])

    def _measure_motion(self, grey: Grey, scale: float) -> None:
        """A picture shown several times (a slow source) shares its movement with its repeats."""
        motion = self._motion
        if self._before is None:
            motion.append(float("nan"))
        elif np.array_equal(grey, self._before):
            self._repeats += 1
            motion.append(0.0)
        else:
            movement = background_movement(self._before, grey, self._tracker.last_boxes() * np.float32(scale))
            share = float("nan") if movement is None else movement.pct / (self._repeats + 1)
            motion[len(motion) - self._repeats :] = [share] * (self._repeats + 1)
            self._repeats = 0
        self._before = grey

    def _look_at(self, grey: Grey, scale: float, frame: int, faces_xyxy: Floats) -> None:
        if not len(faces_xyxy) or self._n_frames - self._looked < LOOK_FRAMES:
            return
        self._looked = self._n_frames
        faces = faces_xyxy * np.float32(scale)
        changes = [(np.nan, np.nan)] * len(faces)
        if len(self._past) == LAG_FRAMES:
            long, short = (face_changes(self._past[-lag], grey, faces) for lag in (LAG_FRAMES, SHORT_FRAMES))
            changes = list(zip(long.tolist(), short.tolist(), strict=True))
        for face, small, change in zip(faces_xyxy, faces, changes, strict=True):
            self._looks[frame, face.tobytes()] = _Look(*change, half_similarity(grey, small))

    def _looks_of(self, track: Track) -> Looks:
        frames = track.start_frame + np.flatnonzero(track.detected)
        faces = track.face_boxes_xyxy[track.detected]
        keys = [(frame, face.tobytes()) for frame, face in zip(frames.tolist(), faces, strict=True)]
        mine = [self._looks[key] for key in keys if key in self._looks]
        changes = [(look.long, look.short) for look in mine if not np.isnan([look.long, look.short]).any()]
        beside, above = (
            [look.similarity[layout] for look in mine if layout in look.similarity] for layout in get_args(Layout)
        )
        return Looks(
            stillness=stillness(*zip(*changes, strict=True)) if changes else None,
            similarity_beside=float(np.median(beside)) if beside else None,
            similarity_above=float(np.median(above)) if above else None,
        )


def joined(found: Detections, more: Detections) -> Detections:
    """All of `found`, and what `more` has elsewhere (a face of both is one face)."""
    new = overlaps(more.face_boxes_xyxy, found.face_boxes_xyxy).max(axis=1, initial=0) < SAME_FACE_IOU
    return Detections(
        np.concatenate([found.face_boxes_xyxy, more.face_boxes_xyxy[new]]),
        np.concatenate([found.scores, more.scores[new]]),
        np.concatenate([found.boxes_xyxy, more.boxes_xyxy[new]]),
    )
