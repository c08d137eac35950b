"""A run from the outside: the sources and settings that a workspace remembers, and what is decided at its start."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml

from mit_builder import config
from mit_builder.config import Section, Settings
from mit_builder.errors import ConfigError
from mit_builder.models import devices, weights
from mit_builder.source_book import DEMO, SourceBook, SourceList
from mit_builder.workspace import Workspace

SETTINGS_KEY = "mit-build.yaml"
REBUILT = "rebuilt.json"
"""In a workspace whose dataset was rebuilt from a manifest: it has no sources to run over."""


def new_run_id() -> str:
    """Name of a run: sorts by time, unique."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)


def last_settings(workspace: Workspace) -> Settings | None:
    """Settings of the last run in this workspace.

    Raises:
        ConfigError: the file is damaged.
    """
    try:
        text = workspace.read(SETTINGS_KEY)
    except FileNotFoundError:
        return None
    try:
        values = yaml.safe_load(text)
    except config.UNREADABLE as error:
        raise ConfigError(f"{SETTINGS_KEY} in the workspace is damaged: repair or delete it") from error
    return config.parse(values or {})


def save_settings(workspace: Workspace, settings: Settings) -> None:
    """Pin the resolved settings in the workspace."""
    text = "# Settings of the last run here, resolved. Written by mit-build; change them with --set or --config.\n"
    values = _written_down(settings)
    workspace.write(SETTINGS_KEY, (text + yaml.safe_dump(values, sort_keys=False)).encode())


def _written_down(settings: Settings) -> dict[str, Any]:
    """All values but those that may hold a password."""
    return {
        name: section.model_dump(mode="json", exclude=set(section.secrets)) if isinstance(section, Section) else section
        for name, section in settings
    }


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """`section.key old -> new` for each setting that differs."""
    before, after = _written_down(old), _written_down(new)
    lines = []
    for section, values in after.items():
        if isinstance(values, dict):
            was = before.get(section, {})
            lines += [f"{section}.{k} {was.get(k)} -> {v}" for k, v in values.items() if was.get(k) != v]
        elif before.get(section) != values:
            lines.append(f"{section} {before.get(section)} -> {values}")
    return lines


_MODELS = {"filter": "detector", "pose": "model", "speech": "model"}
"""The setting of each section that names a model."""
_PAPER = {"filter": "yolo26x-pose", "pose": "sapiens-2b", "speech": "talknet"}


def resolve(settings: Settings, pinned: Settings | None) -> tuple[Settings, list[str]]:
    """Replace every "auto" by what this workspace is pinned to, else by what this machine has; lines that say so.

    A path becomes absolute: workers run in a folder of their own.
    """
    notes: list[str] = []
    profile = settings.profile
    if profile == "auto":
        profile, why = _profile(pinned)
        notes.append(f"profile: {profile} ({why})")
    updates: dict[str, Any] = {"profile": profile}
    same = pinned if pinned and pinned.profile == profile else None
    for section, field in _MODELS.items():
        values = getattr(settings, section)
        if getattr(values, field) == "auto":
            was = getattr(getattr(same, section), field) if same else "auto"
            model, why = (was, f"pinned by the last run here; --set {section}.{field}=… changes it")
            if was == "auto":
                model, why = (_PAPER[section], "the paper's") if profile == "paper" else _embedded(section)
            notes.append(f"{_role(section)} model: {model} ({why})")
            updates[section] = values.model_copy(update={field: model})
    download = settings.download
    if download.cookies_file is not None:
        cookies = Path(download.cookies_file).expanduser().absolute()
        updates["download"] = download.model_copy(update={"cookies_file": str(cookies)})
    return settings.model_copy(update=updates), notes


def models(settings: Settings, stages: Collection[str]) -> Iterator[tuple[str, str]]:
    """What each model of these stages is for, and its name."""
    for section, field in _MODELS.items():
        if section in stages:
            yield f"{_role(section)} model", getattr(getattr(settings, section), field)


def _role(section: str) -> str:
    return "people" if section == "filter" else section


def _profile(pinned: Settings | None) -> tuple[Literal["embedded", "paper"], str]:
    if pinned and pinned.profile != "auto":
        return pinned.profile, "pinned by the last run here; --profile changes it"
    if devices.n_gpus():
        return "paper", "the paper's models: torch can use a GPU here"
    return "embedded", "CPU models that come inside Python packages"


def _embedded(section: str) -> tuple[str, str]:
    if section != "speech":
        return "mediapipe", "inside its package"
    missing = weights.missing_for("lr-asd")
    return ("lips", f"for lr-asd: {missing}") if missing else ("lr-asd", "its weights are here")


def open_sources(
    book: SourceBook, addresses: list[str], lists: list[Path], limit: int | None
) -> tuple[SourceList, str]:
    """The sources of a run, and one line that says which they are.

    Raises:
        ConfigError: an address or a list cannot be used, or a list is empty.
    """
    for path in lists:
        if not path.is_file():
            raise ConfigError(f"no such source list: {path}")
    if addresses or lists:
        n_given = book.add(addresses, lists)
        if not n_given:
            raise ConfigError(f"no sources in {', '.join(map(str, lists))}")
        known = book.sources(limit)
        return known, f"{n_given} sources given, {len(book.sources())} in this workspace"
    known = book.sources(limit)
    if known and not (len(known) == 1 and known[0].address == str(DEMO)):
        return known, f"no sources given: going on with the {len(known)} of this workspace"
    book.add([os.fspath(DEMO)])
    return book.sources(limit), "no sources given: running the bundled demo (a synthetic video of 2 talking portraits)"
