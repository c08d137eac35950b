"""yt-dlp as this project calls it: options, cookies, and what it logs and is answered."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from mit_builder.config import DownloadSettings
from mit_builder.errors import StageUnavailable
from mit_builder.media.write import ffmpeg_executable


class Heard:
    """What yt-dlp said and was answered: its logger, and the last HTTP error behind its retries."""

    def __init__(self) -> None:
        self.first_error = ""
        """The cause: later errors come from cleaning up."""
        self.http: Any = None

    def debug(self, message: str) -> None:
        """Dropped."""

    def warning(self, message: str) -> None:
        """Dropped."""

    def error(self, message: str) -> None:
        self.first_error = self.first_error or message


def open_client(settings: DownloadSettings, tmp: Path, heard: Heard) -> Any:
    """A `YoutubeDL` that works in `tmp` alone; a context manager."""
    import yt_dlp

    client = yt_dlp.YoutubeDL(options(settings, tmp, heard))
    send = client.urlopen

    def urlopen(request: Any) -> Any:
        try:
            return send(request)
        except yt_dlp.networking.exceptions.HTTPError as error:
            heard.http = error
            raise

    client.urlopen = urlopen
    return client


def options(settings: DownloadSettings, tmp: Path, heard: Heard) -> dict[str, Any]:
    """What is handed to `YoutubeDL`."""
    chosen: dict[str, Any] = {
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": heard,
        "format": settings.format,
        "outtmpl": {"default": str(tmp / "video.%(ext)s")},
        "ffmpeg_location": str(_ffmpeg_folder(tmp)),
        "extract_flat": "in_playlist",
        "cachedir": False,
        "socket_timeout": settings.timeout_s,
        "retries": 3,
        "proxy": settings.proxy,
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
