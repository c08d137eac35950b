"""The encoder gives what the transformers library gives for the same weights (tests/make_wav2vec2_small.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="wav2vec2 runs in torch")

from mit_builder.errors import ConfigError  # noqa: E402
from mit_builder.exports.encoder import load_encoder  # noqa: E402

SMALL = np.load(Path(__file__).parent / "data" / "wav2vec2_small.npz")
GAIN, DIRECTION = (f"wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original{i}" for i in (0, 1))
N_FRAMES = 10


def weights() -> dict[str, torch.Tensor]:
    return {name[2:]: torch.from_numpy(SMALL[name]) for name in SMALL.files if name.startswith("w:")}


def write_safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As the format's description has it: length, JSON, bytes."""
    head, body = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        data = tensor.half().numpy().tobytes()
        places = [len(body), len(body) + len(data)]
        head[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": places}  # type: ignore[dict-item]
        body += data
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def write_torch(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    torch.save(tensors, path)


@pytest.mark.parametrize(("name", "write"), [("m.safetensors", write_safetensors), ("pytorch_model.bin", write_torch)])
@pytest.mark.parametrize("old_names", [False, True])
def test_hidden_states_equal_those_of_transformers(tmp_path: Path, name: str, write: object, old_names: bool) -> None:
    tensors = weights()
    if old_names:
        place = "encoder.pos_conv_embed.conv"
        tensors = {k.removeprefix("wav2vec2."): v for k, v in tensors.items() if k not in (GAIN, DIRECTION)}
        tensors |= {f"{place}.weight_g": weights()[GAIN], f"{place}.weight_v": weights()[DIRECTION]}
    write(tmp_path / name, tensors)  # type: ignore[operator]
    found = load_encoder(str(tmp_path / name)).encode(SMALL["sound"].astype(np.float32), N_FRAMES)
    assert found.dtype == np.float32
    assert found.shape == (N_FRAMES, 2, 128)
    np.testing.assert_allclose(found, SMALL["expected"], atol=2e-5)


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    tensors = weights()
    del tensors["wav2vec2.encoder.layers.1.layer_norm.weight"]
    torch.save(tensors, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match=r"encoder\.layers\.1\.layer_norm\.weight' is missing"):
        load_encoder(str(tmp_path / "other.pt"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConfigError, match="no tensors by name"):
        load_encoder(str(tmp_path / "list.pt"))
    for name in ("cut.safetensors", "cut.bin"):
        (tmp_path / name).write_bytes(b"\x00" * 30)
        with pytest.raises(ConfigError, match="cannot read"):
            load_encoder(str(tmp_path / name))


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]

    torch.save({"x": Evil()}, tmp_path / "evil.bin")
    with pytest.raises(ConfigError, match="cannot read"):
        load_encoder(str(tmp_path / "evil.bin"))
    assert not (tmp_path / "touched").exists()
