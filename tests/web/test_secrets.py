from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
import pytest

SECRET = "hunter22"
COOKIES = f"# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tsession\t{SECRET}\n"


class Refusing(BaseHTTPRequestHandler):
    """A site that refuses, and repeats what it was told."""

    told: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.told.append(self.headers.get("Cookie"))
        self.send_response(403)
        self.end_headers()
        self.wfile.write(f"not for {self.told[-1]}".encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Refusing.told.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/page"
        server.shutdown()


@pytest.mark.parametrize(
    "setting",
    [
        f"proxy=http://user:{SECRET}@127.0.0.1:9",
        f"proxy=socks5://user:{SECRET}@127.0.0.1:9",
        "cookies_file=cookies.txt",
    ],
)
def test_passwords_and_cookies_are_nowhere_but_where_they_belong(setting: str, address: str, tmp_path: Path) -> None:
    (tmp_path / "cookies.txt").write_text(COOKIES)
    sets = [f"download.{setting}", "download.allow_private_addresses=true", "run.max_attempts=1"]
    given = [part for text in sets for part in ("--set", text)]
    said = ""
    for arguments in (
        ["run", "--stage", "download", "--engine", "serial", *given, address],
        ["run", "--stage", "download", "--engine", "serial", "--set", "download.proxy=null"],
        ["why", address],
        ["status", "--failed"],
        ["doctor"],
    ):
        program = [sys.executable, "-m", "mit_builder", "--debug", *arguments, "--workspace", "ws"]
        done = subprocess.run(program, capture_output=True, text=True, check=False, cwd=tmp_path)
        said += done.stdout + done.stderr
    assert "failed" in said
    assert (f"session={SECRET}" in Refusing.told) == ("cookies" in setting)
    assert SECRET not in said
    files = [path for path in (tmp_path / "ws").rglob("*") if path.is_file()]
    assert any(path.suffix == ".parquet" for path in files)
    for path in files:
        text = str(pq.read_table(path).to_pylist()) if path.suffix == ".parquet" else path.read_text(errors="replace")
        assert SECRET not in text, path
