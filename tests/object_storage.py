"""A real S3 server on loopback (moto's), and a proxy before it that fails as services do.

Every request of the proxy draws its fate from the seed, the method, the path and how often it was asked for: whatever
the order in which threads arrive, the same requests fail.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import boto3

SECRET = "secret-that-nobody-may-see"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1"}
FATES = ("error", "slow down", "cut before", "cut after", "cut inside")
"""500, 503; the connection is closed before the request is passed on, after it was applied, amid the answer."""


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port: int = asked.getsockname()[1]
        return port


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    endpoint: str

    def client(self) -> Any:
        """boto3's client of it."""
        return boto3.client("s3", endpoint_url=self.endpoint, **_boto_names())

    def bucket(self, name: str) -> str:
        """Make a bucket; its URI."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


def _boto_names() -> dict[str, str]:
    names = {"AWS_ACCESS_KEY_ID": "aws_access_key_id", "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key"}
    return {ours: ENVIRONMENT[theirs] for theirs, ours in names.items()} | {"region_name": "us-east-1"}


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """moto's server in a process of its own."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield S3Server(f"http://127.0.0.1:{port}")
        finally:
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("moto's server does not start")


@dataclass
class FlakyProxy:
    """What the proxy was asked and what it did.

    Attributes:
        share: of the requests that fail.
        only: fates to draw from.
        requests: (method, path without query, fate or "passed"), in order of arrival.
    """

    upstream: str
    seed: int
    share: float
    only: tuple[str, ...] = FATES
    endpoint: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    n_bytes_down: int = 0
    _asked: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fate(self, method: str, target: str) -> str:
        """What becomes of the next request for `target`."""
        # Buckets and uploads have random names, which would make the fates of one seed differ from run to run.
        request = f"{method} {_RANDOM.sub('', target)}"
        with self._lock:
            self._asked[request] += 1
            rng = random.Random(f"{self.seed} {request} {self._asked[request]}")
            chosen = rng.choice(self.only) if rng.random() < self.share else "passed"
            self.requests.append((method, urlsplit(target).path, chosen))
        return chosen

    def count(self, method: str, fate: str | None = None) -> int:
        """Requests of a method, all or those of one fate."""
        return sum(m == method and fate in (None, f) for m, _, f in self.requests)


_RANDOM = re.compile(r"^/[^/?]*|(?<=uploadId=)[^&]*")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FlakyProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fate = self.proxy.fate(self.command, self.path)
        if fate in ("error", "slow down"):
            self._refuse(500 if fate == "error" else 503, "InternalError" if fate == "error" else "SlowDown")
        elif fate == "cut before":
            self.close_connection = True
        else:
            self._pass_on(body, fate)

    def _refuse(self, status: int, code: str) -> None:
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _pass_on(self, body: bytes, fate: str) -> None:
        upstream = http.client.HTTPConnection(urlsplit(self.proxy.upstream).netloc, timeout=60)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        if fate == "cut after":
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        if answer.status not in (204, 304):
            self.send_header("Content-Length", length or "0")
        self.end_headers()
        half = fate == "cut inside"
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.proxy.n_bytes_down += len(data)
        self.close_connection = self.close_connection or half

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: `FlakyProxy.requests` has it."""


@contextmanager
def flaky_proxy(
    upstream: str, *, seed: int = 1, share: float = 0.15, only: tuple[str, ...] = FATES
) -> Iterator[FlakyProxy]:
    """A proxy before a server, in threads of this process; with `share=0` it only counts."""
    proxy = FlakyProxy(upstream, seed, share, only)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    server.daemon_threads = True
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # clients may hang up
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
