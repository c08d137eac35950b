"""Pose: where 133 points of every person's body, face and hands are.

In: `Clip`. Out: one `Pose`, with the keypoints in an artifact (schema `POSES`). No verdicts: a person whose body cannot
be found keeps points without an estimate (NaN, NaN, 0). The points are COCO-WholeBody's. They come from Sapiens, as
those of the MIT dataset, or from MediaPipe, which runs on a laptop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from manifests.arrays import read_arrays, write_arrays
from manifests.rows import POSES, Clip, Pose
from mit_builder.config import backends
from mit_builder.config.settings import PoseSettings
from mit_builder.labels.keypoints import BODY, visible_ratios
from mit_builder.media.clip import read_clip
from mit_builder.models.base import Floats, Image, PoseEstimator
from mit_builder.models.devices import resources_of
from mit_builder.stage import Context, Resources


class EstimatePose:
    """Keypoints of the people of a clip."""

    name: ClassVar[str] = "pose"
    version: ClassVar[int] = 3
    emits: ClassVar[tuple[type, ...]] = (Pose,)

    def __init__(self, settings: PoseSettings) -> None:
        self._settings = settings
        self._backend = backends.find("pose", settings.model)
        self._estimator: PoseEstimator | None = None

    @property
    def resources(self) -> Resources:
        """A core, and what the registry says of the estimator."""
        return resources_of(self._backend, self._settings.device)

    def setup(self) -> None:
        """Load the estimator.

        Raises:
            StageUnavailable: its package, its weights or its device are missing.
        """
        self._estimator = self._backend.load(self._settings)

    def unit_id(self, row: Clip) -> str:
        """The clip."""
        return row.clip_id

    def backend(self) -> str:
        """The model, its version or size, and the digest of its weights."""
        return self._backend.label_of(self._settings)

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
            estimates = list(self._estimator.estimate(_images(row, mp4, posed), boxes, faces))
        keypoints = between(np.stack(estimates, axis=1), posed)
        file = ctx.tmp / "poses.parquet"
        visible = [visible_ratios(person, row.width_px, row.height_px) for person in keypoints]
        columns = zip(people, keypoints, visible, strict=True)
        write_arrays(file, POSES, [{"person_id": p["person_id"], "keypoints": k, **v} for p, k, v in columns])
        yield Pose(
            clip_id=row.clip_id,
            poses=ctx.commit(file, "poses", row.clip_id),
            pose_backend=self.backend(),
            mean_keypoint_score=float(keypoints[:, :, BODY, 2].mean(dtype=np.float64)),
            min_body_visible_ratio=min(ratios["body_visible_ratio"] for ratios in visible),
        )


def _images(clip: Clip, mp4: Path, wanted: Sequence[int]) -> Iterator[Image]:
    chosen = set(wanted)
    for frame in read_clip(mp4, clip.n_frames, clip.media_frame_index):
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
