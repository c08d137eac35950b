"""A local web server for one file, with ranges and the ways in which real ones fail."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What to serve, and what was asked for.

    Attributes:
        body: the file.
        etag: sent and compared with `If-Range`; empty: none.
        cuts: for the next answers, after how many bytes the connection ends.
        statuses: statuses of the next answers instead of the file.
        content_type: as sent.
        modified: sent as `Last-Modified` and compared with `If-Range`; empty: none.
        honours_condition: whether `If-Range` is looked at.
        after_answers: after so many answers, something that changes.
        ranges: `Range` of every request, in order.
    """

    body: bytes = b""
    etag: str = '"one"'
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    content_type: str = "application/octet-stream"
    modified: str = ""
    honours_condition: bool = True
    after_answers: tuple[int, Callable[[], object]] | None = None
    ranges: list[str | None] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def serve() -> Iterator[FileServer]:
    files = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            files.ranges.append(asked)
            if files.statuses:
                self.send_response(files.statuses.pop(0))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if files.after_answers and len(files.ranges) > files.after_answers[0]:
                files.after_answers[1]()
            known = self.headers.get("If-Range") in {files.etag, files.modified} - {""}
            whole = not asked or (files.honours_condition and not known)
            start = 0 if whole else int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(files.body) > 0:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200 if whole else 206)
            self.send_header("Content-Type", files.content_type)
            self.send_header("Content-Length", str(len(files.body) - start))
            if not whole:
                self.send_header("Content-Range", f"bytes {start}-{len(files.body) - 1}/{len(files.body)}")
            if files.modified:
                self.send_header("Last-Modified", files.modified)
            if files.etag:
                self.send_header("ETag", files.etag)
            self.end_headers()
            end = start + files.cuts.pop(0) if files.cuts else len(files.body)
            with contextlib.suppress(ConnectionError):  # the client has seen enough
                self.wfile.write(files.body[start:end])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}/file.model"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
