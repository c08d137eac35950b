"""Pose: where 133 points of every person's body, face and hands are.

In: `Clip`. Out: one `Pose`, with the keypoints in an artifact (schema `POSES`). No verdicts: a person whose body cannot
be found keeps points without an estimate (NaN, NaN, 0). The points are COCO-WholeBody's, which the MIT dataset has from
Sapiens; here they come from MediaPipe, which runs on a laptop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from manifests.arrays import read_arrays, write_arrays
from manifests.rows import POSES, Clip, Pose
from mit_builder.config import PoseSettings
from mit_builder.errors import MediaError
from mit_builder.media.frames import read_frames
from mit_builder.models import mediapipe_pose
from mit_builder.models.base import Floats, Image, PoseEstimator
from mit_builder.models.coco_wholebody import BODY, SEEN_SCORE
from mit_builder.stage import Context, Resources


class EstimatePose:
    """Keypoints of the people of a clip."""

    name: ClassVar[str] = "pose"
    version: ClassVar[int] = 2
    resources: ClassVar[Resources] = Resources(cpus=1.0)
    emits: ClassVar[tuple[type, ...]] = (Pose,)

    def __init__(self, settings: PoseSettings) -> None:
        self._settings = settings
        self._estimator: PoseEstimator | None = None

    def setup(self) -> None:
        """Load the estimator.

        Raises:
            StageUnavailable: mediapipe is not installed.
        """
        self._estimator = mediapipe_pose.MediaPipePose()

    def unit_id(self, row: Clip) -> str:
        """The clip."""
        return row.clip_id

    def backend(self) -> str:
        """MediaPipe, its version and the digest of its weights."""
        return mediapipe_pose.backend_name()

    def limit_key(self, row: Clip) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: Clip, ctx: Context) -> Iterator[Pose]:
        """Decode the clip once and follow its people.

        Raises:
            MediaError: the clip's media cannot be decoded, or has another number of frames than its row.
            ModelError: the estimator failed.
        """
        assert self._estimator, "setup() comes first"
        with ctx.local(row.people) as path:
            people = read_arrays(path)
        posed = posed_frames(row.n_frames, self._settings.stride)
        boxes, faces = (np.stack([p[name][posed] for p in people]) for name in ("boxes_xyxy", "face_boxes_xyxy"))
        with ctx.local(row.mp4) as mp4:
            estimates = list(self._estimator.estimate(_images(mp4, posed), boxes, faces))
        if len(estimates) != len(posed):
            raise MediaError(f"{row.clip_id}: {len(estimates)} of {len(posed)} frames could be read")
        keypoints = between(np.stack(estimates, axis=1), posed)
        file = ctx.tmp / "poses.parquet"
        visible = [body_visible_ratio(person, row.width_px, row.height_px) for person in keypoints]
        columns = zip(people, keypoints, visible, strict=True)
        write_arrays(
            file,
            POSES,
            [{"person_id": p["person_id"], "keypoints": k, "body_visible_ratio": v} for p, k, v in columns],
        )
        yield Pose(
            clip_id=row.clip_id,
            poses=ctx.commit(file, "poses", row.clip_id),
            pose_backend=self.backend(),
            mean_keypoint_score=float(keypoints[:, :, BODY, 2].mean(dtype=np.float64)),
        )


def _images(mp4: Path, wanted: Sequence[int]) -> Iterator[Image]:
    chosen = set(wanted)
    for frame in read_frames(mp4):
        if frame.index in chosen:
            yield frame.image


def posed_frames(n_frames: int, stride: int) -> list[int]:
    """Every `stride`-th frame, and the last one, so that all others lie between two."""
    return sorted({*range(0, n_frames, stride), n_frames - 1})


def between(keypoints: Floats, posed: Sequence[int]) -> Floats:
    """Linear from posed frame to posed frame: (n_people, n_posed, 133, 3) -> (n_people, posed[-1] + 1, 133, 3).

    A point that lacks an estimate at one of the two ends has none between them.
    """
    frames = np.arange(posed[-1] + 1)
    right = np.searchsorted(posed, frames)
    left = np.maximum(right - 1, 0)
    at: npt.NDArray[np.int64] = np.asarray(posed)
    share = ((frames - at[left]) / np.maximum(at[right] - at[left], 1)).astype(np.float32)[:, None, None]
    start, end = keypoints[:, left], keypoints[:, right]
    result = np.where(share == 1, end, start + (end - start) * share)
    result[..., 2] = np.where(np.isfinite(result[..., 0]), result[..., 2], 0)
    return np.asarray(result, np.float32)


def body_visible_ratio(keypoints: Floats, width_px: int, height_px: int) -> float:
    """Share of the 17 body points with score >= 0.3 inside the picture, over all frames of (n_frames, 133, 3)."""
    x, y, score = np.moveaxis(keypoints[:, BODY], -1, 0)
    is_inside = (x >= 0) & (x <= width_px) & (y >= 0) & (y <= height_px)
    return float((is_inside & (score >= SEEN_SCORE)).mean())
