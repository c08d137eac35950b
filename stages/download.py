"""Download: from an address to one file with its metadata.

In: `Source`. Out: one `Video`; or, for a playlist, a channel or a page with several videos, one `Source` for each.
Rejects: `too_long`, `too_large`, `live`, `age_limited`. Local files are copied in, everything else goes through yt-dlp,
direct links to files included (it resumes and retries). What yt-dlp says went wrong is mapped to a failure class by
`failure_of`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from manifests.rows import Source, Video, short_id
from manifests.sources import SourceListError, url_source
from mit_builder.config import DownloadSettings
from mit_builder.errors import FailureClass, SourceError
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline
from mit_builder.media.write import ffmpeg_executable
from mit_builder.stage import Context, Reject, Resources
from mit_builder.workspace import sha256_of

AGE_LIMIT = 18
"""Items for adults are never taken (DESIGN: people in the footage)."""
ASKS_FOR_LOGIN = ("sign in", "log in", "login", "cookies", "not a bot", "members-only", "private video", "subscribers")

GAVE_UP = "giving up after"
"""yt-dlp's words when its retries are used up, which it spends on connections only; the cause is not handed on."""


class Download:
    """Fetch one source."""

    name: ClassVar[str] = "download"
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources(cpus=0.25, max_workers=4, timeout_s=4 * 3600)
    emits: ClassVar[tuple[type, ...]] = (Video, Source)

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Keep yt-dlp from running plugins that happen to be installed."""
        import yt_dlp.globals

        yt_dlp.globals.plugin_dirs.value = []

    def unit_id(self, row: Source) -> str:
        """The source."""
        return row.source_id

    def backend(self) -> str:
        """No version: a newer yt-dlp must not fetch everything again."""
        return ""

    def limit_key(self, row: Source) -> str | None:
        """The host."""
        return urlsplit(row.address).hostname if row.kind == "url" else None

    def process(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        """Fetch, probe and commit.

        Raises:
            Reject: too_long, too_large, live or age_limited.
            SourceError: the address cannot be fetched.
            MediaError: what was fetched is no video.
        """
        if row.kind == "file":
            yield self._local(row, ctx)
        else:
            yield from self._remote(row, ctx)

    def _local(self, row: Source, ctx: Context) -> Video:
        path = Path(row.address)
        if not path.is_file():
            raise SourceError(f"{path} is gone: put it back, or leave it out of the list", failure_class="transient")
        self._check_size(path.stat().st_size)
        copy = ctx.tmp / f"video{path.suffix.lower()}"
        shutil.copyfile(path, copy)
        digest = sha256_of(copy)
        if short_id("file", digest) != row.source_id:
            raise SourceError(f"{path} changed while the run went on: run again", failure_class="transient")
        info = {"title": path.stem, "webpage_url": f"file:{path.name}"}
        return self._video(row, ctx, copy, short_id("content", digest), info)

    def _remote(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        import yt_dlp

        log = _FirstError()
        try:
            with yt_dlp.YoutubeDL(self._options(ctx.tmp, log)) as ydl:
                info = ydl.extract_info(row.address, download=False)
                if info.get("_type") in ("playlist", "multi_video"):
                    yield from _entries(info, row)
                    return
                self._check_info(info)
                info = ydl.process_ie_result(info, download=True)
                path = Path(info["requested_downloads"][0]["filepath"])
        except yt_dlp.utils.YoutubeDLError as error:
            raise failure_of(error, first=log.first) from error
        except (KeyError, IndexError) as error:
            raise SourceError(f"yt-dlp fetched nothing from {row.address}: {log.first or 'no file'}") from error
        if not path.is_file():
            raise SourceError(f"yt-dlp fetched nothing from {row.address}: {log.first or 'no file'}")
        self._check_size(path.stat().st_size)
        extractor = str(info.get("extractor_key", "Generic"))
        name = (extractor.lower(), str(info["id"])) if _of_a_site(extractor) else ("content", sha256_of(path))
        yield self._video(row, ctx, path, short_id(*name), info)

    def _options(self, tmp: Path, log: _FirstError) -> dict[str, Any]:
        options: dict[str, Any] = {
            "quiet": True,
            "no_warnings": True,
            "noprogress": True,
            "logger": log,
            "format": self._settings.format,
            "outtmpl": {"default": str(tmp / "video.%(ext)s")},
            "ffmpeg_location": str(_ffmpeg_folder(tmp)),
            "extract_flat": "in_playlist",
            "cachedir": False,
            "socket_timeout": self._settings.timeout_s,
            "retries": 3,
            "proxy": self._settings.proxy,
        }
        if self._settings.rate_limit_kbps:
            options["ratelimit"] = self._settings.rate_limit_kbps * 1024
        if self._settings.cookies_file:
            # yt-dlp writes the jar back when it closes: let it write a copy.
            options["cookiefile"] = str(shutil.copyfile(self._settings.cookies_file, tmp / "cookies.txt"))
        return options

    def _check_info(self, info: dict[str, Any]) -> None:
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
            raise Reject("live")
        if (info.get("age_limit") or 0) >= AGE_LIMIT:
            raise Reject("age_limited", age_limit=info["age_limit"])
        duration_s = info.get("duration")
        if duration_s and duration_s > self._settings.max_duration_s:
            raise Reject("too_long", duration_s=float(duration_s))

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._settings.max_file_gb * 1e9:
            raise Reject("too_large", n_bytes=n_bytes)

    def _video(self, row: Source, ctx: Context, path: Path, video_id: str, info: dict[str, Any]) -> Video:
        media = probe(path)
        if media.duration_s and media.duration_s > self._settings.max_duration_s:
            raise Reject("too_long", duration_s=media.duration_s)
        timeline = read_timeline(path)
        return Video(
            video_id=video_id,
            source_id=row.source_id,
            source_url=_text(info.get("webpage_url")) or row.address,
            title=_text(info.get("title")),
            uploader=_text(info.get("uploader") or info.get("channel")),
            channel_id=_text(info.get("channel_id") or info.get("uploader_id")),
            upload_date=_text(info.get("upload_date")),
            licence=_text(info.get("license")),
            access="authenticated" if self._settings.cookies_file and row.kind == "url" else "public",
            media=ctx.commit(path, "videos", video_id),
            duration_s=timeline.n_frames / 25,
            n_frames=timeline.n_frames,
            source_fps=str(timeline.source_fps),
            width_px=media.width_px,
            height_px=media.height_px,
            has_audio=media.has_audio,
        )


class _FirstError:
    """yt-dlp's logger: the first error is the cause, later ones come from cleaning up."""

    def __init__(self) -> None:
        self.first = ""

    def debug(self, message: str) -> None:
        """Dropped."""

    def warning(self, message: str) -> None:
        """Dropped."""

    def error(self, message: str) -> None:
        self.first = self.first or message


def _of_a_site(extractor_key: str) -> bool:
    """Whether the extractor's ids name videos: those of pages in general are file names, which others have too."""
    from yt_dlp.extractor import get_info_extractor

    return extractor_key != "Generic" and bool(get_info_extractor(extractor_key)._VALID_URL)


def _entries(info: dict[str, Any], row: Source) -> Iterator[Source]:
    for entry in info.get("entries") or ():
        formats = (entry or {}).get("formats")
        address = formats[-1]["url"] if formats else (entry or {}).get("url") or (entry or {}).get("webpage_url")
        if not address:
            continue
        try:
            source = url_source(address)
        except SourceListError:
            continue
        if source.source_id != row.source_id:
            yield source


def failure_of(error: Exception, *, first: str = "") -> SourceError:
    """yt-dlp's exception as a `SourceError` with its failure class, told from its types first, then from its words."""
    from yt_dlp.networking.exceptions import HTTPError, TransportError
    from yt_dlp.utils import GeoRestrictedError

    text = " ".join((first or str(error)).removeprefix("ERROR:").split())
    chain = list(_causes(error))
    http = next((e for e in chain if isinstance(e, HTTPError)), None)
    failure_class: FailureClass = "permanent"
    if http is not None:
        failure_class = "auth" if http.status in (401, 403, 407) else "permanent"
        if http.status in (408, 425, 429) or http.status >= 500:
            failure_class = "transient"
    elif any(isinstance(e, GeoRestrictedError) for e in chain):
        failure_class = "permanent"
    elif any(isinstance(e, TransportError | TimeoutError | ConnectionError) for e in chain) or GAVE_UP in text.lower():
        failure_class = "transient"
    elif any(sign in text.lower() for sign in ASKS_FOR_LOGIN):
        failure_class = "auth"
    if failure_class == "auth":
        text += " (set download.cookies_file to a cookie file of a signed-in browser)"
    return SourceError(text[:400], failure_class=failure_class)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        # yt-dlp keeps the cause in fields of its own besides __cause__.
        info = getattr(error, "exc_info", None)
        inner = info[1] if isinstance(info, tuple) and len(info) > 1 else None
        error = getattr(error, "cause", None) or (inner if inner is not error else None) or error.__cause__


def _ffmpeg_folder(tmp: Path) -> Path:
    """A folder with a program named ffmpeg: yt-dlp knows the program by its name only."""
    folder = tmp / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "ffmpeg").symlink_to(Path(ffmpeg_executable()).resolve())
    return folder


def _text(value: Any) -> str | None:
    """Text from outside in one line, without control characters."""
    if value is None:
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split()) or None
