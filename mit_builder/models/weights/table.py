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
        is_script: a TorchScript program: it is run, so only a known digest or the user's word makes it usable.
    """

    name: str
    file_name: str
    urls: tuple[str, ...]
    sha256: str | None
    n_bytes: int | None
    licence: str
    purpose: str
    tensors: Mapping[str, tuple[int, ...]]
    is_script: bool = False


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

_YOLO_ADDRESS = "https://github.com/ultralytics/assets/releases/download/v8.4.0/"
"""The release that ultralytics 8.4.190 downloads from."""


def _yolo(size: str, *, channels: int, joined: tuple[int, int], points: int) -> WeightsFile:
    """A pose model: channels of its first layer, those that its first block joins, and of its points' last layer."""
    return WeightsFile(
        name=f"yolo26{size}-pose",
        file_name=f"yolo26{size}-pose.pt",
        urls=(f"{_YOLO_ADDRESS}yolo26{size}-pose.pt",),
        sha256=None,
        n_bytes=None,
        licence="AGPL-3.0 (Ultralytics)",
        purpose=f"filter.detector yolo26{size}-pose: people" + ", profile paper" * (size == "x"),
        tensors={
            "model.0.conv.weight": (channels, 3, 3, 3),
            "model.2.cv2.conv.weight": (*joined, 1, 1),
            "model.23.one2one_cv4_kpts.0.weight": (51, points, 1, 1),
        },
    )


_YOLO = (
    _yolo("n", channels=16, joined=(64, 48), points=85),
    _yolo("s", channels=32, joined=(128, 96), points=85),
    _yolo("m", channels=64, joined=(256, 192), points=85),
    _yolo("l", channels=64, joined=(256, 256), points=85),
    _yolo("x", channels=96, joined=(384, 384), points=96),
)

_SAPIENS_ADDRESS = "https://huggingface.co/noahcao/sapiens-pose-coco/resolve/main/"
_SAPIENS_SIZES = {"0.3b": (1024, 24, 620), "0.6b": (1280, 32, 695), "1b": (1536, 40, 727), "2b": (1920, 48, 745)}
"""Width, layers, and the precision on COCO-WholeBody in thousandths that is part of the files' names."""


def _sapiens(size: str, *, is_script: bool) -> WeightsFile:
    """A network of 133 keypoints (those of the "facebook" repositories have 308)."""
    width, n_layers, precision = _SAPIENS_SIZES[size]
    name = f"sapiens_{size}_coco_wholebody_best_coco_wholebody_AP_{precision}"
    folder = "sapiens_lite_host/torchscript" if is_script else "sapiens_host"
    ending = "_torchscript.pt2" if is_script else ".pth"
    return WeightsFile(
        name=f"sapiens-{size}-torchscript" if is_script else f"sapiens-{size}",
        file_name=name + ending,
        urls=(f"{_SAPIENS_ADDRESS}{folder}/pose/checkpoints/sapiens_{size}/{name}{ending}",),
        sha256=None,
        n_bytes=None,
        licence="CC-BY-NC 4.0, non-commercial (Meta)",
        purpose=f"pose.model sapiens-{size}" + (", as a TorchScript program" if is_script else ""),
        tensors={
            "backbone.patch_embed.projection.weight": (width, 3, 16, 16),
            f"backbone.layers.{n_layers - 1}.ffn.layers.1.weight": (width, 4 * width),
            "head.final_layer.weight": (133, 768, 1, 1),
        },
        is_script=is_script,
    )


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
    *_YOLO,
    *(_sapiens(size, is_script=is_script) for size in _SAPIENS_SIZES for is_script in (False, True)),
)
