"""What the driver asks of an engine, and what it gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from manifests.ledger import Entry
from mit_builder.engine.metric import Meter
from mit_builder.engine.worker import Task

Lost = Literal["crash", "timeout", "memory", "node", "silent", "unstarted"]
NOBODYS_FAULT: Final[tuple[Lost, ...]] = ("node", "silent")


@dataclass(frozen=True)
class Result:
    """What became of one call.

    Attributes:
        entries: one a task, or None when the worker died.
        lost: why there are no entries; "node", "silent" (the worker does not answer: something stopped it, as SIGSTOP
            does) and "unstarted" (the call never began) do not count as an attempt, "memory" ends as a failure of
            resources.
        message: one line about the loss.
    """

    stage: str
    tasks: list[Task]
    entries: list[Entry] | None = None
    lost: Lost | None = None
    message: str = ""


@dataclass(frozen=True)
class Load:
    """Cores and GPUs: how many work, how many there are; and why more of them would not help, where that is so."""

    cpus_busy: float
    cpus: float
    gpus_busy: float = 0.0
    gpus: float = 0.0
    limit: str = ""


class Engine(Protocol):
    """Runs calls of stages; see `SerialEngine` for the simplest one."""

    def offer(self, stage: str, n_calls: int = 1) -> bool:
        """Whether a call of this stage can start now; begins to start workers where that helps.

        Args:
            stage: name of the step.
            n_calls: calls that wait.

        Raises:
            StageUnavailable: its workers cannot be set up.
        """
        ...

    def load(self) -> Load:
        """What is used of what there is."""
        ...

    def meter(self) -> Meter | None:
        """Takes figures for Prometheus; None = they are not kept."""
        ...

    def submit(self, stage: str, tasks: list[Task]) -> None: ...

    def wait(self, timeout_s: float) -> list[Result]:
        """Results that are ready, at least one unless the time is over."""
        ...

    def recall(self) -> None:
        """Take back calls that have not begun, as far as that goes; they come back as results, "unstarted"."""
        ...

    def unavailable(self) -> dict[str, str]:
        """Stages whose setup failed since the start, with one line each."""
        ...

    def close(self) -> None: ...
