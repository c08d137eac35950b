"""Commands that look at a workspace and say what is there."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field
from typing import Any

from manifests.ledger import Entry, Ledger
from manifests.rows import Pose, Video
from manifests.schema import arrow_schema, artifacts
from mit_builder import config
from mit_builder.doctor import Check
from mit_builder.errors import ConfigError, FailureClass
from mit_builder.lanes import worker_specs
from mit_builder.lease import lease
from mit_builder.pipeline import STEPS, left_out
from mit_builder.progress import funnel, nearest_miss
from mit_builder.report import clips
from mit_builder.retries import ADVICE, ALL_CLASSES
from mit_builder.review.store import Reviews
from mit_builder.runner import Runner
from mit_builder.session import last_settings, new_run_id
from mit_builder.settled import FROM_SOURCES
from mit_builder.source_book import SourceBook
from mit_builder.takedown import is_removed
from mit_builder.workspace import FOLDERS, Workspace

_PARTICULAR = re.compile(r"\S*\d\S*|https?://\S+|\S+\.\w{2,4}\b")
"""What differs between messages that say the same: words with digits, addresses, names of files."""


def look(workspace: Workspace, *, whole: bool = True, due_again: Collection[FailureClass] = ()) -> Runner:
    """A walk over the workspace as of its last run, working on nothing.

    Args:
        workspace: where to look.
        whole: walk over every source; otherwise what is settled is only counted.
        due_again: failures of these classes are looked at one by one all the same.

    Raises:
        ConfigError: nothing was ever run here.
    """
    settings = last_settings(workspace)
    if settings is None:
        raise ConfigError(f"nothing was run in {workspace.uri} yet: mit-build run --stage all")
    runner = Runner(workspace, settings, run_id=new_run_id())
    sources = SourceBook(workspace).sources()
    if not whole and len(sources) >= FROM_SOURCES:
        runner.pass_over_settled()
    runner.run(sources, due_again=due_again)
    return runner


def status(workspace: Workspace, *, failed: bool, as_json: bool) -> None:
    """Print the funnel, or the failed units grouped by class and message."""
    runner = look(workspace, whole=False, due_again=ALL_CLASSES if failed else ())
    if failed:
        _print_failed(runner, as_json=as_json)
    elif as_json:
        print(json.dumps(runner.tally.as_dict()))
    else:
        for line in [*funnel(runner.tally), *nearest_miss(runner.tally, runner.settings)]:
            print(line)
        for part in (part for lane in runner.lanes.values() for part in lane.ledger.damaged):
            print(f"{part} is damaged: the next run does again what only it held")


@dataclass
class _Alike:
    """Failures whose messages differ in names and numbers alone."""

    message: str
    units: list[str] = field(default_factory=list)


def _group_failures(failures: list[tuple[str, Entry]]) -> dict[tuple[str, str], list[_Alike]]:
    """Failures by class and stage; below that by message, the most frequent first."""
    groups: dict[tuple[str, str], dict[str, _Alike]] = defaultdict(dict)
    for stage, entry in failures:
        message = entry.message or ""
        alike = groups[entry.failure_class or "?", stage].setdefault(_PARTICULAR.sub("…", message), _Alike(message))
        alike.units.append(entry.unit_id)
    return {key: sorted(of.values(), key=lambda a: -len(a.units)) for key, of in sorted(groups.items())}


def _print_failed(runner: Runner, *, as_json: bool) -> None:
    groups = _group_failures(runner.failures)
    if as_json:
        rows = [
            {"stage": stage, "class": failure_class, "message": alike.message, "units": alike.units}
            for (failure_class, stage), found in groups.items()
            for alike in found
        ]
        print(json.dumps(rows))
        return
    said = ""
    for (failure_class, stage), found in groups.items():
        if failure_class != said:
            print(f"{failure_class}: {ADVICE.get(failure_class, '')}")
            said = failure_class
        for alike in found:
            n, few = len(alike.units), ", ".join(alike.units[:3])
            print(f"  {n:6d} {stage}: {alike.message}\n         {few}{' …' if n > 3 else ''}")
    print("no failed units" if not groups else "what happened to one: mit-build why ID")


def describe() -> None:
    """Print each step with its settings and the rows it makes."""
    settings = config.Settings()
    for step in STEPS:
        spec = worker_specs(settings, Workspace("memory://describe"), "describe")[step.name]
        stage = spec.load()
        needs = stage.resources
        print(f"{step.name}  ({step.stage}, version {stage.version}, {needs.cpus:g} cores, {needs.gpus:g} GPUs)")
        print(f"  backend:  {stage.backend() or '-'}")
        print(f"  settings: {', '.join(type(spec.settings).model_fields)}")
        for row in stage.emits:
            print(f"  makes {row.__name__}: {', '.join(f'{f.name}: {f.type}' for f in arrow_schema(row))}")


def why(workspace: Workspace, wanted: str, *, tracebacks: bool) -> None:
    """Print what happened to a source, a video or a clip at each step.

    Raises:
        ConfigError: nothing of this name is in the workspace.
    """
    book = SourceBook(workspace)
    sources = [s for s in book.sources() if wanted in (s.source_id, s.address) or s.address.endswith(f"/{wanted}")]
    names = {wanted, *(s.source_id for s in sources)}
    settings = last_settings(workspace) or config.Settings()
    for source in sources:
        print(f"source {source.source_id}: {source.address}")
    found = bool(sources)
    for step in STEPS:
        stage = worker_specs(config.Settings(), workspace, "why")[step.name].load()
        ledger = Ledger(workspace, step.name, stage.emits)
        for entry in ledger.newest(_may_be_about(step.name, names)):
            if not (entry.unit_id in names or _about(entry.unit_id, entry, names)):
                continue
            found = True
            if entry.unit_id in names:
                names |= {row.video_id for row in entry.outputs if isinstance(row, Video)}
            _tell(step.name, entry, names, tracebacks=tracebacks)
            for row in entry.outputs:
                reason = left_out(settings, row) if isinstance(row, Pose) else None
                if reason:
                    print(f"  {entry.unit_id}: left out of the dataset: {reason}")
    for review in (review for review in Reviews(workspace).all() if review.clip_id in names):
        spans = f", {len(review.corrections)} corrections of who speaks" if review.corrections else ""
        print(f"review {review.clip_id}: {review.verdict or 'no verdict'} {review.reason}{spans}")
    if is_removed(workspace, wanted):
        print(f"{wanted}: removed: taken down, so it is neither fetched nor built again")
    elif not found:
        raise ConfigError(f"nothing named {wanted} here; mit-build status shows what there is")


def _may_be_about(step: str, names: Collection[str]) -> Callable[[str], bool]:
    """Whether a unit of a step is worth a look; after download, what is of a video is named after it."""
    videos = {name.partition("_")[0] for name in names}
    return lambda unit_id: step == "download" or unit_id.partition("_")[0] in videos


def _about(unit_id: str, entry: Entry, names: set[str]) -> bool:
    if any(unit_id.startswith(f"{name}_") or name.startswith(f"{unit_id}_") for name in names):
        return True
    videos = {name.partition("_")[0] for name in names}
    if any(isinstance(row, Video) and row.video_id in videos for row in entry.outputs):
        return True
    rows = (vars(row) for row in entry.outputs)
    return any(row.get("clip_id") in names or row.get("source_id") in names for row in rows)


def _tell(step: str, entry: Entry, names: set[str], *, tracebacks: bool) -> None:
    took = f"{entry.duration_s:.1f} s" + (f", attempt {entry.attempts}" if entry.attempts > 1 else "")
    line = f"{step} {entry.unit_id}: {entry.status}"
    if entry.status == "failed":
        line += f" ({entry.failure_class}): {entry.message}"
        took += f"; {ADVICE.get(entry.failure_class or '', '')}"
    elif entry.reason:
        line += f": {entry.reason} {entry.measurements or entry.message or ''}".rstrip()
    print(f"{line}  [{took}]")
    for row in entry.outputs:
        values: dict[str, Any] = asdict(row)
        if "verdict" in values and names & {values["clip_id"], values["video_id"]}:
            measured = {k: round(v, 4) for k, v in values.items() if isinstance(v, float)}
            print(f"  {values['clip_id']}: {values['verdict']} {values['reason'] or ''} {measured}")
    if tracebacks and entry.traceback:
        print(entry.traceback)


def preview(workspace: Workspace, clip_id: str) -> None:
    """Draw one clip and print where the pictures are.

    Raises:
        ConfigError: there is no labelled clip of this name.
    """
    for key in clips.preview(workspace, clips.find_clip(look(workspace).labelled(), clip_id)):
        print(f"{workspace.uri}/{key}")


def checks(found: list[Check], *, as_json: bool) -> None:
    """Print doctor's checks."""
    if as_json:
        print(json.dumps([asdict(check) for check in found]))
        return
    for check in found:
        print(f"{check.verdict:8} {check.name:16} {check.text}")


def gc(workspace: Workspace, *, dry_run: bool) -> None:
    """Remove artifacts that no row of any ledger names, and what killed runs and failed downloads left.

    Raises:
        CannotContinue: a run is going on here.
    """
    with lease(workspace):
        named: set[str] = set()
        for step in STEPS:
            stage = worker_specs(config.Settings(), workspace, "gc")[step.name].load()
            ledger = Ledger(workspace, step.name, stage.emits)
            named |= {a.key for entry in ledger.entries() for row in entry.outputs for a in artifacts(row)}
        folders = [folder for folder in FOLDERS if folder != "dataset"]
        orphans = sorted(key for folder in folders for key in workspace.names(folder) if key not in named)
        if not dry_run:
            workspace.delete(orphans)
            workspace.sweep(keep_partial_s=0)
    print(f"{len(orphans)} files {'would go' if dry_run else 'removed'}")
