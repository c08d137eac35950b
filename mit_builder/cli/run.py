"""`mit-build run` and `mit-build retry`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from mit_builder.cli.options import (
    DEFAULT_WORKSPACE,
    AddressesArgument,
    ConfigOption,
    EngineOption,
    FreshOption,
    JsonOption,
    ProfileOption,
    SetOption,
    SourcesOption,
    StageOption,
    UnsetOption,
    WorkspaceOption,
    split_names,
)
from mit_builder.console import hints, terminal
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.progress import funnel, make_reporter, nearest_miss
from mit_builder.driver.retry_policy import ALL_CLASSES, PASSES_BY_ITSELF
from mit_builder.driver.session import settings_of
from mit_builder.errors import ConfigError, FailureClass
from mit_builder.pipeline_run import RunOutcome, RunRequest, run_pipeline
from mit_builder.storage.settings_file import Changes
from mit_builder.storage.workspace import existing


def run(
    addresses: AddressesArgument = None,
    stage: StageOption = ["all"],  # noqa: B006
    sources: SourcesOption = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    profile: ProfileOption = None,
    settings: ConfigOption = None,
    overrides: SetOption = None,
    unset: UnsetOption = None,
    fresh: FreshOption = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first N sources; the dataset then holds their clips only.")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Also retry what failed for good, and do not wait.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Look at playlists and channels again now.")] = False,
    force_stage: Annotated[list[str] | None, typer.Option(help="Do this stage again, whatever is done.")] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Leave a source out from now on: its address or file; may be repeated.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Read every file, and make again what is damaged.")] = False,
    engine: EngineOption = "ray",
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline; without sources it goes on with those of the workspace, or with the bundled demo.

    Settings are those of the last run here; --unset, --config and --set change them, in this order, for later runs too.
    """
    changes = Changes.asked(settings, overrides, unset, profile=profile, fresh=fresh)
    only = [*([] if limit is None else ["--limit", str(limit)]), *(["--verify"] if verify else [])]
    only += ["--retry-failed"] if retry_failed else []
    request = RunRequest(
        addresses=addresses or [],
        lists=sources or [],
        workspace=workspace,
        changes=changes,
        stages=split_names(stage),
        forced=split_names(force_stage or []),
        limit=limit,
        retry=ALL_CLASSES if retry_failed else PASSES_BY_ITSELF,
        at_once=retry_failed,
        engine=engine,
        refresh=refresh,
        forget=forget or [],
        verify=verify,
        go_on=["run", *_how(stage, engine), *only, *changes.secrets_to_give],
    )
    _run_and_exit(request, as_json=as_json)


def _how(stage: list[str], engine: str) -> list[str]:
    """The options of a command that goes on in the same way."""
    stages = [word for name in stage for word in ("--stage", name)] if stage != ["all"] else []
    return [*stages, *(["--engine", engine] if engine != "ray" else [])]


def retry(
    failure_class: Annotated[
        list[str], typer.Option("--class", help="transient, permanent, auth, resource or poison; may be repeated.")
    ] = ["transient"],  # noqa: B006
    stage: StageOption = ["all"],  # noqa: B006
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    overrides: SetOption = None,
    unset: UnsetOption = None,
    engine: EngineOption = "ray",
    as_json: JsonOption = False,
) -> None:
    """Try at once what failed in one way, and go on with what follows; settings are those of the last run."""
    settings_of(existing(workspace), workspace)
    changes = Changes.asked(None, overrides, unset)
    classes = [word for name in failure_class for word in ("--class", name)]
    request = RunRequest(
        addresses=[],
        lists=[],
        workspace=workspace,
        changes=changes,
        stages=split_names(stage),
        forced=[],
        limit=None,
        retry=_classes(split_names(failure_class)),
        at_once=True,
        engine=engine,
        go_on=["retry", *classes, *_how(stage, engine), *changes.secrets_to_give],
    )
    _run_and_exit(request, as_json=as_json)


def _classes(names: list[str]) -> frozenset[FailureClass]:
    chosen = frozenset(known for known in ALL_CLASSES if known in names)
    if len(chosen) < len(set(names)) or not chosen:
        raise ConfigError(f"no failure class {', '.join(names)!r}: choose of {', '.join(sorted(ALL_CLASSES))}")
    return chosen


def _run_and_exit(request: RunRequest, *, as_json: bool) -> NoReturn:
    try:
        outcome = carry_out(request, as_json=as_json)
    except KeyboardInterrupt:  # typer would end the program its own way, which differs between its versions
        advice = f"to go on: {hints.say(Hint.AGAIN)}" if hints.goes_on() else "the same command begins anew"
        print(f"mit-build: interrupted; {advice}", file=sys.stderr)
        raise typer.Exit(terminal.INTERRUPTED) from None
    raise typer.Exit(0 if outcome.is_whole else 1)


def carry_out(request: RunRequest, *, as_json: bool) -> RunOutcome:
    """Run what was asked for, and print all that there is to say.

    Raises:
        ConfigError: the request cannot be understood.
        CannotContinue: something is missing that the run needs.
    """
    reporter = make_reporter(as_json=as_json, console=Console(highlight=False))
    outcome = run_pipeline(request, reporter)
    reporter.end(outcome.tally, _summary(outcome, request), {"report": outcome.pictures})
    outcome.check()
    return outcome


def _summary(outcome: RunOutcome, request: RunRequest) -> list[str]:
    tally, drawn = outcome.tally, outcome.pictures
    lines = ["", *funnel(tally), *nearest_miss(tally, outcome.runner.settings)]
    worked = {name: t.duration_s for name, t in tally.steps.items() if t.worked_on}
    if worked:
        slowest = max(worked, key=worked.__getitem__)
        n_units = sum(t.worked_on for t in tally.steps.values())
        lines.append(
            f"{counted(n_units, 'unit')} worked on; slowest stage: {slowest} ({worked[slowest]:.0f} s of work)"
        )
    elif tally.pending:
        lines.append("0 units worked on: what is pending was not asked for")
    else:
        lines.append("0 units worked on: everything was done already")
    if drawn or tally.n_dataset:
        place = request.workspace
        lines += ["", f"dataset: {place}/dataset   report: {place}/report/index.html"]
    return [
        *lines,
        "try next:",
        *(f"  {command}" for command in _next_commands(tally, drawn, is_whole=request.stages == ["all"])),
    ]


def _next_commands(tally: RunCounts, drawn: list[str], *, is_whole: bool) -> list[str]:
    """Three commands that fit what came out."""
    status = hints.say(Hint.STATUS)
    if drawn:
        clip_id = Path(drawn[0]).name.partition(".")[0]
        commands = [hints.say(Hint.PREVIEW, clip_id=clip_id), hints.say(Hint.VALIDATE), status]
    elif tally.candidates and not (tally.n_dataset or tally.pending):
        first = Hint.REPORT if tally.candidates["kept"] else Hint.TUNE
        commands = [hints.say(first), hints.say(Hint.VIDEOS), hints.say(Hint.SETTINGS)]
    else:
        # After a run of some stages the same command would find nothing to do.
        commands = [hints.say(Hint.AGAIN if is_whole else Hint.LABEL), status, hints.say(Hint.DOCTOR)]
    if not tally.failed:
        return commands
    # What failed for good stays so in the same command.
    others = [command for command in commands if command not in (hints.say(Hint.AGAIN), hints.say(Hint.LABEL))]
    return [hints.say(Hint.FAILED), *others[:2]]
