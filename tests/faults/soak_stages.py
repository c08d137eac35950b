"""The real stages with fixed answers in the place of models: media, tables and files are real."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mit_builder.models.base import Detections, SpeechInput
from stages.download import Download
from stages.filter.cut import CutClips
from stages.filter.detect import DetectTracks
from stages.filter.select import SelectCandidates
from stages.pose import EstimatePose
from stages.shards import WriteShard
from stages.shots import DetectShots
from stages.speech import ScoreSpeech

PIDS = "SOAK_PIDS"
"""Names a folder in which each worker leaves a file: its process id, with its stage in it."""


class FixedPeople:
    """Two people at the same places in every picture."""

    batch = 1

    def detect(self, images: Sequence[np.ndarray], *, thorough: Sequence[bool]) -> list[Detections]:
        height, width = images[0].shape[:2]
        faces = np.array([[0.1, 0.2, 0.3, 0.6], [0.6, 0.2, 0.8, 0.6]], np.float32) * [width, height, width, height]
        bodies = faces + np.array([-0.05, 0, 0.05, 0.4], np.float32) * [width, height, width, height]
        found = Detections(faces.astype(np.float32), np.full(2, 0.9, np.float32), bodies.astype(np.float32))
        return [found for _ in images]

    def look_again(self, image: np.ndarray, face_boxes_xyxy: np.ndarray) -> Detections:
        nothing = np.empty((0, 4), np.float32)
        return Detections(nothing, np.empty(0, np.float32), nothing)

    def close(self) -> None:
        pass


class FixedPose:
    """Every point in the middle of its body."""

    def estimate(
        self, frames: Iterable[np.ndarray], boxes_xyxy: np.ndarray, face_boxes_xyxy: np.ndarray
    ) -> Iterator[np.ndarray]:
        for i, _ in enumerate(frames):
            middle = (boxes_xyxy[:, i, :2] + boxes_xyxy[:, i, 2:]) / 2
            points = np.repeat(middle[:, None], 133, axis=1)
            yield np.concatenate([points, np.full((*points.shape[:2], 1), 0.9)], axis=2).astype(np.float32)

    def close(self) -> None:
        pass


class FixedVoice:
    """Somebody always speaks."""

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        return np.full(len(samples) // 640, 0.9, np.float32)

    def stream(self, chunks: Iterable[np.ndarray]) -> np.ndarray:
        return np.full(sum(map(len, chunks)) // 640, 0.9, np.float32)


class FixedScores:
    """The first person speaks; all pictures are read."""

    label_tier: ClassVar[str] = "heuristic"

    def score(self, clip: SpeechInput) -> np.ndarray:
        n_frames = sum(1 for _ in clip.frames())
        return np.repeat(np.array([[1.0], [-1.0]], np.float32), n_frames, axis=1)


def say_who(stage: str) -> None:
    (Path(os.environ[PIDS]) / str(os.getpid())).write_text(stage)


class SoakDownload(Download):
    def setup(self) -> None:
        say_who(self.name)
        super().setup()


class SoakShots(DetectShots):
    def setup(self) -> None:
        say_who(self.name)
        super().setup()


class SoakDetect(DetectTracks):
    def setup(self) -> None:
        say_who(self.name)
        self._people, self._voice, self._detector = FixedPeople(), FixedVoice(), "fixed"


class SoakSelect(SelectCandidates):
    def setup(self) -> None:
        say_who(self.name)
        super().setup()


class SoakCut(CutClips):
    def setup(self) -> None:
        say_who(self.name)
        super().setup()


class SoakPose(EstimatePose):
    def setup(self) -> None:
        say_who(self.name)
        self._estimator = FixedPose()


class SoakSpeech(ScoreSpeech):
    def setup(self) -> None:
        say_who(self.name)
        self._scorer, self._voice = FixedScores(), FixedVoice()  # type: ignore[assignment]


class SoakShards(WriteShard):
    def setup(self) -> None:
        say_who(self.name)
        super().setup()


CLASSES: dict[str, Any] = {
    kind.name: kind
    for kind in (SoakDownload, SoakShots, SoakDetect, SoakSelect, SoakCut, SoakPose, SoakSpeech, SoakShards)
}
