"""One run of the pipeline, from what was asked for to what came of it: the place where everything is put together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from manifests.ids import new_run_id
from manifests.ledger import DAMAGED
from manifests.rows import Source
from manifests.sources import is_workspace
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.terminal import suspendable
from mit_builder.console.wording import counted
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.event_log import Observer
from mit_builder.driver.finished_index import FROM_SOURCES
from mit_builder.driver.finished_store import HEAD_KEY
from mit_builder.driver.host_limits import Hosts
from mit_builder.driver.listing import forget_source
from mit_builder.driver.options import RunOptions
from mit_builder.driver.preflight import check_all, check_engine
from mit_builder.driver.progress import Reporter
from mit_builder.driver.runner import Runner
from mit_builder.driver.session import REBUILT, open_sources, resolve
from mit_builder.driver.shutdown import Stop, drain_s
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.base import Engine
from mit_builder.engine.orphan_reaper import guarded
from mit_builder.engine.ray_connect import cluster_address, connect
from mit_builder.engine.ray_engine import RayEngine
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import CannotContinue, ConfigError, FailureClass
from mit_builder.models import devices
from mit_builder.pipeline import STAGES, STEPS, Step, steps_of
from mit_builder.planning.change_effects import foretell
from mit_builder.removal.takedown import bar_sources, finish_pending
from mit_builder.report.clips import report_clips, write_summary
from mit_builder.report.write import write_report
from mit_builder.storage.lease import lease
from mit_builder.storage.object_store import is_remote
from mit_builder.storage.settings_file import Changes, keep
from mit_builder.storage.source_catalog import SourceCatalog, SourceList
from mit_builder.storage.workspace import Workspace
from mit_builder.storage.writable import check_folder

WHOLE_REPORT = 20_000
"""Where more sources than that were skipped, the report is left to `mit-build report`: to look at a unit of theirs
takes about 0.4 ms (measured on fakes)."""


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for; see `mit-build run --help`."""

    addresses: list[str]
    lists: list[Path]
    workspace: str
    changes: Changes
    """Of the settings that the workspace keeps."""
    stages: list[str]
    forced: list[str]
    limit: int | None
    retry: frozenset[FailureClass]
    at_once: bool
    engine: str
    go_on: Sequence[str]
    """Words of the command that goes on once sources and settings are kept; the workspace aside."""
    sample: Callable[[SourceList], Sequence[Source]] | None = None
    """Which of the sources this run works on; the workspace remembers all."""
    refresh: bool = False
    """Whether playlists and channels are looked at again, however recently they were."""
    forget: Sequence[str] = ()
    """Sources that are none any more, as a person calls them."""
    verify: bool = False
    """Compare every file with its digest."""


@dataclass(frozen=True)
class RunOutcome:
    """What came of a run.

    Attributes:
        runner: its last walk over the sources; its engine has ended.
        pictures: keys of those that were drawn, overlay videos first.
    """

    runner: Runner
    pictures: list[str]

    @property
    def tally(self) -> RunCounts:
        """The counts."""
        return self.runner.tally

    @property
    def is_whole(self) -> bool:
        """Whether nothing failed, and nothing was left for another run."""
        return not (self.tally.failed or self.tally.held_back or self.tally.unmended)

    def check(self) -> None:
        """Raise `CannotContinue` where a stage could not start, or stopped."""
        if self.tally.unavailable:
            stage, problem = next(iter(self.tally.unavailable.items()))
            raise CannotContinue(f"stage {stage} cannot start: {problem}")
        if self.tally.stopped:
            stage, problem = next(iter(self.tally.stopped.items()))
            raise CannotContinue(f"stage {stage} stopped: {problem}; free some, then {hints.say(Hint.AGAIN)}")


def run_pipeline(request: RunRequest, reporter: Reporter) -> RunOutcome:
    """Run what was asked for.

    Args:
        request: what was.
        reporter: hears everything but the end.

    Raises:
        ConfigError: the request cannot be understood.
        CannotContinue: something is missing that the run needs.
    """
    if request.engine not in ("ray", "serial"):
        raise ConfigError(f"--engine must be ray or serial, not {request.engine}")
    check_layout()
    if not is_remote(request.workspace) and not Path(request.workspace).expanduser().exists():
        # What is wrong with names is said before a folder is made.
        steps_named([*request.stages, *request.forced], steps_of(request.changes.alone))
    workspace, wanted = _open(request)
    pipeline = steps_of(wanted)
    steps, forced = steps_named(request.stages, pipeline), steps_named(request.forced, pipeline)
    address = cluster_address(wanted.run.ray_address) if request.engine == "ray" else None
    with ExitStack() as stack:
        stack.callback(reporter.close)
        stack.enter_context(lease(workspace, reporter.note))
        started = stack.enter_context(guarded())
        stack.enter_context(suspendable(started, reporter.pause, reporter.resume))
        workspace.sweep()
        if workspace.exists(REBUILT):
            raise ConfigError(f"{workspace.uri} holds a dataset rebuilt from a manifest: give another --workspace")
        for line in finish_pending(workspace):
            reporter.note(line)
        run_id = new_run_id()
        if address:
            _join(address, workspace.scratch(run_id), wanted, reporter)
        sources, settings = _prepare(workspace, request, reporter, steps | forced, run_id)
        engine = _engine(request, settings, workspace, run_id, address)
        stack.callback(workspace.leave, run_id)
        stack.callback(engine.close)
        observer = Observer(workspace, run_id, log=settings.run.log, meter=engine.meter())
        stack.callback(observer.flush)
        stack.push(partial(_say_that_it_ends, reporter))

        def note(line: str) -> None:
            reporter.note(line)
            observer.note(line)

        stop = Stop(drain_s(settings.run.drain_s), note)
        refresh_s = 0.0 if request.refresh else settings.download.refresh_s
        choice = RunOptions(steps | forced, forced, request.retry, request.at_once, refresh_s, request.verify)

        hosts = Hosts(settings.download)

        def make_runner() -> Runner:
            runner = Runner(
                workspace,
                settings,
                run_id=run_id,
                choice=choice,
                engine=engine,
                on_progress=reporter.update,
                on_note=note,
            )
            runner.observer, runner.stop, runner.hosts = observer, stop, hosts
            return runner

        with stop.listening():
            runner = walk_until_whole(make_runner, sources, note)
        engine.close()
        bar_sources(workspace, runner.tally.removed_sources)
        drawn = _report(workspace, runner, settings, reporter) if "shards" in steps else []
        runner.finished.at_the_end()
    return RunOutcome(runner, drawn)


def _say_that_it_ends(reporter: Reporter, kind: object, error: BaseException | None, trace: object) -> None:
    """What follows takes a moment: Ray and what it started end."""
    if isinstance(error, KeyboardInterrupt):
        reporter.pause()
        reporter.note("ending; Ctrl-C again ends it at once")


def walk_until_whole(
    make_runner: Callable[[], Runner], sources: Sequence[Source], note: Callable[[str], None]
) -> Runner:
    """Walk over the sources, and again for files that turned out to be damaged when they were read; the last walk."""
    before, known = RunCounts(), set[str]()
    for _ in STEPS:  # at most: what a file is made of may turn out to be damaged as well, and so on
        runner = make_runner()
        _walk_once(runner, sources, note)
        runner.tally.add_work(before)
        new = runner.files.in_the_way - known
        if not new:
            break
        known |= new
        before = runner.tally
        runner.finished.at_the_end()
        note("walking over the sources again, to make what was damaged")
    left = [key for key in known if runner.tally.pending and runner.workspace.state(key) is None]
    runner.tally.unmended = n = len(left)
    if left:
        note(f"{counted(n, 'damaged file')} still to be made again: {hints.say(Hint.AGAIN)}")
    return runner


def _walk_once(runner: Runner, sources: Sequence[Source], note: Callable[[str], None]) -> None:
    are_many = len(sources) >= FROM_SOURCES
    if are_many or runner.workspace.exists(HEAD_KEY):  # what is worked on again among a few is settled no more
        runner.skip_finished()
    for lane in runner.lanes.values():
        for part in lane.ledger.set_aside():
            note(f"{part} is damaged, it lies in {DAMAGED}/ now: what only it held is done again")
        lane.ledger.compact(runner.run_id, runner.finished.merged)
    runner.run(sources if are_many else list(sources))


def steps_named(names: list[str], steps: Sequence[Step] = STEPS) -> frozenset[str]:
    """Steps of stage names ("filter"), of step names ("filter.cut") or of "all".

    What another package put after a step goes with that step, or by its own name alone.

    Raises:
        ConfigError: there is no stage of this name.
    """
    chosen: set[str] = set()
    for name in names:
        found, after = set[str](), ""
        for step in steps:
            is_named = name in ("all", step.name, step.name.partition(".")[0])
            found |= {step.name} if is_named or (step.identity and after in found) else set()
            after = after if step.identity else step.name
        if not found:
            others = [step.name for step in steps if step.identity]
            raise ConfigError(f"no stage {name!r}: choose all, or of {', '.join([*STAGES, *others])}")
        chosen |= found
    return frozenset(chosen)


def check_is_ours(uri: str) -> None:
    """A run replaces and removes files of its workspace, so it takes no folder with files of somebody else.

    Raises:
        ConfigError: there are such files.
    """
    folder = Path(uri).expanduser()
    if is_remote(uri) or not folder.is_dir() or is_workspace(folder):
        return
    there = next((path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")), None)
    if there is not None:
        raise ConfigError(f"{uri} is no workspace and not empty (it holds {there}): give another --workspace")


def _open(request: RunRequest) -> tuple[Workspace, Settings]:
    """The workspace, and the settings that say how it is opened: no other run is kept out yet, who may change them."""
    check_is_ours(request.workspace)
    if not is_remote(request.workspace):
        check_folder(Path(request.workspace).expanduser().resolve())  # of a bucket the lease finds out
    workspace = Workspace(request.workspace)
    workspace.check_reachable()
    wanted, _ = request.changes.on(request.changes.before(workspace))
    return Workspace(request.workspace, scratch_gb=wanted.run.scratch_gb), wanted


def _prepare(
    workspace: Workspace, request: RunRequest, reporter: Reporter, steps: frozenset[str], run_id: str
) -> tuple[Sequence[Source], Settings]:
    kept = request.changes.before(workspace)
    wanted, pinned = request.changes.on(kept)
    settings, notes = resolve(wanted, pinned)
    book = SourceCatalog(workspace)
    for name in request.forget:
        reporter.note(forget_source(book, name))
    sources, line = open_sources(book, request.addresses, request.lists, request.limit)
    for note in [line, *book.notes, *notes]:
        reporter.note(note)
    for name in request.changes.missing(kept):
        reporter.note(f"{name} was given before and may hold a password, which is not kept: give it again")
    checks = check_all(workspace.root, settings, sources, {step.partition(".")[0] for step in steps})
    is_our_ray = request.engine == "ray" and cluster_address(settings.run.ray_address) is None
    checks += check_engine(settings) if is_our_ray else []
    for check in (check for check in checks if check.verdict == "warning"):
        reporter.note(check.text)
    problems = [check for check in checks if check.verdict == "failed"]
    if problems:
        raise CannotContinue("; ".join(f"{check.name}: {check.text}" for check in problems))
    if kept is None and sources.any_remote:
        reporter.note("remote sources: make sure that you may download and use them, and the people in them")
    foretold = foretell(workspace, kept.settings, settings, sources) if kept else None
    if foretold:
        reporter.note(foretold)
    book.save()
    keep(workspace, request.changes.kept_after(kept, wanted, settings, f"run {run_id}"))
    hints.go_on(request.go_on)
    return sources if request.sample is None else request.sample(sources), settings


def _join(address: str, scratch: Path, settings: Settings, reporter: Reporter) -> None:
    """Join a cluster before anything is planned: what it has decides which models "auto" means."""
    there = connect(address, cpus=None, scratch=scratch)
    n_gpus = int(there.gpus) if settings.run.gpus is None else settings.run.gpus
    devices.count_on_cluster(n_gpus)
    nodes, gpus = counted(there.n_nodes, "node"), counted(n_gpus, "GPU")
    reporter.note(f"joined the cluster at {address}: {nodes}, {there.cpus:g} cores, {gpus}")


def _engine(request: RunRequest, settings: Settings, workspace: Workspace, run_id: str, address: str | None) -> Engine:
    specs = worker_specs(settings, workspace, run_id)
    if request.engine == "serial":
        return SerialEngine(specs)
    resources = {name: spec.load().resources for name, spec in specs.items()}
    scratch, cpus = workspace.scratch(run_id), settings.run.cpus
    return RayEngine(specs, resources, scratch=scratch, cpus=cpus, address=address)


def _report(workspace: Workspace, runner: Runner, settings: Settings, reporter: Reporter) -> list[str]:
    """Dataset card, statistics and pictures; keys of the pictures."""
    n_skipped = runner.finished.n_skipped
    if n_skipped:
        reporter.note(f"settled before, with all that came of it: {counted(n_skipped, 'source')}")
        if not (runner.publisher.has_written or any(t.worked_on for t in runner.tally.steps.values())):
            return []
    labelled = sorted(runner.clips.kept(), key=lambda row: row.clip.clip_id)
    write_summary(workspace, runner.tally.as_dict(), contact=settings.shards.contact)
    if labelled:
        reporter.note(f"drawing what is new of {counted(len(labelled), 'clip')}")
    drawn = report_clips(
        workspace,
        labelled,
        n_overlays=0 if n_skipped else settings.run.overlays,
        n_processes=settings.run.cpus,
        these_alone=n_skipped > 0,
    )
    if n_skipped > WHOLE_REPORT:
        reporter.note(f"the report is left as it was: {hints.say(Hint.REPORT)} looks at every source for it")
    else:
        write_report(workspace, Snapshot.of(workspace) if n_skipped else runner, n_processes=settings.run.cpus)
    return drawn


def check_layout() -> None:
    """The three packages must come from one place, or workers would run other code than the driver.

    Raises:
        CannotContinue: a foreign package named `stages` or `manifests` is in the way.
    """
    home = Path(sys.modules["mit_builder"].__file__ or "").resolve().parent.parent
    import manifests
    import stages

    for module in (manifests, stages):
        found = Path(module.__file__ or "").resolve().parent.parent
        if found != home:
            raise CannotContinue(f"a folder named {module.__name__} in {found} hides ours: start from another folder")
