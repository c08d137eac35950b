"""Whether a worker died or fell silent by itself or with its node. A killed machine often looks like a crash at first.

The cluster learns of a node's death after its workers are gone: by default up to 14 s for a killed one (Ray 2.60).
Until then a unit must not be blamed. A trifle of work on the node tells sooner that it lives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
"""A node that neither answers nor is known to be dead by then counts as lost: what ran there was not to blame."""


@dataclass(frozen=True)
class _Suspect(Generic[T]):
    item: T
    node_id: str
    probe: Any
    since_s: float


class Suspects(Generic[T]):
    """What was lost with workers of which it is not yet known whether their node is lost too."""

    def __init__(self) -> None:
        self._waiting: list[_Suspect[T]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, node_id: str) -> None:
        """Find out about a node."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node_id, soft=False)
        probe: Any = ray.remote(num_cpus=0, max_retries=0)(_answer)
        call = probe.options(scheduling_strategy=there).remote()
        self._waiting.append(_Suspect(item, node_id, call, time.monotonic()))

    def settled(self) -> Iterator[tuple[T, bool]]:
        """What is known by now, each with whether its node is lost."""
        waiting, self._waiting = self._waiting, []
        for suspect in waiting:
            is_lost = _is_lost(suspect)
            if is_lost is None:
                self._waiting.append(suspect)
            else:
                yield suspect.item, is_lost


def _is_lost(suspect: _Suspect[Any]) -> bool | None:
    import ray

    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
    if suspect.node_id not in alive or time.monotonic() - suspect.since_s > PATIENCE_S:
        return True
    ready, _ = ray.wait([suspect.probe], timeout=0)
    if not ready:
        return None
    try:
        ray.get(suspect.probe)
    except ray.exceptions.RayError:
        return True
    return False


def _answer() -> None:
    """Nothing: that it was called is the answer."""


def ask_node(actor: Any) -> Any:
    """Ask a worker, before anything else, which node it is on; see `node_known`."""
    return actor.__ray_call__.remote(_own_node)


def node_known(asked: Any) -> str | None:
    """The node that a worker is on, or was; None where it was not yet there."""
    import ray

    ready, _ = ray.wait([asked], timeout=0)
    try:
        found: str | None = ray.get(asked) if ready else None
    except ray.exceptions.RayError:
        return None
    return found


def _own_node(worker: Any) -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def kind_of_loss(error: Exception) -> Literal["crash", "memory", "node", "silent"]:
    """What an exception of Ray says by itself of a worker.

    "silent": it does not answer. Something stopped it, as SIGSTOP does, or its node or the way to it is lost.
    """
    import ray

    signs = ("node has died", "health check failed", "received SIGTERM", "Socket closed")
    is_dead = isinstance(error, ray.exceptions.ActorDiedError)
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "memory"
    if isinstance(error, ray.exceptions.NodeDiedError | ray.exceptions.ObjectLostError):
        return "node"
    if getattr(error, "preempted", False) or (is_dead and any(sign in str(error) for sign in signs)):
        return "node"
    return "silent" if isinstance(error, ray.exceptions.ActorUnavailableError) else "crash"
