"""What a run says: bars on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mit_builder.bottleneck import find_bottleneck
from mit_builder.config import Settings
from mit_builder.pipeline import STEPS
from mit_builder.runner import Runner
from mit_builder.tally import Tally

PLAIN_EVERY_S = 10.0


class Reporter(Protocol):
    """Receives everything a run has to say."""

    def note(self, text: str) -> None: ...
    def update(self, runner: Runner) -> None: ...
    def end(self, tally: Tally, lines: list[str], extra: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


def counts(runner: Runner, step: str) -> dict[str, int]:
    """Units of a step by state."""
    tally, lane = runner.tally.steps[step], runner.lanes[step]
    return {
        "done": tally.done,
        "rejected": sum(tally.rejected.values()),
        "failed": sum(tally.failed.values()),
        "running": len(lane.running),
        "queued": len(lane.queue) + len(lane.delayed),
    }


class JsonLines:
    """One JSON object a line, on standard output."""

    def __init__(self) -> None:
        self._said_at = 0.0

    def _say(self, **values: Any) -> None:
        print(json.dumps(values), flush=True)

    def note(self, text: str) -> None:
        self._say(event="note", text=text)

    def update(self, runner: Runner) -> None:
        if time.monotonic() - self._said_at >= 1.0:
            self._said_at = time.monotonic()
            held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
            stages = {step.name: counts(runner, step.name) for step in STEPS}
            self._say(event="progress", stages=stages, bottleneck=asdict(held_up) if held_up else None)

    def end(self, tally: Tally, lines: list[str], extra: dict[str, Any]) -> None:
        self._say(event="end", **tally.as_dict(), **extra)

    def close(self) -> None:
        """Nothing is open."""


def _print_line(text: str) -> None:
    print(text, flush=True)


class PlainLines:
    """Lines for logs: one every ten seconds, only when something changed."""

    def __init__(self, say: Callable[[str], None] = _print_line) -> None:
        self._say = say
        self._said_at = time.monotonic()
        self._last = ""

    def note(self, text: str) -> None:
        self._say(text)

    def update(self, runner: Runner) -> None:
        if time.monotonic() - self._said_at < PLAIN_EVERY_S:
            return
        parts = []
        for step in STEPS:
            n = counts(runner, step.name)
            if any(n.values()):
                open_units = n["queued"] + n["running"]
                parts.append(f"{step.name} {sum(n.values()) - open_units}/{sum(n.values())}")
        line = "  ".join(parts)
        if line != self._last:
            held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
            self._say(f"{line}  {held_up}" if held_up else line)
            self._last, self._said_at = line, time.monotonic()

    def end(self, tally: Tally, lines: list[str], extra: dict[str, Any]) -> None:
        for line in lines:
            self._say(line)

    def close(self) -> None:
        """Nothing is open."""


class Bars(PlainLines):
    """A bar a stage on a terminal; the stage that holds the others up is marked, with what would help."""

    def __init__(self, console: Console) -> None:
        super().__init__(lambda text: console.print(text, markup=False, highlight=False))
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[say]}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def update(self, runner: Runner) -> None:
        held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
        for step in STEPS:
            n = counts(runner, step.name)
            if not any(n.values()):
                continue
            if step.name not in self._tasks:
                self._tasks[step.name] = self._progress.add_task(step.name, say="")
            say = ", ".join(f"{n[key]} {key}" for key in ("rejected", "failed", "running") if n[key])
            say += f"  bottleneck: {held_up.add}" if held_up and held_up.step == step.name else ""
            done = n["done"] + n["rejected"] + n["failed"]
            self._progress.update(self._tasks[step.name], completed=done, total=sum(n.values()), say=say)

    def close(self) -> None:
        self._progress.stop()


def make_reporter(*, as_json: bool, console: Console) -> Reporter:
    """The reporter that fits where the output goes."""
    if as_json:
        return JsonLines()
    return Bars(console) if console.is_terminal else PlainLines()


def funnel(tally: Tally) -> list[str]:
    """The way from sources to the dataset, in counts and minutes."""
    lines = [
        f"{tally.n_sources} sources -> {tally.n_videos} videos ({_length(tally.video_s)}) -> {tally.n_shots} shots "
        f"-> {sum(tally.candidates.values())} candidates -> {tally.candidates['kept']} kept ({_length(tally.kept_s)}) "
        f"-> {tally.n_dataset} clips in the dataset"
    ]
    for name, count in sorted(tally.candidates.items(), key=lambda item: -item[1]):
        if name != "kept":
            lines.append(f"  {count:6d} candidates {name} ({_length(tally.candidate_s[name])})")
    lines += [
        f"  {count:6d} clips left out of the dataset: {reason}" for reason, count in sorted(tally.left_out.items())
    ]
    for step, counted in tally.steps.items():
        for reason, count in sorted(counted.rejected.items()):
            lines.append(f"  {count:6d} {step} rejected: {reason}")
        for failure_class, count in sorted(counted.failed.items()):
            lines.append(f"  {count:6d} {step} failed ({failure_class}): mit-build status --failed lists them")
        if counted.pending:
            why = tally.unavailable.get(step) or tally.stopped.get(step)
            lines.append(f"  {counted.pending:6d} {step} pending" + (f": {why}" if why else ""))
        for (name, reason), count in sorted(tally.held_back.items()):
            if name == step:
                lines.append(f"  {count:6d} {step} not asked for: {reason}")
    return lines


def nearest_miss(tally: Tally, settings: Settings) -> list[str]:
    """The threshold that most candidates missed narrowly, and the setting that would let half of them in."""
    if not tally.near_misses:
        return []
    (reason, setting), missed = max(tally.near_misses.items(), key=lambda item: item[1].n)
    limit = getattr(settings.filter, setting)
    lower = missed.lowest < limit
    worst = missed.lowest if lower else missed.highest
    rounded = f"{worst * (0.995 if lower else 1.005):.3g}"
    many = f"{missed.n} candidate{'s' if missed.n > 1 else ''}"
    return [f"{many} {reason}: missed {setting}={limit:g} by < 20%: try --set filter.{setting}={rounded}"]


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
