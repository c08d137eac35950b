"""How many workers each stage gets, by what they need and what there is: arithmetic, without Ray.

A worker that computes counts against the cores while it works; an idle one costs memory alone. A GPU's share is taken
for as long as a worker lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mit_builder.stage import Resources

LIGHT_CPUS = 0.5
"""Stages that need less than this mostly wait; they have a budget of one core of their own."""
_EXACT = 1e-6
"""Shares of a GPU are fractions: sums of them are not exact."""


@dataclass
class WorkerCounts:
    """How many workers a stage has.

    Attributes:
        busy: those that work.
        starting: those that load their models.
        idle: the others.
    """

    busy: int = 0
    starting: int = 0
    idle: int = 0

    @property
    def n(self) -> int:
        """All of them."""
        return self.busy + self.starting + self.idle


@dataclass
class Room:
    """What there is to work with; grows and shrinks with a cluster."""

    cpus: float
    gpus: float = 0.0


class Pools:
    """Decides from counts; the engine does what it says.

    Args:
        needs: what one worker of each stage occupies.
        room: what there is.
    """

    def __init__(self, needs: Mapping[str, Resources], room: Room) -> None:
        self._needs = needs
        self.room = room

    def _is_light(self, stage: str) -> bool:
        return self._needs[stage].cpus < LIGHT_CPUS

    def cpus_used(self, counts: Mapping[str, WorkerCounts], *, light: bool = False, starting: bool = False) -> float:
        """Cores that workers compute on; those of light stages by themselves."""
        return sum(
            self._needs[name].cpus * (count.busy + (count.starting if starting else 0))
            for name, count in counts.items()
            if self._is_light(name) == light
        )

    def gpus_used(self, counts: Mapping[str, WorkerCounts]) -> float:
        """GPUs that are reserved."""
        return sum(self._needs[name].gpus * count.n for name, count in counts.items())

    def fits(self, stage: str, counts: Mapping[str, WorkerCounts]) -> bool:
        """Whether one more call of a stage may run now."""
        light = self._is_light(stage)
        used = self.cpus_used(counts, light=light)
        return used == 0 or used + self._needs[stage].cpus <= (1.0 if light else self.room.cpus) + _EXACT

    def most(self, stage: str) -> int:
        """The most workers that a stage may have."""
        needs = self._needs[stage]
        by_cpus = max(1, int(self.room.cpus / max(needs.cpus, LIGHT_CPUS)))
        return needs.max_workers or by_cpus

    def to_start(self, stage: str, counts: Mapping[str, WorkerCounts], n_calls: int) -> int:
        """How many workers to start, so that `n_calls` calls can begin as far as there is room; GPUs aside."""
        mine, needs, light = counts[stage], self._needs[stage], self._is_light(stage)
        used = self.cpus_used(counts, light=light, starting=True)
        free = (1.0 if light else self.room.cpus) - used - mine.idle * needs.cpus
        by_cpus = int(free / needs.cpus + _EXACT) if needs.cpus else n_calls
        if used == 0 and mine.n == 0:
            by_cpus = max(1, by_cpus)
        return max(0, min(n_calls - mine.idle - mine.starting, self.most(stage) - mine.n, by_cpus))

    def has_gpu(self, stage: str, counts: Mapping[str, WorkerCounts]) -> bool:
        """Whether the GPU's share of one more worker is free; where no GPU is known, Ray is asked all the same."""
        needs = self._needs[stage].gpus
        return not needs or not self.room.gpus or self.gpus_used(counts) + needs <= self.room.gpus + _EXACT

    def has_cores_alone(self, stage: str, counts: Mapping[str, WorkerCounts]) -> bool:
        """Whether a stage computes and no other does."""
        others = (
            count.busy + count.starting for name, count in counts.items() if name != stage and not self._is_light(name)
        )
        return not (self._is_light(stage) or any(others))

    def uses_gpu(self, stage: str) -> bool:
        """Whether a stage's workers reserve any of a GPU."""
        return self._needs[stage].gpus > 0
