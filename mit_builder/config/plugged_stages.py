"""The stages of other packages that the settings ask for, looked at before anything runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pydantic

from manifests.dataset_row import DatasetRow
from manifests.rows import Artifact
from manifests.schema import arrow_schema, arrow_type
from mit_builder.config import plugins
from mit_builder.config.plugins import Plugin
from mit_builder.config.section import Section
from mit_builder.config.settings import Settings
from mit_builder.errors import ConfigError, UnknownName

AFTER = ("filter.cut", "pose", "speech")
"""The steps after which a stage of another package may stand: from the first of them on there are clips."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class PluggedStage:
    """One stage of another package.

    Attributes:
        kind: its class; see `mit_builder.stage.ClipStage`.
        plugin: where it came from.
    """

    kind: Any
    plugin: Plugin

    @property
    def name(self) -> str:
        """The name of the step, of its ledger and of its column in the dataset."""
        return str(self.kind.name)

    def section(self, settings: Settings) -> Section:
        """What it reads of the settings.

        Raises:
            ConfigError: a setting is unknown to it or does not fit.
        """
        values = settings.plugins.settings.get(self.name, {})
        kind: type[Section] = getattr(self.kind, "settings", Section)
        try:
            return kind.model_validate(values)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(("plugins.settings", self.name, *map(str, first["loc"])))
            if first["type"] == "extra_forbidden":
                wrong = str(first["loc"][-1])
                said = plugins.unknown(f"setting in plugins.settings.{self.name}", wrong, kind.model_fields)
                raise UnknownName(said) from error
            raise ConfigError(f"setting {where}: {first['msg']} (got {first['input']!r})") from error


def plugged_stages(settings: Settings, taken: Collection[str]) -> list[PluggedStage]:
    """The stages that the settings name, in their order.

    Args:
        settings: of the run.
        taken: names of our stages and steps.

    Raises:
        ConfigError: there is none of a name, or what has it is no such stage, or a setting of it is wrong.
    """
    found = [_stage(name, taken) for name in settings.plugins.stages]
    names = [stage.name for stage in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"plugins.stages names {twice} twice")
    for name in sorted(settings.plugins.settings.keys() - set(names)):
        if name not in plugins.stages():  # those of one that is turned off are kept
            said = plugins.unknown("stage for plugins.settings", name, names)
            raise UnknownName(f"{said}; --unset plugins.settings forgets what was set")
    for stage in found:
        stage.section(settings)
    return found


def _stage(name: str, taken: Collection[str]) -> PluggedStage:
    announced = {} if plugins.is_path(name) else plugins.stages()
    if not (plugins.is_path(name) or name in announced):
        said = plugins.unknown("stage of another package", name, sorted(announced), "PACKAGE.MODULE:CLASS")
        raise UnknownName(f"setting plugins.stages: {said}")
    plugin = plugins.named(name) if plugins.is_path(name) else announced[name]
    kind = plugin.load()
    problem = _problem(kind, taken)
    if problem:
        raise ConfigError(f"{plugin.path} is no stage for plugins.stages: {problem}")
    return PluggedStage(kind, plugin)


def _problem(kind: Any, taken: Collection[str]) -> str | None:
    """Why a class is no such stage."""
    missing = [name for name in ("name", "version", "after", "emits", "process") if not hasattr(kind, name)]
    if missing:
        return f"it lacks {', '.join(missing)}"
    columns = {field.name for field in dataclasses.fields(DatasetRow)}
    section = getattr(kind, "settings", Section)
    if not (isinstance(section, type) and issubclass(section, Section)):
        return "its settings are no Section (mit_builder/config/section.py)"
    if not _NAME.fullmatch(str(kind.name)):
        return f"its name {kind.name!r} is not made of small letters, digits and _"
    if kind.name in columns or kind.name in taken:
        return f"its name {kind.name!r} is that of a {'column of the dataset' if kind.name in columns else 'step'}"
    if kind.after not in AFTER:
        return f"it stands after {kind.after!r}, not after one of {', '.join(AFTER)}"
    if len(kind.emits) > 1:
        return f"it emits {len(kind.emits)} kinds of rows, not one or none"
    return next((found for row in kind.emits if (found := _row_problem(row))), None)


def _row_problem(row: type) -> str | None:
    """Why a row cannot be a column of the dataset."""
    if not dataclasses.is_dataclass(row) or any("doc" not in field.metadata for field in dataclasses.fields(row)):
        return f"{row.__name__} is no dataclass with doc(…) for each field (manifests/fields.py)"
    try:
        schema = arrow_schema(row)
    except TypeError as error:
        return f"{row.__name__}: {error}"
    if any(field.type == _ARTIFACT for field in schema):
        return f"{row.__name__} names an artifact, which would not travel with the dataset"
    return f"{row.__name__} has a field made_by, which is added to it" if "made_by" in schema.names else None


_ARTIFACT = arrow_type(Artifact)
