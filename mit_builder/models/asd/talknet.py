"""TalkNet, loading the checkpoint of github.com/TaoRuijie/TalkNet-ASD (MIT): the paper's active speaker model.

15.7 M parameters. Faces go through a 3-D stem and a ResNet-18, then a temporal convolution network; sound through a
squeeze-and-excitation ResNet-34; both streams attend to each other, then to themselves. Names of modules are the
checkpoint's.
"""

from __future__ import annotations

from pathlib import Path

from manifests.rows import TIMELINE_FPS
from mit_builder.models.asd.windows import Classifier, Stretch, WindowedScorer, join, normalise
from mit_builder.models.torch_backend import Precision, Tensor, functional, load_strictly, nn, torch

VISUAL_NORM_EPS = 1e-3
"""Of the visual frontend; every other normalisation has torch's 1e-5."""
GLOBAL_NORM_EPS = 1e-8
STEM_REACH = 2
"""Frames that the stem looks to each side; nothing else in the frontend mixes frames."""
UNUSED_TENSORS = ("lossA.", "lossV.", "model.visualFrontend.resnet.layer1.downsample.")
"""Heads of the training, and a shortcut that the checkpoint has and the network never takes."""


class Stem(nn.Sequential):
    """5 x 7 x 7 convolution over time and space, and a maximum over 3 x 3 places."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(1, 64, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(64, eps=VISUAL_NORM_EPS),
            nn.ReLU(),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )


class VisualBlock(nn.Module):
    """Two residual pairs of 3 x 3 convolutions; the second shortcut starts before the normalisation between them."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1a = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1a = nn.BatchNorm2d(n_out, eps=VISUAL_NORM_EPS)
        self.conv2a = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.downsample = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if stride > 1 else nn.Identity()
        self.outbna = nn.BatchNorm2d(n_out, eps=VISUAL_NORM_EPS)
        self.conv1b = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn1b = nn.BatchNorm2d(n_out, eps=VISUAL_NORM_EPS)
        self.conv2b = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.outbnb = nn.BatchNorm2d(n_out, eps=VISUAL_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_in, height, width) to (n, n_out, height / stride, width / stride)."""
        middle = self.conv2a(functional.relu(self.bn1a(self.conv1a(x)))) + self.downsample(x)
        x = functional.relu(self.outbna(middle))
        x = self.conv2b(functional.relu(self.bn1b(self.conv1b(x)))) + middle
        return functional.relu(self.outbnb(x))


class ResNet(nn.Module):
    """Stem maps of single frames to 512 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = VisualBlock(64, 64, 1)
        self.layer2 = VisualBlock(64, 128, 2)
        self.layer3 = VisualBlock(128, 256, 2)
        self.layer4 = VisualBlock(256, 512, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 64, 28, 28) to (n, 512)."""
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean(dim=(2, 3))


class VisualFrontend(nn.Module):
    """Grey crops to 512 features a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.frontend3D = Stem()
        self.resnet = ResNet()

    def stem(self, frames: Tensor) -> Tensor:
        """Consecutive normalised frames (n, 1, 112, 112) to (n, 64, 28, 28); zeros before and after."""
        return self.frontend3D(frames.transpose(0, 1)[None])[0].transpose(0, 1)

    def forward(self, video: Tensor) -> Tensor:
        """One clip (n, 112, 112), 0..255, to (n, 512)."""
        return self.resnet(self.stem(normalise(video)[:, None]))


class GlobalNorm(nn.Module):
    """Normalisation over channels and time together."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, n_features, 1))
        self.beta = nn.Parameter(torch.zeros(1, n_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, features, n), same shape."""
        variance, mean = torch.var_mean(x, dim=(1, 2), keepdim=True, correction=0)
        return self.gamma * (x - mean) / torch.sqrt(variance + GLOBAL_NORM_EPS) + self.beta


class TemporalBlock(nn.Module):
    """Residual depthwise-separable convolution along time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ReLU(),
            nn.BatchNorm1d(512),
            nn.Conv1d(512, 512, 3, padding=1, groups=512, bias=False),
            nn.PReLU(),
            GlobalNorm(512),
            nn.Conv1d(512, 512, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 512, n), same shape."""
        return x + self.net(x)


class TemporalNetwork(nn.Module):
    """Five temporal blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*[TemporalBlock() for _ in range(5)])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 512, n), same shape."""
        return self.net(x)


class VisualReduction(nn.Module):
    """512 features to 128, looking two frames to each side."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(512, 256, 5, padding=2), nn.BatchNorm1d(256), nn.ReLU(), nn.Conv1d(256, 128, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 512, n) to (batch, 128, n)."""
        return self.net(x)


class ChannelGate(nn.Module):
    """Squeeze and excitation: scales every channel by 0..1 from the mean of all channels over the window."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        hidden = n_channels // 8
        self.fc = nn.Sequential(nn.Linear(n_channels, hidden), nn.ReLU(), nn.Linear(hidden, n_channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, cepstra, time), same shape."""
        return x * self.fc(x.mean(dim=(2, 3)))[:, :, None, None]


class AudioBlock(nn.Module):
    """Residual pair of 3 x 3 convolutions; the first is rectified before it is normalised."""

    def __init__(self, n_in: int, n_out: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.se = ChannelGate(n_out)
        self.downsample = nn.Sequential()
        if project:
            self.downsample.extend([nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out)])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, n_in, cepstra, time) to (batch, n_out, cepstra / stride, time / stride)."""
        y = self.bn1(functional.relu(self.conv1(x)))
        y = self.se(self.bn2(self.conv2(y)))
        return functional.relu(y + self.downsample(x))


def audio_stage(n_in: int, n_out: int, n_blocks: int, stride: int) -> nn.Sequential:
    """Blocks of which the first changes channels and size."""
    first = AudioBlock(n_in, n_out, stride, project=n_in != n_out)
    return nn.Sequential(first, *[AudioBlock(n_out, n_out, 1, project=False) for _ in range(n_blocks - 1)])


class AudioEncoder(nn.Module):
    """MFCC to 128 features a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 7, (2, 1), 3, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = audio_stage(16, 16, 3, 1)
        self.layer2 = audio_stage(16, 32, 4, 2)
        self.layer3 = audio_stage(32, 64, 6, 2)
        self.layer4 = audio_stage(64, 128, 3, 1)

    def forward(self, mfcc: Tensor) -> Tensor:
        """(batch, 4 * n, 13) to (batch, n, 128)."""
        x = functional.relu(self.bn1(self.conv1(mfcc.transpose(1, 2)[:, None])))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=2).transpose(1, 2)


class CrossAttention(nn.Module):
    """Transformer layer whose queries come from the other stream, while the residual is the own stream."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(n_features, 8, batch_first=True)
        self.linear1 = nn.Linear(n_features, 4 * n_features)
        self.linear2 = nn.Linear(4 * n_features, n_features)
        self.norm1 = nn.LayerNorm(n_features)
        self.norm2 = nn.LayerNorm(n_features)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """Two (batch, n, features) to one."""
        attended, _ = self.self_attn(other, own, own, need_weights=False)
        x = self.norm1(own + attended)
        return self.norm2(x + self.linear2(functional.relu(self.linear1(x))))


class Encoders(nn.Module):
    """Everything before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.visualFrontend = VisualFrontend()
        self.visualTCN = TemporalNetwork()
        self.visualConv1D = VisualReduction()
        self.audioEncoder = AudioEncoder()
        self.crossA2V = CrossAttention(128)
        self.crossV2A = CrossAttention(128)
        self.selfAV = CrossAttention(256)

    def visual_embedding(self, frontend: Tensor) -> Tensor:
        """Frontend features of whole windows (batch, n, 512) to (batch, n, 128)."""
        return self.visualConv1D(self.visualTCN(frontend.transpose(1, 2))).transpose(1, 2)

    def fuse(self, audio: Tensor, visual: Tensor) -> Tensor:
        """Two (batch, n, 128) to (batch, n, 256)."""
        both = torch.cat([self.crossA2V(audio, visual), self.crossV2A(visual, audio)], dim=2)
        return self.selfAV(both, both)


class TalkNetNetwork(nn.Module):
    """The whole network under the names of its checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Encoders()
        self.lossAV = Classifier(256)

    def forward(self, frontend: Tensor, mfcc: Tensor) -> Tensor:
        """Frontend features (batch, n, 512) and MFCC (batch, 4 * n, 13) to two logits a frame, (batch, n, 2)."""
        visual = self.model.visual_embedding(frontend)
        return self.lossAV.FC(self.model.fuse(self.model.audioEncoder(mfcc), visual))


class SharedTalkNet:
    """An `AsdNetwork`: the visual frontend computed once for all windows, equal to the network window by window."""

    def __init__(self, network: TalkNetNetwork) -> None:
        self._network = network
        self._frontend = network.model.visualFrontend
        # A sixth faster on CPU than with channels first.
        nn.utils.convert_conv2d_weight_memory_format(self._frontend.resnet, torch.channels_last)

    def judge(self, visual: Tensor, mfcc: Tensor) -> Tensor:
        """Logits of "speaks", (batch, n)."""
        return self._network(visual, mfcc)[..., 1]

    def look(self, video: Tensor) -> Stretch:
        """(n, 112, 112) uint8 to (n, 512), second by second."""
        starts = range(0, len(video), TIMELINE_FPS)
        return join([self._look(video, start, min(start + TIMELINE_FPS, len(video))) for start in starts])

    def _look(self, video: Tensor, start: int, end: int) -> Stretch:
        frames = Stretch.of_frames(video[:, None], start, end, STEM_REACH).map_frames(normalise)
        return frames.mix_frames(self._frontend.stem, STEM_REACH).narrow(start, end).map_frames(self._frontend.resnet)


class TalkNet(WindowedScorer):
    """Speaker scores by TalkNet.

    Args:
        weights: its checkpoint.
        device: where to run, as torch names it.
        precision: number format of the products.

    Raises:
        StageUnavailable: the file or the device cannot be used.
    """

    def __init__(self, weights: Path, *, device: str = "cpu", precision: Precision = "fp32") -> None:
        super().__init__(device, precision)
        self.network = SharedTalkNet(load_network(weights).to(self.device))


def load_network(weights: Path) -> TalkNetNetwork:
    """The network ready for inference, on the CPU.

    Raises:
        StageUnavailable: the file is no TalkNet checkpoint.
    """
    network = TalkNetNetwork()
    load_strictly(network, weights, unused=UNUSED_TENSORS)
    return network.eval().requires_grad_(False)
