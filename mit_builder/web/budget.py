"""What one download may use: bytes, time and disk, looked at while it goes on: a server need not tell the truth."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from mit_builder.config.settings import DownloadSettings
from mit_builder.errors import SourceError
from mit_builder.stage import Reject

MAX_PAGE_BYTES = 64 << 20
"""Pages, playlists and manifests are held in memory; the largest real ones (channels) have some megabytes."""
_PIECE_BYTES = 1 << 16
_DISK_EVERY_S = 0.25


class Budget:
    """Counts one download; its time starts now."""

    def __init__(self, settings: DownloadSettings, tmp: Path) -> None:
        self._settings = settings
        self._tmp = tmp
        self._ends_s = time.monotonic() + settings.time_limit_s
        self._disk_due_s = 0.0
        self._bytes: dict[str, int] = {}

    def progress(self, status: dict[str, Any]) -> None:
        """A progress hook for yt-dlp, called after every block.

        Raises:
            Reject: too_large, by what the server announces or by what came.
            SourceError: the time is up, or the disk is nearly full.
        """
        n_bytes = max(status.get("downloaded_bytes") or 0, status.get("total_bytes") or 0)
        self._bytes[str(status.get("filename"))] = n_bytes
        self.check_size(sum(self._bytes.values()))
        self.check()

    def check_size(self, n_bytes: int) -> None:
        """Raise `Reject` where a file is larger than the settings allow."""
        if n_bytes > self._settings.max_file_gb * 1e9:
            raise Reject("too_large", n_bytes=n_bytes)

    def check(self) -> None:
        """Raise `SourceError` when the time is up or the disk is nearly full."""
        now_s = time.monotonic()
        if now_s > self._ends_s:
            text = f"took longer than {self._settings.time_limit_s:g} s (download.time_limit_s)"
            raise SourceError(text, failure_class="transient")
        if now_s >= self._disk_due_s:
            self._disk_due_s = now_s + _DISK_EVERY_S
            self.check_disk()

    def check_disk(self, n_bytes: int = 0) -> None:
        """Raise `SourceError` where less would be left on the disk than the settings ask for, after `n_bytes` more."""
        free_gb = (shutil.disk_usage(self._tmp).free - n_bytes) / 1e9
        if free_gb < self._settings.min_free_gb:
            text = f"{max(free_gb, 0):.1f} GB would be left on the disk, less than download.min_free_gb"
            raise SourceError(text, failure_class="resource")

    def watch(self, response: Any) -> Any:
        """yt-dlp's response, whose body may be read while the budget lasts, and whole only up to `MAX_PAGE_BYTES`."""
        read = response.read

        def limited(amount: int | None = None) -> bytes:
            self.check()
            return bytes(read(amount)) if amount is not None and amount >= 0 else self._whole(read)

        response.read = limited
        return response

    def _whole(self, read: Any) -> bytes:
        body = bytearray()
        while piece := read(_PIECE_BYTES):
            self.check()
            body += piece
            if len(body) > MAX_PAGE_BYTES:
                raise SourceError(f"the page is larger than {MAX_PAGE_BYTES >> 20} MiB")
        return bytes(body)
