"""Sapiens for 133 keypoints as plain torch modules, loading the checkpoints of github.com/facebookresearch/sapiens.

A vision transformer over patches of 16 pixels, two transposed and three 1 x 1 convolutions: one heatmap a keypoint,
at a quarter of the input's resolution. Names of modules are the checkpoints'. Code written from the architecture; the
weights are CC-BY-NC 4.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mit_builder.errors import StageUnavailable
from mit_builder.models.torch_backend import Tensor, check_fit, functional, nn, read_tensors, torch

PATCH_PX = 16
PATCH_MARGIN_PX = 2
"""Zeros around the picture; the patches still are a 16th of its sides."""
NORM_EPS = 1e-6
N_HEADS = {1024: 16, 1280: 16, 1536: 24, 1920: 32}
"""Attention heads of the published sizes (0.3b, 0.6b, 1b, 2b) by width: the tensors do not tell."""
USUAL_HEAD_WIDTH = 64
"""Channels of a head in networks of any other width, which are made for tests."""
PUBLISHED_GRID = (64, 48)
"""Patches of 1024 x 768 pixels (height x width)."""
UNUSED_TENSORS = ("data_preprocessor.",)
"""Mean and standard deviation, which tracing kept; see `mit_builder.models.sapiens.crops`."""


@dataclass(frozen=True)
class Size:
    """What the tensors of a checkpoint say about its network.

    Attributes:
        width: channels of a token.
        n_layers: transformer layers.
        n_heads: attention heads of a layer.
        ffn_width: channels inside the feed-forward network.
        head_width: channels of the convolutions after the transformer.
        n_keypoints: heatmaps.
        grid_hw: patches down and across.
    """

    width: int
    n_layers: int
    n_heads: int
    ffn_width: int
    head_width: int
    n_keypoints: int
    grid_hw: tuple[int, int]

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return PATCH_PX * self.grid_hw[0], PATCH_PX * self.grid_hw[1]


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width), same shape."""
        batch, n_tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, n_tokens, 3, self.n_heads, width // self.n_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, n_tokens, width))


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, nested as in the checkpoints."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, inner), nn.GELU()), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width), same shape."""
        return self.layers(x)


class Layer(nn.Module):
    """Attention and feed-forward, each on normalised tokens and added to them."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(size.width, eps=NORM_EPS)
        self.attn = Attention(size.width, size.n_heads)
        self.ln2 = nn.LayerNorm(size.width, eps=NORM_EPS)
        self.ffn = FeedForward(size.width, size.ffn_width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width), same shape."""
        x = x + self.attn(self.ln1(x))
        return x + self.ffn(self.ln2(x))


class PatchEmbedding(nn.Module):
    """Pixels to tokens, row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, PATCH_PX, PATCH_PX, PATCH_MARGIN_PX)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, tokens, channels)."""
        return self.projection(images).flatten(2).transpose(1, 2)


class Backbone(nn.Module):
    """The vision transformer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.grid_hw = size.grid_hw
        self.patch_embed = PatchEmbedding(size.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(size.grid_hw), size.width))
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.n_layers))
        self.ln1 = nn.LayerNorm(size.width, eps=NORM_EPS)

    def embed(self, images: Tensor) -> Tensor:
        """Tokens that the first layer is given."""
        return self.patch_embed(images) + self.pos_embed

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, channels, height / 16, width / 16)."""
        x = self.embed(images)
        for layer in self.layers:
            x = layer(x)
        return self.ln1(x).transpose(1, 2).unflatten(2, self.grid_hw)


def _normalised(layer: nn.Module, width: int) -> list[nn.Module]:
    """A layer, then every channel of every image normalised by itself, then SiLU."""
    return [layer, nn.InstanceNorm2d(width), nn.SiLU()]


class Head(nn.Module):
    """Features to heatmaps of four times the resolution."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width = size.head_width
        upscaling = [nn.ConvTranspose2d(n, width, 4, 2, 1, bias=False) for n in (size.width, width)]
        mixing = [nn.Conv2d(width, width, 1) for _ in range(2)]
        self.deconv_layers = nn.Sequential(*[part for layer in upscaling for part in _normalised(layer, width)])
        self.conv_layers = nn.Sequential(*[part for layer in mixing for part in _normalised(layer, width)])
        self.final_layer = nn.Conv2d(width, size.n_keypoints, 1)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, channels, h, w) to (batch, keypoints, 4 * h, 4 * w)."""
        return self.final_layer(self.conv_layers(self.deconv_layers(features)))


class SapiensNetwork(nn.Module):
    """The whole network under the names of its checkpoints."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.backbone = Backbone(size)
        self.head = Head(size)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised pictures (batch, 3, height, width) to heatmaps (batch, keypoints, height / 4, width / 4)."""
        return self.head(self.backbone(images))


def size_of(tensors: Mapping[str, Tensor], *, n_heads: int | None = None) -> Size:
    """The network that a state dict belongs to.

    The grid is that of 1024 x 768 for the published widths; in networks of any other width it is as
    many patches as there are positions.

    Args:
        tensors: state dict with the official names.
        n_heads: where it is known; else as in `N_HEADS`, or of the usual width.

    Raises:
        StageUnavailable: these are not the tensors of a Sapiens pose network.
    """
    try:
        width = tensors["backbone.patch_embed.projection.weight"].shape[0]
        n_rows = tensors["backbone.pos_embed"].shape[1]
        ffn_width = tensors["backbone.layers.0.ffn.layers.1.weight"].shape[1]
        n_keypoints, head_width = tensors["head.final_layer.weight"].shape[:2]
    except (KeyError, IndexError, ValueError) as error:
        raise StageUnavailable("weights do not fit: not the tensors of a Sapiens pose network") from error
    layers = {name.split(".")[2] for name in tensors if name.startswith("backbone.layers.")}
    n_heads = n_heads or N_HEADS.get(width) or max(1, width // USUAL_HEAD_WIDTH)
    if width % n_heads:
        raise StageUnavailable(f"weights do not fit: {width} channels cannot be shared by {n_heads} heads")
    grid = PUBLISHED_GRID if width in N_HEADS else _grid_of(n_rows)
    return Size(width, len(layers), n_heads, ffn_width, head_width, n_keypoints, grid)


def _grid_of(n_rows: int) -> tuple[int, int]:
    """Patches down and across where there are so many positions, or one fewer and a class token: 4 to 3, or square."""
    for n_patches in (n_rows, n_rows - 1):
        unit = math.isqrt(n_patches // 12)
        if unit and 12 * unit**2 == n_patches:
            return 4 * unit, 3 * unit
    side = math.isqrt(n_rows)
    if side and n_rows - side**2 in (0, 1):
        return side, side
    raise StageUnavailable(f"weights do not fit: {n_rows} positions are neither a square grid nor one of 4 to 3")


def fit_positions(positions: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Positions of a pretraining, (1, rows, width), on the grid of a network.

    A class token's row, which comes first, is dropped; those of another grid are resized.

    Raises:
        StageUnavailable: the rows are no grid.
    """
    n_rows, n_wanted = positions.shape[1], math.prod(grid_hw)
    if n_rows in (n_wanted, n_wanted + 1):
        return positions[:, n_rows - n_wanted :]
    other = _grid_of(n_rows)
    patches = positions[:, n_rows - math.prod(other) :].transpose(1, 2).unflatten(2, other)
    resized = functional.interpolate(patches, size=grid_hw, mode="bicubic", align_corners=False)
    return resized.flatten(2).transpose(1, 2)


def load_network(weights: Path, *, script: bool = False, n_heads: int | None = None) -> SapiensNetwork:
    """The network ready for inference, on the CPU in float32.

    Args:
        weights: a `.pth` checkpoint, or a TorchScript file.
        script: it is the latter: a program, which must be one that is trusted.
        n_heads: see `size_of`.

    Raises:
        StageUnavailable: the file is no Sapiens pose checkpoint.
    """
    read = read_tensors(weights, script=script)
    # Copied out of the file, lest somebody who overwrites it kills us.
    tensors = {
        name: tensor.to(torch.float32, copy=True)
        for name, tensor in read.items()
        if not name.startswith(UNUSED_TENSORS)
    }
    size = size_of(tensors, n_heads=n_heads)
    tensors["backbone.pos_embed"] = fit_positions(tensors["backbone.pos_embed"], size.grid_hw)
    with torch.device("meta"):
        network = SapiensNetwork(size)
    check_fit(network, tensors, weights.name)
    network.load_state_dict(tensors, assign=True)
    return network.eval().requires_grad_(False)


def lower_precision(network: SapiensNetwork, dtype: torch.dtype) -> None:
    """Store the factors of all products in `dtype`, as autocast would cast them at every call: equal results."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            module.to(dtype)
