"""What other packages add without a change to ours: backends and stages, found by entry points or by their path.

A package announces them in its `pyproject.toml`: the group `mit_builder.backends` has entries named by protocol and
name, `"pose.NAME" = "package.module:Class"`, and the group `mit_builder.stages` entries named as the stage. A class
that no package announces is named by its path, `package.module:Class`. Nothing is imported before it is chosen.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mit_builder.errors import ConfigError

BACKENDS, STAGES = "mit_builder.backends", "mit_builder.stages"
"""Groups of entry points."""
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Plugin:
    """A class of another package.

    Attributes:
        path: `module:Class`.
        origin: the package that announces it, else its module.
        version: of the package; None where it is named by its path.
    """

    path: str
    origin: str
    version: str | None

    def load(self) -> Any:
        """The class.

        Raises:
            ConfigError: it cannot be imported.
        """
        return attribute(self.path)

    @property
    def identity(self) -> str:
        """What made a row: package and version, or path and digest of its module, as no version speaks for that."""
        if self.version is not None:
            return f"{self.origin} {self.version}"
        self.load()
        file = getattr(sys.modules[self.origin], "__file__", None)
        text = Path(file).read_bytes() if file else b""
        return f"{self.path} {hashlib.sha256(text).hexdigest()[:12]}"


def is_path(name: str) -> bool:
    """Whether a name has the form `package.module:Class`."""
    return _PATH.fullmatch(name) is not None


def named(path: str) -> Plugin:
    """The class of a path."""
    return Plugin(path, path.partition(":")[0], None)


def attribute(path: str) -> Any:
    """What `module:name` names.

    Raises:
        ConfigError: the module is not here, or has nothing of this name; the message lists the classes it has.
    """
    name, _, kind = path.partition(":")
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{path}: cannot import {name}: {error}") from error
    if not hasattr(module, kind):
        there = [key for key, value in vars(module).items() if isinstance(value, type) and value.__module__ == name]
        raise ConfigError(unknown(f"class in {name}", kind, sorted(there)))
    return getattr(module, kind)


def backends(role: str) -> dict[str, Plugin]:
    """The backends that installed packages offer for a protocol, by name.

    Raises:
        ConfigError: two packages announce one name.
    """
    found = _announced(BACKENDS)
    return {name.partition(".")[2]: plugin for name, plugin in found.items() if name.partition(".")[0] == role}


def stages() -> dict[str, Plugin]:
    """The stages that installed packages offer, by name.

    Raises:
        ConfigError: two packages announce one name.
    """
    return _announced(STAGES)


@cache
def _announced(group: str) -> dict[str, Plugin]:
    found: dict[str, Plugin] = {}
    for point in importlib.metadata.entry_points(group=group):
        origin = point.dist.name if point.dist else point.module
        plugin = Plugin(point.value.replace(" ", ""), origin, point.dist.version if point.dist else None)
        if found.get(point.name, plugin) != plugin:
            both = f"{found[point.name].origin} and {origin}"
            raise ConfigError(f"{both} both announce {point.name} ({group}): name one by PACKAGE.MODULE:CLASS")
        found[point.name] = plugin
    return found


def unknown(what: str, name: str, there: Iterable[str], form: str = "") -> str:
    """One line for a name that nothing has: what was perhaps meant, and what there is."""
    names = list(there)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"no {what} {name!r}: {meant}there are {', '.join(names) or 'none'}" + (
        f", or give {form} (is its package installed here?)" if form else ""
    )
