"""What a figure for Prometheus is, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True)
class Metric:
    """One name.

    Attributes:
        bounds: upper ends of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    what: str
    tags: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def exported(self) -> tuple[str, ...]:
        """Names under which Prometheus finds it."""
        if self.kind == "histogram":
            return tuple(f"ray_{self.name}_{end}" for end in ("bucket", "count", "sum"))
        return (f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}",)


class Meter(Protocol):
    """Takes a figure: adds to a counter, sets a gauge, or observes a value."""

    def __call__(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None: ...
