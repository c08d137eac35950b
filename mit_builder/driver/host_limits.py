"""What the driver knows about the hosts it sends workers to: how many at once, how often, and when to leave one alone.

Workers hold no such state, so the limits hold across all of them. A host is known by its limit key (`Stage.limit_key`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from manifests.ledger import Entry
from mit_builder.config.settings import DownloadSettings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.driver.step_queue import StepQueue, Waiting

LONGEST_REST_S = 3600.0
"""A host that asks for more is left to another run."""
GIVE_LOGIN = "give download.cookies_file or download.cookies_from_browser"


@dataclass
class _Host:
    n_running: int = 0
    next_start_s: float = -math.inf
    """Not to be asked before: the interval between units."""
    rest_until_s: float = -math.inf
    """Not to be asked before: it failed, or asked for a pause."""
    n_unanswered: int = 0
    """Transient failures in a row."""
    n_refused: int = 0
    """Auth failures since the last success."""
    n_rests: int = 0
    closed: str | None = None


class Hosts:
    """Admission to hosts; all times are monotonic seconds."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._hosts: dict[str, _Host] = {}

    def _host(self, key: str) -> _Host:
        return self._hosts.setdefault(key, _Host())

    def closed(self, key: str) -> str | None:
        """Why the host is not asked any more in this run, if so."""
        return self._host(key).closed

    def starts(self, key: str, now_s: float, lane: StepQueue, waiting: Waiting) -> bool:
        """Whether a unit goes to the host now; where not, it is queued again, or put off until it may."""
        ready_at_s = self.ready_at_s(key, now_s)
        if ready_at_s <= now_s:
            self.start(key, now_s)
        elif ready_at_s == math.inf:
            lane.queue.append(waiting)
        else:
            lane.put_off(waiting, ready_at_s)
        return ready_at_s <= now_s

    def ready_at_s(self, key: str, now_s: float) -> float:
        """When a unit may go to the host: now or later, infinity while others have to come back first."""
        host = self._host(key)
        # After a rest one unit finds out whether the host answers again.
        at_once = 1 if host.n_rests and host.n_unanswered else self._settings.per_host
        return math.inf if host.n_running >= at_once else max(now_s, host.next_start_s, host.rest_until_s)

    def start(self, key: str, now_s: float) -> None:
        """A unit goes to the host."""
        host = self._host(key)
        host.n_running += 1
        host.next_start_s = now_s + self._settings.host_interval_s

    def leave(self, key: str) -> None:
        """A unit comes back."""
        self._host(key).n_running -= 1

    def learn(self, key: str, entry: Entry, now_s: float) -> str | None:
        """Take in how a unit ended; one line when the host is rested or closed because of it."""
        host = self._host(key)
        if entry.status in ("done", "rejected"):
            host.n_unanswered = host.n_refused = host.n_rests = 0
        elif entry.failure_class == "permanent":
            host.n_unanswered = host.n_rests = 0  # "not found" is an answer as well
        elif entry.failure_class == "auth":
            return self._refused(key, host)
        elif entry.failure_class == "transient":
            return self._unanswered(key, host, entry, now_s)
        return None

    def _refused(self, key: str, host: _Host) -> str | None:
        host.n_refused += 1
        if host.closed or host.n_refused < self._settings.host_refusals:
            return None
        host.closed = f"{key} refused {host.n_refused} in a row, so it is not asked any more in this run: {GIVE_LOGIN}"
        return host.closed

    def _unanswered(self, key: str, host: _Host, entry: Entry, now_s: float) -> str | None:
        host.n_unanswered += 1
        asked_s = entry.retry_after_s
        due = asked_s is not None or host.n_unanswered >= self._settings.host_failures
        if host.closed or now_s < host.rest_until_s or not due:
            return None
        host.n_rests += 1
        rest_s = self._settings.host_rest_s * 2.0 ** (host.n_rests - 1) if asked_s is None else asked_s
        if host.n_rests > self._settings.host_rests or rest_s > LONGEST_REST_S:
            attempts = counted(host.n_unanswered, "attempt")
            host.closed = f"{key} has not answered {attempts} in a row: later {hints.say(Hint.AGAIN)}"
            return host.closed
        host.rest_until_s = now_s + rest_s
        why = "asks for a pause" if asked_s is not None else f"failed {counted(host.n_unanswered, 'time')} in a row"
        return f"{key} {why}: left alone for {rest_s:g} s"
