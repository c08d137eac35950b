from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Samples, specifications and small weights that lie beside a developer's checkout."""
    place = os.environ.get("MIT_BUILDER_TEST_SHARED") or Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(place)
    if not (folder / "samples").is_dir():
        pytest.skip("no shared samples: set MIT_BUILDER_TEST_SHARED to their folder")
    return folder


@pytest.fixture(scope="session")
def demo_video() -> Path:
    """The bundled demo, or another one that MIT_BUILDER_TEST_DEMO names; its truth.json lies beside it."""
    bundled = Path(__file__).resolve().parent.parent / "manifests" / "demo" / "demo.mp4"
    return Path(os.environ.get("MIT_BUILDER_TEST_DEMO") or bundled).resolve()
