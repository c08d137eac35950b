"""YOLO as a backend of `filter.detector`: loading it by its settings, and what rows call it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from mit_builder.config import backends
from mit_builder.config.settings import DetectSettings
from mit_builder.models.base import PeopleDetector
from mit_builder.models.devices import device_of
from mit_builder.models.weights import store


def load(settings: DetectSettings) -> PeopleDetector:
    """The detector.

    Raises:
        StageUnavailable: a package or its weights are missing.
    """
    path = store.file_for(backends.find("people", settings.detector))
    from mit_builder.models.yolo.people import YoloPeople

    return YoloPeople(
        path,
        settings.detector,
        confidence=settings.person_confidence,
        device=device_of(settings.device),
        batch=settings.detect_batch,
    )


def label(settings: DetectSettings) -> str:
    """Package and weights with version and digest, without loading them."""
    try:
        package = version("ultralytics")
    except PackageNotFoundError:
        package = "(missing)"
    return f"ultralytics {package} {store.label(settings.detector)}"
