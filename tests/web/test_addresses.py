from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yt_dlp
from web_site import serve_site

from manifests.rows import Source, short_id
from manifests.sources import SourceListError, expand
from mit_builder.config.settings import DownloadSettings
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import SourceError
from mit_builder.storage.workspace import Workspace
from mit_builder.web import addresses
from mit_builder.web.addresses import AddressGuard, is_public
from stages.download import Download

pytestmark = pytest.mark.filterwarnings("ignore:.*socket:pytest.PytestUnraisableExceptionWarning")
find = socket.getaddrinfo
OUTSIDE, INSIDE = "127.0.0.1", "127.0.0.2"
"""In tests of redirects the first counts as public."""


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "2001:db8::1",
    ],
)
def test_addresses_of_this_machine_and_private_networks_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "2002:808:808::1", "64:ff9b::8.8.8.8", "2001:4860:4860::8888"],
)
def test_public_addresses_are(address: str) -> None:
    assert is_public(address)


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def inside(asked: list[str]) -> Iterator[str]:
    with serve_site({"a.mp4": bytes(5000)}, address=INSIDE, asked=asked) as url:
        yield url


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(addresses, "is_public", lambda address: address == OUTSIDE)
    with serve_site({}, address=OUTSIDE) as url:
        yield url


def fetch(address: str, tmp_path: Path, **settings: Any) -> None:
    stage = Download(DownloadSettings(timeout_s=5.0, **settings))
    stage.setup()
    (tmp_path / "tmp").mkdir()
    context = UnitContext(Workspace(tmp_path / "ws"), "0123456789abcdef", tmp_path / "tmp")
    list(stage.process(Source(short_id("url", address), address, "url"), context))


@pytest.mark.parametrize("host", [INSIDE, "localhost", "2130706434", "0x7f.2", "[::ffff:127.0.0.2]", "x.internal"])
def test_a_list_cannot_name_this_machine(inside: str, asked: list[str], host: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="allow_private_addresses") as failed:
        fetch(inside.replace(INSIDE, host) + "/a.mp4", tmp_path)
    assert failed.value.failure_class == "permanent"
    assert asked == []


def test_a_site_cannot_send_on_to_this_machine(inside: str, outside: str, asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"{INSIDE} is an address of this machine"):
        fetch(f"{outside}/moved?{inside}/a.mp4", tmp_path)
    assert asked == []


def test_a_name_that_leads_to_this_machine_is_refused(
    inside: str, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names(host: Any, *arguments: Any, **named: Any) -> Any:
        return find(INSIDE if host == "harmless.example" else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", names)
    with pytest.raises(SourceError, match=r"harmless\.example is an address of this machine"):
        fetch(inside.replace(INSIDE, "harmless.example") + "/a.mp4", tmp_path)
    assert asked == []


def test_the_setting_lets_it_through(inside: str, asked: list[str], tmp_path: Path) -> None:
    with pytest.raises(SourceError):  # zeros are no video
        fetch(f"{inside}/404", tmp_path, allow_private_addresses=True)
    assert "404" in asked


def test_a_proxy_on_this_machine_is_reached_and_not_taken_for_the_target(
    inside: str, asked: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="HTTP Error 404"):
        fetch("http://public.example/none", tmp_path, proxy=inside)
    assert asked == ["http://public.example/none".strip("/")]


def test_behind_a_proxy_numbers_and_local_names_are_refused(inside: str, asked: list[str], tmp_path: Path) -> None:
    for n, host in enumerate(("169.254.169.254", "localhost", "metadata.google.internal")):
        (tmp_path / str(n)).mkdir()
        with pytest.raises(SourceError, match=f"{host} is an address"):
            fetch(f"http://{host}/a.mp4", tmp_path / str(n), proxy=inside)
    assert asked == []


@pytest.mark.parametrize("handler", ["Requests", "Urllib"])
def test_behind_a_proxy_a_site_cannot_send_on_to_numbers_and_local_names(
    inside: str, asked: list[str], tmp_path: Path, handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {"Requests": "Urllib", "Urllib": "Requests"}[handler]
    monkeypatch.delitem(yt_dlp.networking.common._REQUEST_HANDLERS, other)
    for n, host in enumerate(("169.254.169.254", "metadata.google.internal")):
        (tmp_path / str(n)).mkdir()
        address = f"http://public.example/moved?http://{host}/a.mp4"
        with pytest.raises(SourceError, match=f"{host} is an address"):
            fetch(address, tmp_path / str(n), proxy=inside)
    assert asked == ["http://public.example/moved"] * 2


def test_the_guard_ends_with_the_unit(outside: str, tmp_path: Path) -> None:
    from yt_dlp.downloader.external import ExternalFD

    before, send = ExternalFD.real_download, requests.Session.send
    with pytest.raises(SourceError):
        fetch(f"{outside}/404", tmp_path)
    assert socket.getaddrinfo is find
    assert ExternalFD.real_download is before
    assert requests.Session.send is send


def test_programs_that_fetch_by_themselves_are_refused() -> None:
    from yt_dlp.downloader.external import FFmpegFD

    with AddressGuard().on(), pytest.raises(SourceError, match=r"download\.format"):
        FFmpegFD.real_download(None, "x", {})


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file:/etc/passwd",
        "data:video/mp4;base64,AAAA",
        "ytsearch:cats",
        "ftp://host/a.mp4",
        "concat:a|b",
        "--exec=touch x",
        "-o/tmp/x",
    ],
)
def test_other_schemes_and_options_are_no_addresses(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceListError, match=r"only http\(s\) URLs, files and folders|begins with a dash"):
        list(expand([address], base=tmp_path))


def test_a_file_with_a_dash_or_a_colon_in_its_name_is_a_file(tmp_path: Path) -> None:
    for name in ("-o.mp4", "a:b.mp4"):
        (tmp_path / name).write_bytes(b"x")
        (source,) = expand([name], base=tmp_path)
        assert source.kind == "file"
