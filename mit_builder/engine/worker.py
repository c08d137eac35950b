"""Runs one stage's units, in this process or inside a Ray actor, and turns whatever happens into ledger entries."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from manifests.ledger import Entry
from manifests.rows import Artifact, Bucket
from manifests.signatures import scrubbed
from mit_builder.config import plugins
from mit_builder.config.section import Section
from mit_builder.console.terminal import detach
from mit_builder.engine.clip_stage import ClipStageAdapter
from mit_builder.errors import (
    CannotContinue,
    ConfigError,
    DamagedError,
    FailureClass,
    LeaseLost,
    StageUnavailable,
    UnitError,
    WorkspaceError,
)
from mit_builder.stage import Reject, Stage
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.tombstones import REMOVED, Tombstones, withdraw
from mit_builder.storage.workspace import FOLDERS, Workspace
from mit_builder.version import __version__

_NAME = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*")
"""Names are ids of ours: one that came from outside could lead out of the workspace."""
SHORT_OF = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
GONE = (errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EREMOTEIO, errno.ENOLCK)
"""Errors of the system that say nothing about a unit: it has run out of something, or lost a disk."""
_ON_GPU = re.compile(r"CUDA|cuDNN|CUBLAS_STATUS|HIP error")
"""What errors of torch begin with that leave the GPU, or what this process sees of it, unusable."""


@dataclass(frozen=True)
class Task:
    """One unit to work on."""

    unit_id: str
    input_key: str
    row: Any


@dataclass(frozen=True)
class WorkerSpec:
    """Everything a worker process needs to build its stage."""

    stage: str
    """`module:Class`."""
    settings: Section
    workspace_uri: str
    run_id: str
    scratch_gb: float = 50.0
    identity: str = ""
    """Package and version of another package's stage."""

    def load(self) -> Stage[Any]:
        """The stage, constructed but not set up."""
        stage = plugins.attribute(self.stage)(self.settings)
        loaded: Any = ClipStageAdapter(stage, self.identity) if self.identity else stage
        return cast(Stage[Any], loaded)


class UnitContext:
    """See `mit_builder.stage.Context`.

    Attributes:
        damaged: artifacts that could not be read because they are gone or damaged: by key what is wrong.
        committed: keys of what the unit has put in place so far.
    """

    def __init__(self, workspace: Workspace, input_key: str, tmp: Path) -> None:
        self._workspace = workspace
        self.input_key = input_key
        self.tmp = tmp
        self.damaged: dict[str, str] = {}
        self.committed: list[str] = []

    def partial(self) -> Path:
        return self._workspace.partial(self.input_key)

    @contextmanager
    def local(self, artifact: Artifact) -> Iterator[Path]:
        with ExitStack() as stack:
            try:
                path = stack.enter_context(self._workspace.artifact(artifact))
            except DamagedError:
                problem = self._workspace.problem(artifact)
                if problem:  # at a second look as well: no slip of the machine that read it
                    self.damaged[artifact.key] = problem
                raise
            yield path

    def is_barred(self, *, video_id: str | None, sha256: str | None, channels: Iterable[str | None]) -> bool:
        return Tombstones.of(self._workspace).bars_video(video_id, sha256=sha256, channels=channels)

    def commit(self, path: Path, folder: str, name: str) -> Artifact:
        if folder not in FOLDERS:
            raise ValueError(f"folder must be one of {', '.join(FOLDERS)}, not {folder!r}")
        if not _NAME.fullmatch(name):
            raise ValueError(f"an artifact's name is made of plain words with . or / between them, not {name!r}")
        key = f"{folder}/{name}.{self.input_key[:8]}{path.suffix}"
        # A forced re-run on hardware that is not bit-exact must not replace what an older ledger row names.
        if self._workspace.exists(key):
            new = sha256_of(path)
            with self._workspace.local(key) as old:
                if sha256_of(old) != new:
                    key = f"{folder}/{name}.{self.input_key[:8]}-{new[:8]}{path.suffix}"
        self.committed.append(key)
        return self._workspace.commit(path, key)


class Worker:
    """One stage in one process; `run` never raises for what a unit does."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._stage: Stage[Any] | None = None

    def ready(self, *, elsewhere: bool = False) -> str | None:
        """Open the workspace and load the stage's models; None, or one line that says what is missing.

        Args:
            elsewhere: this may be another machine than the driver's.
        """
        if elsewhere:
            detach()  # Ray may have been started in a terminal there
        try:
            self._workspace = self._open(elsewhere=elsewhere)
            stage = self._spec.load()
            stage.setup()
        except (CannotContinue, ConfigError, ImportError, OSError, RuntimeError, ValueError) as error:
            return _one_line(error)
        self._stage = stage
        return None

    def _open(self, *, elsewhere: bool) -> Workspace:
        problem = problem_here(self._spec, __version__, patient=True) if elsewhere else None
        if problem:
            raise StageUnavailable(problem)
        workspace = Workspace(self._spec.workspace_uri, create=not elsewhere, scratch_gb=self._spec.scratch_gb)
        workspace.sweep_dead()
        return workspace

    def run(self, tasks: list[Task]) -> list[Entry]:
        """Work on the units one after another."""
        return [self._run_one(task) for task in tasks]

    def _run_one(self, task: Task) -> Entry:
        started_at_s, started, cpu = time.time(), time.monotonic(), _cpu_s()
        outcome = self._outcome(task)
        if outcome.get("failure_class") != "transient":
            self._workspace.drop_partial(task.input_key)
        return Entry(
            unit_id=task.unit_id,
            input_key=task.input_key,
            started_at_s=started_at_s,
            duration_s=time.monotonic() - started,
            cpu_s=_cpu_s() - cpu,
            **outcome,
        )

    def _outcome(self, task: Task) -> dict[str, Any]:
        assert self._stage is not None, "ready() comes first"
        ctx = UnitContext(self._workspace, task.input_key, Path())
        try:
            with self._workspace.own(self._spec.run_id) as ctx.tmp:
                outputs = self._process(self._stage, task, ctx)
        except LeaseLost:  # by a signal, where worker and driver are one
            raise
        except Reject as verdict:
            return {
                "status": "rejected",
                "reason": verdict.reason,
                "measurements": json.dumps(verdict.measurements, sort_keys=True),
            }
        except Exception as error:  # noqa: BLE001 - the one place that turns any failure into a ledger entry
            return {
                "status": "failed",
                "failure_class": classify(error),
                "message": _one_line(error),
                "traceback": scrubbed(traceback.format_exc()),
                "retry_after_s": getattr(error, "retry_after_s", None),
                "damaged": ctx.damaged,
            }
        return {"status": "done", "outputs": outputs}

    def _process(self, stage: Stage[Any], task: Task, ctx: UnitContext) -> tuple[Any, ...]:
        outputs: tuple[Any, ...] = ()
        try:
            outputs = tuple(stage.process(task.row, ctx))
        finally:
            error = sys.exc_info()[1]
            ends_the_run = isinstance(error, LeaseLost) or not isinstance(error, Exception | None)
            clips = [labelled.clip for labelled in task.row.clips] if isinstance(task.row, Bucket) else []
            if not ends_the_run and withdraw(self._workspace, ctx.committed, [*outputs, *clips]):
                raise Reject(REMOVED)
        return outputs


def problem_here(spec: WorkerSpec, version: str, *, patient: bool = False) -> str | None:
    """Why workers of a run cannot work on this machine, which may not be the driver's; None where they can.

    Args:
        spec: of any of its workers.
        version: of the driver's program.
        patient: storage may be away for minutes.
    """
    here = socket.gethostname()
    if version != __version__:
        return f"mit-builder {__version__} on {here}, {version} where the run was started: install the same"
    try:
        workspace = Workspace(spec.workspace_uri, create=False)
        workspace.check_reachable(patient=patient)
    except (ConfigError, WorkspaceError) as error:
        return f"on {here}: {error}"
    if not workspace.is_there(spec.run_id):
        advice = "share it between the machines, or take s3://, gs:// or az://"
        return f"on {here}, {spec.workspace_uri} is not the workspace of this run: {advice}"
    return None


def classify(error: BaseException) -> FailureClass:
    """The failure class of an exception from a stage; what the machine or storage did is never permanent."""
    if isinstance(error, CannotContinue | ConfigError | ImportError) or _is_short(error):
        return "resource"
    if isinstance(error, UnitError):
        return error.failure_class
    by_system = isinstance(error, OSError) and error.errno is not None
    return (
        "transient"
        if by_system or isinstance(error, FileNotFoundError | ConnectionError | TimeoutError)
        else "permanent"
    )


def _is_short(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that this machine has run out of something, or a GPU fails."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in SHORT_OF + GONE):
            return True
        if isinstance(error, RuntimeError) and _ON_GPU.match(str(error)):
            return True
        error = error.__cause__
    return False


def _one_line(error: BaseException) -> str:
    text = scrubbed(" ".join(str(error).split()))
    return text[:500] or type(error).__name__


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
