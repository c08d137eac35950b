"""`mit-build run`: from a request to an exit code."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from manifests.ledger import DAMAGED
from manifests.rows import Source
from mit_builder.config import Settings
from mit_builder.doctor import check_all
from mit_builder.engine import Engine, RayEngine, SerialEngine, check_layout
from mit_builder.engine_connect import cluster_address, connect
from mit_builder.errors import CannotContinue, ConfigError, FailureClass
from mit_builder.guardian import guarded
from mit_builder.lanes import worker_specs
from mit_builder.lease import lease
from mit_builder.models import devices
from mit_builder.observe import Observer
from mit_builder.pipeline import STAGES, STEPS
from mit_builder.progress import Reporter, funnel, make_reporter, nearest_miss
from mit_builder.report.clips import report_clips, write_summary
from mit_builder.report.write import write_report
from mit_builder.runner import Choice, Runner
from mit_builder.session import (
    REBUILT,
    changed_settings,
    last_settings,
    new_run_id,
    open_sources,
    resolve,
    save_settings,
)
from mit_builder.settled import FROM_SOURCES
from mit_builder.settled_rows import HEAD_KEY
from mit_builder.source_book import SourceBook, SourceList
from mit_builder.stop import Stop, drain_s
from mit_builder.takedown import bar_sources, finish_pending
from mit_builder.tally import Tally
from mit_builder.workspace import Workspace


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for; see `mit-build run --help`."""

    addresses: list[str]
    lists: list[Path]
    workspace: str
    settings: Settings
    stages: list[str]
    forced: list[str]
    limit: int | None
    retry: frozenset[FailureClass]
    at_once: bool
    engine: str
    as_json: bool
    go_on: Sequence[str]
    """Words of the command that goes on here with these settings."""
    sample: Callable[[SourceList], Sequence[Source]] | None = None
    """Which of the sources this run works on; the workspace remembers all."""


def run_pipeline(request: RunRequest, console: Console) -> int:
    """Run what was asked for; the exit code.

    Raises:
        ConfigError: the request cannot be understood.
        CannotContinue: something is missing that the run needs.
    """
    steps, forced = steps_named(request.stages), steps_named(request.forced)
    if request.engine not in ("ray", "serial"):
        raise ConfigError(f"--engine must be ray or serial, not {request.engine}")
    address = cluster_address(request.settings.run.ray_address) if request.engine == "ray" else None
    check_layout()
    workspace = Workspace(request.workspace, scratch_gb=request.settings.run.scratch_gb)
    workspace.check_reachable()
    reporter = make_reporter(as_json=request.as_json, console=console)
    with ExitStack() as stack:
        stack.callback(reporter.close)
        stack.enter_context(lease(workspace, reporter.note))
        stack.enter_context(guarded())
        workspace.sweep()
        if workspace.exists(REBUILT):
            raise ConfigError(f"{workspace.uri} holds a dataset rebuilt from a manifest: give another --workspace")
        for line in finish_pending(workspace):
            reporter.note(line)
        run_id = new_run_id()
        if address:
            _join(address, workspace.scratch(run_id), request.settings, reporter)
        sources, settings = _prepare(workspace, request, reporter, steps | forced)
        engine = _engine(request, settings, workspace, run_id, address)
        stack.callback(workspace.leave, run_id)
        stack.callback(engine.close)
        observer = Observer(workspace, run_id, log=settings.run.log, meter=engine.meter())
        stack.callback(observer.flush)

        def note(line: str) -> None:
            reporter.note(line)
            observer.note(line)

        runner = Runner(
            workspace,
            settings,
            run_id=run_id,
            choice=Choice(steps | forced, forced, request.retry, request.at_once),
            engine=engine,
            on_progress=reporter.update,
            on_note=note,
        )
        runner.observer = observer
        are_many = len(sources) >= FROM_SOURCES
        if are_many or workspace.exists(HEAD_KEY):  # what is worked on again among a few is settled no more
            runner.pass_over_settled()
        for lane in runner.lanes.values():
            for part in lane.ledger.set_aside():
                reporter.note(f"{part} is damaged, it lies in {DAMAGED}/ now: what only it held is done again")
            lane.ledger.compact(run_id, runner.trees.merged)
        runner.stop = Stop(drain_s(settings.run.drain_s), note)
        with runner.stop.listening():
            tally = runner.run(sources if are_many else list(sources))
        engine.close()
        bar_sources(workspace, tally.removed_sources)
        drawn = _report(workspace, runner, settings, reporter) if "shards" in steps else []
        runner.trees.at_the_end()
        reporter.close()
        reporter.end(tally, _summary(tally, settings, request, drawn), {"report": drawn})
    return _exit_code(tally)


def steps_named(names: list[str]) -> frozenset[str]:
    """Steps of stage names ("filter"), of step names ("filter.cut") or of "all".

    Raises:
        ConfigError: there is no stage of this name.
    """
    chosen: set[str] = set()
    for name in names:
        found = {s.name for s in STEPS if name in ("all", s.name, s.name.partition(".")[0])}
        if not found:
            raise ConfigError(f"no stage {name!r}: choose all, or of {', '.join(STAGES)}")
        chosen |= found
    return frozenset(chosen)


def _prepare(
    workspace: Workspace, request: RunRequest, reporter: Reporter, steps: frozenset[str]
) -> tuple[Sequence[Source], Settings]:
    pinned = last_settings(workspace)
    settings, notes = resolve(request.settings, pinned)
    book = SourceBook(workspace)
    sources, line = open_sources(book, request.addresses, request.lists, request.limit)
    for note in [line, *notes]:
        reporter.note(note)
    for change in changed_settings(pinned, settings) if pinned else []:
        reporter.note(f"setting changed since the last run here: {change}")
    checks = check_all(workspace.root, settings, sources, {step.partition(".")[0] for step in steps})
    for check in (check for check in checks if check.verdict == "warning"):
        reporter.note(check.text)
    problems = [check for check in checks if check.verdict == "failed"]
    if problems:
        raise CannotContinue("; ".join(f"{check.name}: {check.text}" for check in problems))
    if pinned is None and sources.any_remote:
        reporter.note("remote sources: make sure that you may download and use them, and the people in them")
    book.save()
    save_settings(workspace, settings)
    return sources if request.sample is None else request.sample(sources), settings


def _join(address: str, scratch: Path, settings: Settings, reporter: Reporter) -> None:
    """Join a cluster before anything is planned: what it has decides which models "auto" means."""
    there = connect(address, cpus=None, scratch=scratch)
    n_gpus = int(there.gpus) if settings.run.gpus is None else settings.run.gpus
    devices.count_on_cluster(n_gpus)
    reporter.note(f"joined the cluster at {address}: {there.n_nodes} nodes, {there.cpus:g} cores, {n_gpus} GPUs")


def _engine(request: RunRequest, settings: Settings, workspace: Workspace, run_id: str, address: str | None) -> Engine:
    specs = worker_specs(settings, workspace, run_id)
    if request.engine == "serial":
        return SerialEngine(specs)
    resources = {step.name: specs[step.name].load().resources for step in STEPS}
    scratch, cpus = workspace.scratch(run_id), settings.run.cpus
    return RayEngine(specs, resources, scratch=scratch, cpus=cpus, address=address)


def _report(workspace: Workspace, runner: Runner, settings: Settings, reporter: Reporter) -> list[str]:
    """Dataset card, statistics and pictures; keys of the pictures."""
    passed_over = runner.trees.n_passed_over
    if passed_over:
        reporter.note(f"{passed_over} sources were settled before, with all that came of them")
        if not runner.has_changed:
            return []
    labelled = sorted(runner.labelled(), key=lambda row: row.clip.clip_id)
    write_summary(workspace, runner.tally.as_dict(), contact=settings.shards.contact)
    if labelled:
        reporter.note(f"drawing what is new of {len(labelled)} clips")
    drawn = report_clips(
        workspace,
        labelled,
        n_overlays=0 if passed_over else settings.run.overlays,
        n_processes=settings.run.cpus,
        these_alone=passed_over > 0,
    )
    if passed_over:
        reporter.note("the report is left as it was: mit-build report walks over every source for it")
    else:
        write_report(workspace, runner, n_processes=settings.run.cpus)
    return drawn


def _summary(tally: Tally, settings: Settings, request: RunRequest, drawn: list[str]) -> list[str]:
    lines = ["", *funnel(tally), *nearest_miss(tally, settings)]
    worked = {name: t.duration_s for name, t in tally.steps.items() if t.worked_on}
    if worked:
        slowest = max(worked, key=worked.__getitem__)
        n_units = sum(t.worked_on for t in tally.steps.values())
        lines.append(f"{n_units} units worked on; slowest stage: {slowest} ({worked[slowest]:.0f} s of work)")
    else:
        lines.append("0 units worked on: everything was done already")
    if drawn or tally.n_dataset:
        place = request.workspace
        lines += ["", f"dataset: {place}/dataset   report: {place}/report/index.html"]
    return [*lines, "try next:", *(f"  mit-build {command}" for command in _next_commands(tally, request, drawn))]


def _next_commands(tally: Tally, request: RunRequest, drawn: list[str]) -> list[str]:
    """Three commands that fit what came out."""
    place, again = shlex.quote(request.workspace), shlex.join(request.go_on)
    if drawn:
        clip_id = Path(drawn[0]).name.partition(".")[0]
        commands = [f"preview {clip_id} --workspace {place}", f"validate {place}", f"status --workspace {place}"]
    elif tally.candidates and not tally.candidates["kept"]:
        commands = [f"{again} --set filter.min_face_px=36", f"status --workspace {place}", "init"]
    else:
        commands = [again, f"status --workspace {place}", "doctor"]
    return [f"status --failed --workspace {place}", *commands[:2]] if tally.failed else commands


def _exit_code(tally: Tally) -> int:
    if tally.unavailable:
        stage, problem = next(iter(tally.unavailable.items()))
        raise CannotContinue(f"stage {stage} cannot start: {problem}")
    if tally.stopped:
        stage, problem = next(iter(tally.stopped.items()))
        raise CannotContinue(f"stage {stage} stopped: {problem}; free some, then run again")
    return 1 if tally.failed or tally.held_back else 0
