"""A local web server for the files of a folder that counts what is asked for."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class WebFolder:
    """Where it listens, and the paths of all requests."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[WebFolder]:
    web = WebFolder()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            web.asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
