"""The reference pages of the docs site, from the code: commands of the program, settings, modules of the Python API."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import typer.main

from mit_builder.cli.main import app
from mit_builder.config.section import Section
from mit_builder.config.settings import Settings

MODULES = (
    "mit_builder.api",
    "mit_builder.dataset.clips",
    "mit_builder.errors",
    "mit_builder.dataset.index",
    "mit_builder.dataset.torch_dataset",
    "mit_builder.dataset.pose_map",
    "mit_builder.dataset.validate",
    "mit_builder.media.clip",
    "mit_builder.media.frames",
    "mit_builder.media.timeline",
    "mit_builder.planning.what_if",
    "mit_builder.stage",
    "mit_builder.models.base",
    "mit_builder.storage.workspace",
    "manifests.ledger",
    "manifests.arrays",
    "manifests.schema",
)
"""What a program of one's own, a stage or a backend calls; those that this version does not have are left out."""


def commands_page() -> str:
    """Markdown: every command with its arguments and options."""
    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        str(root.help),
        "",
        "Exit codes: 0 all done, 1 some items failed or problems were found,",
    ]
    lines += ["2 bad usage or settings, 3 could not go on, 130 interrupted.", ""]
    for words, command in commands(root):
        lines += [f"## mit-build {' '.join(words)}", "", _text(command.help), "", *_parameters(command)]
    return "\n".join(lines) + "\n"


def commands(root: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with the words that call it."""
    if hasattr(root, "commands"):
        for name, command in root.commands.items():
            yield from commands(command, (*words, name))
    else:
        yield words, root


def _parameters(command: Any) -> Iterator[str]:
    shown = [parameter for parameter in command.params if parameter.name != "help"]
    if not shown:
        return
    yield from ("| | | default |", "|---|---|---|")
    for parameter in shown:
        if parameter.param_type_name == "argument":
            name, default = f"`{parameter.metavar or str(parameter.name).upper()}`", ""
        else:
            name = ", ".join(f"`{option}`" for option in parameter.opts)
            default = "" if parameter.default in (None, False, [], ()) else f"`{_plain(parameter.default)}`"
        yield f"| {name} | {_text(getattr(parameter, 'help', None))} | {default} |"
    yield ""


def _plain(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def _text(help_text: str | None) -> str:
    """A help text as part of one line of a table; what stands in it is no markup."""
    line = " ".join((help_text or "").split())
    return line.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*").replace("_", "\\_")


def settings_page() -> str:
    """Markdown: every setting with its default and its description."""
    lines = [
        "# Settings",
        "",
        "`--set section.key=value` on the command line, or a file for `--config` (`mit-build init` writes one with",
        "all of them). Values are read as YAML. Those marked *how* change how work is done and not what comes out;",
        "when any of the others changes, the units that read it are done again, and no others.",
        "",
    ]
    for name, info in Settings.model_fields.items():
        section = getattr(Settings(), name)
        lines += [f"## {name}", ""]
        if isinstance(section, Section):
            lines += [_text(type(section).__doc__), "", "| key | default | |", "|---|---|---|"]
            lines += [_row(section, key) for key in type(section).model_fields]
        else:
            lines += [f"Default `{section}`: {_text(info.description)}."]
        lines.append("")
    return "\n".join(lines)


def _row(section: Section, key: str) -> str:
    info = type(section).model_fields[key]
    extra = info.json_schema_extra
    how = "*how*: " if isinstance(extra, dict) and extra.get("key") is False else ""
    default = json.dumps(section.model_dump(mode="json")[key]).replace("|", "\\|")
    return f"| `{key}` | `{default}` | {how}{_text(info.description)} |"


def python_page() -> str:
    """Markdown for mkdocstrings: the modules that others' code calls."""
    lines = [
        "# Python",
        "",
        "What a program of your own, a stage or a backend calls. Everything is typed; shapes, dtypes and",
    ]
    lines += ["units stand in the docstrings.", ""]
    for module in MODULES:
        if importlib.util.find_spec(module):
            lines += [f"## {module}", "", f"::: {module}", "    options: {show_root_heading: false}", ""]
    return "\n".join(lines)
