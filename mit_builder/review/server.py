"""The report with review controls that save: a server for one person on this machine.

It listens on 127.0.0.1 alone. Every path begins with a random token, the Host header must name this address (a page
elsewhere may get its own name to point here), and what is sent must come from a page of this server (Origin) as JSON.
Only files of the report, the clips' videos and those they are cut from are handed out.
"""

from __future__ import annotations

import json
import mimetypes
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from manifests.rows import Review, Sample
from mit_builder.console.wording import counted
from mit_builder.dataset.index import inside, is_below
from mit_builder.errors import ConfigError, WorkspaceError
from mit_builder.labels.reviews import Reviews
from mit_builder.review.documents import document, parse_change
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace

HOST = "127.0.0.1"
MAX_BODY_BYTES = 4 << 20
PIECE_BYTES = 1 << 20
_SERVED = re.compile(r"(report/.+\.(html|js|jpg|png|mp4)|(clips|videos)/.+\.(mp4|m4v|mov|mkv|webm))")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass
class Site:
    """What a server hands out and takes in.

    Attributes:
        workspace: with the report.
        reviews: where verdicts go.
        n_people: of each clip that may be judged.
        sample: the one to show first.
        port: the server's, once there is one.
        token: part of every address.
    """

    workspace: Workspace
    reviews: Reviews
    n_people: Mapping[str, int]
    sample: Sample | None = None
    port: int = 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    lock: threading.Lock = field(default_factory=threading.Lock)


def make_server(site: Site, port: int = 0) -> ThreadingHTTPServer:
    """A server on the loopback interface, not yet started; port 0 takes a free one.

    Raises:
        ConfigError: the port is taken.
    """
    handler = type("Handler", (_Handler,), {"site": site})
    try:
        server = ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise ConfigError(f"cannot listen on {HOST}:{port}: {error.strerror}; choose another --port") from error
    site.port = int(server.socket.getsockname()[1])
    return server


def address_of(site: Site) -> str:
    """The page's address. It holds a token that only the person in front of this machine is told."""
    return f"http://{HOST}:{site.port}/{site.token}/report/index.html#/gallery"


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "mit-build", ""
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: addresses hold the token."""

    def handle(self) -> None:
        """Browsers drop connections in the middle of a video as they like."""
        with suppress(ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, what: Callable[[str], None]) -> None:
        path = self._path()
        if path is None:
            self._refuse(HTTPStatus.FORBIDDEN, "not for you: open the address that the review printed last")
            return
        try:
            what(path)
        except (WorkspaceError, PermissionError) as error:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))

    def _path(self) -> str | None:
        """The path after the token; None where the request is not from this server's own page."""
        own = {f"{name}:{self.site.port}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in own:
            return None
        _, _, rest = unquote(urlsplit(self.path).path).partition("/")
        token, _, path = rest.partition("/")
        return path if secrets.compare_digest(token.encode(), self.site.token.encode()) else None

    def _post(self, path: str) -> None:
        host = self.headers["Host"]
        kind = self.headers.get("Content-Type", "").partition(";")[0]
        n_bytes = self.headers.get("Content-Length", "")
        # What is left unread of a refused body would be taken for the next request.
        self.close_connection = True
        if self.headers.get("Origin") != f"http://{host}" or kind != "application/json":
            self._refuse(HTTPStatus.FORBIDDEN, "only from the page")
        elif path != "reviews.json":
            self._refuse(HTTPStatus.NOT_FOUND, "no such place")
        elif not n_bytes.isdecimal() or int(n_bytes) > MAX_BODY_BYTES:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long")
        else:
            self._save(self.rfile.read(int(n_bytes)))

    def _save(self, body: bytes) -> None:
        try:
            review, instead_of = parse_change(body)
            self._check(review)
            with self.site.lock:
                self.site.reviews = self.site.reviews.current()
                found = self.site.reviews.find(review.clip_id)
                kept = None if found is None else document(found)
                is_next = instead_of == kept
                if is_next:
                    self.site.reviews.save([review])
        except ConfigError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except WorkspaceError as error:
            self._refuse(HTTPStatus.INSUFFICIENT_STORAGE, str(error))
        else:
            if is_next:
                self._send_json(HTTPStatus.OK, {"saved": document(review)})
            else:
                problem = "this clip was judged elsewhere meanwhile; that verdict is shown now, judge again"
                self._send_json(HTTPStatus.CONFLICT, {"problem": problem, "kept": kept})

    def _check(self, review: Review) -> None:
        n_people = self.site.n_people.get(review.clip_id)
        if n_people is None or Tombstones.of(self.site.workspace).bars_clip(review.clip_id):
            raise ConfigError(f"there is no clip {review.clip_id} here")
        for correction in review.corrections:
            if correction.person_id >= n_people:
                people = counted(n_people, "person", "people")
                raise ConfigError(f"a correction of person {correction.person_id}: the clip has {people}")

    def _get(self, path: str) -> None:
        if path == "reviews.json":
            with self.site.lock:
                self.site.reviews = self.site.reviews.current()
                reviews = [document(review) for review in self.site.reviews.all()]
            sample = self.site.sample
            self._send_json(HTTPStatus.OK, {"reviews": reviews, "sample": sample and sample.sample_id})
        elif not self._is_served(path):
            self._refuse(HTTPStatus.NOT_FOUND, "no such file")
        else:
            self._file(path)

    def _is_served(self, path: str) -> bool:
        """Whether it is a file of the report or a video, also where links in these folders lead."""
        root = self.site.workspace.root
        if not _SERVED.fullmatch(path) or not is_below(path):
            return False
        if root is None:
            return True
        found = inside(root, path)
        return found is not None and found.relative_to(root).parts[0] == path.partition("/")[0]

    def _file(self, key: str) -> None:
        try:
            with self.site.workspace.local(key) as path:
                n_bytes = path.stat().st_size
                if key.endswith("index.html"):
                    page = path.read_bytes().replace(b"<html ", b'<html data-served="yes" ', 1)
                    self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")
                    return
                span = _span(self.headers.get("Range"), n_bytes)
                if span is None:
                    self._head(
                        HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, "", {"Content-Range": f"bytes */{n_bytes}"}
                    )
                    return
                start, end = span
                kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
                extra = {"Accept-Ranges": "bytes"}
                if "Range" in self.headers:
                    extra["Content-Range"] = f"bytes {start}-{end - 1}/{n_bytes}"
                self._head(
                    HTTPStatus.PARTIAL_CONTENT if "Range" in self.headers else HTTPStatus.OK, end - start, kind, extra
                )
                if self.command == "GET":
                    with path.open("rb") as file:
                        file.seek(start)
                        while start < end and (piece := file.read(min(PIECE_BYTES, end - start))):
                            self.wfile.write(piece)
                            start += len(piece)
        except (FileNotFoundError, IsADirectoryError):
            self._refuse(HTTPStatus.NOT_FOUND, "no such file")

    def _refuse(self, status: HTTPStatus, problem: str) -> None:
        self._send_json(status, {"problem": problem})

    def _send_json(self, status: HTTPStatus, values: dict[str, Any]) -> None:
        self._send(status, json.dumps(values).encode() + b"\n", "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self._head(status, len(body), kind, {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, n_bytes: int, kind: str, extra: dict[str, str]) -> None:
        self.send_response(status)
        common = {
            "Content-Length": str(n_bytes),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Frame-Options": "DENY",
        }
        for name, value in {**common, **({"Content-Type": kind} if kind else {}), **extra}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()


def _span(wanted: str | None, n_bytes: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a Range header; None where it lies outside the file."""
    if wanted is None:
        return 0, n_bytes
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    if not match.group(1):
        return max(0, n_bytes - int(match.group(2))), n_bytes
    start = int(match.group(1))
    end = min(n_bytes, int(match.group(2)) + 1) if match.group(2) else n_bytes
    return (start, end) if start < end else None
