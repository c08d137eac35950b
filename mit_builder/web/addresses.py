"""Keeps downloads away from this machine and its network: loopback, link-local (cloud metadata) and private addresses.

A list from outside, or a site that redirects, could otherwise have the worker fetch what only the worker can reach.
What counts is the address that a name is found to have at the moment of connecting, so redirects and names that lead
inside are refused as well. Programs that yt-dlp would start to fetch media find names by themselves: they are refused
too. Behind a proxy the proxy finds the names; then only addresses written as numbers and names that are local by their
ending are refused here, in the list and in every redirect.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import SourceError

GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is handed out for the public network (RFC 4291)."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 addresses as an IPv6-only network writes them (RFC 6052)."""
LOCAL_NAMES = ("localhost", "local", "internal", "home.arpa")
"""Top-level names that never lead to the public network (RFC 6761, 6762, 8375; .internal: ICANN 2024)."""
PROXY_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}
_find = socket.getaddrinfo
"""Not the guarded one."""


def is_public(address: str) -> bool:
    """Whether an address, as `getaddrinfo` writes it, belongs to the public network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        return ip in GLOBAL_UNICAST and ip.is_global
    return ip.is_global and not ip.is_multicast


class AddressGuard:
    """Refuses to find addresses that are not public; one unit of one process at a time.

    Args:
        proxies: URLs of proxies, which may stand anywhere.
    """

    def __init__(self, proxies: Iterable[str] = ()) -> None:
        self._proxies = {_endpoint(url) for url in proxies}
        self.refused: str | None = None
        """The host that was refused first: yt-dlp may report something else that followed from it."""

    def error(self) -> SourceError:
        """What to raise where `refused` is set."""
        return SourceError(
            f"{self.refused} is an address of this machine or a private network: refused. To fetch it: "
            f"{hints.keep(Hint.ALLOW_PRIVATE)}"
        )

    def check_url(self, url: str) -> None:
        """Judge what needs no look-up.

        Raises:
            SourceError: a local name, or a number that is no public address.
        """
        host = (urlsplit(url).hostname or "").rstrip(".")
        if host.rpartition(".")[2] in LOCAL_NAMES or host.endswith(".home.arpa") or not _public_if_number(host):
            self.refused = self.refused or host
            raise self.error()

    @contextmanager
    def on(self) -> Iterator[None]:
        """While it is open, this process connects to public addresses alone, whatever library asks."""
        import requests
        from yt_dlp.downloader import external, rtmp
        from yt_dlp.networking import _urllib

        find = socket.getaddrinfo
        with ExitStack() as patches:
            patches.enter_context(_replaced(socket, "getaddrinfo", self._guarded(find)))
            for program in (external.ExternalFD, rtmp.RtmpFD):
                patches.enter_context(_replaced(program, "real_download", _refuse_program))
            send, redirect = requests.Session.send, _urllib.RedirectHandler.redirect_request
            patches.enter_context(_replaced(requests.Session, "send", self._each_hop(send)))
            patches.enter_context(_replaced(_urllib.RedirectHandler, "redirect_request", self._each_hop(redirect)))
            yield

    def _each_hop(self, go: Callable[..., Any]) -> Callable[..., Any]:
        """A method of `requests` or urllib that follows a redirect, with the address judged before."""
        import requests

        def checked(owner: Any, request: Any, *arguments: Any, **named: Any) -> Any:
            try:
                self.check_url(arguments[-1] if arguments else request.url)
            except SourceError as error:
                raise requests.exceptions.InvalidURL(str(error)) from error
            return go(owner, request, *arguments, **named)

        return checked

    def _guarded(self, find: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
        def getaddrinfo(host: Any, port: Any, *arguments: Any, **named: Any) -> list[Any]:
            found = find(host, port, *arguments, **named)
            name = host.decode() if isinstance(host, bytes) else host
            if (name, int(port) if str(port).isdecimal() else None) in self._proxies:
                return found
            public = [entry for entry in found if is_public(entry[4][0])]
            if not public:
                self.refused = self.refused or str(name)
                raise socket.gaierror(socket.EAI_FAIL, f"{name} has no public address")
            return public

        return getaddrinfo


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _refuse_program(downloader: Any, *arguments: Any, **named: Any) -> bool:
    raise SourceError(
        "this format is fetched by another program (live, rtmp, encrypted), which the address guard cannot watch: "
        "choose another download.format"
    )


def _public_if_number(host: str) -> bool:
    """False for a number that is no public address; all ways to write one count (2130706433, 0x7f.1)."""
    try:
        found = _find(host, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return True
    return all(is_public(str(entry[4][0])) for entry in found)


def _endpoint(proxy: str) -> tuple[str | None, int | None]:
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname, parts.port or PROXY_PORTS.get(parts.scheme)
