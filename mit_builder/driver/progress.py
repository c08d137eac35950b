"""What a run says: bars on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.terminal import is_in_front
from mit_builder.console.wording import counted, counted_in_column
from mit_builder.driver.bottleneck import find_bottleneck
from mit_builder.driver.counts import NearMisses, RunCounts
from mit_builder.driver.runner import Runner

PLAIN_EVERY_S = 10.0


class Reporter:
    """Receives everything a run has to say; this one says nothing of it.

    Attributes:
        notes: every line but those of the end.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Take a line."""
        self.notes.append(hints.shown(text))

    def update(self, runner: Runner) -> None:
        """Take how far it is."""

    def end(self, tally: RunCounts, lines: list[str], extra: dict[str, Any]) -> None:
        """Take what came of it."""

    def pause(self) -> None:
        """Leave the screen to others, as the program may be stopped or end."""

    def resume(self) -> None:
        """Go on after `pause`."""

    def close(self) -> None:
        """Leave the screen to others for good."""


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


class JsonLines(Reporter):
    """One JSON object a line, on standard output."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at = 0.0

    def _say(self, **values: Any) -> None:
        print(json.dumps(values), flush=True)

    def note(self, text: str) -> None:
        super().note(text)
        self._say(event="note", text=self.notes[-1])

    def update(self, runner: Runner) -> None:
        if time.monotonic() - self._said_at >= 1.0:
            self._said_at = time.monotonic()
            held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
            stages = {name: counts(runner, name) for name in runner.lanes}
            self._say(event="progress", stages=stages, bottleneck=asdict(held_up) if held_up else None)

    def end(self, tally: RunCounts, lines: list[str], extra: dict[str, Any]) -> None:
        self._say(event="end", **tally.as_dict(), **extra)


def _print_line(text: str) -> None:
    print(text, flush=True)


class PlainLines(Reporter):
    """Lines for logs: one every ten seconds, only when something changed."""

    def __init__(self, say: Callable[[str], None] = _print_line) -> None:
        super().__init__()
        self._say = say
        self._said_at = time.monotonic()
        self._last = ""

    def note(self, text: str) -> None:
        super().note(text)
        self._say(self.notes[-1])

    def update(self, runner: Runner) -> None:
        if time.monotonic() - self._said_at < PLAIN_EVERY_S:
            return
        parts = []
        for name in runner.lanes:
            n = counts(runner, name)
            if any(n.values()):
                open_units = n["queued"] + n["running"]
                parts.append(f"{name} {sum(n.values()) - open_units}/{sum(n.values())}")
        line = "  ".join(parts)
        if line != self._last:
            held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
            self._say(f"{line}  {held_up}" if held_up else line)
            self._last, self._said_at = line, time.monotonic()

    def end(self, tally: RunCounts, lines: list[str], extra: dict[str, Any]) -> None:
        for line in lines:
            self._say(hints.shown(line))


class Bars(PlainLines):
    """A bar a stage on a terminal; the stage that holds the others up is marked, with what would help.

    A run in the background of its terminal writes lines, and draws again when it is brought to the front.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(lambda text: console.print(text, markup=False, highlight=False))
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[say]}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self.resume()

    def update(self, runner: Runner) -> None:
        self.resume()
        if not self._progress.live.is_started:
            super().update(runner)
            return
        held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
        for name in runner.lanes:
            n = counts(runner, name)
            if not any(n.values()):
                continue
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, say="")
            say = ", ".join(f"{n[key]} {key}" for key in ("rejected", "failed", "running") if n[key])
            say += f"  bottleneck: {held_up.add}" if held_up and held_up.step == name else ""
            done = n["done"] + n["rejected"] + n["failed"]
            self._progress.update(self._tasks[name], completed=done, total=sum(n.values()), say=say)

    def pause(self) -> None:
        self._progress.stop()

    def resume(self) -> None:
        if is_in_front(self._console.file):
            self._progress.start()
        else:
            self._progress.stop()

    def close(self) -> None:
        self._progress.stop()


def make_reporter(*, as_json: bool, console: Console) -> Reporter:
    """The reporter that fits where the output goes."""
    if as_json:
        return JsonLines()
    return Bars(console) if console.is_terminal else PlainLines()


def funnel(tally: RunCounts) -> list[str]:
    """The way from sources to the dataset, in counts and minutes."""
    lines = [
        f"{counted(tally.n_sources, 'source')} -> {counted(tally.n_videos, 'video')} ({_length(tally.video_s)}) "
        f"-> {counted(tally.n_shots, 'shot')} -> {counted(sum(tally.candidates.values()), 'candidate')} "
        f"-> {tally.candidates['kept']:,} kept ({_length(tally.kept_s)}) "
        f"-> {counted(tally.n_dataset, 'clip')} in the dataset"
    ]
    for name, count in sorted(tally.candidates.items(), key=lambda item: -item[1]):
        if name != "kept":
            lines.append(f"  {counted_in_column(count, 'candidate')} {name} ({_length(tally.candidate_s[name])})")
    lines += [
        f"  {counted_in_column(count, 'clip')} left out of the dataset: {reason}"
        for reason, count in sorted(tally.left_out.items())
    ]
    for step, found in tally.steps.items():
        for reason, count in sorted(found.rejected.items()):
            lines.append(f"  {count:6d} {step} rejected: {reason}")
        for failure_class, count in sorted(found.failed.items()):
            lines.append(f"  {count:6d} {step} failed ({failure_class}): {hints.say(Hint.FAILED)} lists them")
        if found.pending:
            why = tally.unavailable.get(step) or tally.stopped.get(step)
            lines.append(f"  {found.pending:6d} {step} pending" + (f": {why}" if why else ""))
        for (name, reason), count in sorted(tally.held_back.items()):
            if name == step:
                lines.append(f"  {count:6d} {step} not asked for: {reason}")
    return lines


def nearest_miss(tally: RunCounts, settings: Settings) -> list[str]:
    """The thresholds that most candidates missed narrowly, and the settings that would let them in together."""
    if not tally.near_misses:
        return []
    together, _ = max(tally.near_misses, key=lambda key: tally.near_misses[key].n)
    missed = {setting: values for (group, setting), values in tally.near_misses.items() if group == together}
    many = counted(max(values.n for values in missed.values()), "candidate")
    tests = " and ".join(_missed(name, values, settings) for name, values in missed.items())
    moved = [f"filter.{name}={_letting_in(name, values, settings)}" for name, values in missed.items()]
    other = "another value" if len(missed) == 1 else "other values"
    return [f"{many} missed {tests} by < 20%; what {other} would change: {hints.say(Hint.TUNE_WITH, setting=moved)}"]


def _missed(setting: str, values: NearMisses, settings: Settings) -> str:
    """A threshold with the values that missed it."""
    low, high = f"{values.lowest:.4g}", f"{values.highest:.4g}"
    return f"{setting}={getattr(settings.filter, setting):g} ({low if low == high else f'{low} to {high}'})"


def _letting_in(setting: str, values: NearMisses, settings: Settings) -> str:
    lower = values.lowest < getattr(settings.filter, setting)
    return f"{(values.lowest if lower else values.highest) * (0.995 if lower else 1.005):.3g}"


def _length(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
