"""A sample of the sources that was worked on, and what all of them will take."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from manifests.ledger import Entry, Ledger
from manifests.rows import Source, Video
from manifests.schema import artifacts
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import ConfigError, MediaError
from mit_builder.media.probe import probe
from mit_builder.models.devices import n_gpus as n_gpus_there
from mit_builder.pipeline import steps_of
from mit_builder.planning.forecast import Estimate, draw, predict
from mit_builder.stage import Resources
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace

FORECAST_KEY = "report/forecast.json"
PROBED = 10_000
"""So many files at most are opened for their length; the sizes of more are their bytes."""
KINDS = ("work_s", "core_s", "cpu_s", "gpu_s", "disk_bytes", "traffic_bytes")
SHOWN = tuple(kind for kind in KINDS if kind != "core_s")


@dataclass
class Work:
    """What a stage took."""

    work_s: float = 0.0
    """Of workers."""
    core_s: float = 0.0
    """Workers' seconds times the share of a core that each counts for."""
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    """Workers' seconds times the share of a GPU that each reserves."""
    disk_bytes: float = 0.0
    traffic_bytes: float = 0.0
    """From other machines."""

    def add(self, entry: Entry, needs: Resources, *, remote: bool) -> None:
        """Take in a unit."""
        n_bytes = sum(artifact.n_bytes for row in entry.outputs for artifact in artifacts(row))
        self.work_s += entry.duration_s
        self.cpu_s += entry.cpu_s
        self.core_s += entry.duration_s * needs.cpus
        self.gpu_s += entry.duration_s * needs.gpus
        self.disk_bytes += n_bytes
        self.traffic_bytes += n_bytes if remote else 0.0


@dataclass(frozen=True)
class Forecast:
    """What a whole list will take.

    Attributes:
        n_sources: of the list.
        sample: sources that were measured.
        by: what predicts the work: length of the footage, bytes, or the number of sources alone.
        stages: by stage and kind (`KINDS`).
        total: by kind.
    """

    n_sources: int
    sample: tuple[str, ...]
    by: str
    stages: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    total: dict[str, Estimate] = field(default_factory=dict)


def sample(sources: Sequence[Source], n: int, seed: int) -> tuple[list[Source], np.ndarray[Any, Any], str]:
    """The sources to work on, the size of every source, and what the sizes are."""
    sizes, by = sizes_of(sources)
    return [sources[i] for i in draw(sizes, n, seed)], sizes, by


def sizes_of(sources: Sequence[Source]) -> tuple[np.ndarray[Any, Any], str]:
    """(n,) size of each source, above 0, and what it is.

    Files are opened for their length. Of addresses on the net nothing is known before they are asked, so that in a list
    with any of them all sources count alike.
    """
    if any(source.kind == "url" for source in sources):
        return np.ones(len(sources)), "sources"
    paths = [Path(source.address) for source in sources]
    if len(paths) > PROBED:
        return np.array([max(1, _n_bytes(path)) for path in paths], float), "bytes"
    return np.array([_length_s(path) for path in paths]), "seconds of footage"


def _n_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _length_s(path: Path) -> float:
    """Seconds of a file; a small number where it cannot be read, as it will not take long."""
    try:
        return max(0.1, float(probe(path).duration_s or 0.0))
    except (MediaError, OSError):
        return 0.1


def measure(workspace: Workspace, settings: Settings) -> dict[str, dict[str, Work]]:
    """What the latest attempt at each unit took, by source and stage.

    Units of what several sources share count for the source whose download names the video last; those of what a
    playlist holds count for the playlist, unless the list names them as well.
    """
    playlist_of = _playlists(workspace)
    source_of: dict[str, str] = {}
    remote: set[str] = set()
    found: dict[str, dict[str, Work]] = defaultdict(lambda: defaultdict(Work))
    for step in steps_of(settings)[:-1]:
        stage = worker_specs(settings, workspace, "plan")[step.name].load()
        for entry in Ledger(workspace, step.name, stage.emits).newest():
            if step.name == "download":
                videos = [row for row in entry.outputs if isinstance(row, Video)]
                named = _outermost(entry.unit_id, playlist_of)
                source_of |= {video.video_id: named for video in videos} | {entry.unit_id: named}
                remote |= {named for video in videos if not video.source_url.startswith("file:")}
            source = source_of.get(entry.unit_id.partition("_")[0])
            if source is not None:
                away = step.name == "download" and source in remote
                found[source][step.name].add(entry, stage.resources, remote=away)
    return found


def _playlists(workspace: Workspace) -> dict[str, str]:
    """The playlist that a source came from, for those that the list does not name."""
    listed = set(SourceCatalog(workspace).sources().table["source_id"].to_pylist())
    found: dict[str, str] = {}
    for entry in Ledger(workspace, "download", (Video, Source)).newest():
        entries = [row.source_id for row in entry.outputs if isinstance(row, Source)]
        found |= {name: entry.unit_id for name in entries if name not in listed}
    return found


def _outermost(source: str, playlist_of: dict[str, str]) -> str:
    passed = set[str]()
    while source in playlist_of and source not in passed:
        passed.add(source)
        source = playlist_of[source]
    return source


def forecast(
    workspace: Workspace, sources: Sequence[str], chosen: set[str], sizes: np.ndarray[Any, Any], by: str
) -> Forecast:
    """Predict what all sources take from what the chosen ones took.

    Raises:
        ConfigError: fewer than two of them were worked on.
    """
    settings = last_settings(workspace) or Settings()
    took = measure(workspace, settings)
    size_of = dict(zip(sources, sizes.tolist(), strict=True))
    known = sorted(source for source in chosen if source in took)
    if len(known) < 2:
        raise ConfigError("fewer than two sources of the sample were worked on: nothing can be forecast from them")
    rest = [size for source, size in size_of.items() if source not in took or source not in chosen]
    mine = [size_of[source] for source in known]

    def estimate(kind: str, names: Iterable[str]) -> Estimate:
        amounts = [sum(getattr(took[source][name], kind) for name in names) for source in known]
        return predict(mine, amounts, rest)

    steps = [step.name for step in steps_of(settings) if any(step.name in took[source] for source in known)]
    stages = {name: {kind: estimate(kind, [name]) for kind in KINDS} for name in steps}
    return Forecast(len(sources), tuple(known), by, stages, {kind: estimate(kind, steps) for kind in KINDS})


def say(made: Forecast, *, as_json: bool) -> None:
    """Print a forecast."""
    if as_json:
        print(json.dumps({"event": "forecast", **asdict(made)}))
        return
    of = counted(made.n_sources, "source")
    print(f"\nforecast for {of} from {len(made.sample)} of them, by {made.by}; 9 of 10 times within:")
    print(f"  {'stage':14} {'worker hours':>24} {'CPU hours':>24} {'GPU hours':>24} {'disk GB':>24} {'traffic GB':>24}")
    for name, kinds in {**made.stages, "all": made.total}.items():
        print(f"  {name:14} " + " ".join(f"{_shown(kind, kinds[kind]):>24}" for kind in SHOWN))
    n_cores, n_gpus = os.cpu_count() or 1, n_gpus_there()
    for kind, n, noun in (("core_s", n_cores, "core"), ("gpu_s", n_gpus, "GPU")):
        if n:
            least = _shown(kind, made.total[kind].scaled(1 / n))
            print(f"time: at least {least} h on {counted(n, noun)} of this kind")
    print("the work is kept: this goes on from there, and then the forecast can be compared with what was done")
    print(f"  {hints.say(Hint.AGAIN)}")
    print(f"  {hints.say(Hint.PLAN_CHECK)}")


def _shown(kind: str, estimate: Estimate) -> str:
    unit = estimate.scaled(1 / 3600 if kind.endswith("_s") else 1e-9)
    return f"{unit.value:.3g} ({unit.low:.3g}-{unit.high:.3g})" if unit.high else "-"


def load_forecast(workspace: Workspace) -> Forecast:
    """The last forecast that was made here.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    try:
        values = json.loads(workspace.read(FORECAST_KEY))
        stages = {n: {k: Estimate(**e) for k, e in kinds.items()} for n, kinds in values["stages"].items()}
        total = {kind: Estimate(**estimate) for kind, estimate in values["total"].items()}
        return Forecast(values["n_sources"], tuple(values["sample"]), values["by"], stages, total)
    except FileNotFoundError as error:
        raise ConfigError(f"no forecast in {workspace.uri} yet: {hints.say(Hint.PLAN)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{FORECAST_KEY} in the workspace is damaged: make another with {hints.say(Hint.PLAN)}"
        ) from error


def compare(workspace: Workspace, *, as_json: bool = False) -> dict[str, bool]:
    """Print the last forecast beside what was done; by kind, whether it lies in the interval."""
    made = load_forecast(workspace)
    listed = set(SourceCatalog(workspace).sources().table["source_id"].to_pylist())
    every = measure(workspace, last_settings(workspace) or Settings())
    took = {source: work for source, work in every.items() if source in listed}  # the demo left the list, say
    actual = {kind: sum(getattr(w, kind) for stages in took.values() for w in stages.values()) for kind in KINDS}
    inside = {kind: made.total[kind].contains(actual[kind]) for kind in KINDS}
    if as_json:
        print(json.dumps({"actual": actual, "forecast": asdict(made)["total"], "inside": inside}))
        return inside
    print(f"{len(took)} of {counted(made.n_sources, 'source')} worked on")
    for kind in (kind for kind in SHOWN if made.total[kind].high or actual[kind]):
        now = _shown(kind, Estimate(actual[kind], actual[kind], actual[kind])).partition(" ")[0]
        verdict = "inside" if inside[kind] else "outside"
        print(f"  {kind.partition('_')[0]:8} {_shown(kind, made.total[kind])} forecast, {now} so far: {verdict}")
    return inside
