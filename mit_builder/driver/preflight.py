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
from mit_builder.config.backends import EMBEDDED
from mit_builder.config.settings import Settings
from mit_builder.console.wording import counted
from mit_builder.driver.session import models
from mit_builder.engine import memory
from mit_builder.engine.ray_connect import home_problem
from mit_builder.errors import MediaError, StageUnavailable, WorkspaceError
from mit_builder.media.write import ffmpeg_executable
from mit_builder.models.weights import store
from mit_builder.pipeline import STAGES
from mit_builder.storage.source_catalog import SourceList
from mit_builder.storage.workspace import Workspace
from mit_builder.storage.writable import check_folder, check_storage
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


def check_writable(place: Workspace | Path) -> list[Check]:
    """Whether a workspace, or the folder that is to become one, takes what a run writes."""
    try:
        check_storage(place) if isinstance(place, Workspace) else check_folder(place)
    except WorkspaceError as error:
        return [Check("workspace", "failed", str(error))]
    return [Check("workspace", "ok", "can be written to")]


def check_engine(settings: Settings) -> list[Check]:
    """What a Ray of our own needs of this machine."""
    problem = home_problem()
    home = (
        f"{problem}: weights are kept where MIT_BUILDER_WEIGHTS says; runs do without"
        if problem
        else "can be written to"
    )
    is_enough, said = memory.said(settings.run.cpus)
    return [
        Check("home", "warning" if problem else "ok", home),
        Check("memory", "ok" if is_enough else "warning", said),
    ]


def _python() -> Check:
    return Check("python", "ok", f"{sys.version.split()[0]} on {counted(os.cpu_count() or 1, 'core')}")


def _ffmpeg() -> Check:
    try:
        return Check("ffmpeg", "ok", ffmpeg_executable())
    except MediaError as error:
        return Check("ffmpeg", "failed", str(error))


def _packages(settings: Settings, stages: Collection[str]) -> list[Check]:
    needed = [found for _, backend in models(settings, stages) for found in backend.requires]
    there = [(name, how) for name, how in dict.fromkeys(needed) if importlib.util.find_spec(name) is not None]
    packages = [name.replace("_", "-") for name, how in there if how == EMBEDDED]
    return [*(Check(package, "ok", _version(package)) for package in packages), _libgl()]


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
    for what, backend in models(settings, stages):
        missing, said = store.missing_for(backend), backend.identity or backend.name
        checks.append(Check(what, "failed" if missing else "ok", f"{said} needs: {missing}" if missing else said))
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
