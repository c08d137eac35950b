from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_storage import ENVIRONMENT, S3Server, s3_server


@pytest.fixture(autouse=True, scope="module")
def nothing_lies_about() -> Iterator[None]:
    """What a module leaves to the garbage collector is found here, not in the middle of another module's tests."""
    yield
    gc.collect()


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


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[S3Server]:
    """One S3 server on loopback for all tests of this process."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_endpoint: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server, with the environment that leads to it and a temporary folder of the test's own."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint.endpoint)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return s3_endpoint
