from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from file_server import FileServer, serve

from manifests.ledger import Entry
from manifests.rows import Video
from manifests.sources import url_source
from mit_builder.config.settings import DownloadSettings
from mit_builder.engine.worker import Task, Worker, WorkerSpec
from mit_builder.media.write import write_video
from mit_builder.storage.scratch import KEEP_PARTS_S, PARTIAL
from mit_builder.storage.workspace import Workspace
from mit_builder.web.partial import Identity, Partial

pytestmark = pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
WHOLE = 10**9
CUTS = (WHOLE, 20_000, 20_000, 20_000, 20_000)
"""Of yt-dlp's first look at the file, and of its four tries to fetch it."""
KEY = "0123456789abcdef"
Attempt = Callable[[], Entry]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    pictures = np.random.default_rng(1).integers(0, 255, (25, 144, 192, 3), np.uint8)
    write_video(path, list(pictures), width_px=192, height_px=144)
    return path.read_bytes()


@pytest.fixture
def server(video: bytes) -> Iterator[FileServer]:
    with serve() as files:
        files.body, files.content_type = video, "video/mp4"
        files.url = files.url.replace("file.model", "a.mp4")
        yield files


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def attempt(server: FileServer, workspace: Workspace) -> Attempt:
    """One attempt of a worker at the file, a new worker each time."""

    def attempt() -> Entry:
        settings = DownloadSettings(allow_private_addresses=True, timeout_s=5)
        worker = Worker(WorkerSpec("stages.download:Download", settings, workspace.uri, "run"))
        assert worker.ready() is None
        source = url_source(server.url)
        (entry,) = worker.run([Task(source.source_id, KEY, source)])
        return entry

    return attempt


def unfinished(workspace: Workspace) -> list[str]:
    assert workspace.root is not None
    return sorted(path.name for path in (workspace.root / PARTIAL).glob("*/*"))


def n_bytes_left(workspace: Workspace) -> int:
    (part,) = workspace.partial(KEY).glob("*.part")
    return part.stat().st_size


def fetched(entry: Entry, workspace: Workspace) -> bytes:
    assert entry.status == "done", entry.message
    (video,) = entry.outputs
    assert isinstance(video, Video)
    return workspace.read(video.media.key)


def test_the_next_attempt_asks_for_the_rest_and_the_bytes_are_right(
    server: FileServer, attempt: Attempt, workspace: Workspace
) -> None:
    server.cuts = list(CUTS)
    entry = attempt()
    assert (entry.status, entry.failure_class) == ("failed", "transient")
    n_bytes = n_bytes_left(workspace)
    assert n_bytes > 20_000
    assert fetched(attempt(), workspace) == server.body
    assert server.ranges[:2] == [None, None]
    assert server.ranges[5:] == [None, f"bytes={n_bytes}-"]
    assert unfinished(workspace) == []


@pytest.mark.parametrize("honours_condition", [True, False])
@pytest.mark.parametrize("between", ["attempts", "tries"])
def test_a_file_that_changed_meanwhile_is_not_spliced(
    server: FileServer, attempt: Attempt, workspace: Workspace, between: str, honours_condition: bool
) -> None:
    changed = server.body + b"\0\0\0\x0efree changed"
    server.honours_condition = honours_condition
    server.cuts = list(CUTS)
    if between == "attempts":
        assert attempt().failure_class == "transient"
        rest = f"bytes={n_bytes_left(workspace)}-"
        server.body, server.etag = changed, '"two"'
        assert fetched(attempt(), workspace) == changed
        assert server.ranges[6:] == ([rest] if honours_condition else [rest, None])
        return
    server.after_answers = (3, lambda: (setattr(server, "body", changed), setattr(server, "etag", '"two"')))
    server.cuts = [WHOLE, 20_000, 20_000]
    assert fetched(attempt(), workspace) == changed


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_file_that_cannot_be_known_again_is_fetched_whole(
    server: FileServer, attempt: Attempt, workspace: Workspace, etag: str
) -> None:
    server.etag = etag
    server.cuts = list(CUTS)
    assert attempt().failure_class == "transient"
    assert fetched(attempt(), workspace) == server.body
    assert server.ranges[-1] is None


def test_a_date_will_do_where_there_is_no_etag(server: FileServer, attempt: Attempt, workspace: Workspace) -> None:
    server.etag, server.modified = "", "Wed, 21 Oct 2015 07:28:00 GMT"
    server.cuts = list(CUTS)
    assert attempt().failure_class == "transient"
    rest = f"bytes={n_bytes_left(workspace)}-"
    assert fetched(attempt(), workspace) == server.body
    assert server.ranges[-1] == rest


def test_a_part_that_is_longer_than_the_file_is_not_taken_for_it(
    server: FileServer, attempt: Attempt, workspace: Workspace
) -> None:
    server.cuts = list(CUTS)
    assert attempt().failure_class == "transient"
    (path,) = workspace.partial(KEY).glob("*.part")
    path.write_bytes(bytes(len(server.body) + 50))  # yt-dlp would take it for complete: less than 100 bytes more
    assert fetched(attempt(), workspace) == server.body


def test_a_file_that_was_finished_before_the_worker_died_is_not_fetched_again(
    server: FileServer, attempt: Attempt, workspace: Workspace
) -> None:
    server.cuts = list(CUTS)
    assert attempt().failure_class == "transient"
    (path,) = workspace.partial(KEY).glob("*.part")
    path.unlink()
    path.with_suffix("").write_bytes(server.body)
    assert fetched(attempt(), workspace) == server.body
    assert server.ranges[-1] == f"bytes={len(server.body) - 1}-"


@pytest.mark.parametrize("statuses", [[404], [401]])
def test_nothing_is_kept_of_what_fails_for_good(
    server: FileServer, attempt: Attempt, workspace: Workspace, statuses: list[int]
) -> None:
    server.cuts = list(CUTS)
    attempt()
    assert unfinished(workspace)
    server.statuses = statuses
    assert attempt().status == "failed"
    assert unfinished(workspace) == []


def test_parts_outlive_a_run_but_not_two_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for workspace in (Workspace(tmp_path / "ws"), Workspace("memory://parts")):
        (workspace.partial("one") / "x").write_text("x")
        workspace.sweep()
        assert (workspace.partial("one") / "x").exists()
        workspace.drop_partial("two")
        workspace.sweep(keep_partial_s=0)
        assert list(workspace.partial("one").iterdir()) == []
        workspace.drop_partial("one")
    assert KEEP_PARTS_S == 172800


def test_what_cannot_be_gone_on_with_is_removed(tmp_path: Path) -> None:
    known = json.dumps({"etag": '"x"', "modified": None, "n_bytes": 9})
    for name, text in (("a.mp4.part", "123"), ("a.mp4.part.json", known), ("b.mp4.part", "1"), ("c.mp4", "x")):
        (tmp_path / name).write_text(text)
    for name, text in (("d.mp4.part", "1"), ("d.mp4.part.json", "{"), ("e.mp4.part.json", known), ("f.ytdl", "x")):
        (tmp_path / name).write_text(text)
    (tmp_path / "folder").mkdir()
    Partial(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4.part", "a.mp4.part.json"]


def test_a_piece_fits_where_nothing_that_is_told_differs() -> None:
    whole = Identity('"x"', "today", 9)
    assert Identity('"x"', None, 9).fits(whole)
    for other in (Identity('"y"', "today", 9), Identity(None, "then", 9), Identity('"x"', "today", 8)):
        assert not other.fits(whole)
    assert whole.condition == '"x"'
    assert Identity(None, "today", 9).condition == "today"
    assert Identity(None, None, 9).condition is None
    assert Identity('"x"', None, None).condition is None
