from __future__ import annotations

import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from asd_parity import spec_file
from filled_weights import filled, save_filled

pytest.importorskip("torch", reason="Sapiens needs torch, which the embedded environment does not have")

import torch
from make_sapiens_small import POINTS
from tiny_sapiens import SHAPE, boxes, checkpoint, picture, program, shapes
from torch import nn
from torch.nn import functional

from mit_builder.errors import StageUnavailable
from mit_builder.models.sapiens.crops import batch_of, regions_of
from mit_builder.models.sapiens.network import (
    SapiensNetwork,
    Size,
    fit_positions,
    load_network,
    lower_precision,
    size_of,
)
from mit_builder.models.torch_backend import open_script, read_tensors

torch.set_num_threads(1)  # as in production
SMALL_FIXTURE = Path(__file__).parent / "data" / "sapiens_small.npz"
TOLERANCE = 1e-4
"""Of heatmaps and intermediates, absolute (sapiens.md)."""


def intermediates(network: SapiensNetwork, images: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        tokens = network.backbone.layers[0](network.backbone.embed(torch.from_numpy(images)))
        features = network.backbone(torch.from_numpy(images))
        found = {
            "tokens_after_layer0": tokens,
            "backbone_featmap": features,
            "after_deconv": network.head.deconv_layers(features)[:1],
            "heatmaps": network(torch.from_numpy(images)),
        }
    return {name: tensor.numpy() for name, tensor in found.items()}


def test_parity_with_sapiens_decode_parity_tiny_network(shared_dir: Path, tmp_path: Path) -> None:
    theirs = np.load(spec_file(shared_dir, "sapiens_decode_parity.npz"))
    config = json.loads(str(theirs["tiny/config"]))
    listed = json.loads(spec_file(shared_dir, "sapiens_tiny_state_dict.json").read_text())["tensors"]
    named = {name: tensor["shape"] for name, tensor in listed.items()}
    weights = save_filled(tmp_path / "tiny.pth", named, salt=int(theirs["fill_salt"]))
    network = load_network(weights, n_heads=config["heads"])
    assert network.size.input_hw == tuple(config["hw"])
    for name, array in intermediates(network, theirs["tiny/input"]).items():
        np.testing.assert_allclose(array, theirs[f"tiny/{name}"], rtol=0, atol=TOLERANCE, err_msg=name)


def test_parity_fixtures_are_filled_as_in_sapiens_tiny_state_dict(shared_dir: Path) -> None:
    listed = json.loads(spec_file(shared_dir, "sapiens_tiny_state_dict.json").read_text())
    for name, tensor in listed["tensors"].items():
        values = filled(name, tensor["shape"], listed["fill_salt"])
        assert zlib.crc32(np.ascontiguousarray(values).tobytes()) == tensor["fill_crc32"], name


def test_parity_with_sapiens_tiny_torchscript(shared_dir: Path) -> None:
    path = spec_file(shared_dir, "sapiens_tiny_torchscript.pt2")
    theirs = np.load(spec_file(shared_dir, "sapiens_decode_parity.npz"))
    config, images = json.loads(str(theirs["tiny/config"])), torch.from_numpy(theirs["tiny/input"])
    network = load_network(path, script=True, n_heads=config["heads"])
    with torch.no_grad():
        official = open_script(path)(images)
        np.testing.assert_allclose(network(images), official, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(official, theirs["tiny/heatmaps"], rtol=0, atol=TOLERANCE)


def test_parity_with_the_small_fixture_of_this_repository(tmp_path: Path) -> None:
    batch = batch_of([picture(0)] * 2, regions_of(boxes(1)[:, 0]), (128, 96))
    with torch.inference_mode():
        found = load_network(checkpoint(tmp_path / "tiny.pth"))(batch.crops())[:, POINTS]
    np.testing.assert_allclose(found, np.load(SMALL_FIXTURE)["heatmaps"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("width", "n_layers", "n_heads", "backbone", "head", "n_tensors"),
    [
        (1024, 24, 16, 306.2, 23.3, 301),
        (1280, 32, 16, 634.6, 26.5, 397),
        (1536, 40, 24, 1139.2, 29.6, 493),
        (1920, 48, 32, 2131.9, 34.3, 589),
    ],
)
def test_published_sizes_have_their_tensors_and_parameters(
    width: int, n_layers: int, n_heads: int, backbone: float, head: float, n_tensors: int
) -> None:
    size = Size(width, n_layers, n_heads, 4 * width, 768, 133, (64, 48))
    with torch.device("meta"):
        network = SapiensNetwork(size)
    tensors = network.state_dict()
    assert len(tensors) == n_tensors
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (network.backbone, network.head)]
    assert millions == pytest.approx([backbone, head], abs=0.06)
    assert size_of(tensors) == size
    assert size.input_hw == (1024, 768)
    assert tensors["head.deconv_layers.0.weight"].shape == (width, 768, 4, 4)


def test_normalisations_add_their_epsilon_to_a_variance_as_small() -> None:
    """The fixtures' values vary too much to tell one epsilon from another."""
    with torch.device("meta"):
        network = SapiensNetwork(Size(*SHAPE))
    found = {nn.LayerNorm: 0, nn.InstanceNorm2d: 0}
    for layer in network.modules():
        for kind, epsilon in ((nn.LayerNorm, 1e-6), (nn.InstanceNorm2d, 1e-5)):
            if isinstance(layer, kind):
                signs = torch.tensor([1.0, -1.0]).repeat(32)
                values = epsilon**0.5 * (signs if kind is nn.LayerNorm else signs.reshape(1, 1, 8, 8))
                plain = kind(64 if kind is nn.LayerNorm else 1, eps=layer.eps)
                torch.testing.assert_close(plain(values).detach().flatten(), signs / 2**0.5)
                found[kind] += 1
    assert found == {nn.LayerNorm: 2 * 2 + 1, nn.InstanceNorm2d: 4}


def test_a_network_of_another_width_has_heads_of_64_channels_and_the_grid_of_its_positions() -> None:
    tensors = {name: torch.zeros(shape) for name, shape in shapes(128, 1, 2, 256, 8, 5, (12, 9)).items()}
    assert size_of(tensors) == Size(128, 1, 2, 256, 8, 5, (12, 9))
    assert size_of(tensors, n_heads=8).n_heads == 8


@pytest.mark.parametrize("variant", ["flat", "nested", "module.", "script"])
def test_the_same_network_comes_out_of_every_kind_of_file(tmp_path: Path, variant: str) -> None:
    expected = read_tensors(save_filled(tmp_path / "flat.pth", shapes()))
    path = tmp_path / f"{variant.strip('.')}.pth"
    if variant == "script":
        program(path)
    elif variant == "nested":
        checkpoint(path)
    elif variant == "module.":
        save_filled(path, shapes())
        torch.save({f"module.{name}": tensor for name, tensor in torch.load(path).items()}, path)
    network = load_network(path, script=variant == "script")
    assert network.size == Size(*SHAPE)
    assert not network.training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_tensors_of_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    path = save_filled(tmp_path / "half.pth", shapes())
    torch.save({name: tensor.bfloat16() for name, tensor in torch.load(path).items()}, path)
    assert {tensor.dtype for tensor in load_network(path).state_dict().values()} == {torch.float32}


def test_what_mmengine_logged_beside_the_tensors_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class HistoryBuffer:
        def __init__(self) -> None:
            self.max_length, self._log_history = 10, np.arange(3.0)
            self.last = self._log_history[-1]

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    module = types.ModuleType(HistoryBuffer.__module__)
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = checkpoint(tmp_path / "trained.pth")
    logged = {"log_scalars": {"train/loss": HistoryBuffer()}, "seed": np.float64(3)}
    torch.save({**torch.load(path), "message_hub": logged}, path)
    monkeypatch.undo()
    assert load_network(path).size == Size(*SHAPE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone.ln1.bias": None}, "1 tensors missing, first backbone.ln1.bias"),
        ({"backbone.cls_token": (1, 1, 64)}, "1 tensors unknown, first backbone.cls_token"),
        ({"head.conv_layers.3.bias": (31,)}, "1 tensors of another shape, first head.conv_layers.3.bias"),
        ({"head.final_layer.weight": None}, "not the tensors of a Sapiens pose network"),
        ({"backbone.pos_embed": (1, 55, 64)}, "55 positions are neither a square grid nor one of 4 to 3"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    changed = {name: shape for name, shape in (shapes() | change).items() if shape is not None}
    with pytest.raises(StageUnavailable, match=message):
        load_network(save_filled(tmp_path / "other.pth", changed))


def test_a_class_token_has_no_position(tmp_path: Path) -> None:
    positions = torch.rand(1, 3073, 4)
    assert torch.equal(fit_positions(positions, (64, 48)), positions[:, 1:])
    with_token = load_network(save_filled(tmp_path / "token.pth", shapes() | {"backbone.pos_embed": (1, 49, 64)}))
    assert with_token.size.grid_hw == (8, 6)
    assert with_token.backbone.pos_embed.shape == (1, 48, 64)


@pytest.mark.parametrize(("n_rows", "grid"), [(4096, (64, 64)), (4097, (64, 64)), (768, (32, 24)), (769, (32, 24))])
def test_positions_of_another_grid_are_resized(n_rows: int, grid: tuple[int, int]) -> None:
    positions = torch.rand(1, n_rows, 3)
    fitted = fit_positions(positions, (64, 48))[0].reshape(64, 48, 3)
    pictures = positions[0, n_rows % 2 :].reshape(*grid, 3).permute(2, 0, 1)[None]
    resized = functional.interpolate(pictures, (64, 48), mode="bicubic", align_corners=False)
    torch.testing.assert_close(fitted, resized[0].permute(1, 2, 0))
    # Rows of the grid stay rows: the middle of the left edge is near the middle of the old one.
    assert fitted[32, 0].sub(pictures[0, :, grid[0] // 2 - 1 : grid[0] // 2 + 1, :2].mean(dim=(1, 2))).abs().max() < 0.8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_factors_stored_in_half_precision_give_what_autocast_gives(tmp_path: Path, dtype: torch.dtype) -> None:
    path, images = checkpoint(tmp_path / "tiny.pth"), torch.randn(1, 3, 128, 96)
    cast, stored = load_network(path), load_network(path)
    lower_precision(stored, dtype)
    with torch.inference_mode(), torch.autocast("cpu", dtype):
        assert torch.equal(cast(images), stored(images))
