"""Moves thresholds and shows what they would keep, without inference."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifests.ids import new_run_id
from mit_builder.config import settings as config
from mit_builder.config.settings import SelectSettings, Settings, ShardsSettings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.driver.options import RunOptions
from mit_builder.driver.progress import funnel
from mit_builder.driver.runner import Runner
from mit_builder.driver.session import resolve
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import ConfigError
from mit_builder.pipeline import LEFT_OUT_BY
from mit_builder.planning.what_if import AFTER_SELECT, Outlook, WhatIf, hours
from mit_builder.storage.lease import lease
from mit_builder.storage.settings_file import Changes, keep, kept_in
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace

STEPS_AROUND = (0.5, 0.75, 1.25, 1.5, 2.0)
"""Without values of the user's, a threshold is tried at these multiples of where it is."""
NUMBERS_AROUND = (-1, 1)
"""The same for numbers of people."""
QUARTERS = (0.25, 0.5, 0.75)
"""The same for shares that are 0."""
TOGETHER = "as set"


@dataclass(frozen=True)
class Column:
    """Settings to look at, and what they are called in the table."""

    title: str
    settings: Settings
    value: Any = None


Tables = dict[str, list[Column]]
"""Columns by the setting that they move."""


def tunable() -> dict[str, Any]:
    """Every setting that can be moved without inference, by its full name."""
    fields = {f"filter.{name}": field for name, field in SelectSettings.model_fields.items()}
    return fields | {f"shards.{name}": ShardsSettings.model_fields[name] for name in LEFT_OUT_BY}


def moved(pinned: Settings, overrides: Sequence[str]) -> Settings:
    """The settings of the workspace with some thresholds moved; the same object where none is.

    Raises:
        ConfigError: one is unknown, does not fit, or cannot be moved without inference.
    """
    for override in overrides:
        _check(override.partition("=")[0])
    return config.load(None, overrides, base=pinned) if overrides else pinned


def _check(name: str) -> None:
    if name not in tunable():
        raise ConfigError(f"{name!r} is no threshold that moves without inference: choose of {', '.join(tunable())}")


def tables_of(base: Settings, names: Sequence[str], values: str | None, *, together: bool) -> Tables:
    """The columns to show for each setting.

    Raises:
        ConfigError: a setting or a value cannot be used.
    """
    if values is not None and len(names) != 1:
        raise ConfigError("--values belong to one setting, as in --setting filter.min_face_px --values 24,36,48")
    if together and not names:
        return {TOGETHER: [Column(TOGETHER, base)]}
    return {name: _columns(base, name, values) for name in names or tunable()}


def _columns(base: Settings, name: str, values: str | None) -> list[Column]:
    """The setting's value, and those asked for or else some around it, in order."""
    _check(name)
    if values is not None:
        texts = [text.strip() for text in values.split(",") if text.strip()]
        moved_to = [config.load(None, [f"{name}={text}"], base=base) for text in texts]
        if not moved_to:
            raise ConfigError(f"--values {values!r} holds no value")
    else:
        moved_to = list(_around(base, name))
    by_value = {_value(settings, name): settings for settings in [*moved_to, base]}
    return [Column(f"{value:g}", settings, value) for value, settings in sorted(by_value.items())]


def _around(base: Settings, name: str) -> Iterator[Settings]:
    """The settings with one of them moved to values near where it is, as far as its bounds go."""
    now = _value(base, name)
    if isinstance(now, int):
        near: list[float] = [now + step for step in NUMBERS_AROUND]
    else:
        near = [float(f"{(now * step):.3g}") for step in STEPS_AROUND] if now else list(QUARTERS)
    for value in near:
        try:
            yield config.load(None, [f"{name}={value}"], base=base)
        except ConfigError:
            continue


def _value(settings: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)


def in_json(seen: WhatIf, pinned: Settings, tables: Tables, *, list_clips: bool) -> dict[str, Any]:
    """What each value would keep, for machines."""
    now = seen.outlook(pinned)
    return {
        "shots": seen.n_shots,
        "pending": seen.pending,
        "now": _figures(now, now, list_clips=list_clips),
        "settings": {
            name: [
                {"value": column.value} | _figures(seen.outlook(column.settings), now, list_clips=list_clips)
                for column in columns
            ]
            for name, columns in tables.items()
        },
    }


def _figures(outlook: Outlook, now: Outlook, *, list_clips: bool) -> dict[str, Any]:
    kept = outlook.kept_frames
    return {
        "clips": len(kept),
        "hours": round(hours(sum(kept.values())), 6),
        "new": sorted(kept.keys() - now.kept_frames.keys()),
        "gone": sorted(now.kept_frames.keys() - kept.keys()),
        "labelled": len(outlook.labelled),
        "due": {step: n for step, n in _due(outlook).items() if n},
        "failed": len(outlook.failed),
        "left_out": dict(sorted(Counter(outlook.left_out.values()).items())),
        "dropped": {
            reason: {"candidates": n, "hours": round(hours(outlook.dropped_frames[reason]), 6)}
            for reason, n in sorted(outlook.dropped.items())
        },
    } | ({"clip_ids": _clips(outlook)} if list_clips else {})


def _due(outlook: Outlook) -> dict[str, int]:
    """Kept clips by the first step that has work to do on them."""
    counted = Counter(outlook.due.values())
    return {step: counted[step] for step in (*AFTER_SELECT, *sorted(counted.keys() - set(AFTER_SELECT)))}


def _clips(outlook: Outlook) -> dict[str, str]:
    """What each kept clip still needs, by its id."""
    return {clip_id: _standing(outlook, clip_id) for clip_id in outlook.kept_frames}


def _standing(outlook: Outlook, clip_id: str) -> str:
    if clip_id in outlook.failed:
        return f"failed: {outlook.failed[clip_id]}"
    if clip_id in outlook.due:
        return f"needs {_work(outlook.due[clip_id])}"
    return f"left out: {outlook.left_out[clip_id]}" if clip_id in outlook.left_out else "labelled"


def _work(first: str) -> str:
    """The steps that a clip still has to go through, as people say it."""
    steps = AFTER_SELECT[AFTER_SELECT.index(first) :] if first in AFTER_SELECT else (first,)
    return ", ".join(step.removeprefix("filter.") for step in steps)


def in_text(seen: WhatIf, pinned: Settings, tables: Tables, *, list_clips: bool) -> Iterator[str]:
    """The same as lines of tables."""
    now = seen.outlook(pinned)
    yield f"{counted(seen.n_shots, 'shot')} judged anew with each value"
    for step, n in seen.pending.items():
        if n:
            yield f"{n} {step} pending: what they hold is not known; {hints.say(Hint.RUN)} finds out"
    for name, columns in tables.items():
        yield ""
        shown = [(column, seen.outlook(column.settings)) for column in columns]
        titles = [column.title + ("" if column.settings != pinned else " (now)") for column in columns]
        rows = [_row(outlook, now) for _, outlook in shown]
        if name == TOGETHER:
            titles, rows = ["now", *titles], [_row(now, now), *rows]
        yield from _table(name, titles, rows)
        if list_clips:
            for column, outlook in shown:
                at = TOGETHER if name == TOGETHER else f"{name}={column.title}"
                yield from (f"{at}\t{clip_id}\t{standing}" for clip_id, standing in _clips(outlook).items())


def _row(outlook: Outlook, now: Outlook) -> dict[str, str]:
    """Cells of one column, by the line they stand in; nothing is left out but what is zero."""
    kept = outlook.kept_frames
    cells = {
        "kept": _amount(len(kept), sum(kept.values())),
        "  new": str(len(kept.keys() - now.kept_frames.keys())),
        "  gone": str(len(now.kept_frames.keys() - kept.keys())),
        "  labelled": str(len(outlook.labelled)),
    }
    cells |= {f"  would still need {_work(step)}": str(n) for step, n in _due(outlook).items()}
    cells["  failed"] = str(len(outlook.failed))
    cells |= {f"  left out: {reason}": str(n) for reason, n in sorted(Counter(outlook.left_out.values()).items())}
    cells |= {
        f"dropped: {reason}": _amount(n, outlook.dropped_frames[reason])
        for reason, n in sorted(outlook.dropped.items())
    }
    return {line: cell for line, cell in cells.items() if cell != "0" or not line.startswith("  ")}


def _amount(n: int, n_frames: int) -> str:
    length_h = hours(n_frames)
    return f"{n} ({length_h:.2f} h)" if length_h >= 1 else f"{n} ({length_h * 60:.1f} min)"


def _table(name: str, titles: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A table with a line for every measure and a column for every value."""
    lines = sorted({line for row in rows for line in row}, key=_order)
    left = max(len(text) for text in [name, *lines])
    widths = [
        max(len(title), *(len(row.get(line, "0")) for line in lines)) for title, row in zip(titles, rows, strict=True)
    ]
    for line, cells in [(name, titles), *((line, [row.get(line, "0") for row in rows]) for line in lines)]:
        yield "  ".join([line.ljust(left), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])


def _order(line: str) -> tuple[int, str]:
    first = ("kept", "  new", "  gone", "  labelled", *(f"  would still need {_work(step)}" for step in AFTER_SELECT))
    return (first.index(line), "") if line in first else (len(first) + line.startswith("dropped"), line)


def how_to_take(now: Outlook, then: Outlook, overrides: Sequence[str]) -> str:
    """The command that takes these settings over; none is advised that would lose clips."""
    n_lost = len(now.labelled - now.left_out.keys() - (then.kept_frames.keys() - then.left_out.keys()))
    if n_lost:
        return (
            f"clips of the dataset that these settings would lose: {n_lost}; a run with the same --set takes them over"
        )
    taken = shlex.join(word for override in overrides for word in ("--set", override))
    return f"to take them over: {hints.say(Hint.RUN)} {taken}"


def take_over(workspace: Workspace, overrides: Sequence[str]) -> list[str]:
    """Keep the settings in the workspace and judge its shots anew; what it says at the end."""
    with lease(workspace):
        run_id, steps = new_run_id(), frozenset(("filter.select",))
        kept, changes = kept_in(workspace), Changes.asked(None, overrides)
        wanted, pinned = changes.on(kept)
        settings, _ = resolve(wanted, pinned)
        keep(workspace, changes.kept_after(kept, wanted, settings, f"tune {run_id}"))
        engine = SerialEngine(worker_specs(settings, workspace, run_id))
        runner = Runner(workspace, settings, run_id=run_id, choice=RunOptions(steps), engine=engine)
        tally = runner.run(SourceCatalog(workspace).sources())
        workspace.sweep()
    line = f"{counted(tally.steps['filter.select'].worked_on, 'shot')} selected anew; the dataset stays as it is until:"
    return ["", *funnel(tally), line, f"  {hints.say(Hint.RUN)}"]
