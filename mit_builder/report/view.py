"""What a picture of a clip is drawn from: its media as files and its labels as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.arrays import read_arrays
from manifests.rows import TIMELINE_FPS, Artifact, Labelled
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import MediaError
from mit_builder.labels.corrections import label_tier, with_corrections
from mit_builder.media.clip import Index, media_frames, read_clip
from mit_builder.media.frames import Frame


@dataclass(frozen=True)
class ClipView:
    """One clip, ready to be drawn.

    Attributes:
        clip_id: its name.
        mp4: the clip's video file; `frames` reads it.
        flac: the clip's audio file.
        label_tier: heuristic, model or human.
        min_voice_activity: voice activity below which nobody counts as speaking.
        boxes_xyxy: (n_people, n_frames, 4) float32, bodies, pixels of the clip.
        face_boxes_xyxy: (n_people, n_frames, 4) float32.
        keypoints: (n_people, n_frames, 133, 3) float32, x, y, score.
        scores: (n_people, n_frames) float32, smoothed speaking scores.
        speaking: (n_people, n_frames) bool, as corrected by reviewers.
        voice_activity: (n_frames,) float32.
        media_frame_index: (n_frames,) the video file's frames, see `read_clip`.
    """

    clip_id: str
    mp4: Path
    flac: Path
    label_tier: str
    min_voice_activity: float
    boxes_xyxy: npt.NDArray[np.float32]
    face_boxes_xyxy: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    speaking: npt.NDArray[np.bool_]
    voice_activity: npt.NDArray[np.float32]
    media_frame_index: Index

    def frames(self) -> Iterator[Frame]:
        """The clip's pictures, one for every frame of its labels.

        Raises:
            MediaError: the file cannot be read or has another number of frames.
        """
        return read_clip(self.mp4, self.n_frames, self.media_frame_index)

    @property
    def n_people(self) -> int:
        return len(self.speaking)

    @property
    def n_frames(self) -> int:
        return len(self.voice_activity)

    @property
    def duration_s(self) -> float:
        return self.n_frames / TIMELINE_FPS


Local = Callable[[Artifact], AbstractContextManager[Path]]
"""Opens an artifact as a local file, like `Context.local`."""


@contextmanager
def open_view(row: Labelled, local: Local) -> Iterator[ClipView]:
    """A view of a clip's artifacts with its corrections, as the dataset has them; valid while the context is open."""
    clip, speech = row.clip, row.speech
    with ExitStack() as stack:
        mp4, flac, people, poses, spoken, voice = (
            stack.enter_context(local(artifact))
            for artifact in (clip.mp4, clip.flac, clip.people, row.pose.poses, speech.speech, speech.voice)
        )
        joined = [{**a, **b, **c} for a, b, c in zip(*map(_by_person, (people, poses, spoken)), strict=True)]
        labels = with_corrections(joined, row.corrections, speech.merge_below_frames)
        yield ClipView(
            clip_id=clip.clip_id,
            mp4=mp4,
            flac=flac,
            label_tier=label_tier(labels, clip.n_frames, speech.label_tier),
            min_voice_activity=speech.min_voice_activity,
            media_frame_index=media_frames(clip.n_frames, clip.media_frame_index),
            voice_activity=np.array([frame["voice_activity"] for frame in read_arrays(voice)], np.float32),
            **_stacked(labels),
        )


def _by_person(path: Path) -> list[dict[str, Any]]:
    return sorted(read_arrays(path), key=lambda row: int(row["person_id"]))


def view_of_row(row: Mapping[str, Any], files: DatasetFiles, scratch: Path) -> ClipView:
    """A view of a dataset's row (all columns, from `DatasetFiles.rows`).

    Args:
        row: the row.
        files: of its dataset.
        scratch: an existing folder for media that is embedded in the row; it must outlive the view.

    Raises:
        MediaError: the row's media is neither embedded nor beside the dataset, or its path leads out of it.
    """
    mp4 = files.media(row["clip"], scratch / f"{row['clip_id']}.mp4")
    flac = files.media(row["audio"], scratch / f"{row['clip_id']}.flac")
    if mp4 is None or flac is None:
        raise MediaError(f"{row['clip_id']}: its media is neither in the row nor beside the dataset")
    return ClipView(
        clip_id=row["clip_id"],
        mp4=mp4,
        flac=flac,
        label_tier=row["label_tier"],
        min_voice_activity=row["min_voice_activity"],
        media_frame_index=row["media_frame_index"],
        voice_activity=row["voice_activity"],
        **_stacked(row["people"]),
    )


def _stacked(people: list[dict[str, Any]]) -> dict[str, Any]:
    names = {
        "boxes_xyxy": "boxes_xyxy",
        "face_boxes_xyxy": "face_boxes_xyxy",
        "keypoints": "keypoints",
        "scores": "speaking_score_smoothed",
        "speaking": "speaking",
    }
    return {name: np.stack([person[column] for person in people]) for name, column in names.items()}
