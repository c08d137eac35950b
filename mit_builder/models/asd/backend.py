"""The speaker networks as backends of `speech.model`: loading one by its settings, and what rows call it."""

from __future__ import annotations

from mit_builder.config import backends
from mit_builder.config.settings import SpeechSettings
from mit_builder.models.base import SpeakerScorer
from mit_builder.models.devices import device_of
from mit_builder.models.weights import store


def load(settings: SpeechSettings) -> SpeakerScorer:
    """The network.

    Raises:
        StageUnavailable: a package or its weights are missing.
    """
    path, device = store.file_for(backends.find("speaker", settings.model)), device_of(settings.device)
    if settings.model == "talknet":
        from mit_builder.models.asd.talknet import TalkNet

        return TalkNet(path, device=device, precision=settings.precision)
    from mit_builder.models.asd.lr_asd import LrAsd

    return LrAsd(path, device=device, precision=settings.precision)


def label(settings: SpeechSettings) -> str:
    """Its weights with their digest, without loading them."""
    return store.label(backends.find("speaker", settings.model).weights[0])
