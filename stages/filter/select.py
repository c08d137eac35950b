"""`filter.select`: `Tracks` -> every `Candidate` of the shot with its verdict. Arithmetic on what was stored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq

from manifests.arrays import read_arrays
from manifests.rows import Candidate, Tracks, clip_id
from mit_builder.config.settings import SelectSettings
from mit_builder.stage import Context, Resources
from stages.filter.selection import Selector, ShotSignals, sightings


class SelectCandidates:
    """The candidates of a shot with their verdicts; unit: a shot."""

    name: ClassVar[str] = "filter.select"
    version: ClassVar[int] = 2
    resources: ClassVar[Resources] = Resources(cpus=1.0, batch=16)
    emits: ClassVar[tuple[type, ...]] = (Candidate,)

    def __init__(self, settings: SelectSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Nothing to load."""

    def unit_id(self, row: Tracks) -> str:
        """Video and frames of the shot."""
        return clip_id(row.video_id, row.start_frame, row.end_frame)

    def backend(self) -> str:
        """None."""
        return ""

    def limit_key(self, row: Tracks) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: Tracks, ctx: Context) -> Iterator[Candidate]:
        """Measure and judge."""
        with ctx.local(row.tracks) as path:
            seen = sightings(read_arrays(path))
        with ctx.local(row.signals) as path:
            signals = _read_signals(path)
        yield from Selector(row, seen, signals, self._settings).candidates()


def _read_signals(path: Path) -> ShotSignals:
    table = pq.read_table(path)
    columns = {
        name: table[name].to_numpy().astype(np.float32)
        for name in ("camera_motion_pct", "voice_activity", "brightness", "sharpness")
    }
    return ShotSignals(**columns)
