"""Names and shapes of the tensors in the published files of the speaker networks."""

from __future__ import annotations

from collections.abc import Callable

Shapes = dict[str, tuple[int, ...]]

LR_ASD_HEAD: Shapes = {"lossV.FC.weight": (2, 128), "lossV.FC.bias": (2,)}
TALKNET_UNUSED: Shapes = {
    "model.visualFrontend.resnet.layer1.downsample.weight": (64, 64, 1, 1),
    "lossA.FC.weight": (2, 128),
    "lossA.FC.bias": (2,),
    "lossV.FC.weight": (2, 128),
    "lossV.FC.bias": (2,),
}
"""Tensors of the files that the networks do without."""


def lr_asd() -> Shapes:
    from mit_builder.models.asd.lr_asd import LrAsdNetwork

    return {name: tuple(tensor.shape) for name, tensor in LrAsdNetwork().state_dict().items()} | LR_ASD_HEAD


def talknet() -> Shapes:
    from mit_builder.models.asd.talknet import TalkNetNetwork

    return {name: tuple(tensor.shape) for name, tensor in TalkNetNetwork().state_dict().items()} | TALKNET_UNUSED


OF: dict[str, Callable[[], Shapes]] = {"lr-asd": lr_asd, "talknet": talknet}
