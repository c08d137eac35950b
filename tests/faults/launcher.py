"""`mit-build` as bench.py starts it: with fakes if asked for, and a line for every call that is started.

    KILLS_STARTED=FILE [KILLS_FAKES=1] [KILLS_ACTOR=N] python tests/faults/launcher.py run ...

A line of the file is the stage, then `unit:key` for each unit of the call. With `KILLS_ACTOR` the actor that was given
the N-th call is ended by `ray.kill`. With `KILLS_NODES` lines of that file say which node got it: node, stage, units.
"""

from __future__ import annotations

import os
from typing import Any

from mit_builder import pipeline
from mit_builder.engine.worker import Task


def put_in_fakes() -> None:
    """Before anything has taken the steps by name."""
    import fakes

    pipeline.STEPS = fakes.steps()
    import manifests.ledger
    import mit_builder.driver.runner
    import mit_builder.pipeline_run
    import mit_builder.removal.purge
    import mit_builder.storage.lease

    # Runs with fakes are over before five seconds are, after which units are recorded.
    mit_builder.driver.runner.FLUSH_ROWS = 4
    manifests.ledger.COMPACT_ABOVE_PARTS = 8
    mit_builder.storage.lease.RENEW_S = 1.0
    mit_builder.storage.lease.EXPIRY_S = float(os.environ.get("KILLS_EXPIRY_S", "6"))
    # Fakes need no models, and what they make cannot be drawn.
    mit_builder.pipeline_run.check_all = lambda *arguments: []  # type: ignore[attr-defined]
    mit_builder.pipeline_run._report = lambda *arguments: []
    mit_builder.removal.purge.write_card = lambda *arguments, **named: None  # type: ignore[assignment]


def node_of(engine: Any, stage: str, tasks: list[Task]) -> str:
    """The node whose worker was given a call."""
    import ray

    (slot,) = (slot for slot in engine._slots[stage] if slot.calls and slot.calls[-1].tasks is tasks)
    known: str = ray._private.state.actors(slot.actor._actor_id.hex())["Address"]["NodeID"]
    return known


def write_down_calls(engine: Any) -> None:
    """Let an engine's `submit` say what it is given first."""
    submit, n_calls = engine.submit, 0

    def and_say(self: Any, stage: str, tasks: list[Task]) -> None:
        nonlocal n_calls
        n_calls += 1
        with open(os.environ["KILLS_STARTED"], "a") as file:
            file.write(" ".join([stage, *(f"{task.unit_id}:{task.input_key}" for task in tasks)]) + "\n")
        submit(self, stage, tasks)
        if "KILLS_NODES" in os.environ and hasattr(self, "_slots"):
            with open(os.environ["KILLS_NODES"], "a") as file:
                file.write(" ".join([node_of(self, stage, tasks), stage, *(task.unit_id for task in tasks)]) + "\n")
        if n_calls == int(os.environ.get("KILLS_ACTOR", "0")):
            import ray

            ray.kill(next(s.actor for s in self._slots[stage] if s.calls and s.calls[-1].tasks is tasks))

    engine.submit = and_say


if __name__ == "__main__":
    if os.environ.get("KILLS_FAKES"):
        put_in_fakes()
    from mit_builder.cli import main
    from mit_builder.engine.ray_engine import RayEngine
    from mit_builder.engine.serial import SerialEngine

    write_down_calls(SerialEngine)
    write_down_calls(RayEngine)
    main.main()
