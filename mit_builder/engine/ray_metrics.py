"""A run's figures on Ray's exporter, while Ray runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mit_builder.engine.metric import Metric


class RayMeter:
    """Hands figures to Ray.

    Args:
        is_running: whether Ray was started: before that there is nobody to hand them to.
    """

    def __init__(self, is_running: Callable[[], bool]) -> None:
        self._is_running = is_running
        self._made: dict[str, Any] = {}

    def __call__(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        if not self._is_running():
            return
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _make(metric)
        if metric.kind == "gauge":
            made.set(value, tags=dict(tags))
        elif metric.kind == "histogram":
            made.observe(value, tags=dict(tags))
        elif value > 0:
            made.inc(value, tags=dict(tags))


def _make(metric: Metric) -> Any:
    from ray.util.metrics import Counter, Gauge, Histogram

    if metric.kind == "histogram":
        return Histogram(metric.name, metric.what, boundaries=list(metric.bounds), tag_keys=metric.tags)
    kind = Gauge if metric.kind == "gauge" else Counter
    return kind(metric.name, metric.what, tag_keys=metric.tags)
