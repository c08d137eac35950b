"""`mit-build status`: the funnel, the videos, or what failed."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Annotated

import typer

from manifests.ledger import Entry
from mit_builder.cli.looking import looked_at
from mit_builder.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.driver.listing import addresses, in_known_names, listed
from mit_builder.driver.progress import funnel, nearest_miss
from mit_builder.driver.retry_policy import ALL_CLASSES, advice
from mit_builder.driver.snapshot import Snapshot
from mit_builder.storage.workspace import Workspace, existing

MOST_VIDEOS = 10
"""Sources and videos that `status` names without being asked."""
_PARTICULAR = re.compile(r"\S*\d\S*|https?://\S+|\S+\.\w{2,4}\b")
"""What differs between messages that say the same: words with digits, addresses, names of files."""


def status(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    failed: Annotated[bool, typer.Option(help="List failed units by class and message.")] = False,
    videos: Annotated[bool, typer.Option("--videos", help="List every source and video with its state.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The funnel: what went in, what came out, what is pending or failed."""
    space = existing(workspace)
    notes: list[str] = []
    due_again = ALL_CLASSES if failed else ()
    seen = looked_at(space, whole=videos, quiet=as_json, due_again=due_again, on_note=notes.append)
    if failed:
        _print_failed(seen, addresses(space), as_json=as_json)
    elif videos and as_json:
        print(json.dumps([asdict(line) for line in listed(space, seen)]))
    elif videos:
        for source in listed(space, seen):
            print(source)
    elif as_json:
        print(json.dumps(seen.tally.as_dict()))
    else:
        for line in [*funnel(seen.tally), *nearest_miss(seen.tally, seen.settings), *notes]:
            print(hints.shown(line))
        for part in (part for lane in seen.lanes.values() for part in lane.ledger.damaged):
            print(f"{part} is damaged: the next run does again what only it held")
        _print_few(space, seen)


def _print_few(space: Workspace, seen: Snapshot) -> None:
    """The videos where they are few, else how to see them."""
    lines = list(islice(listed(space, seen), MOST_VIDEOS + 1)) if seen.tally.n_sources <= MOST_VIDEOS else []
    if seen.tally.n_sources > MOST_VIDEOS or len(lines) > MOST_VIDEOS or seen.finished.n_skipped:
        print(f"sources and videos by name: {hints.say(Hint.VIDEOS)}")
        return
    for line in lines:
        print(line)


@dataclass
class _Alike:
    """Failures whose messages differ in names and numbers alone."""

    message: str
    units: list[str] = field(default_factory=list)


def _group_failures(failures: list[tuple[str, Entry]], known: Mapping[str, str]) -> dict[tuple[str, str], list[_Alike]]:
    """Failures by class and stage; below that by message, the most frequent first."""
    groups: dict[tuple[str, str], dict[str, _Alike]] = defaultdict(dict)
    for stage, entry in failures:
        message = in_known_names(entry.message or "", known)
        alike = groups[entry.failure_class or "?", stage].setdefault(_PARTICULAR.sub("…", message), _Alike(message))
        alike.units.append(entry.unit_id)
    return {key: sorted(of.values(), key=lambda a: -len(a.units)) for key, of in sorted(groups.items())}


def _print_failed(seen: Snapshot, known: Mapping[str, str], *, as_json: bool) -> None:
    groups = _group_failures(seen.failures, known)

    def address(unit: str) -> str:
        return known.get(unit.partition("_")[0], "")

    if as_json:
        rows = [
            {"stage": stage, "class": failure_class, "message": alike.message, "units": alike.units}
            | {"sources": sorted({address(unit) for unit in alike.units} - {""})}
            for (failure_class, stage), found in groups.items()
            for alike in found
        ]
        print(json.dumps(rows))
        return
    said = ""
    for (failure_class, stage), found in groups.items():
        if failure_class != said:
            print(f"{failure_class}: {advice(failure_class)}")
            said = failure_class
        for alike in found:
            n = len(alike.units)
            print(f"  {n:6d} {stage}: {hints.shown(alike.message)}")
            for unit in alike.units[:3]:
                print(f"         {unit} {address(unit)}".rstrip())
            if n > 3:
                print("         …")
    one = next((alike.units[0] for found in groups.values() for alike in found), "")
    print(f"what happened to one: {hints.say(Hint.WHY, name=one)}" if groups else "no failed units")
