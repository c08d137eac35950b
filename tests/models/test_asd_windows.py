from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the speaker networks need torch, which the embedded environment does not have")

import torch

from mit_builder.errors import ModelError
from mit_builder.models.asd import windows as asd_windows
from mit_builder.models.asd.windows import Stretch, WindowedScorer, join, n_scored, scores_per_duration, windows_of
from mit_builder.models.base import SpeechInput


@given(n_frames=st.integers(1, 400), duration_s=st.integers(1, 6))
def test_windows_cover_the_track_once(n_frames: int, duration_s: int) -> None:
    windows = windows_of(n_frames, duration_s)
    assert [frame for start, end in windows for frame in range(start, end)] == list(range(n_frames))
    assert {end - start for start, end in windows[:-1]} <= {25 * duration_s}


def test_equal_windows_are_scored_once() -> None:
    groups = asd_windows.windows_by_length(250)
    assert groups[25].count((225, 250)) == 1  # the last of one second and of three
    assert sum(len(windows) for windows in groups.values()) == 24


@pytest.mark.parametrize(("n_rows", "n_frames", "expected"), [(239, 60, 59), (240, 60, 60), (400, 60, 60), (3, 1, 0)])
def test_frames_without_four_rows_are_not_scored(n_rows: int, n_frames: int, expected: int) -> None:
    assert n_scored(n_rows, n_frames) == expected


class WindowLengths:
    """A network whose logit is the length of the window in frames, plus the first MFCC row's first value."""

    def look(self, video: torch.Tensor) -> Stretch:
        return Stretch(0, video.float().mean(dim=(1, 2))[:, None], {}, {})

    def judge(self, visual: torch.Tensor, mfcc: torch.Tensor) -> torch.Tensor:
        return torch.full(visual.shape[:2], float(visual.shape[1])) + 0 * mfcc[:, :1, 0]


class Scorer(WindowedScorer):
    def __init__(self, network: asd_windows.AsdNetwork) -> None:
        super().__init__("cpu", "fp32")
        self.network = network


def test_all_durations_count_the_same() -> None:
    scores = Scorer(WindowLengths()).score_block(np.zeros((150, 112, 112), np.uint8), np.zeros((600, 13)))
    # 25, 50, 75 and 150 frames divide 150; windows of 4 s and 5 s leave 50 and 25 frames at the end.
    assert scores[:100].tolist() == pytest.approx([(25 + 50 + 75 + 100 + 125 + 150) / 6] * 100)
    assert scores[-1] == pytest.approx((25 + 50 + 75 + 50 + 25 + 150) / 6)


def test_track_without_a_scorable_frame_gives_no_scores() -> None:
    scores = scores_per_duration(WindowLengths(), torch.zeros(1, 112, 112), torch.zeros(3, 13))
    assert scores.shape == (6, 0)


def test_more_than_a_block_at_once_is_refused() -> None:
    with pytest.raises(ModelError, match="at most 1500 frames"):
        Scorer(WindowLengths()).score_block(np.zeros((1501, 112, 112), np.uint8), np.zeros((6004, 13)))


def test_long_clip_is_read_once_and_scored_minute_by_minute() -> None:
    n_frames, reads = asd_windows.BLOCK_FRAMES + 30, []

    def frames():
        reads.append(1)
        return (np.zeros((8, 8, 3), np.uint8) for _ in range(n_frames))

    boxes = np.tile(np.float32([2, 2, 6, 6]), (1, n_frames, 1))
    nothing = np.zeros(n_frames, np.float32)
    clip = SpeechInput(frames, np.zeros(640 * n_frames, np.int16), nothing, np.zeros((1, n_frames, 133, 3)), boxes)
    scores = Scorer(WindowLengths()).score(clip)
    assert reads == [1]
    assert scores.shape == (1, n_frames)
    # In the second minute: 25 frames and 5 at one second, 30 at all others.
    assert scores[0, -1] == pytest.approx((5 + 5 * 30) / 6)
    assert scores[0, 0] == pytest.approx((25 + 50 + 75 + 100 + 125 + 150) / 6)


def smear(reach: int, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    conv = torch.nn.Conv1d(2, 2, 2 * reach + 1, padding=reach, dtype=torch.float64)

    def layer(frames: torch.Tensor) -> torch.Tensor:
        return torch.tanh(conv(frames.transpose(0, 1)[None])[0].transpose(0, 1))

    return layer


def look(frames: torch.Tensor, chunk: int) -> Stretch:
    """Three layers that mix 3, 2 and 4 frames, each after one that does not."""
    parts = []
    for start in range(0, len(frames), chunk):
        end = min(start + chunk, len(frames))
        stretch, margin = Stretch.of_frames(frames, start, end, 9), 9
        for reach in (3, 2, 4):
            stretch = stretch.map_frames(torch.sin).mix_frames(smear(reach, reach), reach)
            margin -= reach
            stretch = stretch.narrow(start - margin, end + margin)
        parts.append(stretch)
    return join(parts)


@settings(max_examples=25, deadline=None)
@given(n_frames=st.integers(1, 160), chunk_s=st.integers(1, 4))
def test_features_of_every_window_are_exact(n_frames: int, chunk_s: int) -> None:
    frames = torch.from_numpy(np.random.default_rng(n_frames).normal(size=(n_frames, 2)))
    with torch.inference_mode():
        shared = look(frames, 25 * chunk_s)
        for windows in asd_windows.windows_by_length(n_frames).values():
            for start, end in windows:
                alone = frames[start:end]
                for reach in (3, 2, 4):
                    alone = smear(reach, reach)(torch.sin(alone))
                torch.testing.assert_close(shared.window(start, end), alone, rtol=0, atol=1e-12)
