"""A web on loopback in which every address behaves, or fails, in one known way, and which writes down how it was asked.

Each host is an address of its own (127.0.1.1 ...), so that what is kept per host can be told apart. `KINDS` says for
every kind of address how it answers, what should become of it, and how often it should be asked.
"""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

ATTEMPTS = 3
"""`run.max_attempts` of the runs that the table is made for."""
SOCKET_TIMEOUT_S = 2.0
PAUSE_S = 2
"""What the busy host asks for by Retry-After."""
MAX_FILE_GB = 0.002
LONG = "<p>words</p>" * 200
YTDLP_TRIES = 4
"""Requests for media that yt-dlp makes before it gives up (its option `retries` is 3)."""


def page(body: str, head: str = "") -> bytes:
    return f"<html><head><title>A page</title>{head}</head><body>{body}{LONG}</body></html>".encode()


@dataclass(frozen=True)
class Hit:
    """One request: when it began and when it was answered (monotonic seconds)."""

    host: str
    path: str
    start_s: float
    end_s: float
    status: int
    asked: str
    """As in the request's first line: the whole address where this is a proxy."""


@dataclass
class Web:
    """Hosts and what they were asked."""

    video: bytes
    urls: dict[str, str] = field(default_factory=dict)
    """Host -> `http://host:port`."""
    hits: list[Hit] = field(default_factory=list)
    begun: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed_port: int = 9

    def begin(self, url: str) -> int:
        """How often the address was asked, this time included."""
        with self.lock:
            self.begun[url] += 1
            return self.begun[url]

    def file(self, name: str) -> bytes:
        """A video of its own content for every name: equal ones would be duplicates."""
        text = name.encode()
        return self.video + (8 + len(text)).to_bytes(4, "big") + b"free" + text


class Visit(BaseHTTPRequestHandler):
    """One request and the ways to answer it."""

    web: Web
    n_th: int
    status = 0

    def do_GET(self) -> None:
        started_s = time.monotonic()
        host = self.server.server_address[0]
        path = urlsplit(self.path).path
        self.n_th = self.web.begin(f"{host}{path}")
        kind = path.strip("/").partition(".")[0].rpartition("-")[0]
        with contextlib.suppress(ConnectionError):  # a client that has seen enough
            KINDS[kind].answer(self) if kind in KINDS else self.whole()
        with self.web.lock:
            self.web.hits.append(Hit(host, path, started_s, time.monotonic(), self.status, self.path))

    def send_response(self, code: int, message: str | None = None) -> None:
        self.status = code
        super().send_response(code, message)

    def head(self, status: int, *, length: int | None = None, kind: str = "text/html", **more: str) -> None:
        reason = more.pop("reason", None)
        self.send_response(status, reason)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def refuse(self, status: int, **more: str) -> None:
        self.head(status, length=0, **more)

    def text(self, body: bytes, kind: str = "text/html") -> None:
        self.head(200, length=len(body), kind=kind)
        self.wfile.write(body)

    def whole(self, *, n_bytes: int | None = None, pause_s: float = 0.0, claimed: int | None = None) -> None:
        """The video of this path; less of it than was announced, or slowly in ten pieces."""
        body = self.web.file(self.path)
        self.head(200, length=claimed or len(body), kind="video/mp4")
        if n_bytes is not None:
            self.wfile.write(body[:n_bytes])
            return
        size = -(-len(body) // 10) if pause_s else len(body)
        for start in range(0, len(body), size):
            time.sleep(pause_s / 10)
            self.wfile.write(body[start : start + size])

    def after(self, n_before: int, first: Callable[[], None]) -> None:
        """Something else for the first requests, then the video."""
        first() if self.n_th <= n_before else self.whole()

    def hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def stall(self) -> None:
        """The video's beginning, and then nothing for longer than the client waits."""
        self.whole(n_bytes=500)
        self.wfile.flush()
        time.sleep(SOCKET_TIMEOUT_S * 1.5)

    def endless(self) -> None:
        self.head(200)
        while True:
            self.wfile.write(b"<p>words" * 8192)

    def other(self, name: str) -> str:
        """Address on this host."""
        host, port = self.server.server_address[:2]
        return f"http://{host}:{port}/{name}"

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class Kind:
    """A way to answer.

    Attributes:
        outcome: what the ledger should say after the first run.
        n_asked: requests for the address itself in the first run, at least and at most.
        again: whether a second run should ask again.
        answer: None where nobody listens.
        suffix: of the address.
    """

    outcome: str
    n_asked: tuple[int, int]
    again: bool
    answer: Callable[[Visit], None]
    suffix: str = ""


def words(text: str) -> Callable[[Visit], None]:
    """What a site says, as far as yt-dlp hands it on without an extractor of the site's own."""
    return lambda visit: visit.refuse(400, reason=text)


def once(outcome: str, answer: Callable[[Visit], None], *, n: int = 1, suffix: str = "") -> Kind:
    """Asked in one attempt and never again."""
    return Kind(outcome, (n, n), again=False, answer=answer, suffix=suffix)


def always(answer: Callable[[Visit], None], n: int, suffix: str = "") -> Kind:
    """Transient to the end: `n` requests in each attempt."""
    return Kind("failed: transient", (ATTEMPTS * n, ATTEMPTS * n), again=True, answer=answer, suffix=suffix)


VIDEO = '<video src="/media-of-{}.mp4" controls></video>'
LIVE_HLS = b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nseg1.ts\n"
LIVE_DASH = (
    b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="dynamic"><Period><AdaptationSet mimeType="video/mp4">'
    b'<Representation id="1" bandwidth="1000"><BaseURL>x.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
RTA = '<meta name="rating" content="RTA-5042-1996-1400-1577-RTA">'
NINE_HOURS = (
    '<script type="application/ld+json">{"@context": "https://schema.org", "@type": "VideoObject", "name": "x", '
    '"duration": "PT9H", "contentUrl": "%s"}</script>'
)


def _name(visit: Visit) -> str:
    return visit.path.strip("/").partition(".")[0]


KINDS: dict[str, Kind] = {
    "file": once("done", lambda v: v.whole(), n=2, suffix=".mp4"),
    "slow": once("done", lambda v: v.whole(pause_s=1.5 if v.n_th > 1 else 0), n=2, suffix=".mp4"),
    "page": once("done", lambda v: v.text(page(VIDEO.format(_name(v))))),
    "playlist": once("done", lambda v: v.text(page(VIDEO.format(f"{_name(v)}-a") + VIDEO.format(f"{_name(v)}-b")))),
    "moved": once("done", lambda v: v.refuse(302, Location=v.other(f"media-of-{_name(v)}.mp4"))),
    "unavailable-once": once("done", lambda v: v.after(1, lambda: v.refuse(503)), n=3, suffix=".mp4"),
    "busy": once("done", lambda v: v.after(1, lambda: v.refuse(429, Retry_After=str(PAUSE_S))), n=3, suffix=".mp4"),
    "expired-once": once("done", lambda v: v.refuse(403) if v.n_th == 2 else v.whole(), n=4, suffix=".mp4"),
    "cut-once": once("done", lambda v: v.whole(n_bytes=700 if v.n_th == 2 else None), n=3, suffix=".mp4"),
    "404": once("failed: permanent", lambda v: v.refuse(404)),
    "410": once("failed: permanent", lambda v: v.refuse(410)),
    "451": once("failed: permanent", lambda v: v.refuse(451)),
    "private": once("failed: permanent", words("This video is private")),
    "removed": once("failed: permanent", words("This video has been removed by the uploader")),
    "geo": once("failed: permanent", words("The uploader has not made this video available in your country")),
    "no-video": once("failed: permanent", lambda v: v.text(page("Only words"))),
    "endless-page": once("failed: permanent", lambda v: v.endless()),
    "loop": Kind("failed: permanent", (2, 40), again=False, answer=lambda v: v.refuse(302, Location=v.path)),
    "moved-to-a-file": once("failed: permanent", lambda v: v.refuse(302, Location="file:///etc/passwd")),
    "html-as-mp4": once("failed: permanent", lambda v: v.text(page("x"), "video/mp4"), n=2, suffix=".mp4"),
    "no-mp4": once("failed: permanent", lambda v: v.text(bytes(5000), "video/mp4"), n=2, suffix=".mp4"),
    "401": once("failed: auth", lambda v: v.refuse(401)),
    "403": once("failed: auth", lambda v: v.refuse(403)),
    "bot": once("failed: auth", words("Sign in to confirm you're not a bot")),
    "age": once("rejected: age_limited", words("Sign in to confirm your age")),
    "adult": once("rejected: age_limited", lambda v: v.text(page(VIDEO.format(_name(v)), RTA))),
    "live-hls": Kind("rejected: live", (2, 3), False, lambda v: v.text(LIVE_HLS, "application/x-mpegurl"), ".m3u8"),
    "live-dash": once("rejected: live", lambda v: v.text(LIVE_DASH, "application/dash+xml"), suffix=".mpd"),
    "premiere": once("rejected: live", words("Premieres in 20 minutes")),
    "too-long": once(
        "rejected: too_long", lambda v: v.text(page("x", NINE_HOURS % v.other(f"media-of-{_name(v)}.mp4")))
    ),
    "too-large": once("rejected: too_large", lambda v: v.whole(claimed=9_000_000), n=2, suffix=".mp4"),
    "500": always(lambda v: v.refuse(500), 1),
    "reset": always(lambda v: v.hang_up(), 1),
    "refused": always(lambda v: None, 0),
    "moved-to-nobody": always(lambda v: v.refuse(302, Location=f"http://127.0.0.1:{v.web.closed_port}/x.mp4"), 1),
    "empty": always(lambda v: v.text(b"", "video/mp4"), 2, ".mp4"),
    "cut": always(lambda v: v.whole(n_bytes=700), 1 + YTDLP_TRIES, ".mp4"),
    "stalled": always(lambda v: v.whole() if v.n_th % 5 == 1 else v.stall(), 1 + YTDLP_TRIES, ".mp4"),
    "moved-inside": once("failed: permanent", lambda v: v.refuse(302, Location="http://169.254.169.254/latest")),
    # Hosts of their own, on which nothing else is asked for.
    "login-wall": Kind("failed: auth", (0, 1), again=True, answer=lambda v: v.refuse(401)),
    "down": Kind("failed: transient", (0, ATTEMPTS), again=True, answer=lambda v: v.refuse(502)),
}


@contextmanager
def serve(video: bytes, hosts: Sequence[str]) -> Iterator[Web]:
    """Open the hosts; `hits` fill up while the context is open."""
    web = Web(video)
    handler = type("ThisVisit", (Visit,), {"web": web})
    with ExitStack() as stack:
        for host in hosts:
            server = _Server((host, 0), handler)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            stack.callback(_end, server, thread)
            web.urls[host] = f"http://{host}:{server.server_address[1]}"
        yield web
    gc.collect()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are part of the script."""


def _end(server: ThreadingHTTPServer, thread: threading.Thread) -> None:
    server.shutdown()
    thread.join()
    server.server_close()
