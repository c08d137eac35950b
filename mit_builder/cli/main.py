"""The command line: `mit-build`. Thin: every command hands over to a module that can be used without it.

Exit codes: 0 all done, 1 some items failed, 2 bad usage or settings, 3 could not go on, 130 interrupted.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Annotated, Any

import typer

from mit_builder.cli import options, weights
from mit_builder.cli.describe import describe
from mit_builder.cli.doctor import doctor
from mit_builder.cli.export import export, rebuild
from mit_builder.cli.gc import gc
from mit_builder.cli.init import init
from mit_builder.cli.plan import plan
from mit_builder.cli.preview import preview
from mit_builder.cli.report import report
from mit_builder.cli.review import review
from mit_builder.cli.run import retry, run
from mit_builder.cli.settings import settings
from mit_builder.cli.status import status
from mit_builder.cli.submit import submit
from mit_builder.cli.takedown import takedown
from mit_builder.cli.trace import trace
from mit_builder.cli.tune import tune
from mit_builder.cli.validate import validate
from mit_builder.cli.why import why
from mit_builder.console import hints, terminal
from mit_builder.errors import CannotContinue, ConfigError, MitBuilderError
from mit_builder.version import __version__

COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Run": (run, retry, plan, submit),
    "Look": (status, why, preview, report, validate, trace),
    "Shape": (settings, tune, review, init),
    "Share": (export, rebuild, takedown),
    "Operate": (doctor, describe, gc),
}
"""The commands in groups, in the order of --help."""

app = typer.Typer(
    name="mit-build",
    help="Turn videos into a labelled dataset of people in conversation. Start with: mit-build run --stage all",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=group)(command)
app.add_typer(weights.app, name="weights", rich_help_panel="Operate")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mit-build {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    options.debug(debug)


def _on_crash(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
    """A bug of ours: one line unless --debug."""
    if options.is_debugging():
        traceback.print_exception(kind, error, tb)
    else:
        first = (str(error).splitlines() or [""])[0]
        where = f"--debug after {hints.program()} shows where"
        print(f"mit-build: internal error: {kind.__name__}: {first} ({where})", file=sys.stderr)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `mit-build` program."""
    sys.excepthook = _on_crash
    terminal.keep_for_ourselves()
    hints.begin()
    try:
        with terminal.Interrupts().taken():
            # Not app(): that would put typer's own hook in the place of ours.
            typer.main.get_command(app)(arguments)
    except MitBuilderError as error:
        if options.is_debugging():
            traceback.print_exc()
        print(f"mit-build: {hints.shown(str(error))}", file=sys.stderr)
        sys.exit(3 if isinstance(error, CannotContinue) else 2 if isinstance(error, ConfigError) else 1)
