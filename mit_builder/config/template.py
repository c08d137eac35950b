"""The commented settings file that `mit-build init` writes."""

from __future__ import annotations

import json

from mit_builder.config import Section, Settings


def commented_settings() -> str:
    """YAML text with every setting at its default and its description as a comment."""
    lines = ["# Settings of mit-builder. Give this file with --config; --set section.key=value goes on top.", ""]
    for name, info in Settings.model_fields.items():
        default = getattr(Settings(), name)
        if isinstance(default, Section):
            lines += [f"{name}:", *(f"  {line}" for line in _section(default)), ""]
        else:
            lines += [f"{name}: {json.dumps(default)}  # {info.description}", ""]
    return "\n".join(lines)


def _section(section: Section) -> list[str]:
    values = section.model_dump(mode="json")
    return [
        f"{name}: {json.dumps(values[name])}  # {info.description}" for name, info in type(section).model_fields.items()
    ]
