from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serve

from mit_builder.errors import CannotContinue
from mit_builder.models.weights import http_file
from mit_builder.models.weights.http_file import DownloadFailed, download

BODY = bytes(range(256)) * 4000


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve() as files:
        files.body = BODY
        yield files


def test_downloads_and_reports_progress(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download(server.url, tmp_path / "part", progress=lambda n, total: seen.append((n, total)), pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert [n for n, _ in seen] == sorted(n for n, _ in seen)
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_cut_connections_are_continued_where_they_ended(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [300_000, 1, 500_000]
    download(server.url, tmp_path / "part", pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.ranges[0] is None
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert len(starts) == 3
    assert 0 < starts[0] <= starts[1] <= starts[2] <= 800_001


def test_a_later_call_goes_on_with_what_an_earlier_one_left(server: FileServer, tmp_path: Path) -> None:
    server.cuts = [600_000, 0, 0, 0]
    with pytest.raises(DownloadFailed):
        download(server.url, tmp_path / "part", pause_s=0)
    have = (tmp_path / "part").stat().st_size
    assert have > 0
    download(server.url, tmp_path / "part", pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.ranges[-1] == f"bytes={have}-"


@pytest.mark.parametrize("etag", ['"two"', 'W/"one"', ""])
def test_a_file_that_may_have_changed_is_fetched_anew(server: FileServer, tmp_path: Path, etag: str) -> None:
    server.cuts, server.etag = [600_000, 0, 0, 0], '"one"' if etag == '"two"' else etag
    with pytest.raises(DownloadFailed):
        download(server.url, tmp_path / "part", pause_s=0)
    server.body, server.etag = BODY[::-1], etag
    download(server.url, tmp_path / "part", pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY[::-1]


def test_what_lies_there_from_another_address_is_not_continued(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"something else")
    (tmp_path / "part.tag").write_text(f"{server.url}x\n{server.etag}")
    download(server.url, tmp_path / "part", pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY
    assert server.ranges == [None]


def test_busy_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    download(server.url, tmp_path / "part", pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY


def test_range_past_the_end_starts_anew(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(BODY + b"more")
    (tmp_path / "part.tag").write_text(f"{server.url}\n{server.etag}")
    server.statuses = [416]
    download(server.url, tmp_path / "part", pause_s=0)
    assert (tmp_path / "part").read_bytes() == BODY


def test_missing_file_is_named_at_once(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(DownloadFailed, match=r"127\.0\.0\.1:\d+ answers 404 Not Found"):
        download(server.url, tmp_path / "part", pause_s=0)
    assert len(server.ranges) == 1


def test_web_page_is_not_taken_for_the_file(server: FileServer, tmp_path: Path) -> None:
    server.content_type = "text/html; charset=utf-8"
    with pytest.raises(DownloadFailed, match="a web page"):
        download(server.url, tmp_path / "part", pause_s=0)


def test_unreachable_server_is_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"cannot reach 127\.0\.0\.1:9"):
        download("http://127.0.0.1:9/file.model", tmp_path / "part", pause_s=0)


def test_full_disk_stops_before_anything_is_written(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")(10, 9, 1000)
    monkeypatch.setattr(http_file.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(CannotContinue, match=r"no space in .*1 MB needed, 0 MB free; MIT_BUILDER_WEIGHTS"):
        download(server.url, tmp_path / "part", pause_s=0)
    assert not (tmp_path / "part").exists()
