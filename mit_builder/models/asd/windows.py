"""Scoring a face track in windows of one to six seconds, as TalkNet's demo does, without doing work six times.

The mean over six window lengths is exact here, not approximated: features that depend on a few neighbouring frames
only are computed once for the whole track, and once more for the few frames next to whole seconds, where a window
may start or end (`Stretch`). What looks at the whole window is run for every distinct window, equal lengths in one
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS
from mit_builder.errors import ModelError
from mit_builder.models.asd.inputs import ROWS_PER_FRAME, Doubles, face_crops, mfcc_of_frames
from mit_builder.models.base import Floats, SpeechInput
from mit_builder.models.torch_backend import Precision, Tensor, autocast, nn, pick_device, torch

DURATIONS_S = (1, 2, 3, 4, 5, 6)
"""Window lengths, equally weighted (the demo's list repeats some, but it is a set)."""
BLOCK_FRAMES = 60 * TIMELINE_FPS
"""A minute: the first instant at which windows of all lengths end, so blocks of this size are independent."""

GREY_MEAN = 0.4161
GREY_STD = 0.1688
"""Mean and standard deviation of the training crops on a scale of 0..1 (TalkNet)."""

Window = tuple[int, int]
"""[first frame, frame after the last)."""


def normalise(video: Tensor) -> Tensor:
    """Grey levels 0..255 to the scale of the training."""
    return (video.float() / 255 - GREY_MEAN) / GREY_STD


class Classifier(nn.Module):
    """Two logits: silent, speaks."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.FC = nn.Linear(n_features, 2)


def windows_of(n_frames: int, duration_s: int) -> list[Window]:
    """Consecutive windows of `duration_s` from frame 0 on; the last one may be shorter, down to one frame."""
    step = duration_s * TIMELINE_FPS
    return [(start, min(start + step, n_frames)) for start in range(0, n_frames, step)]


def windows_by_length(n_frames: int) -> dict[int, list[Window]]:
    """Every distinct window of all durations once, grouped by its number of frames."""
    distinct = sorted({window for duration in DURATIONS_S for window in windows_of(n_frames, duration)})
    groups: dict[int, list[Window]] = {}
    for start, end in distinct:
        groups.setdefault(end - start, []).append((start, end))
    return groups


@dataclass(frozen=True)
class Stretch:
    """Features of consecutive frames, also as seen by windows that start or end inside the stretch.

    Attributes:
        first: frame of `whole[0]`.
        whole: (n, channels, ...) features where frames on both sides are seen.
        starts: by cut, (reach, channels, ...) first frames of any window that starts there; fewer at the track's end.
        ends: by cut, (reach, channels, ...) last frames of any window that ends there.
    """

    first: int
    whole: Tensor
    starts: Mapping[int, Tensor]
    ends: Mapping[int, Tensor]

    @classmethod
    def of_frames(cls, frames: Tensor, start: int, end: int, margin: int) -> Stretch:
        """Raw frames [start, end) of a track with `margin` more on each side; cuts are at whole seconds."""
        first = max(start - margin, 0)
        whole = frames[first : min(end + margin, len(frames))]
        starts = {cut: whole[:0] for cut in range(start, end, TIMELINE_FPS) if cut > 0}
        ends = {cut: whole[:0] for cut in range(start + TIMELINE_FPS, end + 1, TIMELINE_FPS) if cut < len(frames)}
        return cls(first, whole, starts, ends)

    def map_frames(self, layer: Callable[[Tensor], Tensor]) -> Stretch:
        """Apply a layer that sees one frame at a time, (n, channels, ...) to (n, channels, ...)."""
        parts = [self.whole, *self.starts.values(), *self.ends.values()]
        mapped = torch.cat([layer(piece) for piece in torch.split(torch.cat(parts), TIMELINE_FPS)])
        whole, *cut = torch.split(mapped, [len(part) for part in parts])
        n_starts = len(self.starts)
        starts = dict(zip(self.starts, cut[:n_starts], strict=True))
        return Stretch(self.first, whole, starts, dict(zip(self.ends, cut[n_starts:], strict=True)))

    def mix_frames(self, layer: Callable[[Tensor], Tensor], reach: int) -> Stretch:
        """Apply a layer in which frame i sees i - reach .. i + reach, zero padded at the ends of what it is given."""
        starts, ends = {}, {}
        for cut, own in self.starts.items():
            at, kept = cut - self.first, len(own)
            seen = torch.cat([own, self.whole[at + kept : at + kept + 2 * reach]])
            starts[cut] = layer(seen)[: kept + reach]
        for cut, own in self.ends.items():
            at, kept = cut - self.first, len(own)
            seen = torch.cat([self.whole[at - kept - 2 * reach : at - kept], own])
            ends[cut] = layer(seen)[-(kept + reach) :]
        return Stretch(self.first, layer(self.whole), starts, ends)

    def narrow(self, start: int, end: int) -> Stretch:
        """Only frames [start, end) of the whole, as far as they are there; the cuts stay."""
        first = max(start, self.first)
        return Stretch(first, self.whole[first - self.first : end - self.first], self.starts, self.ends)

    def window(self, start: int, end: int) -> Tensor:
        """Features of [start, end) as a network sees them that is given this window only."""
        features = self.whole[start - self.first : end - self.first].clone()
        if start in self.starts:
            own = self.starts[start]
            features[: len(own)] = own
        if end in self.ends:
            own = self.ends[end]
            features[len(features) - len(own) :] = own
        return features


def join(stretches: list[Stretch]) -> Stretch:
    """Neighbouring stretches as one."""
    starts = {cut: own for stretch in stretches for cut, own in stretch.starts.items()}
    ends = {cut: own for stretch in stretches for cut, own in stretch.ends.items()}
    return Stretch(stretches[0].first, torch.cat([stretch.whole for stretch in stretches]), starts, ends)


class AsdNetwork(Protocol):
    """An audio-visual network in the two halves that `scores_per_duration` needs."""

    def look(self, video: Tensor) -> Stretch:
        """(n, 112, 112) uint8 crops of a track to visual features (n, channels), whole and at whole seconds."""
        ...

    def judge(self, visual: Tensor, mfcc: Tensor) -> Tensor:
        """Logits (batch, n) of windows from features (batch, n, channels) and MFCC (batch, 4 * n, 13)."""
        ...


def n_scored(n_rows: int, n_frames: int) -> int:
    """Frames that have both a picture and four MFCC rows (the demo's trimming)."""
    return min(n_rows // ROWS_PER_FRAME, n_frames)


def scores_per_duration(network: AsdNetwork, video: Tensor, mfcc: Tensor) -> Floats:
    """Scores of a track at every window length.

    Args:
        network: on the device of the tensors.
        video: (n, 112, 112) uint8 grey crops; at most a few minutes.
        mfcc: (rows, 13) float32; extra rows are ignored, frames without four rows are not scored.

    Returns:
        (6, n_scored) float32 logits, one row for each of `DURATIONS_S`.
    """
    n_frames = n_scored(len(mfcc), len(video))
    if n_frames == 0:
        return np.empty((len(DURATIONS_S), 0), np.float32)
    with torch.inference_mode():
        visual = network.look(video[:n_frames])
        scores: dict[Window, Floats] = {}
        for windows in windows_by_length(n_frames).values():
            seen = torch.stack([visual.window(start, end) for start, end in windows])
            heard = torch.stack([mfcc[ROWS_PER_FRAME * start : ROWS_PER_FRAME * end] for start, end in windows])
            logits = network.judge(seen, heard).float().cpu().numpy()
            scores.update(zip(windows, logits, strict=True))
    rows = [[scores[window] for window in windows_of(n_frames, duration)] for duration in DURATIONS_S]
    return np.stack([np.concatenate(row) for row in rows])


class WindowedScorer:
    """Speaker scores of a clip's people from an audio-visual network: logits, the mean over window lengths.

    Implements `mit_builder.models.base.SpeakerScorer`. Memory does not grow with the clip: people are cropped in one
    pass over its frames and scored in blocks of a minute.
    """

    label_tier: Literal["heuristic", "model"] = "model"
    network: AsdNetwork

    def __init__(self, device: str, precision: Precision) -> None:
        self.device = pick_device(device)
        self.precision: Precision = precision

    def score(self, clip: SpeechInput) -> Floats:
        """(n_people, n_frames) float32 logits, > 0 means speaking; every frame gets one.

        Raises:
            ModelError: the clip's boxes, frames and samples do not fit together.
        """
        blocks = list(self._score_blocks(clip))
        return np.concatenate(blocks, axis=1) if blocks else np.empty(clip.face_boxes_xyxy.shape[:2], np.float32)

    def _score_blocks(self, clip: SpeechInput) -> Iterator[Floats]:
        start = 0
        for crops in face_crops(clip.frames(), clip.face_boxes_xyxy, BLOCK_FRAMES):
            end = start + crops.shape[1]
            mfcc = mfcc_of_frames(clip.samples, start, end)
            yield np.stack([self.score_block(video, mfcc) for video in crops])
            start = end

    def score_block(self, video: npt.NDArray[np.uint8], mfcc: Doubles) -> Floats:
        """(n_scored,) float32 mean logits of one track of at most a minute; see `scores_per_duration`."""
        if len(video) > BLOCK_FRAMES:
            raise ModelError(f"at most {BLOCK_FRAMES} frames at once, got {len(video)}")
        pictures = torch.from_numpy(np.ascontiguousarray(video)).to(self.device)
        sounds = torch.from_numpy(mfcc.astype(np.float32)).to(self.device)
        with autocast(self.device, self.precision):
            mean: Floats = scores_per_duration(self.network, pictures, sounds).mean(axis=0)
        return mean
