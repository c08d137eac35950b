"""How a worker of each step is built, and what its ledger holds."""

from __future__ import annotations

from collections.abc import Sequence

from manifests.ledger import Ledger
from mit_builder.config.settings import Settings
from mit_builder.engine.worker import WorkerSpec
from mit_builder.pipeline import Step, steps_of
from mit_builder.storage.workspace import Workspace


def worker_specs(
    settings: Settings, workspace: Workspace, run_id: str, steps: Sequence[Step] | None = None
) -> dict[str, WorkerSpec]:
    """How a worker of each step is built; of the pipeline of the settings where no steps are given."""
    place = (workspace.uri, run_id, settings.run.scratch_gb)
    steps = steps_of(settings) if steps is None else steps
    return {s.name: WorkerSpec(s.stage, s.settings(settings), *place, s.identity) for s in steps}


def ledger_of(workspace: Workspace, step: str, settings: Settings | None = None) -> Ledger:
    """The ledger of a step, to look at; of another package's with the settings that name it."""
    return Ledger(workspace, step, worker_specs(settings or Settings(), workspace, "look")[step].load().emits)
