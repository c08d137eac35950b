"""When what failed is tried again: classes that pass by themselves, and how long to wait for them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from manifests.schema import content_hash
from mit_builder.config import RunSettings
from mit_builder.errors import FailureClass

PASSES_BY_ITSELF: frozenset[FailureClass] = frozenset(("transient", "resource"))
"""Tried again by every run; the other classes only when asked for (`auth` also when its stage's settings changed)."""
ALL_CLASSES: frozenset[FailureClass] = frozenset(("transient", "permanent", "auth", "resource", "poison"))

ADVICE: dict[str, str] = {
    "transient": "the next run tries again",
    "resource": "the next run tries again; free disk or memory before",
    "auth": "give download.cookies_file or download.cookies_from_browser, then run again",
    "permanent": "not tried again unless asked: mit-build retry --class permanent",
    "poison": "set aside, its worker died each time; not tried again unless asked: mit-build retry --class poison",
}
"""What becomes of a failed unit, in one line for people."""


@dataclass(frozen=True)
class Clock:
    """The driver's time; tests put one of their own in its place."""

    def monotonic_s(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Seconds since 1970: comparable between runs."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def delay_s(unit_id: str, n_failed: int, settings: RunSettings) -> float:
    """Seconds until a unit that failed `n_failed` times is tried again: doubled each time, at most `retry_max_s`.

    The jitter (the last half of it) comes from a hash of unit and count: units that failed together come back apart,
    and the same run waits the same time.
    """
    whole_s = min(settings.retry_max_s, settings.retry_base_s * 2.0 ** min(n_failed - 1, 62))
    jitter = int(content_hash(unit_id, n_failed)[:8], 16) / 2**32
    return whole_s * (0.5 + 0.5 * jitter)
