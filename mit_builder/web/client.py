"""yt-dlp as this project calls it: options, cookies, and what it logs and is answered."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mit_builder.config.settings import DownloadSettings
from mit_builder.errors import SourceError, StageUnavailable
from mit_builder.media.audio_tracks import short_code
from mit_builder.media.captions import MAX_BYTES, CaptionFile
from mit_builder.media.write import ffmpeg_executable
from mit_builder.stage import Reject
from mit_builder.web.addresses import AddressGuard
from mit_builder.web.budget import Budget
from mit_builder.web.captions import Track, choose
from mit_builder.web.failures import LOGIN_HINT, failure_of, login_of
from mit_builder.web.fragments import Fragments
from mit_builder.web.partial import Partial

PLAYLISTS = ("playlist", "multi_video", "compat_list")
"""Types of what yt-dlp finds at an address that stand for several videos."""

NEEDS_JAVASCRIPT = "YouTube needs a JavaScript runtime, deno or node >= 22: pip install deno"
FORMAT_SIGNS = ("requested format is not available", "no video formats found", "only images are available")


class Heard:
    """What yt-dlp said and was answered: its logger, and the last HTTP error behind its retries."""

    def __init__(self) -> None:
        self.first_error = ""
        """The cause: later errors come from cleaning up."""
        self.http: Any = None
        self.lacks_javascript = False
        self.login: str | None = None
        """Host and path of a login that an address was redirected to."""
        self.has_open_end = False
        """Whether media came without their length: where the connection broke, nobody was told."""

    def debug(self, message: str) -> None:
        """Dropped."""

    def warning(self, message: str) -> None:
        self.lacks_javascript |= "javascript runtime" in message.lower()

    def error(self, message: str) -> None:
        # Before some errors it ends the line of its progress.
        self.first_error = self.first_error or message.strip()


class Client:
    """yt-dlp for one unit, within its budget and away from private addresses.

    Args:
        settings: of the stage.
        tmp: the unit's folder.
        folder: of its unfinished media, which another attempt may go on with; nothing is written but to these two.
        judge: called with what is known of a video before a format is chosen; may raise `Reject`.
    """

    def __init__(
        self, settings: DownloadSettings, tmp: Path, folder: Path, judge: Callable[[dict[str, Any]], None]
    ) -> None:
        self.heard = Heard()
        self._folder = folder
        in_turn = settings.ytdlp_options.get("concurrent_fragment_downloads", 1) == 1
        self._fragments = Fragments(folder, in_turn=in_turn)
        self._partial = Partial(folder, self._fragments.kept())
        self._judge = judge
        self._settings = settings
        self._tmp = tmp
        self._budget = Budget(settings, tmp)
        self._guard: AddressGuard | None = None

    @contextmanager
    def open(self, address: str) -> Iterator[Any]:
        """A `YoutubeDL` for this address.

        Raises:
            SourceError: the address is not one of the public network.
        """
        import yt_dlp

        chosen = options(self._settings, self._tmp, self._folder, self.heard)
        chosen["progress_hooks"] = [self._partial.progress, self._fragments.progress, self._budget.progress]
        chosen["match_filter"] = self._filter
        with ExitStack() as stack:
            client = stack.enter_context(yt_dlp.YoutubeDL(chosen))
            if not self._settings.allow_private_addresses:
                self._guard = AddressGuard(client.proxies.values())
                self._guard.check_url(address)
                stack.enter_context(self._guard.on())
                # It would find addresses in a library of its own.
                client._request_director.handlers.pop("CurlCFFI", None)
            client.urlopen = self._watched(client.urlopen)
            client.dl = self._going_on(client)
            client.process_ie_result = _but_playlists(client.process_ie_result)
            yield client

    def entries(self, ydl: Any, playlist: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """What is on a playlist, as the site names it: none is kept while thousands come."""
        from yt_dlp.utils import PlaylistEntries

        found = playlist.get("entries") or ()
        if self._settings.ytdlp_options.get("playlist_items") or not isinstance(found, Iterator):
            found = (entry for _, entry in PlaylistEntries(ydl, {"entries": found}).get_requested_items())
        yield from reversed(list(found)) if self._settings.ytdlp_options.get("playlistreverse") else found

    def captions(self, ydl: Any, info: dict[str, Any]) -> Iterator[CaptionFile]:
        """Fetch the captions of a video that is fetched; those that fail are left out, they are not worth the video."""
        from yt_dlp.utils import YoutubeDLError

        ydl.add_progress_hook(_of_captions)
        for n, track in enumerate(choose(info, self._settings.captions)):
            path = self._tmp / f"captions{n}{track.suffix}"
            try:
                _fetch(ydl, track, info, path)
            except (YoutubeDLError, SourceError, Reject, OSError):
                self._budget.check_disk()
                continue
            if path.is_file():
                yield CaptionFile(path, track.language, track.automatic)

    def _filter(self, info: dict[str, Any], *, incomplete: Any = False) -> None:
        """A match filter for yt-dlp; entries of a playlist, which come with `incomplete=True`, are other units."""
        if incomplete is not True:
            self._judge(info)

    def _watched(self, send: Callable[[Any], Any]) -> Callable[[Any], Any]:
        from yt_dlp.networking import Request
        from yt_dlp.networking.exceptions import HTTPError

        def urlopen(request: Any) -> Any:
            self._budget.check()
            request = Request(request) if isinstance(request, str) else request
            if self._guard is not None:
                self._guard.check_url(request.url)
            try:
                response = self._partial.ask(send, request)
            except HTTPError as error:
                self.heard.http = error
                raise
            if response.url != request.url:
                self.heard.login = self.heard.login or login_of(response.url)
            headers = response.headers
            self.heard.has_open_end |= not headers.get("Content-Length") and not headers.get("Transfer-Encoding")
            return self._budget.watch(response)

        return urlopen

    def _going_on(self, ydl: Any) -> Callable[..., Any]:
        """yt-dlp's `dl`, which fetches a file, that goes on with fragments of an earlier attempt."""
        from yt_dlp.networking import Request

        fetch = ydl.dl

        def dl(name: str, info: dict[str, Any], subtitle: bool = False, test: bool = False) -> Any:
            if not subtitle and not test:
                headers = info.get("http_headers") or {}
                self._fragments.start(name, info, lambda url: ydl.urlopen(Request(url, headers=headers)))
            return fetch(name, info, subtitle, test)

        return dl

    def failure(self, error: Exception, *, in_media: bool) -> SourceError | Reject:
        """What to raise for an exception of yt-dlp; see `failure_of`."""
        if self._guard is not None and self._guard.refused:
            return self._guard.error()
        found = failure_of(error, first=self.heard.first_error, in_media=in_media, http=self.heard.http)
        if self.heard.login and getattr(found, "failure_class", None) == "permanent":
            return self.needs_login()
        if self.heard.lacks_javascript and any(sign in str(found).lower() for sign in FORMAT_SIGNS):
            return SourceError(f"{found} ({NEEDS_JAVASCRIPT})", failure_class="transient")
        return found

    def needs_login(self) -> SourceError:
        """What to raise where a login came in the place of the video."""
        return SourceError(f"redirected to a login: {self.heard.login}"[:300] + LOGIN_HINT, failure_class="auth")

    def nothing_fetched(self) -> SourceError | Reject:
        """What to raise where yt-dlp raised nothing and there is no file: what it said counts."""
        from yt_dlp.utils import DownloadError

        return self.failure(DownloadError(self.heard.first_error or "yt-dlp fetched nothing"), in_media=True)


def options(settings: DownloadSettings, tmp: Path, folder: Path, heard: Heard) -> dict[str, Any]:
    """What is handed to `YoutubeDL`."""
    chosen: dict[str, Any] = {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": heard,
        "format": in_language(settings.format, settings.audio_language),
        # A part of one format must not pass for another's.
        "outtmpl": {"default": str(folder / "video-%(format_id).50s.%(ext)s")},
        "ffmpeg_location": str(_ffmpeg_folder(tmp)),
        "cachedir": False,
        "socket_timeout": settings.timeout_s,
        "retries": 3,
        "fragment_retries": 3,
        # A video with a hole in it would pass for the whole.
        "skip_unavailable_fragments": False,
        "proxy": settings.proxy,
        "js_runtimes": {"deno": {}, "node": {}},
        **settings.ytdlp_options,
    }
    if settings.rate_limit_kbps:
        chosen["ratelimit"] = settings.rate_limit_kbps * 1024
    if settings.cookies_file:
        # yt-dlp writes the jar back when it closes: let it write a copy, which nobody else may read.
        copy = tmp / "cookies.txt"
        copy.touch(mode=0o600)
        chosen["cookiefile"] = str(shutil.copyfile(settings.cookies_file, copy))
    if settings.cookies_from_browser:
        chosen["cookiesfrombrowser"] = browser(settings.cookies_from_browser)
    return chosen


def with_safe_endings(info: dict[str, Any]) -> dict[str, Any]:
    """What was found at an address, its formats under endings that yt-dlp writes files with.

    It refuses all others, as of `video.php` or of a long name with a dot in it; what a file is shows when it is read.
    """
    from yt_dlp.utils import mimetype2ext
    from yt_dlp.utils._utils import _UnsafeExtensionError

    allowed = _UnsafeExtensionError.ALLOWED_EXTENSIONS
    for found in (info, *(info.get("formats") or ())):
        if found.get("ext") not in allowed:
            # Of a plain link to a video the format is named by its type.
            ending = mimetype2ext(f"video/{found.get('format_id')}")
            found["ext"] = ending if ending in allowed else "unknown_video"
    return info


def in_language(selector: str, language: str | None) -> str:
    """A format selector that takes sound of a language where the site offers it, else what it took before.

    One with brackets around alternatives stays as it is: it says itself what it wants.
    """
    if language is None or "(" in selector:
        return selector
    primary = short_code(language)
    having = [re.sub(r"(?<![\w*])(ba|b)\b", rf"\1[language^={primary}]", choice) for choice in selector.split("/")]
    return "/".join([*(new for new in having if "[language^=" in new), selector])


def _fetch(ydl: Any, track: Track, info: dict[str, Any], path: Path) -> None:
    if isinstance(track.entry.get("data"), str):
        path.write_text(track.entry["data"], encoding="utf-8")
    else:
        ydl.dl(str(path), {"http_headers": info.get("http_headers"), **track.entry}, subtitle=True)


def _of_captions(status: dict[str, Any]) -> None:
    if (status.get("downloaded_bytes") or 0) > MAX_BYTES:
        raise SourceError(f"captions of more than {MAX_BYTES >> 20} MiB")


def _but_playlists(process: Callable[..., Any]) -> Callable[..., Any]:
    """yt-dlp's `process_ie_result` that leaves playlists as they are: it would take all entries, and choose formats."""

    def process_ie_result(result: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        return result if result.get("_type") in PLAYLISTS else process(result, *arguments, **named)

    return process_ie_result


def browser(text: str) -> tuple[str, str | None, str | None, str | None]:
    """Name, profile, keyring and container of `BROWSER[+KEYRING][:PROFILE][::CONTAINER]` for yt-dlp's API."""
    rest, _, container = text.partition("::")
    rest, _, profile = rest.partition(":")
    name, _, keyring = rest.partition("+")
    return name.lower(), profile or None, keyring.upper() or None, container or None


def check_cookies(settings: DownloadSettings) -> None:
    """Read the cookies once.

    Raises:
        StageUnavailable: there are none to read; else every item would fail on them.
    """
    if settings.cookies_file and not Path(settings.cookies_file).is_file():
        raise StageUnavailable(f"download.cookies_file: no such file: {settings.cookies_file}")
    if not settings.cookies_from_browser:
        return
    from yt_dlp.cookies import extract_cookies_from_browser

    name, profile, keyring, container = browser(settings.cookies_from_browser)
    try:
        extract_cookies_from_browser(name, profile, keyring=keyring, container=container)
    except (OSError, ValueError, RuntimeError) as error:
        why = re.sub(r"\s+", " ", str(error))[:200]
        raise StageUnavailable(f"download.cookies_from_browser={settings.cookies_from_browser}: {why}") from error


def _ffmpeg_folder(tmp: Path) -> Path:
    """A folder with a program named ffmpeg: yt-dlp knows the program by its name only."""
    folder = tmp / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "ffmpeg").symlink_to(Path(ffmpeg_executable()).resolve())
    return folder
