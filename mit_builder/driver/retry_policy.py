"""When what failed is tried again: classes that pass by themselves, and how long to wait for them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from manifests.schema import content_hash
from mit_builder.config.settings import RunSettings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import FailureClass

PASSES_BY_ITSELF: frozenset[FailureClass] = frozenset(("transient", "resource"))
"""Tried again by every run; the other classes only when asked for.

`auth` also when the settings of its stage, the cookies or the proxy changed.
"""
ALL_CLASSES: frozenset[FailureClass] = frozenset(("transient", "permanent", "auth", "resource", "poison"))


def advice(failure_class: str | None, say: Callable[..., str] = hints.say) -> str:
    """What becomes of a failed unit, in one line for people; `say` makes a command of a hint."""
    retry = say(Hint.RETRY, failure_class=failure_class)
    return {
        "transient": f"the next run tries again; at once: {retry}",
        "resource": f"the next run tries again; when disk or memory is free: {retry}",
        "auth": f"a login is needed: {say(Hint.WITH_COOKIES, path='COOKIES.txt')}",
        "permanent": f"not tried again unless asked: {retry}",
        "poison": f"set aside, its worker died each time; not tried again unless asked: {retry}",
    }.get(failure_class or "", "")


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
