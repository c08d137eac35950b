"""A bench for faults: runs of one pipeline, what they start, and what they leave."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from processes import Family, alive, family, is_worker

from manifests.schema import content_hash
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.media.cut import cut_clip
from mit_builder.storage.scratch import SCRATCH, sha256_of
from mit_builder.storage.workspace import FOLDERS

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "manifests" / "demo" / "demo.mp4"
PARTS = ((100, 160), (660, 770))
"""Frames of the demo that the two short videos hold: a piece of a two-shot; the end of the panning shot and the start
of another two-shot."""
REAL_SETTINGS = ("filter.min_clip_s=2", "run.overlays=0", "shards.n_buckets=2", "pose.stride=5")
FAKE_SETTINGS = ("shards.n_buckets=2", "download.host_interval_s=0")
SETTINGS = ("run.retry_base_s=0.1", "run.min_free_gb=0", "download.min_free_gb=0")
"""With the usual margins a run stops long before a disk is full; here it is to be full."""
FAKES = (
    "a",
    "slow?lengths=50,150,130&pose=slow",
    "one?video=v&lengths=130",
    "two?video=v&lengths=130",
    "list?list=b,c",
    "bug?shots=bug",
    "refused?shots=reject",
)
WORKERS_GONE_S, PATIENCE_S = 5.0, 300.0
ARTIFACT = rf"({'|'.join(FOLDERS)})/(?!index\.json)"
LEDGER = r"manifests/.*/part-"
INDEX = r"dataset/index\.json$"
PICTURE = r"report/.*\.(png|mp4)$"
ANY = f"{ARTIFACT}|{LEDGER}|{INDEX}"
AS_THE_DRIVER = {"RAY_worker_niceness": "0"}
"""Ray's workers are 15 nicer than their driver by default, which starves them on a machine with other work."""
KEYS = (ARTIFACT, LEDGER, INDEX, PICTURE, ANY)
"""Patterns of the files that a run puts in place."""

Started = set[tuple[str, str]]
"""(stage, "unit:key")."""


@dataclass(frozen=True)
class Point:
    """An exact point of a commit: before, in the middle of or after the n-th file of a kind."""

    what: str
    moment: str
    n: int
    action: str = "kill"


@dataclass
class Killed:
    """A broken run: when it ended, its processes, and those of its workers that lived on for 5 s."""

    at: float
    processes: Family
    late_workers: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """What a workspace holds after a run."""

    rows: tuple[tuple[str, str], ...]
    """(clip, digest of all values), sorted."""
    files: dict[str, str]
    """Digest of every artifact; of pictures only the name."""


class Bench:
    """Runs of one pipeline below one folder, and what an undisturbed one makes.

    Args:
        base: an empty folder.
        engine: "ray" or "serial".
        fakes: stages of tests/fakes.py in the place of the real ones.
        rng: draws the points.
    """

    def __init__(self, base: Path, *, engine: str, fakes: bool, rng: random.Random) -> None:
        self.base, self.engine, self.fakes, self.rng = base, engine, fakes, rng
        self.killed: list[Killed] = []
        self._n_rounds = 0
        (base / "tmp").mkdir(parents=True)
        sources = [f"http://fake.test/{text}" for text in FAKES] if fakes else map(str, short_videos(base))
        settings = (*(FAKE_SETTINGS if fakes else REAL_SETTINGS), *SETTINGS)
        sets = [part for setting in settings for part in ("--set", setting)]
        self._arguments = ["run", "--stage", "all", "--engine", engine, *sets, *sources]
        self._measure(base / "undisturbed")

    def _measure(self, place: Path) -> None:
        started = time.monotonic()
        run = self.start(place, Point("", "never", 0))
        self.exit_code = run.wait()
        self.whole_s = time.monotonic() - started
        if self.exit_code not in (0, 1) or "internal error" in self.log(place):
            raise SystemExit(f"the undisturbed run failed with {self.exit_code}:\n{self.log(place)}")
        self.wanted = contents(place)
        self.n_calls, self.n_units = len(self.calls(place)), len(self.started(place))
        self.n_bytes = sum(-(-path.stat().st_size // 4096) * 4096 for path in place.rglob("*") if path.is_file())
        keys = self._counted(place)
        self.n_files = {what: sum(bool(re.match(what, key)) for key in keys) for what in KEYS}
        shutil.rmtree(place)

    def log(self, place: Path) -> str:
        """What the latest run in a workspace has said."""
        return (place.parent / f"{place.name}.log").read_text()

    def start(self, place: Path, point: Point | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Begin a run; units it starts are written to PLACE.started."""
        path = [str(HERE.parents[1]), str(HERE.parent)]
        started, counter = (place.parent / f"{place.name}.{name}" for name in ("started", "counter"))
        started.unlink(missing_ok=True)
        started.touch()
        told = {"KILLS_STARTED": str(started), "TMPDIR": str(self.base / "tmp"), **AS_THE_DRIVER}
        if self.fakes:
            told["KILLS_FAKES"] = "1"
        if point:
            counter.unlink(missing_ok=True)
            values = vars(point) | {"workspace": str(place), "counter": str(counter)}
            told["KILLS_POINT"] = json.dumps(values)
            path.append(str(HERE / "hook"))
        told["PYTHONPATH"] = os.pathsep.join(path)
        command = [sys.executable, str(HERE / "launcher.py"), *self._arguments, "--workspace", str(place)]
        with (place.parent / f"{place.name}.log").open("wb") as log:
            self.last = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                cwd=self.base,
                env=os.environ | told | environment,
                start_new_session=True,
            )
        return self.last

    def calls(self, place: Path) -> list[list[str]]:
        """The calls of the latest run in a workspace: the stage and its units."""
        return [line.split() for line in (place.parent / f"{place.name}.started").read_text().splitlines()]

    def started(self, place: Path) -> list[tuple[str, str]]:
        """Units that the latest run in a workspace has started, once for each time."""
        return [(stage, unit) for stage, *units in self.calls(place) for unit in units]

    def n_counted(self, place: Path) -> int:
        """Files of the point's kind that the latest run with a point has put in place."""
        return len(self._counted(place))

    def _counted(self, place: Path) -> list[str]:
        counter = place.parent / f"{place.name}.counter"
        return counter.read_text().splitlines() if counter.exists() else []

    def strays(self, place: Path) -> list[str]:
        """Unfinished files of a workspace, and whatever lies in the folder for temporary files but Ray's sessions."""
        unfinished = (path for path in (place / SCRATCH).rglob("*") if path.is_file())
        return [str(path) for path in (*unfinished, *(self.base / "tmp").iterdir()) if path.name != "ray"]

    def new_place(self) -> Path:
        self._n_rounds += 1
        return self.base / f"round-{self._n_rounds}"

    def watch(self, run: subprocess.Popen[bytes], *, for_s: float = PATIENCE_S) -> Family:
        """All processes that a run has had until it ended or the time was over."""
        deadline, seen = time.monotonic() + for_s, Family()
        while time.monotonic() < deadline and run.poll() is None:
            seen |= family(run.pid)
            time.sleep(0.1 if self.engine == "serial" else 0.4)
        return seen | family(run.pid)

    def left(self) -> list[str]:
        """Processes of broken runs that still live."""
        return [text for killed in self.killed for text in alive(killed.processes)]

    def ended(self, seen: Family) -> None:
        """Note a broken run, and look for its workers 5 s later."""
        killed = Killed(time.monotonic(), seen)
        self.killed.append(killed)

        def look() -> None:
            killed.late_workers = [text for text in alive(killed.processes) if is_worker(text)]

        threading.Timer(WORKERS_GONE_S, look).start()


def short_videos(base: Path) -> list[Path]:
    """Two short videos cut from the demo."""
    videos = []
    for i, (start, end) in enumerate(PARTS):
        videos.append(base / f"part{i}.mp4")
        cut_clip(DEMO, start, end, videos[-1], base / f"part{i}.flac", crf=16, audio_kbps=128)
    return videos


def contents(place: Path) -> Contents:
    """Rows of the dataset and all artifacts, as a reader finds them."""
    rows = [
        (row["clip_id"], content_hash(repr(row)))
        for shard in DatasetFiles(place).index().shards
        for row in pq.read_table(place / "dataset" / shard.name).to_pylist()
    ]
    paths = [path for folder in (*FOLDERS, "report") for path in (place / folder).rglob("*") if path.is_file()]
    names = {path.relative_to(place).as_posix(): path for path in paths if path.name != "funnel.json"}
    digests = {name: "" if name.startswith("report/") else sha256_of(path) for name, path in names.items()}
    return Contents(tuple(sorted(rows)), digests)


def recorded(parts: Sequence[Path]) -> Started:
    """Units that ledger parts hold as settled: not failed."""
    columns = ["unit_id", "input_key", "status"]
    rows = [(part.parent.name, row) for part in parts for row in pq.read_table(part, columns=columns).to_pylist()]
    return {(stage, f"{row['unit_id']}:{row['input_key']}") for stage, row in rows if row["status"] != "failed"}


def parts_of(place: Path) -> list[Path]:
    return sorted((place / "manifests").glob("*/part-*.parquet"))
