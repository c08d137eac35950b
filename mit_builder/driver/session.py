"""A run from the outside: the sources and settings that a workspace remembers, and what is decided at its start."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from manifests.source_lists import is_list
from mit_builder.config import backends
from mit_builder.config.backends import Backend, Role
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.errors import ConfigError
from mit_builder.models import devices
from mit_builder.models.weights import store
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.source_catalog import DEMO, SourceCatalog, SourceList
from mit_builder.storage.workspace import Workspace

MOST_SAID = 5
"""Copies of files that a run names."""
REBUILT = "rebuilt.json"
"""In a workspace whose dataset was rebuilt from a manifest: it has no sources to run over."""


_MODELS: dict[str, tuple[str, Role]] = {
    "filter": ("detector", "people"),
    "pose": ("model", "pose"),
    "speech": ("model", "speaker"),
}
"""The setting of each section that names a model, and its registry."""


def settings_of(workspace: Workspace, place: str) -> Settings:
    """Settings of the last run in a workspace, which a person calls `place`.

    Raises:
        ConfigError: nothing was run there, or its dataset comes from a manifest.
    """
    settings = last_settings(workspace)
    if settings is None:
        raise nothing_was_run(workspace, place)
    return settings


def nothing_was_run(workspace: Workspace, place: str) -> ConfigError:
    """The error of a workspace in which nothing was run."""
    if workspace.exists(REBUILT):
        advice = hints.say(Hint.VALIDATE)
        return ConfigError(f"the dataset of {place} was rebuilt from a manifest, there is no run to look at: {advice}")
    return ConfigError(f"nothing was run in {place} yet: {hints.say(Hint.RUN)}")


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
    for section, (field, role) in _MODELS.items():
        values = getattr(settings, section)
        if getattr(values, field) == "auto":
            was = getattr(getattr(same, section), field) if same else "auto"
            model, why = (was, "pinned by the last run here")
            if was == "auto":
                model, why = _preferred(role, profile)
            notes.append(f"{_said(section)} model: {model} ({why})")
            updates[section] = values.model_copy(update={field: model})
    download = settings.download
    if download.cookies_file is not None:
        cookies = Path(download.cookies_file).expanduser().absolute()
        updates["download"] = download.model_copy(update={"cookies_file": str(cookies)})
    return settings.model_copy(update=updates), notes


def models(settings: Settings, stages: Collection[str]) -> Iterator[tuple[str, Backend]]:
    """What each model of these stages is for, and the model.

    Raises:
        ConfigError: what another package has by its name is no backend.
    """
    for section, (field, role) in _MODELS.items():
        if section in stages:
            yield f"{_said(section)} model", backends.find(role, getattr(getattr(settings, section), field))
    heard = {settings.filter.voice_detector} if "filter" in stages else set()
    heard |= {settings.speech.voice_detector} if "speech" in stages else set()
    for backend in {backends.find("voice", name): None for name in sorted(heard, key=str)}:
        yield "voice detector", backend


def _said(section: str) -> str:
    return "people" if section == "filter" else section


def _profile(pinned: Settings | None) -> tuple[Literal["embedded", "paper"], str]:
    if pinned and pinned.profile != "auto":
        return pinned.profile, "pinned by the last run here"
    if devices.n_gpus():
        return "paper", "the paper's models: torch can use a GPU here"
    return "embedded", "CPU models that come inside Python packages"


def _preferred(role: Role, profile: str) -> tuple[str, str]:
    """What "auto" means in a profile, and why."""
    best, *others = backends.preferred(role, profile)
    if not others:
        return best.name, "the paper's" if profile == "paper" else "inside its package"
    missing = store.missing_for(best)
    return (others[-1].name, f"for {best.name}: {missing}") if missing else (best.name, "its weights are here")


def open_sources(
    book: SourceCatalog, addresses: list[str], lists: list[Path], limit: int | None
) -> tuple[SourceList, str]:
    """The sources of a run, and one line that says which they are; an address may be that of a list.

    Raises:
        ConfigError: an address or a list cannot be used, or a list is empty.
    """
    lists = [*lists, *(Path(address).expanduser() for address in addresses if is_list(address))]
    addresses = [address for address in addresses if not is_list(address)]
    for path in lists:
        if not path.is_file():
            say = f"{path} is a folder: give it without --sources" if path.is_dir() else f"no such source list: {path}"
            raise ConfigError(say)
    if addresses or lists:
        n_given = book.add(addresses, lists)
        if not n_given:
            raise ConfigError(f"no sources in {', '.join(map(str, lists))}")
        known = book.sources(limit)
        for paths in islice(book.copies().values(), MOST_SAID):
            book.notes.append(f"the same bytes, so one source: {', '.join(Path(path).name for path in paths)}")
        return known, f"{counted(n_given, 'source')} given, {len(book.sources())} in this workspace"
    known = book.sources(limit)
    if known and not (len(known) == 1 and known[0].address == str(DEMO)):
        return known, f"no sources given: going on with the {len(known)} of this workspace"
    book.add([os.fspath(DEMO)])
    return book.sources(limit), "no sources given: running the bundled demo (a synthetic video of 2 talking portraits)"
