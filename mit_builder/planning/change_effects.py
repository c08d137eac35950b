"""What a change of settings will do, said before it is done: by a walk over the ledger that works on nothing.

It is the plan of the run itself, with the selection made anew on the stored tracks (what_if.py), and not an
estimate. In a large workspace it looks at some of the sources, chosen at random, for as long as `PATIENCE_S`, and
says of how many.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from manifests.rows import Source
from mit_builder.config.settings import Settings
from mit_builder.console.wording import counted
from mit_builder.driver.snapshot import Snapshot
from mit_builder.errors import CannotContinue, ConfigError
from mit_builder.pipeline import STEPS, Step, steps_of
from mit_builder.planning.what_if import BEFORE_SELECT, WhatIf
from mit_builder.storage.settings_file import changed_settings
from mit_builder.storage.workspace import Workspace

PATIENCE_S = 20.0
MOST_SOURCES = 2000
MOST_NAMED = 6
"""So many settings are named in the line."""


def foretell(
    workspace: Workspace,
    before: Settings,
    after: Settings,
    sources: Sequence[Source],
    steps: Sequence[Step] | None = None,
    patience_s: float = PATIENCE_S,
) -> str | None:
    """One line: which settings differ, the clips that leave the dataset, and the units that come due.

    Args:
        workspace: only read.
        before: settings of its last run.
        after: those of the run that is about to begin.
        sources: of that run; what is new among them does not count.
        steps: the pipeline, None for that of the settings; tests put fakes into it.
        patience_s: longest time for judging shots anew.

    Returns:
        None where no setting differs.
    """
    changes = changed_settings(before, after)
    if not changes:
        return None
    more = [f"and {len(changes) - MOST_NAMED} more"] if len(changes) > MOST_NAMED else []
    said = f"settings differ from the last run here: {', '.join(changes[:MOST_NAMED] + more)}"
    watch = _Watch(sources, patience_s)
    try:
        now, then = (steps_of(settings) if steps is None else steps for settings in (before, after))
        if _keys(now, before) == _keys(then, after):
            return f"{said}; no clip leaves the dataset, no model runs again"
        seen = WhatIf(workspace, after, watch, [after], then)
    except (CannotContinue, ConfigError) as error:  # what another package brought may be here no more
        return f"{said}; what that will do is not known: {error}"
    return f"{said}; {watch.part_of(len(sources))}{_effect(workspace, before, after, watch.seen, seen, now)}"


def _keys(steps: Sequence[Step], settings: Settings) -> list[tuple[str, str, dict[str, Any]]]:
    """What the keys of units depend on besides their rows."""
    return [(step.name, step.identity, step.settings(settings).key_values()) for step in steps]


class _Watch:
    """Gives out sources, at random where there are many, until time is up; and remembers which."""

    def __init__(self, sources: Sequence[Source], patience_s: float) -> None:
        self._sources, self._patience_s = sources, patience_s
        self.seen: list[Source] = []

    def __iter__(self) -> Iterator[Source]:
        begun_s = time.monotonic()
        chosen = range(len(self._sources))
        for i in chosen if len(chosen) <= MOST_SOURCES else random.Random(0).sample(chosen, MOST_SOURCES):
            if self.seen and time.monotonic() - begun_s > self._patience_s:
                return
            self.seen.append(self._sources[i])
            yield self.seen[-1]

    def part_of(self, n: int) -> str:
        """What to say where not all were looked at."""
        return f"of {len(self.seen)} of {counted(n, 'source')}: " if len(self.seen) < n else ""


def _effect(
    workspace: Workspace,
    before: Settings,
    after: Settings,
    sources: Sequence[Source],
    seen: WhatIf,
    steps: Sequence[Step],
) -> str:
    now = Snapshot(workspace, before, steps=steps)
    tally = now.follow(sources)
    clips = {row.clip.clip_id for row in now.clips.kept()}
    then = seen.outlook(after)
    earlier = {name: max(0, n - tally.steps[name].pending) for name, n in seen.pending.items()}
    first = Counter(then.due.values())
    due = earlier | {name: max(0, first[name] - tally.steps[name].pending) for name in seen.after_select}
    stays = then.kept_frames.keys() - then.left_out.keys() - then.failed.keys()
    stays = {clip_id for clip_id in stays if not now.reviews.left_out(clip_id)}
    if any(due[name] for name in BEFORE_SELECT):
        leave = f"which of {counted(len(clips), 'clip')} stay is known after that" if clips else ""
    else:
        n_gone = len(clips - stays)
        leave = f"{n_gone} of {counted(len(clips), 'clip')}" if n_gone else "no clip"
        leave += " leaves" if n_gone == 1 or not n_gone else " leave"
        leave += " the dataset" + (f", {len(stays - clips)} come in" if stays - clips else "")
        judges = [name for name in seen.after_select if due[name] and name not in {step.name for step in STEPS}]
        leave += f" before {' and '.join(judges)} judges them" if judges else ""
    units = ", ".join(f"{n} {name}" for name, n in due.items() if n)
    follows = " and what follows" if units and not units.endswith(seen.after_select[-1]) else ""
    come_due = f"units that come due: {units}{follows}" if units else "no model runs again"
    return ", ".join(filter(None, [leave, come_due]))
