from __future__ import annotations

import gc
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from manifests.ledger import Entry
from manifests.rows import Video
from manifests.sources import url_source
from mit_builder.config.settings import DownloadSettings
from mit_builder.engine.worker import Task, Worker, WorkerSpec
from mit_builder.media.write import ffmpeg_executable
from mit_builder.storage.scratch import PARTIAL
from mit_builder.storage.workspace import Workspace
from mit_builder.web.fragments import Fragments

# yt-dlp closes neither the file of a stream that fails nor the connection.
pytestmark = pytest.mark.filterwarnings("ignore:.*(FileIO|socket):pytest.PytestUnraisableExceptionWarning")
KEY = "0123456789abcdef"
N_FRAMES = 200
HLS = ["-f", "hls", "-hls_time", "1", "-hls_playlist_type", "vod"]
FORMS = {
    "ts.m3u8": HLS,
    "fmp4.m3u8": [*HLS, "-hls_segment_type", "fmp4"],
    "dash.mpd": ["-f", "dash", "-seg_duration", "1"],
}
FOURTH = {"ts.m3u8": "ts3.ts", "fmp4.m3u8": "fmp43.m4s", "dash.mpd": "chunk-stream0-00004.m4s"}
"""A piece in the middle of the picture."""
THIRD = {"ts.m3u8": "ts2.ts", "fmp4.m3u8": "fmp42.m4s", "dash.mpd": "chunk-stream0-00003.m4s"}
HEADER = "init.mp4"
"""yt-dlp fetches it each time, and what reads the file passes over the second."""


@dataclass
class Site:
    """A folder on loopback; `statuses` are answered once each in the place of a file."""

    url: str = ""
    folder: Path = Path()
    asked: list[str] = field(default_factory=list)
    statuses: dict[str, list[int]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    picture = ["-f", "lavfi", "-i", f"testsrc2=size=192x144:rate=25:duration={N_FRAMES / 25}"]
    sound = ["-f", "lavfi", "-i", f"sine=frequency=440:duration={N_FRAMES / 25}"]
    for name, form in FORMS.items():
        encode = ["-c:v", "libx264", "-g", "25", "-pix_fmt", "yuv420p", "-c:a", "aac", *form, name]
        command = [ffmpeg_executable(), "-v", "error", *picture, *sound, *encode]
        subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def site(streams: Path, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    for path in streams.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    found = Site(folder=folder)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            found.asked.append(name)
            if found.statuses.get(name):
                self.send_error(found.statuses[name].pop(0))
                return
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    found.url = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def attempt(site: Site, workspace: Workspace, name: str, **options: int) -> Entry:
    settings = DownloadSettings(allow_private_addresses=True, timeout_s=5, ytdlp_options=options)
    worker = Worker(WorkerSpec("stages.download:Download", settings, workspace.uri, "run"))
    assert worker.ready() is None
    source = url_source(site.url + name)
    (entry,) = worker.run([Task(source.source_id, KEY, source)])
    return entry


def fetched(entry: Entry, workspace: Workspace) -> bytes:
    assert entry.status == "done", entry.message
    (video,) = entry.outputs
    assert isinstance(video, Video)
    assert video.n_frames == N_FRAMES
    return workspace.read(video.media.key)


def unfinished(workspace: Workspace) -> list[Path]:
    assert workspace.root is not None
    return sorted((workspace.root / PARTIAL).glob("*/*"))


@pytest.mark.parametrize("name", FORMS)
def test_the_next_attempt_asks_for_the_fragments_that_are_missing(site: Site, workspace: Workspace, name: str) -> None:
    whole = fetched(attempt(site, Workspace("memory://whole"), name), Workspace("memory://whole"))
    first = list(site.asked)
    site.asked.clear()
    site.statuses[FOURTH[name]] = [503] * 4
    entry = attempt(site, workspace, name)
    assert (entry.status, entry.failure_class) == ("failed", "transient")
    before = set(site.asked) - {name}
    site.asked.clear()
    assert fetched(attempt(site, workspace, name), workspace) == whole
    again = set(site.asked) - {name}
    # What is joined is noted while the next piece comes, so the last one before the failure is not.
    assert again & before - {HEADER} == {THIRD[name], FOURTH[name]}
    assert again | before == set(first) - {name}
    assert unfinished(workspace) == []


@pytest.mark.parametrize("name", FORMS)
def test_a_fragment_that_fails_once_leaves_no_hole(site: Site, workspace: Workspace, name: str) -> None:
    site.statuses[FOURTH[name]] = [503]
    fetched(attempt(site, workspace, name), workspace)
    assert site.asked.count(FOURTH[name]) == 2


@pytest.mark.parametrize("name", FORMS)
def test_a_video_with_a_fragment_that_is_gone_is_not_taken(site: Site, workspace: Workspace, name: str) -> None:
    (site.folder / FOURTH[name]).unlink()
    assert attempt(site, workspace, name).status == "failed"


@pytest.mark.parametrize("name", ["ts.m3u8", "fmp4.m3u8"])
def test_another_list_is_fetched_from_its_start(site: Site, workspace: Workspace, name: str) -> None:
    site.statuses[FOURTH[name]] = [503] * 4
    assert attempt(site, workspace, name).failure_class == "transient"
    before = set(site.asked)
    manifest = site.folder / name
    manifest.write_text(manifest.read_text().replace("#EXT-X-VERSION", "# edited\n#EXT-X-VERSION"))
    site.asked.clear()
    fetched(attempt(site, workspace, name), workspace)
    assert before <= set(site.asked)


def test_a_fragment_that_was_joined_but_not_counted_is_not_there_twice(site: Site, workspace: Workspace) -> None:
    whole = fetched(attempt(site, Workspace("memory://whole"), "ts.m3u8"), Workspace("memory://whole"))
    site.statuses["ts3.ts"] = [503] * 4
    attempt(site, workspace, "ts.m3u8")
    (part,) = (path for path in unfinished(workspace) if path.name.endswith(".part"))
    with part.open("ab") as file:
        file.write((site.folder / "ts3.ts").read_bytes())
    assert fetched(attempt(site, workspace, "ts.m3u8"), workspace) == whole


def test_a_stream_that_was_finished_before_the_worker_died_costs_two_fragments(
    site: Site, workspace: Workspace
) -> None:
    site.statuses["ts7.ts"] = [503] * 4
    attempt(site, workspace, "ts.m3u8")
    (part,) = (path for path in unfinished(workspace) if path.name.endswith(".part"))
    with part.open("ab") as file:
        file.write((site.folder / "ts7.ts").read_bytes())
    part.rename(part.with_suffix(""))
    site.asked.clear()
    fetched(attempt(site, workspace, "ts.m3u8"), workspace)
    assert [name for name in site.asked if name.endswith(".ts")] == ["ts6.ts", "ts7.ts"]


@pytest.mark.parametrize("line", ['#EXT-X-KEY:METHOD=AES-128,URI="key"', "#EXT-X-BYTERANGE:100@0"])
def test_what_depends_on_earlier_fragments_is_not_gone_on_with(tmp_path: Path, line: str) -> None:
    text = f"#EXTM3U\n{line}\n#EXTINF:1,\na.ts\n"
    part = tmp_path / "v.mp4.part"
    part.write_bytes(b"12345")
    note = tmp_path / "v.mp4.part.fragments"
    note.write_text(json.dumps({"digest": "x", "n_fragments": 1, "n_bytes": 5}))
    fragments = Fragments(tmp_path)
    assert fragments.kept() == {part, note}
    info = {"protocol": "m3u8_native", "url": "http://host/a.m3u8", "hls_media_playlist_data": text}
    fragments.start(str(tmp_path / "v.mp4"), info, lambda url: None)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_noted_where_several_fragments_come_at_once(site: Site, workspace: Workspace) -> None:
    site.statuses["ts3.ts"] = [503] * 4
    entry = attempt(site, workspace, "ts.m3u8", concurrent_fragment_downloads=3)
    assert entry.failure_class == "transient"
    assert [path for path in unfinished(workspace) if path.name.endswith(".fragments")] == []
    fetched(attempt(site, workspace, "ts.m3u8", concurrent_fragment_downloads=3), workspace)
