from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yt_dlp

from manifests.sources import url_source
from mit_builder.config import settings
from mit_builder.config.settings import DownloadSettings, Settings
from mit_builder.config.ytdlp_options import RawOptions
from mit_builder.driver import preflight
from mit_builder.errors import ConfigError
from mit_builder.web.client import Heard, options

GOOD: dict[str, Any] = {
    "format_sort": ["res:720"],
    "prefer_free_formats": True,
    "extractor_args": {"youtube": {"player_client": ["tv", "web"]}},
    "playlist_items": "1:100",
    "playlistreverse": True,
    "source_address": "0.0.0.0",
    "legacyserverconnect": True,
    "extractor_retries": 5,
    "fragment_retries": 5,
    "concurrent_fragment_downloads": 4,
    "http_chunk_size": 10 << 20,
    "sleep_interval": 1.5,
    "max_sleep_interval": 3.0,
    "sleep_interval_requests": 1.0,
    "throttledratelimit": 100_000,
}


def test_what_is_allowed_reaches_yt_dlp(tmp_path: Path) -> None:
    assert set(GOOD) == set(RawOptions.model_fields)
    chosen = options(DownloadSettings(ytdlp_options=GOOD), tmp_path, tmp_path, Heard())
    assert {name: chosen[name] for name in GOOD} == GOOD
    assert set(GOOD) <= set(yt_dlp.parse_options([]).ydl_opts)


def test_what_is_allowed_replaces_nothing_of_ours_but_a_number_of_tries(tmp_path: Path) -> None:
    ours = options(DownloadSettings(), tmp_path, tmp_path, Heard())
    assert set(RawOptions.model_fields) & set(ours) == {"fragment_retries"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("external_downloader", {"default": "/bin/sh"}),
        ("postprocessors", [{"key": "Exec", "exec_cmd": "touch x"}]),
        ("ffmpeg_location", "/tmp/evil"),
        ("js_runtimes", {"node": {"path": "/tmp/evil"}}),
        ("netrc_cmd", "touch x"),
        ("print_to_file", {"video": [("id", "/tmp/x")]}),
        ("outtmpl", "/tmp/x"),
        ("download_archive", "/tmp/x"),
        ("cookiefile", "/tmp/x"),
        ("enable_file_urls", True),
        ("exec_cmd", "touch x"),
        ("cachedir", "/tmp/x"),
        ("paths", {"home": "/tmp/x"}),
        ("postprocessor_args", {"ffmpeg": ["/tmp/x"]}),
        ("cookiesfrombrowser", ["firefox"]),
        ("client_certificate", "/tmp/x"),
        ("remote_components", ["ejs:github"]),
        ("writesubtitles", True),
        ("logger", None),
        ("extractor_args", {"youtubepot-script": {"script_path": ["/tmp/x"]}}),
        ("extractor_args", {"youtube": {"po_token": ["secret"]}}),
        ("http_chunk_size", "10"),
        ("concurrent_fragment_downloads", 1000),
    ],
)
def test_everything_else_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"download\.ytdlp_options: Value error, {name}"):
        settings.parse({"download": {"ytdlp_options": {name: value}}})


@pytest.mark.parametrize("with_setup", [True, False])
def test_plugins_that_lie_around_are_not_run(with_setup: bool, tmp_path: Path) -> None:
    package = tmp_path / "yt-dlp" / "plugins" / "any" / "yt_dlp_plugins" / "extractor"
    package.mkdir(parents=True)
    (package / "lying_around.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    program = (
        "from mit_builder.config.settings import DownloadSettings\n"
        "from stages.download import Download\n"
        "import yt_dlp\n"
        f"stage = Download(DownloadSettings())\nif {with_setup}: stage.setup()\n"
        "yt_dlp.YoutubeDL({'quiet': True}).close()\n"
    )
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
    assert (tmp_path / "ran").exists() is not with_setup


@pytest.mark.parametrize(
    ("version", "verdict", "text"),
    [
        ("v22.1.0", "ok", "node 22.1.0"),
        ("v20.20.2", "warning", "node 20.20.2 is too old"),
        (None, "warning", "pip install deno"),
    ],
)
def test_doctor_asks_for_a_javascript_runtime_that_youtube_can_use(
    version: str | None, verdict: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if version:
        (tmp_path / "node").write_text(f"#!/bin/sh\necho {version}\n")
        (tmp_path / "node").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    checks = preflight.check_all(tmp_path, Settings(), [url_source("https://www.youtube.com/watch?v=x")])
    (check,) = (check for check in checks if check.name == "javascript")
    assert (check.verdict, text in check.text) == (verdict, True)


def test_doctor_looks_for_the_cookies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "jar.txt").write_text("# Netscape HTTP Cookie File\n")
    for download, verdict in (
        ({}, []),
        ({"cookies_file": str(tmp_path / "jar.txt")}, ["ok"]),
        ({"cookies_file": str(tmp_path / "no.txt")}, ["failed"]),
        ({"cookies_from_browser": "firefox"}, ["failed"]),
    ):
        checks = preflight.check_all(tmp_path, settings.parse({"download": download}))
        assert [check.verdict for check in checks if check.name == "cookies"] == verdict
