"""What a command shows while somebody waits for it: on a terminal alone, and only after two seconds."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mit_builder.console.terminal import is_in_front

APPEARS_AFTER_S = 2.0


class Waiting:
    """A line below what a command says: what it does and since when. It goes when the work is done."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        # Standard output is left alone: it may lead elsewhere.
        self._progress = Progress(
            *columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._task = self._progress.add_task(what)
        self._lock = threading.Lock()
        self._is_over = quiet or not sys.stderr.isatty()
        self._timer = threading.Timer(APPEARS_AFTER_S, self._appear)
        self._timer.daemon = True
        if not self._is_over:
            self._timer.start()

    def _appear(self) -> None:
        with self._lock:
            if not self._is_over and is_in_front(sys.stderr):
                self._progress.start()

    def now(self, what: str) -> None:
        """Show something else."""
        if not self._is_over:
            self._progress.update(self._task, description=what)

    def say(self, line: str) -> None:
        """Print a line of output above."""
        with self._lock:
            is_shown = self._progress.live.is_started
            if is_shown:
                self._progress.stop()
            print(line, flush=is_shown)
            if is_shown:
                self._progress.start()

    def close(self) -> None:
        """Take the line away."""
        self._timer.cancel()
        with self._lock:
            self._is_over = True
            if self._progress.live.is_started:
                self._progress.stop()


@contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[Waiting]:
    """Show what is being done while the context is open, should it last; nothing is printed past `Waiting.say`.

    Args:
        what: in words, as "reading the ledger".
        quiet: show nothing, as for a command whose output a program reads.
    """
    shown = Waiting(what, quiet=quiet)
    try:
        yield shown
    finally:
        shown.close()
