"""`mit-build init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mit_builder.config.template import commented_settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import ConfigError


def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("mit-build.yaml")) -> None:
    """Write a settings file with every setting, its default and what it does."""
    if path.exists():
        raise ConfigError(f"{path} exists: give another name, or delete it first")
    try:
        path.write_text(commented_settings())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    print(f"wrote {path}: take the # from the lines to change, then {hints.say(Hint.RUN_CONFIG, path=path)}")
