"""What a stage is: a name, a version, the resources it needs, and `process`.

A stage never talks to the ledger or to Ray. It gets one input row, puts artifacts into the workspace through
`Context.commit`, and yields output rows. A verdict on a unit is raised as `Reject`; anything else that is raised is a
failure of this unit, recorded by the worker loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from manifests.plugin_rows import PluginJob
from manifests.rows import Artifact

In = TypeVar("In", contravariant=True)


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage occupies while it works on a unit.

    Attributes:
        cpus: cores, against the driver's budget of cores; fractions are fine for waiting work.
        gpus: GPUs that Ray reserves for the worker, for as long as the worker lives.
        max_workers: upper bound of workers; None = as many as the cores allow.
        batch: units handed over in one call (small units cost less together).
        timeout_s: wall-clock limit of one call; the worker is killed past it.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    max_workers: int | None = None
    batch: int = 1
    timeout_s: float = 3600.0


class Reject(Exception):
    """The unit was judged and not kept: a verdict with a reason, and what was measured."""

    def __init__(self, reason: str, **measurements: float | int | str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.measurements = measurements

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_reject, (self.reason, self.measurements))


def _rebuild_reject(reason: str, measurements: dict[str, Any]) -> Reject:
    return Reject(reason, **measurements)


class Context(Protocol):
    """The door to storage that a worker gives to its stage for one unit."""

    input_key: str
    """Hex digest that identifies the unit's input; the first 8 characters are part of every artifact's name."""

    tmp: Path
    """An empty folder of this unit on local disk; emptied by the worker afterwards."""

    def partial(self) -> Path:
        """A folder of this unit on local disk that lasts while attempts fail transiently, and is removed then."""
        ...

    def local(self, artifact: Artifact) -> AbstractContextManager[Path]:
        """The artifact as a readable local file while the context is open."""
        ...

    def is_barred(self, *, video_id: str | None, sha256: str | None, channels: Iterable[str | None]) -> bool:
        """Whether a video was taken down, by its id, its file's bytes or its channel; the stage then rejects it."""
        ...

    def commit(self, path: Path, folder: str, name: str) -> Artifact:
        """Put the finished file `path` in place as `<folder>/<name>.<input_key[:8]><suffix of path>`.

        `folder` is one of videos, tracks, clips, poses, speech, dataset. The file at `path` is moved away.
        """
        ...


class Stage(Protocol[In]):
    """One step of the pipeline; see CONTRIBUTING.md for how to add one.

    The constructor takes exactly one argument: the stage's section of the settings. Nothing else may influence the
    output, because its values (and only its) are part of a unit's input key.
    """

    name: ClassVar[str]
    """Name of the ledger folder and of `--stage`: "pose", or "filter.detect" for a step of a stage."""
    version: ClassVar[int]
    """Raised when the outputs change their meaning: all units of the stage are then due again."""
    emits: ClassVar[tuple[type, ...]]
    """Row classes that `process` may yield."""

    @property
    def resources(self) -> Resources:
        """What a worker needs; a class attribute where the settings do not matter."""
        ...

    def setup(self) -> None:
        """Called once in each worker, before the first unit: load weights.

        Raises:
            StageUnavailable: something the stage needs is missing; the stage stops, its units stay pending.
        """
        ...

    def unit_id(self, row: In) -> str:
        """Name of the unit in the ledger; equal for equal work, whatever the order of the sources."""
        ...

    def backend(self) -> str:
        """Backends with versions and weight digests; part of the input key. Called in the driver, before `setup`."""
        ...

    def process(self, row: In, ctx: Context) -> Iterable[Any]:
        """Yield 0..n output rows.

        Raises:
            Reject: a verdict on this unit.
            UnitError: this unit failed, with its class.
        """
        ...

    def limit_key(self, row: In) -> str | None:
        """Name of a shared limit (a host) under which the driver admits this unit; None for no limit."""
        ...


class ClipStage(Protocol):
    """A stage of another package, named in `plugins.stages`: it judges clips, or adds a column to the dataset.

    The constructor takes one argument, an object of `settings`. A change of it, of `version` or of the package's
    version makes all its units due again. See docs/PLUGINS.md.
    """

    name: ClassVar[str]
    """Of the step, of its ledger and of its column in the dataset: small letters, digits and _."""
    version: ClassVar[int]
    """Raised when the output changes its meaning."""
    after: ClassVar[str]
    """The step that it stands after: filter.cut, pose or speech."""
    emits: ClassVar[tuple[type, ...]]
    """The class of its row, a dataclass of plain values with `doc(…)`; empty where it only judges."""

    def process(self, row: PluginJob, ctx: Context) -> Iterable[Any]:
        """Yield one row of the class in `emits`; none where that is empty.

        Raises:
            Reject: the clip does not go into the dataset.
            UnitError: this unit failed, with its class.
        """
        ...
