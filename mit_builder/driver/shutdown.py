"""SIGTERM: nothing new is started, what runs may end within a grace period, then the run is interrupted.

What has not ended by then is done again by the next run, as after a kill.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mit_builder.console.terminal import Interrupts, hears_signals

JOB_GRACE = "RAY_JOB_STOP_WAIT_TIME_S"
"""Set for a job of Ray's: seconds from SIGTERM to SIGKILL."""
MARGIN_S = 5.0
"""Of a job's grace, for the last ledger part and for Ray to let go."""


def drain_s(wanted: float | None) -> float:
    """For how long a run drains: as set, else what Ray's job service grants, else not at all."""
    if wanted is not None:
        return wanted
    granted = os.environ.get(JOB_GRACE, "")
    return max(0.0, float(granted) - MARGIN_S) if granted.isdigit() else 0.0


class Stop:
    """Whether a run was asked to end, and until when its running units may.

    Args:
        grace_s: 0 = it ends at once.
        on_ask: called with a line when it was asked to.
    """

    def __init__(self, grace_s: float, on_ask: Callable[[str], None] = lambda line: None) -> None:
        self._grace_s = grace_s
        self._on_ask = on_ask
        self._asked_s: float | None = None
        self._was_said = False
        self._before: Any = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM while the context is open; a second one ends the run at once. Other threads than the first
        cannot.
        """
        if not hears_signals():
            yield
            return
        self._before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._grace_s <= 0 or self._asked_s is not None:
            if isinstance(self._before, Interrupts):  # it knows what a further one means
                self._before(number, frame)
            raise KeyboardInterrupt
        self._asked_s = time.monotonic()

    @property
    def is_asked(self) -> bool:
        return self._asked_s is not None

    def check(self, *, is_working: bool) -> None:
        """End the run if it was asked to and nothing runs any more, or its time is over.

        Raises:
            KeyboardInterrupt: as Ctrl-C would.
        """
        if self._asked_s is None:
            return
        if not self._was_said:
            self._was_said = True
            self._on_ask(f"asked to end: nothing new is started, what runs has {self._grace_s:g} s")
        if not is_working or time.monotonic() - self._asked_s > self._grace_s:
            raise KeyboardInterrupt
