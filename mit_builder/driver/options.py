"""What a run was asked to do."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mit_builder.driver.retry_policy import PASSES_BY_ITSELF
from mit_builder.errors import FailureClass
from mit_builder.pipeline import STEPS


@dataclass(frozen=True)
class RunOptions:
    """What a run was asked to do.

    Attributes:
        steps: names of the steps to work on; the others only hand on what the ledger has.
        forced: steps whose units are due whatever the ledger says.
        retry: classes of failures that are tried again.
        at_once: do not wait for what failed a short time ago.
        refresh_s: playlists and channels are looked at again when that was last done so long ago, by a run that works
            on downloads.
        verify: compare every file with its digest.
    """

    steps: frozenset[str] = frozenset(step.name for step in STEPS)
    forced: frozenset[str] = frozenset()
    retry: frozenset[FailureClass] = PASSES_BY_ITSELF
    at_once: bool = False
    refresh_s: float = math.inf
    verify: bool = False


EVERYTHING = RunOptions()
