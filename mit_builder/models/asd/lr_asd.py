"""LR-ASD: light-weight active speaker detection, loading the checkpoints of github.com/Junhua-Liao/LR-ASD (MIT).

0.84 M parameters. A visual encoder of factorised convolutions (three stages of two spatial and two temporal layers
each), an audio encoder of the same design over MFCC, a gated fusion, and two recurrent layers, one in each direction.
"""

from __future__ import annotations

from pathlib import Path

from manifests.rows import TIMELINE_FPS
from mit_builder.models.asd.windows import Classifier, Stretch, WindowedScorer, join, normalise
from mit_builder.models.torch_backend import (
    Precision,
    Tensor,
    functional,
    load_strictly,
    nn,
    torch,
)

NORM_EPS = 1e-3
STAGE_REACH = 3
"""Frames that a stage's temporal kernels 5 and 3 look to each side."""
CHUNK_FRAMES = 10 * TIMELINE_FPS
"""Frames whose feature maps are held at once (about 0.3 GB at the first stage)."""


class VisualStage(nn.Module):
    """Kernel 5x5 and 3x3 in space, then 5 and 3 in time; every convolution normalised and rectified."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        half = n_out // 2
        self.s_1 = nn.Conv3d(n_in, half, (1, 5, 5), (1, stride, stride), (0, 2, 2), bias=False)
        self.s_norm_1 = nn.BatchNorm3d(half, eps=NORM_EPS)
        self.s_2 = nn.Conv3d(half, n_out, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.s_norm_2 = nn.BatchNorm3d(n_out, eps=NORM_EPS)
        self.t_1 = nn.Conv3d(n_out, n_out, (5, 1, 1), padding=(2, 0, 0), bias=False)
        self.t_norm_1 = nn.BatchNorm3d(n_out, eps=NORM_EPS)
        self.t_2 = nn.Conv3d(n_out, n_out, (3, 1, 1), padding=(1, 0, 0), bias=False)
        self.t_norm_2 = nn.BatchNorm3d(n_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, frames, height, width), as trained."""
        x = functional.relu(self.s_norm_1(self.s_1(x)))
        x = functional.relu(self.s_norm_2(self.s_2(x)))
        x = functional.relu(self.t_norm_1(self.t_1(x)))
        return functional.relu(self.t_norm_2(self.t_2(x)))


class AudioStage(nn.Module):
    """Kernels 5 and 3 along the cepstra, then 5 and 3 along time."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        half = n_out // 2
        self.m_1 = nn.Conv2d(n_in, half, (5, 1), padding=(2, 0), bias=False)
        self.m_norm_1 = nn.BatchNorm2d(half, eps=NORM_EPS)
        self.m_2 = nn.Conv2d(half, n_out, (3, 1), padding=(1, 0), bias=False)
        self.m_norm_2 = nn.BatchNorm2d(n_out, eps=NORM_EPS)
        self.t_1 = nn.Conv2d(n_out, n_out, (1, 5), padding=(0, 2), bias=False)
        self.t_norm_1 = nn.BatchNorm2d(n_out, eps=NORM_EPS)
        self.t_2 = nn.Conv2d(n_out, n_out, (1, 3), padding=(0, 1), bias=False)
        self.t_norm_2 = nn.BatchNorm2d(n_out, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, 13 cepstra, time)."""
        x = functional.relu(self.m_norm_1(self.m_1(x)))
        x = functional.relu(self.m_norm_2(self.m_2(x)))
        x = functional.relu(self.t_norm_1(self.t_1(x)))
        return functional.relu(self.t_norm_2(self.t_2(x)))


def halve_map(x: Tensor) -> Tensor:
    """Half the height and width of (n, channels, height, width) by maxima."""
    return functional.max_pool2d(x, 3, stride=2, padding=1)


def halve_time(x: Tensor) -> Tensor:
    """Half the columns of (n, channels, cepstra, time) by maxima; the cepstra stay."""
    return functional.max_pool2d(x, (1, 3), stride=(1, 2), padding=(0, 1))


class VisualEncoder(nn.Module):
    """Grey crops to 128 features a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = VisualStage(1, 32, stride=2)
        self.block2 = VisualStage(32, 64)
        self.block3 = VisualStage(64, 128)

    def forward(self, video: Tensor) -> Tensor:
        """(batch, frames, 112, 112) 0..255 to (batch, frames, 128), as trained."""
        x = normalise(video)[:, None]
        for block in (self.block1, self.block2):
            x = functional.max_pool3d(block(x), (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        return self.block3(x).amax(dim=(3, 4)).transpose(1, 2)


class AudioEncoder(nn.Module):
    """MFCC to 128 features a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = AudioStage(1, 32)
        self.block2 = AudioStage(32, 64)
        self.block3 = AudioStage(64, 128)

    def forward(self, mfcc: Tensor) -> Tensor:
        """(batch, 4 * frames, 13) to (batch, frames, 128)."""
        x = halve_time(self.block1(mfcc.transpose(1, 2)[:, None]))
        x = self.block3(halve_time(self.block2(x)))
        return x.mean(dim=2).transpose(1, 2)


class Gate(nn.Module):
    """Scales every feature by a learned 0..1 from all features of its frame."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.attention = nn.Conv1d(n_features, n_features, 1, bias=False)
        self.bn = nn.BatchNorm1d(n_features, eps=NORM_EPS)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two (batch, frames, n_features / 2) to (batch, frames, n_features)."""
        both = torch.cat([first, second], dim=2).transpose(1, 2)
        gated: Tensor = both * torch.sigmoid(self.bn(self.attention(both)))
        return gated.transpose(1, 2)


class Detector(nn.Module):
    """One recurrent layer forward and one backward in time, joined by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gru_forward = nn.GRU(256, 64, batch_first=True)
        self.gru_backward = nn.GRU(256, 64, batch_first=True)
        self.attention = Gate(128)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, 256) to (batch, frames, 128)."""
        past, _ = self.gru_forward(x)
        future, _ = self.gru_backward(x.flip(1))
        joined: Tensor = self.attention(past, future.flip(1))
        return joined


class Encoders(nn.Module):
    """Everything before the classifier; the names are the checkpoint's."""

    def __init__(self) -> None:
        super().__init__()
        self.visualEncoder = VisualEncoder()
        self.audioEncoder = AudioEncoder()
        self.fusion = Gate(256)
        self.detector = Detector()


class LrAsdNetwork(nn.Module):
    """The whole network under the names of its checkpoints."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Encoders()
        self.lossAV = Classifier(128)

    def forward(self, visual: Tensor, mfcc: Tensor) -> Tensor:
        """Visual features (batch, n, 128) and MFCC (batch, 4 * n, 13) to two logits a frame, (batch, n, 2)."""
        fused = self.model.fusion(self.model.audioEncoder(mfcc), visual)
        return self.lossAV.FC(self.model.detector(fused))


class FrameStage:
    """A visual stage with its normalisation folded into the convolutions, on (frames, channels, height, width).

    Frames lie in memory with channels last: then a stretch of frames is also, without copying, the picture of time
    against place on which the temporal layers are plain two-dimensional convolutions.
    """

    def __init__(self, stage: VisualStage) -> None:
        self._spatial = [
            _fold(stage.s_1, stage.s_norm_1, along_time=False),
            _fold(stage.s_2, stage.s_norm_2, along_time=False),
        ]
        self._temporal = [
            _fold(stage.t_1, stage.t_norm_1, along_time=True),
            _fold(stage.t_2, stage.t_norm_2, along_time=True),
        ]

    def in_space(self, x: Tensor) -> Tensor:
        """Frame by frame."""
        for layer in self._spatial:
            x = functional.relu_(layer(x))
        return x

    def in_time(self, x: Tensor) -> Tensor:
        """Along frames, place by place; zeros before and after."""
        n, channels, height, width = x.shape
        flat = x.transpose(0, 1).reshape(1, channels, n, height * width)
        for layer in self._temporal:
            flat = functional.relu_(layer(flat))
        return flat.reshape(-1, n, height, width).transpose(0, 1)


def _fold(conv: nn.Conv3d, norm: nn.BatchNorm3d, *, along_time: bool) -> nn.Conv2d:
    """Convolution and normalisation as one layer over height and width, or over time and places."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    kernel = (conv.weight * scale[:, None, None, None, None]).squeeze(4 if along_time else 2)
    folded = nn.Conv2d(conv.in_channels, conv.out_channels, (kernel.shape[2], kernel.shape[3]))
    folded.stride = (1, 1) if along_time else (conv.stride[1], conv.stride[2])
    folded.padding = (kernel.shape[2] // 2, kernel.shape[3] // 2)
    folded.weight = nn.Parameter(kernel.contiguous(memory_format=torch.channels_last), requires_grad=False)
    folded.bias = nn.Parameter(norm.bias - mean * scale, requires_grad=False)
    return folded


class SharedLrAsd:
    """An `AsdNetwork`: the visual encoder computed once for all windows, equal to the network window by window."""

    def __init__(self, network: LrAsdNetwork) -> None:
        self._network = network
        encoder = network.model.visualEncoder
        self._stages = [FrameStage(block) for block in (encoder.block1, encoder.block2, encoder.block3)]

    def judge(self, visual: Tensor, mfcc: Tensor) -> Tensor:
        """Logits of "speaks", (batch, n)."""
        logits: Tensor = self._network(visual, mfcc)
        return logits[..., 1]

    def look(self, video: Tensor) -> Stretch:
        """(n, 112, 112) uint8 to (n, 128)."""
        starts = range(0, len(video), CHUNK_FRAMES)
        return join([self._look(video, start, min(start + CHUNK_FRAMES, len(video))) for start in starts])

    def _look(self, video: Tensor, start: int, end: int) -> Stretch:
        margin = STAGE_REACH * len(self._stages)
        stretch = Stretch.of_frames(video[:, None], start, end, margin).map_frames(normalise)
        for i, stage in enumerate(self._stages):
            if i:
                stretch = stretch.map_frames(halve_map)
            stretch = stretch.map_frames(stage.in_space).mix_frames(stage.in_time, STAGE_REACH)
            margin -= STAGE_REACH
            stretch = stretch.narrow(start - margin, end + margin)
        return stretch.map_frames(lambda x: x.amax(dim=(2, 3)))


class LrAsd(WindowedScorer):
    """Speaker scores by LR-ASD.

    Args:
        weights: one of its two checkpoints; the one tuned on TalkSet is for footage in the wild.
        device: where to run, as torch names it.
        precision: number format of the products.

    Raises:
        StageUnavailable: the file or the device cannot be used.
    """

    def __init__(self, weights: Path, *, device: str = "cpu", precision: Precision = "fp32") -> None:
        super().__init__(device, precision)
        network = load_network(weights).to(self.device)
        self.network = SharedLrAsd(network)


def load_network(weights: Path) -> LrAsdNetwork:
    """The network ready for inference, on the CPU.

    Raises:
        StageUnavailable: the file is no LR-ASD checkpoint.
    """
    network = LrAsdNetwork()
    load_strictly(network, weights, unused=["lossV."])
    return network.eval().requires_grad_(False)
