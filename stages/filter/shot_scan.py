"""Looks through one shot, frame by frame in order: faces into tracks, camera motion, change in the faces, light."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mit_builder.config import DetectSettings
from mit_builder.media.camera import Affine, Grey, background_movement, small_grey
from mit_builder.media.stillness import compose, face_change
from mit_builder.models.base import Detections, Floats, Image, PeopleDetector
from mit_builder.tracking import Track, Tracker, areas, overlaps

MIN_DETECTIONS = 3
"""Tracks of fewer detections are not kept at all: all single false boxes of the development clips were shorter."""
MIN_FACE_PX = 16.0
"""Root of a face's area below which it is not followed (MIT scripts: 16)."""
SAME_FACE_IOU = 0.3
"""Detections that overlap by more are one face."""


@dataclass(frozen=True)
class Signals:
    """Per frame of the shot, (n_frames,) float32; NaN where there is no value."""

    camera_motion_pct: Floats
    brightness: Floats
    sharpness: Floats


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
        self._seen: Grey | None = None
        self._since_seen: Affine | None = None
        self._changes: dict[tuple[int, bytes], float] = {}

    def add(self, image: Image) -> None:
        """Take the next frame, (h, w, 3) RGB."""
        grey = small_grey(image)
        is_searched = (self._n_frames + len(self._waiting)) % self._settings.detect_stride == 0
        self._waiting.append(_Waiting(grey, grey.shape[1] / image.shape[1], image if is_searched else None))
        if sum(frame.image is not None for frame in self._waiting) in (0, self._detector.batch):
            self._look()

    def finish(self) -> tuple[list[Track], list[float], Signals]:
        """Tracks, the stillness of each (NaN where unknown), and the signals of every frame."""
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
        return tracks, [self._stillness(track) for track in tracks], signals

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
            self._measure_change(frame.grey, frame.scale, number, found.face_boxes_xyxy)
            self._tracker.add(number, found.face_boxes_xyxy, found.scores, found.boxes_xyxy)
        self._n_frames += 1

    def _completed(self, image: Image, found: Detections) -> Detections:
        """With the faces that were lost and found again at their place, without those too small to follow."""
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
            if movement is not None:
                so_far = movement.affine
                self._since_seen = so_far if self._since_seen is None else compose(so_far, self._since_seen)
        self._before = grey

    def _measure_change(self, grey: Grey, scale: float, frame: int, faces_xyxy: Floats) -> None:
        """Compare every face with the frame of the last detection, per frame in between."""
        if self._seen is not None:
            for face in faces_xyxy:
                change = face_change(self._seen, grey, self._since_seen, face * np.float32(scale))
                self._changes[frame, face.tobytes()] = change / self._settings.detect_stride
        self._seen, self._since_seen = grey, None

    def _stillness(self, track: Track) -> float:
        frames = track.start_frame + np.flatnonzero(track.detected)
        faces = track.face_boxes_xyxy[track.detected]
        keys = [(frame, face.tobytes()) for frame, face in zip(frames.tolist(), faces, strict=True)]
        mine = [self._changes[key] for key in keys if key in self._changes]
        return float(np.mean(mine)) if mine else float("nan")


def joined(found: Detections, more: Detections) -> Detections:
    """All of `found`, and what `more` has elsewhere (a face of both is one face)."""
    new = overlaps(more.face_boxes_xyxy, found.face_boxes_xyxy).max(axis=1, initial=0) < SAME_FACE_IOU
    return Detections(
        np.concatenate([found.face_boxes_xyxy, more.face_boxes_xyxy[new]]),
        np.concatenate([found.scores, more.scores[new]]),
        np.concatenate([found.boxes_xyxy, more.boxes_xyxy[new]]),
    )
