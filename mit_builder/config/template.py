"""The commented settings file that `mit-build init` writes."""

from __future__ import annotations

import json

from mit_builder.config.section import Section
from mit_builder.config.settings import Settings


def commented_settings() -> str:
    """YAML text with every setting, its default and its description, all as comments: as it is it changes nothing."""
    lines = ["# Settings of mit-builder. Take the # from the lines to change, then give this file with --config.", ""]
    for name, info in Settings.model_fields.items():
        default = getattr(Settings(), name)
        if isinstance(default, Section):
            lines += [f"{name}:", *(f"  # {line}" for line in _section(default)), ""]
        else:
            lines += [f"# {name}: {json.dumps(default)}  # {info.description}", ""]
    return "\n".join(lines)


def _section(section: Section) -> list[str]:
    values = section.model_dump(mode="json")
    return [
        f"{name}: {json.dumps(values[name])}  # {info.description}" for name, info in type(section).model_fields.items()
    ]
