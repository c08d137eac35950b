"""The settings that a workspace keeps, where each came from, and what a command line changes of them.

`mit-build.yaml` in the workspace is a settings file with every value of the last run. Under `origin` it says which of
them somebody gave, and which the program decided; all others were defaults. The next run starts from these values, all
of them: a default that another version of the program moves leaves a workspace as it is. Values that may hold a
password are not written down; that one was given is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mit_builder.config import settings as config
from mit_builder.config.section import Section
from mit_builder.config.settings import ORIGIN, Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import ConfigError
from mit_builder.storage.workspace import Workspace

SETTINGS_KEY = "mit-build.yaml"
DECIDED = ("profile", "filter.detector", "pose.model", "speech.model")
"""Settings whose default "auto" a run replaces by what it decides on."""
BEFORE = "an earlier run"
"""Origin of what was given before workspaces kept it."""
_HEAD = (
    "# Settings of the last run here, every value. Written by mit-build: run --set, --config and --unset change them.\n"
)


@dataclass(frozen=True)
class Kept:
    """What a workspace remembers.

    Attributes:
        settings: of the last run, as it used them; without what may hold a password.
        given: name of each setting that somebody gave, with how and when.
        decided: the same for what "auto" was replaced by.
    """

    settings: Settings
    given: Mapping[str, str] = field(default_factory=dict)
    decided: Mapping[str, str] = field(default_factory=dict)


def kept_in(workspace: Workspace) -> Kept | None:
    """What a workspace remembers; None where nothing was run yet.

    Raises:
        ConfigError: the file is damaged, or names what this version does not know.
    """
    try:
        text = workspace.read(SETTINGS_KEY)
    except FileNotFoundError:
        return None
    advice = f"repair it, or give up what it holds: {hints.keep(Hint.FRESH)}"
    try:
        values = yaml.safe_load(text) or {}
        origin = values.pop(ORIGIN, None)
        settings = config.parse(values)
        if origin is None:
            return Kept(settings, *_guessed(settings))
        return Kept(settings, dict(origin["given"] or {}), dict(origin["decided"] or {}))
    except (*config.UNREADABLE, AttributeError, KeyError, TypeError) as error:
        raise ConfigError(f"{SETTINGS_KEY} in the workspace is damaged: {advice}") from error
    except ConfigError as error:
        raise ConfigError(f"{SETTINGS_KEY} in the workspace: {error}; {advice}") from error


def _guessed(settings: Settings) -> tuple[dict[str, str], dict[str, str]]:
    """Origins in a file that does not say them: what is no default was given, but for the models."""
    standard = flat(Settings())
    moved = [name for name, value in flat(settings).items() if value != standard[name]]
    return {n: BEFORE for n in moved if n not in DECIDED}, {n: BEFORE for n in moved if n in DECIDED}


def keep(workspace: Workspace, kept: Kept) -> None:
    """Write it down for the next run."""
    values = {**_written_down(kept.settings), ORIGIN: {"given": dict(kept.given), "decided": dict(kept.decided)}}
    workspace.write(SETTINGS_KEY, (_HEAD + yaml.safe_dump(values, sort_keys=False, width=1000)).encode())


def last_settings(workspace: Workspace) -> Settings | None:
    """Settings of the last run in this workspace.

    Raises:
        ConfigError: the file is damaged.
    """
    kept = kept_in(workspace)
    return kept.settings if kept else None


def flat(settings: Settings) -> dict[str, Any]:
    """Every value by its full name; what may hold a password too."""
    found: dict[str, Any] = {}
    for name, value in settings.model_dump(mode="json").items():
        found |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return found


def secret_names() -> frozenset[str]:
    """Full names of the settings that may hold a password."""
    sections = [(name, section) for name, section in Settings() if isinstance(section, Section)]
    return frozenset(f"{name}.{key}" for name, section in sections for key in section.secrets)


def _written_down(settings: Settings) -> dict[str, Any]:
    """All values but those that may hold a password."""
    return {
        name: section.model_dump(mode="json", exclude=set(section.secrets)) if isinstance(section, Section) else section
        for name, section in settings
    }


def changed_settings(old: Settings, new: Settings) -> list[str]:
    """`section.key old -> new` for each setting that differs; what may hold a password aside."""
    before, after, secret = flat(old), flat(new), secret_names()
    return [f"{n} {before[n]} -> {after[n]}" for n in after if before[n] != after[n] and n not in secret]


@dataclass(frozen=True)
class Changes:
    """What a command line changes of the settings that a workspace keeps.

    `unset` goes first: what it names goes back to the default. What a settings file names comes on top, everything else
    stays as the workspace keeps it; overrides come last.

    Attributes:
        values: by section what the settings file names.
        source: how to call that file.
        overrides: `section.key=value`.
        unset: full names.
        fresh: the workspace's settings do not count.
    """

    values: dict[str, Any] = field(default_factory=dict)
    source: str = "--config"
    overrides: tuple[str, ...] = ()
    unset: frozenset[str] = frozenset()
    fresh: bool = False

    @classmethod
    def asked(
        cls,
        path: Path | None = None,
        overrides: Sequence[str] | None = None,
        unset: Sequence[str] | None = None,
        *,
        profile: str | None = None,
        fresh: bool = False,
    ) -> Changes:
        """The changes of a command's options.

        Raises:
            ConfigError: the file cannot be read, a name is unknown or a value does not fit.
        """
        values = config.read(path) if path else {}
        chosen = (*(overrides or ()), *([f"profile={profile}"] if profile else ()))
        config.parse(config.merged({}, values, chosen))
        return cls(values, f"--config {path}", chosen, _names(unset or ()), fresh)

    @classmethod
    def given(cls, settings: Mapping[str, Any], unset: Sequence[str] = (), *, fresh: bool = False) -> Changes:
        """The changes of a program: values by full name, or by section and name.

        Raises:
            ConfigError: a name is unknown or a value does not fit.
        """
        values = _nested(settings)
        config.parse(config.merged({}, values, ()))
        return cls(values, "mit_builder.run", (), _names(unset), fresh)

    @property
    def named(self) -> dict[str, str]:
        """Full name of every setting that is given a value, with the option that gave it."""
        found: dict[str, str] = {}
        for values, how in ((self.values, self.source), (config.merged({}, {}, self.overrides), "--set")):
            for name, value in values.items():
                found |= dict.fromkeys([f"{name}.{key}" for key in value] if isinstance(value, dict) else [name], how)
        return found

    @property
    def alone(self) -> Settings:
        """What they give without a workspace."""
        return config.parse(config.merged({}, self.values, self.overrides))

    def before(self, workspace: Workspace) -> Kept | None:
        """What the workspace remembers; nothing where that is damaged and does not count.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            return kept_in(workspace)
        except ConfigError:
            if self.fresh:
                return None
            raise

    def on(self, kept: Kept | None) -> tuple[Settings, Settings | None]:
        """The settings of a run after these changes; and those by which its "auto" is resolved.

        Raises:
            ConfigError: a value does not fit what is kept.
        """
        if kept is None or self.fresh:
            return self.alone, None
        values = flat(kept.settings)
        sticks = {name: value for name, value in values.items() if name not in self.unset}
        sticks |= dict.fromkeys(sticks.keys() & kept.decided.keys(), "auto")
        wanted = config.parse(config.merged(_nested(sticks), self.values, self.overrides))
        anew = [n for n in DECIDED if flat(wanted)[n] == "auto" and (n in self.unset or n in kept.given)]
        return wanted, config.parse(_nested(values | dict.fromkeys(anew, "auto")))

    def kept_after(self, kept: Kept | None, wanted: Settings, resolved: Settings, run: str) -> Kept:
        """What the workspace is to remember of a run with these changes.

        Args:
            kept: what it remembered before.
            wanted: the settings as `on` gave them.
            resolved: the same without "auto".
            run: what to call the run.
        """
        before = Kept(Settings()) if kept is None or self.fresh else kept
        was, now, asked = flat(before.settings), flat(resolved), flat(wanted)
        given = {name: how for name, how in before.given.items() if name not in self.unset}
        for name, how in self.named.items():
            if name not in given or was[name] != now[name]:
                given[name] = f"{how}, {run}"
        decided = {}
        for name in DECIDED:
            if asked[name] == "auto":
                given.pop(name, None)
                stays = was[name] == now[name] and name in before.decided
                decided[name] = before.decided[name] if stays else run
        return Kept(resolved, given, decided)

    @property
    def secrets_to_give(self) -> list[str]:
        """Options that a command which goes on needs again, without what may be a password."""
        return [word for name in sorted(secret_names() & self.named.keys()) for word in ("--set", f"{name}=…")]

    def missing(self, kept: Kept | None) -> list[str]:
        """Settings that were given before and are not kept, because they may hold a password."""
        if kept is None or self.fresh:
            return []
        return sorted(secret_names() & kept.given.keys() - self.named.keys() - self.unset)


def _names(unset: Sequence[str]) -> frozenset[str]:
    """Full names of the settings that names of settings or of sections stand for."""
    known, found = flat(Settings()), set[str]()
    for name in (part.strip() for text in unset for part in text.split(",")):
        names = [n for n in known if name in (n, n.partition(".")[0])]
        if not names:
            section, _, key = name.partition(".")
            config.parse({section: {key: None}} if key else {section: None})  # says what is wrong with it
            raise ConfigError(f"--unset {name!r} is no setting: {hints.say(Hint.SETTINGS)} shows all")
        found.update(names)
    return frozenset(found)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flat`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            found.setdefault(section, {})[key] = value
        else:
            found[section] = value
    return found
