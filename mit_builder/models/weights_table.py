"""Every file of weights that a backend of this project can load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightsFile:
    """One downloadable file.

    Attributes:
        name: what users type.
        file_name: its name in the cache.
        urls: addresses, tried in order.
        sha256: hex digest, or None where the publisher gives none: then the first digest seen is recorded and kept.
        n_bytes: size, or None where unknown.
        licence: of the weights, as their publisher states it.
        purpose: what it is for.
        tensors: names and shapes that tell this kind of file from others.
    """

    name: str
    file_name: str
    urls: tuple[str, ...]
    sha256: str | None
    n_bytes: int | None
    licence: str
    purpose: str
    tensors: Mapping[str, tuple[int, ...]]


_LR_ASD_TENSORS = {
    "model.visualEncoder.block1.s_1.weight": (16, 1, 1, 5, 5),
    "model.detector.gru_backward.weight_ih_l0": (192, 256),
    "lossAV.FC.weight": (2, 128),
}
_TALKNET_TENSORS = {
    "model.visualFrontend.frontend3D.0.weight": (64, 1, 5, 7, 7),
    "model.crossA2V.self_attn.in_proj_weight": (384, 128),
    "lossAV.FC.weight": (2, 256),
}
_LR_ASD_ADDRESS = "https://raw.githubusercontent.com/Junhua-Liao/LR-ASD/main/weight/"
_TALKNET_DRIVE_ID = "1AbN9fCf9IexMxEKXLQY2KYBlb-IhSEea"
"""The file on Google Drive that TalkNet's own demo downloads."""

TABLE = (
    WeightsFile(
        name="lr-asd-talkset",
        file_name="lr_asd_finetuning_TalkSet.model",
        urls=(_LR_ASD_ADDRESS + "finetuning_TalkSet.model",),
        sha256="6b4ef53694e874e96cf630198dc479c78aebb3993bbf166aee3d926dfe7d9342",
        n_bytes=3_426_337,
        licence="MIT (Junhua Liao 2025)",
        purpose="speech.model lr-asd: LR-ASD tuned on TalkSet, for footage in the wild",
        tensors=_LR_ASD_TENSORS,
    ),
    WeightsFile(
        name="lr-asd-ava",
        file_name="lr_asd_pretrain_AVA.model",
        urls=(_LR_ASD_ADDRESS + "pretrain_AVA.model",),
        sha256="85e6c77fc981595234790d1e128ebb60352d37726b2445e0ef8891e2512fe9e3",
        n_bytes=3_426_337,
        licence="MIT (Junhua Liao 2025)",
        purpose="LR-ASD trained on AVA films, for comparison",
        tensors=_LR_ASD_TENSORS,
    ),
    WeightsFile(
        name="talknet-talkset",
        file_name="talknet_pretrain_TalkSet.model",
        urls=(f"https://drive.usercontent.google.com/download?id={_TALKNET_DRIVE_ID}&export=download&confirm=t",),
        sha256=None,
        n_bytes=None,
        licence="MIT (Tao Ruijie 2021)",
        purpose="speech.model talknet: TalkNet trained on TalkSet, the paper's model",
        tensors=_TALKNET_TENSORS,
    ),
)

SPEECH_MODELS = {"lr-asd": "lr-asd-talkset", "talknet": "talknet-talkset"}
"""Entry of the table for each `speech.model` that has weights: those tuned for footage in the wild."""
