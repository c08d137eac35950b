"""The command line: `mit-build`. Thin: every command hands over to a module that can be used without it.

Exit codes: 0 all done, 1 some items failed, 2 bad usage or settings, 3 could not go on, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import traceback
from pathlib import Path
from types import FrameType, TracebackType
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from mit_builder import __version__, config, explain, plan, submit, takedown_command, trace, tune, weights_cli
from mit_builder.doctor import check_all
from mit_builder.errors import CannotContinue, ConfigError, FailureClass, MitBuilderError
from mit_builder.export import command as export_command
from mit_builder.init_file import commented_settings
from mit_builder.object_store import is_remote
from mit_builder.report.command import report
from mit_builder.retries import ALL_CLASSES, PASSES_BY_ITSELF
from mit_builder.review.command import review
from mit_builder.run import RunRequest, run_pipeline
from mit_builder.session import last_settings, resolve
from mit_builder.source_book import SourceBook
from mit_builder.workspace import existing

app = typer.Typer(
    name="mit-build",
    help="Turn videos into a labelled dataset of people in conversation. Start with: mit-build run --stage all",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(weights_cli.app, name="weights")
app.command()(plan.plan)
app.command()(trace.trace)
app.command()(submit.submit)
app.command()(export_command.export)
app.command()(export_command.rebuild)
app.command()(takedown_command.takedown)
app.command()(report)
app.command()(review)

WorkspaceOption = Annotated[str, typer.Option("--workspace", "-w", help="Folder or URI that holds everything made.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
DEFAULT_WORKSPACE = "mit-workspace"

_state = {"debug": False}


def _version(wanted: bool) -> None:
    if wanted:
        print(f"mit-build {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    _state["debug"] = debug


@app.command()
def run(
    addresses: Annotated[list[str] | None, typer.Argument(help="URLs, files or folders.")] = None,
    stage: Annotated[list[str], typer.Option(help="all, or stages to work on; may be repeated.")] = ["all"],  # noqa: B006
    sources: Annotated[list[Path] | None, typer.Option(help="List: txt, csv, tsv, jsonl, parquet or yaml.")] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    profile: Annotated[str | None, typer.Option(help="auto, embedded or paper.")] = None,
    settings: Annotated[Path | None, typer.Option("--config", help="Settings file, see mit-build init.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N sources; the dataset then holds their clips only.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Also retry what failed for good, and do not wait.")] = False,
    force_stage: Annotated[list[str] | None, typer.Option(help="Do this stage again, whatever is done.")] = None,
    engine: Annotated[str, typer.Option(help="ray, or serial for debugging.")] = "ray",
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline; without sources it goes on with those of the workspace, or with the bundled demo."""
    chosen = list(overrides or []) + ([f"profile={profile}"] if profile else [])
    request = RunRequest(
        addresses=addresses or [],
        lists=sources or [],
        workspace=workspace,
        settings=config.load(settings, chosen),
        stages=_split(stage),
        forced=_split(force_stage or []),
        limit=limit,
        retry=ALL_CLASSES if retry_failed else PASSES_BY_ITSELF,
        at_once=retry_failed,
        engine=engine,
        as_json=as_json,
        go_on=["run", "--workspace", workspace, *config.as_given(settings, chosen)],
    )
    _run_and_exit(request)


@app.command()
def retry(
    failure_class: Annotated[
        list[str], typer.Option("--class", help="transient, permanent, auth, resource or poison; may be repeated.")
    ] = ["transient"],  # noqa: B006
    stage: Annotated[list[str], typer.Option(help="all, or stages to work on; may be repeated.")] = ["all"],  # noqa: B006
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")] = None,
    engine: Annotated[str, typer.Option(help="ray, or serial for debugging.")] = "ray",
    as_json: JsonOption = False,
) -> None:
    """Try at once what failed in one way, and go on with what follows; settings are those of the last run."""
    settings = last_settings(existing(workspace))
    if settings is None:
        raise ConfigError(f"nothing was run in {workspace} yet: mit-build run --stage all")
    request = RunRequest(
        addresses=[],
        lists=[],
        workspace=workspace,
        settings=config.load(None, overrides or [], base=settings),
        stages=_split(stage),
        forced=[],
        limit=None,
        retry=_classes(_split(failure_class)),
        at_once=True,
        engine=engine,
        as_json=as_json,
        go_on=["retry", "--workspace", workspace, *config.as_given(None, overrides or [])],
    )
    _run_and_exit(request)


def _classes(names: list[str]) -> frozenset[FailureClass]:
    chosen = frozenset(known for known in ALL_CLASSES if known in names)
    if len(chosen) < len(set(names)) or not chosen:
        raise ConfigError(f"no failure class {', '.join(names)!r}: choose of {', '.join(sorted(ALL_CLASSES))}")
    return chosen


def _run_and_exit(request: RunRequest) -> NoReturn:
    try:
        code = run_pipeline(request, _console())
    except KeyboardInterrupt:  # typer would end the program its own way, which differs between its versions
        print("mit-build: interrupted; run again to go on", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


@app.command()
def status(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    failed: Annotated[bool, typer.Option(help="List failed units by class and message.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The funnel: what went in, what came out, what is pending or failed."""
    explain.status(existing(workspace), failed=failed, as_json=as_json)


@app.command()
def describe() -> None:
    """The pipeline: each step with its settings, what it eats and what it makes."""
    explain.describe()


@app.command()
def why(
    unit: Annotated[str, typer.Argument(metavar="ID", help="Source, video or clip id, or an address.")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """The story of one source, video or clip: what happened at each step, and why."""
    explain.why(existing(workspace), unit, tracebacks=_state["debug"])


@app.command()
def validate(
    place: Annotated[str, typer.Argument(metavar="PLACE", help="A dataset's folder or a workspace; also a URI.")],
) -> None:
    """Check every row of a dataset against what the schema promises."""
    from mit_builder.validate import validate as find_problems

    problems = find_problems(place)
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "valid")
    raise typer.Exit(1 if problems else 0)


@app.command()
def preview(
    clip_id: Annotated[str, typer.Argument(metavar="CLIP_ID")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Draw one clip: a contact sheet (PNG) and an overlay with sound (MP4)."""
    explain.preview(existing(workspace), clip_id)


@app.command()
def doctor(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: JsonOption = False) -> None:
    """Check beforehand what would make a run fail."""
    folder = None if is_remote(workspace) else Path(workspace).expanduser().resolve()
    space = existing(workspace) if folder is None or folder.exists() else None
    last = last_settings(space) if space else None
    settings, _ = resolve(last or config.Settings(), last)
    checks = check_all(folder, settings, SourceBook(space).sources() if space else ())
    explain.checks(checks, as_json=as_json)
    raise typer.Exit(3 if any(check.verdict == "failed" for check in checks) else 0)


@app.command()
def gc(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    dry_run: Annotated[bool, typer.Option(help="Only say what would go.")] = False,
) -> None:
    """Remove files that no ledger row names."""
    explain.gc(existing(workspace), dry_run=dry_run)


@app.command()
def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("mit-build.yaml")) -> None:
    """Write a settings file with every setting, its default and what it does."""
    if path.exists():
        raise ConfigError(f"{path} exists: give another name, or delete it first")
    try:
        path.write_text(commented_settings())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    print(f"wrote {path}: change it, then mit-build run --config {path}")


app.command()(tune.tune)


def _split(names: list[str]) -> list[str]:
    return [part.strip() for name in names for part in name.split(",") if part.strip()]


def _console() -> Console:
    return Console(highlight=False)


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _on_crash(kind: type[BaseException], error: BaseException, tb: TracebackType | None) -> None:
    """A bug of ours: one line unless --debug."""
    if _state["debug"]:
        traceback.print_exception(kind, error, tb)
    else:
        first = (str(error).splitlines() or [""])[0]
        print(f"mit-build: internal error: {kind.__name__}: {first} (mit-build --debug … shows where)", file=sys.stderr)


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the `mit-build` program."""
    sys.excepthook = _on_crash
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        # Not app(): that would put typer's own hook in the place of ours.
        typer.main.get_command(app)(arguments)
    except MitBuilderError as error:
        if _state["debug"]:
            traceback.print_exc()
        print(f"mit-build: {error}", file=sys.stderr)
        sys.exit(3 if isinstance(error, CannotContinue) else 2 if isinstance(error, ConfigError) else 1)


if __name__ == "__main__":
    main()
