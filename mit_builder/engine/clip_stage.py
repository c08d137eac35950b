"""A stage of another package as the engine sees it: with defaults for what it leaves out, and held to its promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from manifests.plugin_rows import PluginJob
from mit_builder.errors import ModelError
from mit_builder.stage import ClipStage, Context, Resources


class ClipStageAdapter:
    """See `Stage` and `ClipStage`.

    Args:
        stage: what the package has.
        identity: package and version, part of the key of each unit.
    """

    def __init__(self, stage: ClipStage, identity: str) -> None:
        self._stage: Any = stage
        self._identity = identity
        self.name, self.version, self.emits = stage.name, stage.version, stage.emits

    @property
    def resources(self) -> Resources:
        """What it says that a worker needs, else a core."""
        needs: Resources = getattr(self._stage, "resources", Resources())
        return needs

    def setup(self) -> None:
        """Its own, where it has one."""
        if hasattr(self._stage, "setup"):
            self._stage.setup()

    def unit_id(self, row: PluginJob) -> str:
        """The clip."""
        return row.clip.clip_id

    def backend(self) -> str:
        """Package and version, and what it says of its models."""
        more = self._stage.backend() if hasattr(self._stage, "backend") else ""
        return f"{self._identity}; {more}" if more else self._identity

    def limit_key(self, row: PluginJob) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: PluginJob, ctx: Context) -> Iterator[Any]:
        """Its rows.

        Raises:
            ModelError: it yields another number of rows, or other ones, than it promises.
        """
        rows = tuple(self._stage.process(row, ctx) or ())
        if tuple(map(type, rows)) != tuple(self.emits):
            promised, made = ([kind.__name__ for kind in kinds] for kinds in (self.emits, map(type, rows)))
            raise ModelError(f"{self.name} yields {made} for a clip, not {promised}")
        yield from rows
