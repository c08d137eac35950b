"""Writes small random weights, a sound and hidden states for the parity test with the transformers library.

    python tests/make_wav2vec2_small.py tests/export/data/wav2vec2_small.npz

Needs torch and transformers (made with 5.24.0). The interpolation between convolutions and transformer is that of
Hallo's wav2vec2: linear, corners aligned.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from transformers import Wav2Vec2Config, Wav2Vec2Model

N_FRAMES = 10


def main(path: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
    config = Wav2Vec2Config(**sizes, conv_dim=(8,) * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=16)
    model = Wav2Vec2Model(config).eval()
    for parameter in model.parameters():
        parameter.data = (torch.randn_like(parameter) * 0.2 + parameter * 0.5).half().float()
    sound = (np.random.default_rng(0).normal(size=N_FRAMES * 640) * 0.1).astype(np.float16).astype(np.float32)
    normal = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    with torch.no_grad():
        steps = model.feature_extractor(torch.from_numpy(normal)[None])
        steps = torch.nn.functional.interpolate(steps, size=N_FRAMES, mode="linear", align_corners=True)
        hidden, _ = model.feature_projection(steps.transpose(1, 2))
        states: list[torch.Tensor] = []
        for layer in model.encoder.layers:
            layer.register_forward_hook(lambda _, __, out: states.append(out[0] if isinstance(out, tuple) else out))
        model.encoder(hidden)
    expected = torch.stack([state.reshape(N_FRAMES, -1) for state in states], dim=1).numpy()
    weights = {
        f"w:wav2vec2.{k}": v.numpy().astype(np.float16) for k, v in model.state_dict().items() if "masked" not in k
    }
    np.savez_compressed(path, sound=sound.astype(np.float16), expected=expected, **weights)


if __name__ == "__main__":
    main(sys.argv[1])
