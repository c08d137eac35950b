"""One large file over http(s) that survives cut connections and restarts."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from mit_builder.errors import CannotContinue

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes that there will be, if known."""

TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 18
MAX_FRUITLESS = 3
"""Connections in a row that may end without a single new byte."""


class DownloadFailed(Exception):
    """One address did not give the file; the message is half a line that says why."""


def download(url: str, part: Path, *, progress: Progress | None = None, pause_s: float = 0.5) -> None:
    """Fetch `url` into `part`, going on where an earlier call stopped if the file is still the same there.

    What tells "the same" (ETag or date) lies beside `part` and goes to the server with the range that is asked for.

    Args:
        url: http or https address.
        part: file to complete; its folder exists.
        progress: see `Progress`.
        pause_s: first pause after a cut connection; doubles while nothing comes.

    Raises:
        DownloadFailed: unreachable, refused, or cut again and again; what came stays in `part`.
        CannotContinue: the disk is full.
    """
    fruitless, reason = 0, ""
    with _session(pause_s) as session:
        while fruitless < MAX_FRUITLESS:
            time.sleep(pause_s * (2**fruitless - 1))
            before = _size(part)
            try:
                if _transfer(session, url, part, progress):
                    _tag(part).unlink()
                    return
                reason = f"{_host(url)} cuts the connection"
            except requests.RequestException as error:
                reason = f"cannot reach {_host(url)} ({type(error).__name__}): is there a network, or a proxy to set?"
            fruitless = 0 if _size(part) > before else fruitless + 1
    raise DownloadFailed(reason)


def _session(pause_s: float) -> requests.Session:
    """A session that waits and asks again where the server is busy; lost connections are `download`'s matter."""
    session = requests.Session()
    busy = (429, 500, 502, 503, 504)
    policy = Retry(3, connect=0, read=0, backoff_factor=pause_s, status_forcelist=busy, raise_on_status=False)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=policy))
    return session


def _transfer(session: requests.Session, url: str, part: Path, progress: Progress | None) -> bool:
    """One connection; whether the file is complete now."""
    have, headers = _size(part), {"Accept-Encoding": "identity"}
    known, _, validator = _tag(part).read_text().partition("\n") if _tag(part).exists() else ("", "", "")
    if have and known == url and validator:
        headers |= {"Range": f"bytes={have}-", "If-Range": validator}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            return False
        _check_answer(url, response)
        resumed = response.status_code == requests.codes.partial_content
        have = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        _tag(part).write_text(f"{url}\n{_validator(response)}")
        _check_space(part, (total or 0) - have)
        _append(response, part, have, total, progress)
    return total is None or _size(part) == total


def _append(response: requests.Response, part: Path, have: int, total: int | None, progress: Progress | None) -> None:
    try:
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CannotContinue(f"no space left in {part.parent}; MIT_BUILDER_WEIGHTS names another place") from error
        raise


def _check_answer(url: str, response: requests.Response) -> None:
    if not response.ok:
        raise DownloadFailed(f"{_host(url)} answers {response.status_code} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DownloadFailed(f"{_host(url)} answers with a web page instead of the file")


def _validator(response: requests.Response) -> str:
    """What `If-Range` may carry: a strong ETag, else the date, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _check_space(part: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if n_bytes > free:
        need = f"{n_bytes / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
        raise CannotContinue(f"no space in {part.parent}: {need}; MIT_BUILDER_WEIGHTS names another place")


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _host(url: str) -> str:
    return urlsplit(url).netloc
