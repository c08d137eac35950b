from __future__ import annotations

import errno
import re
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import yt_dlp
from imageio_ffmpeg import get_ffmpeg_exe
from numbered_video import write_numbered
from sound_tracks import Track, voice, write_tracks
from web_site import N_IN_FEED, serve_site

from manifests.rows import Source, Video, short_id
from manifests.schema import content_hash
from manifests.sources import file_source, url_source
from mit_builder.config import settings as config
from mit_builder.engine.worker import Task, UnitContext, Worker, WorkerSpec
from mit_builder.errors import MediaError, SourceError
from mit_builder.media.captions import load_captions
from mit_builder.media.write import ffmpeg_executable, write_video
from mit_builder.stage import Reject
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.workspace import Workspace
from mit_builder.web.budget import Budget
from mit_builder.web.client import in_language
from stages.download import Download

# yt-dlp leaves sockets of failed answers to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two videos of a second."""
    folder = tmp_path_factory.mktemp("videos")
    made = {}
    for i, name in enumerate(("a.mp4", "b.mp4")):
        picture = np.full((48, 64, 3), 60 + 80 * i, np.uint8)
        write_video(folder / name, [picture] * 25, width_px=64, height_px=48)
        made[name] = (folder / name).read_bytes()
    frames = [np.full((48, 64, 3), 10 * i % 256, np.uint8) for i in range(75)]
    write_video(folder / "long.mp4", frames, width_px=64, height_px=48)
    for name, options in (("late.mp4", []), ("a.mkv", []), ("a.ts", ["-bsf:v", "h264_mp4toannexb"])):
        command = [get_ffmpeg_exe(), "-v", "error", "-i", str(folder / "long.mp4"), "-c", "copy", *options]
        subprocess.run([*command, str(folder / name)], check=True, stdin=subprocess.DEVNULL)
        made[name] = (folder / name).read_bytes()
    return made


@pytest.fixture(scope="module")
def site(videos: dict[str, bytes]) -> Iterator[str]:
    with serve_site(videos) as url:
        yield url


Fetch = Callable[..., list[Video | Source]]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


@pytest.fixture
def fetch(workspace: Workspace, tmp_path: Path) -> Fetch:
    """What download makes of a source, in an empty folder."""

    def fetch(source: Source, **settings: Any) -> list[Video | Source]:
        stage = Download(config.DownloadSettings(**{"timeout_s": 10.0, "allow_private_addresses": True, **settings}))
        stage.setup()
        tmp = tmp_path / "tmp"
        tmp.mkdir(exist_ok=True)
        return list(stage.process(source, UnitContext(workspace, "0123456789abcdef", tmp)))

    return fetch


def one_video(rows: list[Video | Source]) -> Video:
    (video,) = rows
    assert isinstance(video, Video)
    return video


def test_a_direct_link_is_fetched_and_described(
    fetch: Fetch, site: str, workspace: Workspace, videos: dict[str, bytes]
) -> None:
    source = url_source(f"{site}/a.mp4")
    video = one_video(fetch(source))
    assert workspace.read(video.media.key) == videos["a.mp4"]
    assert video.media.key == f"videos/{video.video_id}.01234567.mp4"
    assert video.video_id == short_id("content", video.media.sha256)
    assert (video.source_id, video.source_url, video.title) == (source.source_id, f"{site}/a.mp4", "a")
    assert (video.n_frames, video.duration_s, video.source_fps) == (25, 1.0, "25")
    assert (video.width_px, video.height_px, video.has_audio) == (64, 48, False)
    assert (video.access, video.uploader, video.licence) == ("public", None, None)


def test_a_signed_address_is_fetched_with_its_signature_and_told_without(
    fetch: Fetch, site: str, videos: dict[str, bytes], workspace: Workspace
) -> None:
    source = url_source(f"{site}/a.mp4?part=1&X-Amz-Signature=hidden&X-Amz-Expires=900")
    video = one_video(fetch(source))
    assert workspace.read(video.media.key) == videos["a.mp4"]
    assert video.source_url == f"{site}/a.mp4?part=1"
    assert "hidden" not in str(video)


@pytest.mark.parametrize(
    ("name", "failure_class"),
    [("400", "transient"), ("401", "transient"), ("403", "transient"), ("404", "permanent"), ("none", "permanent")],
)
def test_what_fails_at_a_signed_address_is_told_without_its_signature(
    site: str, workspace: Workspace, name: str, failure_class: str
) -> None:
    source = url_source(f"{site}/{name}?sig=hidden")
    settings = config.DownloadSettings(timeout_s=10.0, allow_private_addresses=True)
    worker = Worker(WorkerSpec("stages.download:Download", settings, workspace.uri, "run"))
    assert worker.ready() is None
    (entry,) = worker.run([Task(source.source_id, "0123456789abcdef", source)])
    assert entry.failure_class == failure_class
    assert "hidden" not in str(entry)
    assert entry.message is not None
    assert ("give it again, signed anew" in entry.message) == (failure_class == "transient")
    assert "cookies" not in entry.message


def test_signed_videos_of_a_page_are_fetched_by_way_of_the_page(
    fetch: Fetch, site: str, videos: dict[str, bytes], workspace: Workspace, tmp_path: Path
) -> None:
    signed, plain = fetch(url_source(f"{site}/signed"))
    assert isinstance(signed, Source)
    assert plain == url_source(f"{site}/b.mp4")
    assert signed.source_id == url_source(f"{site}/a.mp4").source_id
    assert signed.address == f"{site}/signed#mit-build-entry={signed.source_id}"
    (tmp_path / "tmp").rename(tmp_path / "tmp1")
    video = one_video(fetch(signed))
    assert workspace.read(video.media.key) == videos["a.mp4"]
    assert video.source_url == signed.address
    (tmp_path / "tmp").rename(tmp_path / "tmp2")
    with pytest.raises(SourceError, match="/several does not show this video any more"):
        fetch(replace(signed, address=signed.address.replace("/signed#", "/several#").replace("=", "=0")))


def test_a_page_with_one_video_gives_it_with_the_pages_title_in_one_line(
    fetch: Fetch, site: str, workspace: Workspace, videos: dict[str, bytes]
) -> None:
    video = one_video(fetch(url_source(f"{site}/one")))
    assert workspace.read(video.media.key) == videos["a.mp4"]
    assert video.title == 'A talk of "two" (1)'
    assert video.source_url == f"{site}/one"


def test_a_page_and_the_file_on_it_are_one_video(fetch: Fetch, site: str, tmp_path: Path) -> None:
    page = one_video(fetch(url_source(f"{site}/one")))
    (tmp_path / "tmp").rename(tmp_path / "tmp1")
    assert one_video(fetch(url_source(f"{site}/a.mp4"))).video_id == page.video_id


def captions_of(workspace: Workspace, video: Video) -> list[tuple[float, float, str, str]]:
    assert video.captions is not None
    with workspace.local(video.captions.key) as path:
        return [(c.start_s, c.end_s, c.language, c.text) for c in load_captions(path)]


def test_captions_on_a_page_are_kept_and_those_that_fail_are_left_out(
    fetch: Fetch, site: str, workspace: Workspace, tmp_path: Path
) -> None:
    page = url_source(f"{site}/captioned")
    video = one_video(fetch(page))
    german = (0.2, 0.3, "de", "Guten Morgen")
    assert captions_of(workspace, video) == [
        (0.1, 0.5, "en-GB", "Good morning & hello"),
        german,
        (0.4, 1.0, "en-GB", "to the end"),
    ]
    assert video.video_id == short_id("content", video.media.sha256)
    (tmp_path / "tmp").rename(tmp_path / "tmp1")
    assert captions_of(workspace, one_video(fetch(page, captions=["de"]))) == [german]
    (tmp_path / "tmp").rename(tmp_path / "tmp2")
    assert one_video(fetch(page, captions=[])).captions is None


def test_a_full_disk_while_captions_come_is_a_failure_of_resources(
    fetch: Fetch, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise SourceError("full", failure_class="resource")

    def full(*_: Any) -> None:
        monkeypatch.setattr(Budget, "check_disk", no_room)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mit_builder.web.client._fetch", full)
    with pytest.raises(SourceError, match="full") as failed:
        fetch(url_source(f"{site}/captioned"))
    assert failed.value.failure_class == "resource"


def test_captions_beside_a_local_file_are_kept(
    fetch: Fetch, tmp_path: Path, videos: dict[str, bytes], workspace: Workspace
) -> None:
    (tmp_path / "My [talk].mp4").write_bytes(videos["a.mp4"])
    for name in ("My [talk].vtt", "My [talk].de.vtt", "My [talk] 2.vtt", "My.vtt", "My [talk].a b.vtt"):
        (tmp_path / name).write_text(f"WEBVTT\n\n00:00.000 --> 00:01.000\n{name}\n")
    video = one_video(fetch(file_source(tmp_path / "My [talk].mp4")))
    assert captions_of(workspace, video) == [(0, 1, "de", "My [talk].de.vtt"), (0, 1, "und", "My [talk].vtt")]


@pytest.mark.parametrize(("has_sound", "start_s"), [(True, 1.0), (False, 3.0)])
def test_captions_of_a_video_whose_pictures_begin_late_count_from_its_first_frame(
    fetch: Fetch, tmp_path: Path, workspace: Workspace, has_sound: bool, start_s: float
) -> None:
    """Players count from where the first stream begins: from the sound's start, or else from the late pictures'."""
    sound = np.zeros(6 * 48_000, np.int16) if has_sound else None
    path = write_numbered(tmp_path / "late.mov", [50 + i for i in range(100)], Fraction(1, 25), sound=sound)
    (tmp_path / "late.vtt").write_text("WEBVTT\n\n00:03.000 --> 00:03.500\nwords\n")
    video = one_video(fetch(file_source(path)))
    assert captions_of(workspace, video) == [(start_s, start_s + 0.5, "und", "words")]


def test_the_sound_that_is_heard_stands_in_the_row_and_a_language_can_be_asked_for(
    fetch: Fetch, tmp_path: Path
) -> None:
    german = Track({0: voice(2)}, language="ger", roles=("dub",))
    path = write_tracks(tmp_path / "a.mkv", Track({0: voice(1)}, language="eng", roles=("default",)), german)
    plain = one_video(fetch(file_source(path)))
    asked = one_video(fetch(file_source(path), audio_language="de"))
    for video, heard in ((plain, "eng"), (asked, "ger")):
        assert video.sound is not None
        assert [track.language for track in video.sound if track.weights] == [heard]
        assert [track.language for track in video.sound] == ["eng", "ger"]
        assert video.gain_db == pytest.approx(0, abs=2)
    assert (plain.video_id, plain.combed_share) == (asked.video_id, 0)
    louder = one_video(fetch(file_source(path), speech_level_dbfs=-13))
    assert louder.gain_db == pytest.approx((plain.gain_db or 0) + 10)
    assert content_hash(plain) != content_hash(asked)
    assert content_hash(replace(plain, sound=None, gain_db=None)) == content_hash(
        replace(asked, sound=None, gain_db=None)
    )


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("bv*+ba/b", "bv*+ba[language^=de]/b[language^=de]/bv*+ba/b"),
        (
            "bv*[height<=720]+ba[ext=m4a]/22",
            "bv*[height<=720]+ba[language^=de][ext=m4a]/bv*[height<=720]+ba[ext=m4a]/22",
        ),
        ("(bv*+ba/b)[height<720]", "(bv*+ba/b)[height<720]"),
    ],
)
def test_sites_are_asked_for_the_language_first(selector: str, wanted: str) -> None:
    for asked in ("de-AT", "de", "deu", "ger", "GER_at"):  # sites say two letters where there are two
        assert in_language(selector, asked) == wanted
    assert in_language(selector, None) == selector
    default = in_language(config.DownloadSettings().format, "de")
    assert default.endswith(config.DownloadSettings().format)
    with yt_dlp.YoutubeDL({"quiet": True}) as client:
        pick = client.build_format_selector(default)
    formats = [
        {
            "format_id": language,
            "url": "http://h/a",
            "protocol": "https",
            "ext": "m4a",
            "vcodec": "none",
            "acodec": "aac",
            "language": language,
        }
        for language in ("de", "en")
    ]
    video = {
        "format_id": "v",
        "url": "http://h/v",
        "protocol": "https",
        "ext": "mp4",
        "vcodec": "h264",
        "acodec": "none",
        "height": 720,
    }
    both = {
        "format_id": "b",
        "url": "http://h/b",
        "protocol": "https",
        "ext": "mp4",
        "vcodec": "h264",
        "acodec": "aac",
        "height": 360,
    }
    (found,) = pick({"formats": [both, video, *formats], "has_merged_format": True, "incomplete_formats": False})
    assert found["format_id"] == "v+de"
    (found,) = pick({"formats": [both, video, formats[1]], "has_merged_format": True, "incomplete_formats": False})
    assert found["format_id"] == "v+en"


def test_a_page_with_several_videos_gives_a_source_for_each(fetch: Fetch, site: str) -> None:
    rows = fetch(url_source(f"{site}/several"))
    assert rows == [url_source(f"{site}/a.mp4"), url_source(f"{site}/b.mp4")]


@pytest.mark.parametrize(
    ("name", "failure_class", "message"),
    [
        ("404", "permanent", "404"),
        ("410", "permanent", "410"),
        ("500", "transient", "500"),
        ("503", "transient", "503"),
        ("429", "transient", "429"),
        ("403", "auth", "give download.cookies_file"),
        ("401", "auth", "give download.cookies_file"),
        ("expired.mp4", "transient", "403"),
        ("none", "permanent", "Unsupported URL"),
        ("cut.mp4", "transient", None),
        (
            "moved?/accounts/login?next=/secret-words",
            "auth",
            r"to a login: 127.0.0.1/accounts/login \(give ",
        ),
        ("moved?/users/sign_in", "auth", "redirected to a login: 127.0.0.1/users/sign_in"),
        ("wall.mp4", "auth", "redirected to a login: 127.0.0.1/users/sign_in"),
        ("moved?/none", "permanent", "Unsupported URL"),
        ("open/a.mp4?0.6", "transient", "came without its length, and the end is missing"),
        ("open/late.mp4?0.6", "transient", "the end is missing"),
        ("open/a.mkv?0.6", "transient", "the end is missing"),
        ("open/a.ts?0.6", "transient", "the end is missing"),
        ("open/a.mp4?0.001", "transient", "the end is missing"),
    ],
)
def test_what_goes_wrong_has_a_failure_class_and_one_line(
    fetch: Fetch, site: str, name: str, failure_class: str, message: str | None
) -> None:
    with pytest.raises(SourceError, match=message) as failed:
        fetch(url_source(f"{site}/{name}"))
    assert failed.value.failure_class == failure_class
    assert "\n" not in str(failed.value)
    assert "ERROR" not in str(failed.value)
    assert "\x1b" not in str(failed.value)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("name", ["a.mp4", "late.mp4", "a.mkv", "a.ts"])
def test_a_whole_file_without_a_length_is_taken(
    fetch: Fetch, site: str, name: str, workspace: Workspace, videos: dict[str, bytes]
) -> None:
    assert workspace.read(one_video(fetch(url_source(f"{site}/open/{name}"))).media.key) == videos[name]


def test_a_page_that_is_named_like_a_login_and_has_a_video_gives_it(fetch: Fetch, site: str) -> None:
    assert one_video(fetch(url_source(f"{site}/moved?/login-and-video"))).n_frames == 25


@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream"])
@pytest.mark.parametrize(
    "name",
    ["video.php", "watch.aspx", f"1.{'x' * 240}", f"Dr. {'Long Name ' * 22}", "v1.5", ".mp4", "x" * 255],
)
def test_a_video_is_taken_under_any_name(
    fetch: Fetch, site: str, workspace: Workspace, videos: dict[str, bytes], name: str, kind: str
) -> None:
    video = one_video(fetch(url_source(f"{site}/as/{quote(name)}?{kind}")))
    assert workspace.read(video.media.key) == videos["a.mp4"]
    assert re.fullmatch(rf"videos/{video.video_id}\.01234567\.[a-z0-9]{{1,16}}", video.media.key)


@pytest.mark.parametrize(
    ("name", "title", "ending"),
    [
        ("Dr. " + "x" * 240, "Dr. " + "x" * 240, "video"),
        ("1." + "x" * 240, "1." + "x" * 240, "video"),
        ("Dr. Ann Smith. Part 1", "Dr. Ann Smith. Part 1", "video"),
        ("x" * 251 + ".mp4", "x" * 251, "mp4"),
        ("v1.5.final.MP4", "v1.5.final", "mp4"),
        (".mp4", ".mp4", "video"),
        ("talk", "talk", "video"),
        ("talk.weird", "talk", "weird"),
        ("talk.\u00e9t\u00e9", "talk.\u00e9t\u00e9", "video"),
    ],
)
def test_a_local_video_is_taken_under_any_name(
    fetch: Fetch, tmp_path: Path, workspace: Workspace, videos: dict[str, bytes], name: str, title: str, ending: str
) -> None:
    (tmp_path / name).write_bytes(videos["a.mp4"])
    (tmp_path / f"{title[:240]}.vtt").write_text("WEBVTT\n\n00:00.000 --> 00:01.000\nwords\n")
    video = one_video(fetch(file_source(tmp_path / name)))
    assert workspace.read(video.media.key) == videos["a.mp4"]
    assert (video.title, video.media.key.rpartition(".")[2]) == (title, ending)
    assert (video.captions is None) == (len(title) > 240)


@pytest.mark.parametrize(("name", "pause_s"), [("busy", 7), ("busy.mp4", 9), ("503", None)])
def test_the_pause_that_a_host_asks_for_is_handed_on(fetch: Fetch, site: str, name: str, pause_s: float | None) -> None:
    with pytest.raises(SourceError) as failed:
        fetch(url_source(f"{site}/{name}"))
    assert (failed.value.failure_class, failed.value.retry_after_s) == ("transient", pause_s)


def test_a_host_that_does_not_answer_is_tried_again_later(fetch: Fetch) -> None:
    with pytest.raises(SourceError) as failed:
        fetch(url_source("http://127.0.0.1:9/a.mp4"))
    assert failed.value.failure_class == "transient"


@pytest.mark.parametrize("name", ["page.mp4", "broken.mp4"])
def test_what_is_no_video_is_a_permanent_failure(fetch: Fetch, site: str, name: str, workspace: Workspace) -> None:
    with pytest.raises((SourceError, MediaError)) as failed:
        fetch(url_source(f"{site}/{name}"))
    assert failed.value.failure_class == "permanent"
    assert workspace.names("videos") == set()


def test_a_local_file_is_copied_and_stays_where_it_is(
    fetch: Fetch, tmp_path: Path, videos: dict[str, bytes], workspace: Workspace
) -> None:
    path = tmp_path / "My\ttalk\n (1).MP4"
    path.write_bytes(videos["a.mp4"])
    video = one_video(fetch(file_source(path)))
    assert path.read_bytes() == workspace.read(video.media.key) == videos["a.mp4"]
    assert video.title == "My talk (1)"
    assert video.source_url == "file:My talk (1).MP4"
    assert video.media.key.endswith(".mp4")


def test_a_local_file_and_the_same_file_from_a_site_are_one_video(
    fetch: Fetch, tmp_path: Path, site: str, videos: dict[str, bytes]
) -> None:
    (tmp_path / "x.mp4").write_bytes(videos["a.mp4"])
    local = one_video(fetch(file_source(tmp_path / "x.mp4")))
    (tmp_path / "tmp").rename(tmp_path / "tmp1")
    assert one_video(fetch(url_source(f"{site}/a.mp4"))).video_id == local.video_id


def test_a_local_file_that_is_gone_or_changed_is_tried_again_later(
    fetch: Fetch, tmp_path: Path, videos: dict[str, bytes]
) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(videos["a.mp4"])
    source = file_source(path)
    path.write_bytes(videos["b.mp4"])
    with pytest.raises(SourceError, match="has changed since it was given") as failed:
        fetch(source)
    assert failed.value.failure_class == "transient"
    path.unlink()
    (tmp_path / "tmp").rename(tmp_path / "tmp1")
    with pytest.raises(SourceError, match="is gone") as failed:
        fetch(source)
    assert failed.value.failure_class == "transient"


def test_jumps_in_the_times_are_counted_and_add_no_length(fetch: Fetch, tmp_path: Path) -> None:
    parts = []
    for offset_s in (1000, 0):
        part = tmp_path / "part.ts"
        made = ["-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1", "-c:v", "libx264", "-output_ts_offset", str(offset_s)]
        subprocess.run([ffmpeg_executable(), "-nostdin", "-y", "-v", "error", *made, str(part)], check=True)
        parts.append(part.read_bytes())
    path = tmp_path / "back.ts"
    path.write_bytes(b"".join(parts))
    (video,) = fetch(file_source(path))
    assert (video.n_frames, video.time_jumps) == (50, 1)


@pytest.mark.parametrize("content", [b"", b"no video at all", b"<html></html>"])
def test_a_local_file_that_is_no_video_fails_for_good(fetch: Fetch, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError) as failed:
        fetch(file_source(path))
    assert failed.value.failure_class == "permanent"


@pytest.mark.parametrize("kind", ["file", "url"])
@pytest.mark.parametrize(
    ("settings", "reason"), [({"max_duration_s": 0.9}, "too_long"), ({"max_file_gb": 1e-7}, "too_large")]
)
def test_limits_reject_with_what_was_measured(
    fetch: Fetch,
    tmp_path: Path,
    site: str,
    videos: dict[str, bytes],
    kind: str,
    settings: dict[str, float],
    reason: str,
) -> None:
    (tmp_path / "x.mp4").write_bytes(videos["a.mp4"])
    source = file_source(tmp_path / "x.mp4") if kind == "file" else url_source(f"{site}/a.mp4")
    with pytest.raises(Reject) as verdict:
        fetch(source, **settings)
    assert verdict.value.reason == reason
    assert list(verdict.value.measurements.values()) in ([1.0], [len(videos["a.mp4"])])


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"is_live": True}, "live"),
        ({"live_status": "is_upcoming"}, "live"),
        ({"age_limit": 18}, "age_limited"),
        ({"duration": 1e6}, "too_long"),
    ],
)
def test_what_a_site_says_beforehand_is_judged_before_anything_is_fetched(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch, info: dict[str, Any], reason: str
) -> None:
    told = {"id": "x", "title": "x", "formats": [{"url": "http://127.0.0.1:9/x", "protocol": "m3u8_native"}], **info}
    monkeypatch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", lambda *a, **k: dict(told))
    with pytest.raises(Reject) as verdict:
        fetch(url_source("http://127.0.0.1:9/x"))
    assert verdict.value.reason == reason


def extracted(monkeypatch: pytest.MonkeyPatch, info: dict[str, Any]) -> None:
    """What yt-dlp finds on every page from now on."""
    monkeypatch.setattr(yt_dlp.extractor.generic.GenericIE, "_real_extract", lambda *a, **k: info)


def test_a_site_that_gives_nothing_fails_for_good(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda *a, **k: None)
    with pytest.raises(SourceError, match="yt-dlp fetched nothing") as failed:
        fetch(url_source("http://127.0.0.1:9/x"))
    assert failed.value.failure_class == "permanent"


def test_one_entry_that_cannot_be_taken_does_not_spoil_a_playlist(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [{"url": "https://host/720", "height": 720}, {"url": "https://host/360", "height": 360}]
    stream = {"url": "https://host/live.m3u8", "protocol": "m3u8_native"}
    videos = [
        {"formats": [{"url": "https://host/adult"}], "age_limit": 18},
        {"formats": [stream], "is_live": True},
        {"formats": sizes},
    ]
    entries = [{"_type": "video", "id": "x", "title": "x", "extractor": "x", **video} for video in videos]
    extracted(monkeypatch, {"_type": "playlist", "id": "list", "entries": entries})
    assert fetch(url_source("http://127.0.0.1:9/x")) == [url_source(stream["url"]), url_source("https://host/720")]


def test_a_page_for_adults_gives_none_of_its_videos(fetch: Fetch, site: str) -> None:
    with pytest.raises(Reject) as verdict:
        fetch(url_source(f"{site}/adults"))
    assert verdict.value.reason == "age_limited"


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, "abcd"), ({"playlist_items": "2:3"}, "bc"), ({"playlistreverse": True}, "dcba")],
)
@pytest.mark.parametrize("kind", [list, iter])
def test_a_part_of_a_playlist_can_be_asked_for(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], wanted: str, kind: Callable[[Any], Any]
) -> None:
    entries = kind([{"_type": "url", "url": f"//host/{name}"} for name in "abcd"])
    extracted(monkeypatch, {"_type": "playlist", "id": "list", "entries": entries})
    rows = fetch(url_source("http://127.0.0.1:9/x"), ytdlp_options=options)
    assert rows == [url_source(f"https://host/{name}") for name in wanted]


def test_a_feed_of_thousands_is_taken_in_order_and_soon(fetch: Fetch, site: str) -> None:
    source = url_source(f"{site}/feed")
    started_s = time.process_time()
    rows = fetch(source)
    assert [row.address for row in rows if isinstance(row, Source)] == [
        f"https://host.example/{n}.mp4" for n in range(N_IN_FEED)
    ]
    assert time.process_time() - started_s < 10


def test_a_playlist_of_thousands_is_streamed(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_made, alive = 0, weakref.WeakSet[Any]()

    class Entry(dict[str, Any]):
        __hash__ = object.__hash__

    def entries() -> Iterator[Any]:
        nonlocal n_made
        for n_made in range(1, 5001):
            entry = Entry({"_type": "url", "url": f"https://host/{n_made}"})
            alive.add(entry)
            yield entry

    extracted(monkeypatch, {"_type": "playlist", "id": "list", "entries": entries()})
    stage = Download(config.DownloadSettings(allow_private_addresses=True))
    rows = stage.process(url_source("http://127.0.0.1:9/x"), UnitContext(workspace, "0123456789abcdef", tmp_path))
    n = 0
    for n, row in enumerate(rows, 1):
        assert row == url_source(f"https://host/{n}")
        assert n_made == n
        assert len(alive) <= 2
    assert n == 5000


def test_entries_of_a_playlist_that_cannot_be_fetched_are_left_out(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        {"url": "https://host/1"},
        None,
        {},
        {"url": "ftp://host/2"},
        {"webpage_url": "https://host/3"},
        {"url": "https://host/list"},
        {"formats": [{"url": "https://host/low"}, {"url": "https://host/high"}]},
    ]
    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", lambda *a, **k: {"_type": "playlist", "entries": entries})
    rows = fetch(url_source("https://host/list"))
    assert [row.address for row in rows if isinstance(row, Source)] == [
        "https://host/1",
        "https://host/3",
        "https://host/high",
    ]


def test_a_sites_video_is_named_by_its_extractor_and_id(
    fetch: Fetch, site: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    original = yt_dlp.YoutubeDL.extract_info

    def pretend(self: yt_dlp.YoutubeDL, url: str, **options: Any) -> dict[str, Any]:
        info: dict[str, Any] = original(self, url, **options)
        told = {
            "extractor_key": "Vimeo",
            "id": "abc",
            "uploader": "Some\x00one\n",
            "channel_id": "C1",
            "upload_date": "20200102",
            "license": "CC-BY",
            "title": "<i>x</i>\x1b[31m",
        }
        return {**info, **told}

    monkeypatch.setattr(yt_dlp.YoutubeDL, "extract_info", pretend)
    (tmp_path / "jar.txt").write_text("# Netscape HTTP Cookie File\n")
    video = one_video(fetch(url_source(f"{site}/a.mp4"), cookies_file=str(tmp_path / "jar.txt")))
    assert video.video_id == short_id("vimeo", "abc")
    assert (video.uploader, video.channel_id, video.upload_date, video.licence) == (
        "Some one",
        "C1",
        "20200102",
        "CC-BY",
    )
    assert video.title == "<i>x</i> [31m"
    assert video.access == "authenticated"
    assert (tmp_path / "jar.txt").read_text() == "# Netscape HTTP Cookie File\n"


def test_the_file_that_is_committed_is_the_one_that_was_probed(fetch: Fetch, site: str, workspace: Workspace) -> None:
    video = one_video(fetch(url_source(f"{site}/b.mp4")))
    with workspace.local(video.media.key) as path:
        assert sha256_of(path) == video.media.sha256
        assert path.stat().st_size == video.media.n_bytes


def test_nothing_unfinished_stays_behind_whatever_happens(
    workspace: Workspace, site: str, tmp_path: Path, videos: dict[str, bytes]
) -> None:
    (tmp_path / "x.mp4").write_bytes(videos["a.mp4"])
    worker = Worker(
        WorkerSpec(
            "stages.download:Download", config.DownloadSettings(allow_private_addresses=True), workspace.uri, "run"
        )
    )
    assert worker.ready() is None
    sources = [url_source(f"{site}/{name}") for name in ("a.mp4", "404", "page.mp4", "several")]
    sources.append(file_source(tmp_path / "x.mp4"))
    entries = worker.run([Task(s.source_id, f"{i}" * 16, s) for i, s in enumerate(sources)])
    assert [entry.status for entry in entries] == ["done", "failed", "failed", "done", "done"]
    assert list(workspace.scratch("run").iterdir()) == []
    assert len(workspace.names("videos")) == 2


def test_a_file_that_was_cut_short_without_a_length_is_whole_the_next_time(
    workspace: Workspace, site: str, videos: dict[str, bytes]
) -> None:
    settings = config.DownloadSettings(allow_private_addresses=True)
    worker = Worker(WorkerSpec("stages.download:Download", settings, workspace.uri, "run"))
    assert worker.ready() is None
    source = url_source(f"{site}/broken-once.mp4")
    task = Task(source.source_id, "1" * 16, source)
    (cut,), (whole,) = worker.run([task]), worker.run([task])
    assert (cut.status, cut.failure_class) == ("failed", "transient")
    assert whole.status == "done"
    assert workspace.read(whole.outputs[0].media.key) == videos["late.mp4"]
