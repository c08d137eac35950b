"""Protocols of the model backends. A backend is one file in this package, imported only when it is chosen.

Images are RGB uint8, boxes `xyxy` float32 in pixels of the image given. Contract tests in tests/contract run every
backend, fakes included, through the same checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""(h, w, 3) RGB."""
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """Faces found in one image.

    Attributes:
        face_boxes_xyxy: (n, 4) float32, pixels; S3FD-like (forehead to chin), may leave the image. Of somebody whose
            face is turned away it may be the head, with a low score.
        scores: (n,) float32, 0..1.
        boxes_xyxy: (n, 4) float32, the whole body that belongs to each face, clipped to the image.
    """

    face_boxes_xyxy: Floats
    scores: Floats
    boxes_xyxy: Floats


class PeopleDetector(Protocol):
    """Finds people with their faces in single images; what is found in one never depends on the others of a call."""

    batch: int
    """How many images a call of `detect` takes best."""

    def detect(self, images: Sequence[Image], *, thorough: Sequence[bool]) -> list[Detections]:
        """Detect in each of several images of one size; where `thorough`, spend more on small and turned faces."""
        ...

    def look_again(self, image: Image, face_boxes_xyxy: Floats) -> Detections:
        """Search closely around places (n, 4) where faces were; what is found may be anyone's face there."""
        ...

    def close(self) -> None: ...


class PoseEstimator(Protocol):
    """133 COCO-WholeBody keypoints for the people of a clip."""

    def estimate(self, frames: Iterable[Image], boxes_xyxy: Floats, face_boxes_xyxy: Floats) -> Iterator[Floats]:
        """Yield one (n_people, 133, 3) float32 array a frame: x, y in pixels of the frame, score 0..1.

        Args:
            frames: n_frames images in order; consumed once, as a stream.
            boxes_xyxy: (n_people, n_frames, 4) whole bodies.
            face_boxes_xyxy: (n_people, n_frames, 4) faces.

        A point without an estimate is (NaN, NaN, 0). State never crosses a call: equal input, equal output.
        """
        ...

    def close(self) -> None: ...


class VoiceDetector(Protocol):
    """Speech probability of a mono 16 kHz signal."""

    def probabilities(self, samples: npt.NDArray[np.int16]) -> Floats:
        """(n_samples,) int16 -> (n_samples // 640,) float32, one value in 0..1 for each frame of 40 ms."""
        ...

    def stream(self, chunks: Iterable[npt.NDArray[np.int16]]) -> Floats:
        """The same for a long signal that comes in pieces of any length."""
        ...


@dataclass(frozen=True)
class SpeechInput:
    """What a speaker model may look at, for one clip.

    Attributes:
        frames: callable that yields the clip's n_frames RGB images anew at each call.
        samples: (640 * n_frames,) int16 mono at 16 kHz.
        voice_activity: (n_frames,) float32 0..1.
        keypoints: (n_people, n_frames, 133, 3) float32.
        face_boxes_xyxy: (n_people, n_frames, 4) float32, S3FD-like, never NaN.
    """

    frames: Any
    samples: npt.NDArray[np.int16]
    voice_activity: Floats
    keypoints: Floats
    face_boxes_xyxy: Floats


class SpeakerScorer(Protocol):
    """Active speaker score of every person in every frame."""

    label_tier: Literal["heuristic", "model"]

    def score(self, clip: SpeechInput) -> Floats:
        """(n_people, n_frames) float32 log-odds, > 0 means speaking; not gated by voice activity, not rounded."""
        ...
