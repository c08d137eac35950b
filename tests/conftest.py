from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import LOG
from object_storage import ENVIRONMENT, S3Server, s3_server

from mit_builder.console import hints

SLOW = (
    *("contract/", "e2e/", "export/", "faults/", "media/", "models/test_mediapipe", "web/"),
    *("test_api", "test_cli", "test_damage", "test_docs", "test_download", "test_duplicates", "test_engine"),
    *("test_filter", "test_forecast", "test_foretell", "test_hints", "test_ledger_", "test_listing", "test_logins"),
    *("test_make_", "test_memory", "test_picture_cases", "test_playlists", "test_plugins", "test_preview"),
    *("test_program", "test_readers", "test_report", "test_review", "test_s3", "test_scheduling", "test_schema_docs"),
    *("test_selection", "test_settings_book", "test_settled", "test_shot_scan", "test_shots", "test_takedown"),
    *("test_validate", "test_waiting"),
)
"""How names of tests begin that `make quick` leaves out: they start programs, decode media or run whole pipelines."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Of a command that a script put into the background: every program that a test starts would be deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    here = Path(__file__).resolve().parent
    for item in items:
        if item.path.resolve().relative_to(here).as_posix().startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="module")
def nothing_lies_about() -> Iterator[None]:
    """What a module leaves to the garbage collector is found here, not in the middle of another module's tests."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def no_command_was_given() -> None:
    """Advice names no workspace of a test before."""
    hints.begin()


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every call of a fake stage leaves a line."""
    monkeypatch.setenv(LOG, str(tmp_path / "calls"))
    return tmp_path / "calls"


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
