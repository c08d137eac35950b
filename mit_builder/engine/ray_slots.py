"""What the driver keeps about each worker on Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mit_builder.engine.worker import Task


@dataclass
class Call:
    """What an actor was asked to work on; `ref` is Ray's promise of the entries."""

    ref: Any
    tasks: list[Task]


@dataclass
class Slot:
    """A Ray actor and what it is doing: one call, and behind it perhaps another one that has not begun."""

    actor: Any
    starting: Any = None
    calls: list[Call] = field(default_factory=list)
    deadline: float = 0.0
    begun_s: float = 0.0
    timed_out: bool = False
    is_recalled: bool = False
    idle_since_s: float = 0.0
    where: Any = None
    """Answers with the node that it is on, on a cluster, before its models are loaded."""

    @property
    def is_idle(self) -> bool:
        """Whether it is up and has nothing to do."""
        return self.starting is None and not self.calls
