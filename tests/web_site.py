"""A site on loopback whose pages and videos fail in every way that a test asks for."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PAGE = "<html><head><title>{title}</title></head><body>{body}</body></html>"
RTA = '</title><meta name="rating" content="RTA-5042-1996-1400-1577-RTA"><title>'
"""How a page says that it is for adults."""
LONG = "<p>words</p>" * 200

CAPTIONS = {
    "en.vtt": (
        b"WEBVTT\n\n00:00.100 --> 00:00.500\n<v Ann>Good <i>morning</i> &amp;\nhello\x07\n\n"
        b"00:00.400 --> 09:00.000\nto the end\n\n01:00:00.000 --> 01:00:01.000\nafter the end\n"
    ),
    "de.srt": b"1\n00:00:00,200 --> 00:00:00,300\n{\\an8}Guten Morgen\n",
    "broken.vtt": b"\0\xff<html>",
}
N_IN_FEED = 5000
ITEMS = "".join(f"<item><enclosure url='https://host.example/{n}.mp4'/></item>" for n in range(N_IN_FEED))
FEED = f"<?xml version='1.0'?><rss version='2.0'><channel><title>Talks</title>{ITEMS}</channel></rss>"
CAPTIONED = (
    '<video src="/a.mp4" controls><track src="/en.vtt" srclang="en-GB"><track src="/de.srt" srclang="de">'
    '<track src="/404.vtt" srclang="fr"><track src="/429.vtt" srclang="it"><track src="/broken.vtt" srclang="es">'
    '<track src="/many.vtt" srclang="pt"></video>'
)


class Site(BaseHTTPRequestHandler):
    """Pages and videos, and ways to fail."""

    videos: dict[str, bytes]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        self.asked.append(name)
        if name in self.videos:
            self._answer(self.videos[name], "video/mp4")
        elif name.endswith("moved"):
            self._redirect(self.path.partition("?")[2])
        elif name.startswith("open/"):  # to the end, or to where the connection breaks: nobody can tell
            whole = self.videos[name.rpartition("/")[2]]
            self._until_closed(whole[: int(len(whole) * float(self.path.partition("?")[2] or 1))])
        elif name == "broken-once.mp4":  # the connection breaks when its media come for the first time
            whole = self.videos["late.mp4"]
            self._until_closed(whole[: len(whole) // 2] if self.asked.count(name) == 2 else whole)
        elif name.startswith("as/"):  # a video under any name, as what the query says
            self._answer(self.videos["a.mp4"], self.path.partition("?")[2])
        elif name == "wall.mp4":  # a video that is behind a login when it is fetched
            self._once(name, lambda: self._redirect("/users/sign_in"))
        elif name in ("endless.mp4", "endless"):
            self._endless("video/mp4" if name == "endless.mp4" else "text/html")
        elif name == "busy":
            self._refuse(429, retry_after="7")
        elif name == "busy.mp4":  # in the middle of its media
            self._once(name, lambda: self._refuse(503, retry_after="9"))
        elif name == "expired.mp4":
            self._once(name, lambda: self._refuse(403))
        elif (number := name.removesuffix(".vtt")).isdigit():
            self.send_error(int(number))
        elif name == "cut.mp4":
            self._answer(self.videos["a.mp4"][:700], "video/mp4", claimed=len(self.videos["a.mp4"]))
        elif name == "feed":
            self._answer(FEED.encode(), "application/rss+xml")
        elif name in CAPTIONS:
            self._answer(CAPTIONS[name], "text/vtt")
        elif name == "many.vtt":
            self._endless("video/mp4")
        elif name == "page.mp4":
            self._answer(PAGE.format(title="x", body=LONG).encode(), "video/mp4")
        elif name == "broken.mp4":
            self._answer(b"\0\0\0\x18ftypmp42" + bytes(5000), "video/mp4")
        elif name in self._pages():
            self._answer(self._pages()[name].encode(), "text/html")
        else:
            self.send_error(404)

    def _pages(self) -> dict[str, str]:
        video = '<video src="/{}" controls></video>'
        return {
            "one": PAGE.format(title="A talk\n of &quot;two&quot;", body=video.format("a.mp4") + LONG),
            "several": PAGE.format(title="All talks", body=video.format("a.mp4") + video.format("b.mp4") + LONG),
            "signed": PAGE.format(
                title="Signed talks",
                body=video.format(f"a.mp4?sig=hidden{len(self.asked)}") + video.format("b.mp4") + LONG,
            ),
            "adults": PAGE.format(title=RTA, body=video.format("a.mp4") + video.format("b.mp4") + LONG),
            "captioned": PAGE.format(title="With words", body=CAPTIONED + LONG),
            "none": PAGE.format(title="No video", body=LONG),
            "users/sign_in": PAGE.format(title="Welcome", body="<form><input type=password></form>" + LONG),
            "accounts/login": PAGE.format(title="Welcome", body=LONG),
            "login-and-video": PAGE.format(title="How to log in", body=video.format("a.mp4") + LONG),
        }

    def _once(self, name: str, then: Callable[[], None]) -> None:
        """A video's head for yt-dlp's first look at it, something else when it is fetched."""
        if self.asked.count(name) == 1:
            self._answer(self.videos["a.mp4"], "video/mp4")
        else:
            then()

    def _endless(self, kind: str) -> None:
        """A body without a length that never ends by itself."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        with contextlib.suppress(OSError):
            while self.command == "GET":
                self.wfile.write(bytes(1 << 16) if kind == "video/mp4" else b"<p>words" * 8192)

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def _until_closed(self, body: bytes) -> None:
        """A body without a length, which ends with the connection."""
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _refuse(self, status: int, *, retry_after: str | None = None) -> None:
        self.send_response(status)
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes, kind: str, *, claimed: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(claimed or len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


@contextmanager
def serve_site(
    videos: dict[str, bytes], *, address: str = "127.0.0.1", asked: list[str] | None = None
) -> Iterator[str]:
    """The address of a site that has these videos; names it is asked for go to `asked`."""
    handler = type("ThisSite", (Site,), {"videos": videos, "asked": [] if asked is None else asked})
    server = ThreadingHTTPServer((address, 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://{address}:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        gc.collect()
