from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from web_site import serve_site

from manifests.rows import Source
from manifests.sources import file_source, url_source
from mit_builder.config.settings import DownloadSettings
from mit_builder.engine.worker import Task, UnitContext, Worker, WorkerSpec
from mit_builder.errors import SourceError
from mit_builder.stage import Reject
from mit_builder.storage.scratch import PARTIAL
from mit_builder.storage.workspace import Workspace
from mit_builder.web import budget
from stages.download import Download

pytestmark = pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with serve_site({"zeros.mp4": bytes(3_000_000)}) as url:
        yield url


def fetch(source: Source, tmp_path: Path, **settings: Any) -> None:
    stage = Download(DownloadSettings.model_validate({"allow_private_addresses": True, **settings}))
    stage.setup()
    (tmp_path / "tmp").mkdir()
    list(stage.process(source, UnitContext(Workspace(tmp_path / "ws"), "0123456789abcdef", tmp_path / "tmp")))


def n_bytes_written(tmp_path: Path) -> int:
    paths = [path for folder in ("tmp", "ws") for path in (tmp_path / folder).rglob("*")]
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


def test_a_file_without_end_is_rejected_while_it_comes(site: str, tmp_path: Path) -> None:
    with pytest.raises(Reject) as verdict:
        fetch(url_source(f"{site}/endless.mp4"), tmp_path, max_file_gb=0.005)
    assert verdict.value.reason == "too_large"
    assert n_bytes_written(tmp_path) < 20e6  # the limit, and one block of yt-dlp (at most 4 MiB)


def test_a_file_that_says_it_is_too_large_is_rejected_at_its_first_block(site: str, tmp_path: Path) -> None:
    with pytest.raises(Reject) as verdict:
        fetch(url_source(f"{site}/zeros.mp4"), tmp_path, max_file_gb=0.002)
    assert verdict.value.measurements == {"n_bytes": 3_000_000}
    assert n_bytes_written(tmp_path) < 1e6


def test_a_page_without_end_fails_before_it_fills_the_memory(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "MAX_PAGE_BYTES", 1 << 20)
    with pytest.raises(SourceError, match="page is larger than 1 MiB") as failed:
        fetch(url_source(f"{site}/endless"), tmp_path)
    assert failed.value.failure_class == "permanent"


def test_a_download_that_takes_too_long_is_ended(site: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"longer than 0\.3 s .*time_limit_s") as failed:
        fetch(url_source(f"{site}/endless.mp4"), tmp_path, time_limit_s=0.3, rate_limit_kbps=2000)
    assert failed.value.failure_class == "transient"


@pytest.mark.parametrize("kind", ["url", "file"])
def test_a_disk_that_gets_full_meanwhile_is_a_resource_failure(
    kind: str, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.mp4").write_bytes(bytes(3_000_000))
    source = url_source(f"{site}/endless.mp4") if kind == "url" else file_source(tmp_path / "x.mp4")
    monkeypatch.setattr(budget, "_DISK_EVERY_S", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9 + 2e6 - n_bytes_written(tmp_path)))
    with pytest.raises(SourceError, match=r"less than download\.min_free_gb") as failed:
        fetch(source, tmp_path)
    assert failed.value.failure_class == "resource"


def test_the_units_folder_is_gone_after_every_limit(site: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    settings = DownloadSettings(allow_private_addresses=True, max_file_gb=0.002)
    worker = Worker(WorkerSpec("stages.download:Download", settings, workspace.uri, "run"))
    assert worker.ready() is None
    sources = [url_source(f"{site}/{name}") for name in ("endless.mp4", "zeros.mp4", "expired.mp4")]
    entries = worker.run([Task(s.source_id, f"{i}" * 16, s) for i, s in enumerate(sources)])
    assert [(entry.status, entry.reason) for entry in entries[:2]] == [("rejected", "too_large")] * 2
    assert entries[2].status == "failed"
    assert list(workspace.scratch("run").iterdir()) == []
    # The third failed transiently: another attempt may go on with what it has.
    assert [folder.name for folder in (tmp_path / "ws" / PARTIAL).iterdir()] == ["2" * 16]
