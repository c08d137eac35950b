"""How far a run is, in a notebook: a table that is drawn anew in its cell."""

from __future__ import annotations

import html
import importlib
import sys
import time
from typing import Any

from mit_builder.console import hints
from mit_builder.driver.bottleneck import find_bottleneck
from mit_builder.driver.counts import RunCounts
from mit_builder.driver.progress import Reporter, counts
from mit_builder.driver.runner import Runner

EVERY_S = 0.5
NOTES_SHOWN = 12
"""The last lines that are shown while a run goes on."""


def is_notebook() -> bool:
    """Whether this program is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")


class NotebookBars(Reporter):
    """A bar a stage, and what there is to say below."""

    def __init__(self) -> None:
        super().__init__()
        shell = importlib.import_module("IPython.display")  # whoever runs a notebook has it
        self._html = shell.HTML
        self._shown = shell.display(shell.HTML(""), display_id=True)
        self._rows: list[str] = []
        self._drawn_at = 0.0

    def note(self, text: str) -> None:
        """See `Reporter`."""
        super().note(text)
        self._draw(self.notes[-NOTES_SHOWN:])

    def update(self, runner: Runner) -> None:
        """See `Reporter`."""
        if time.monotonic() - self._drawn_at < EVERY_S:
            return
        self._drawn_at = time.monotonic()
        held_up = find_bottleneck(list(runner.lanes.values()), runner.load)
        self._rows = []
        for name in runner.lanes:
            n = counts(runner, name)
            if any(n.values()):
                add = held_up.add if held_up and held_up.step == name else ""
                self._rows.append(_row(name, n, f"bottleneck: {add}" if add else ""))
        self._draw(self.notes[-NOTES_SHOWN:])

    def end(self, tally: RunCounts, lines: list[str], extra: dict[str, Any]) -> None:
        """See `Reporter`."""
        self._rows = []
        self._draw([*self.notes, *map(hints.shown, lines)])

    def _draw(self, lines: list[str]) -> None:
        text = "\n".join(lines)
        self._shown.update(self._html(f"<table>{''.join(self._rows)}</table><pre>{html.escape(text)}</pre>"))


def _row(name: str, n: dict[str, int], add: str) -> str:
    done = n["done"] + n["rejected"] + n["failed"]
    said = ", ".join(f"{n[key]} {key}" for key in ("rejected", "failed", "running") if n[key])
    cells = (
        html.escape(name),
        f'<progress value="{done}" max="{sum(n.values())}"></progress>',
        f"{done}/{sum(n.values())}",
        html.escape(f"{said}  {add}".strip()),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
