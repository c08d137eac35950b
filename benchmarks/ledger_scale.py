"""Planning, status and growth of a finished workspace of a million sources and ten million clips.

    python benchmarks/ledger_scale.py --sources 1000000 --clips 10 --place /some/disk

Makes a workspace as a finished run would leave it (book of sources, ledgers of all stages in parts as compaction leaves
them, rows about settled sources, index and empty files of the shards), then runs the commands in processes of their own
and prints wall time, CPU time and peak memory. The rows are made up and the input keys in them are random: that passing
over does what a walk does is shown by tests/test_settled.py, not here. No artifacts are made, as planning looks at
their folders' times alone. No stage runs, so the engine does not matter.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ids import ids_of
from manifests.ledger import PART_ROWS, Ledger
from manifests.parts import ROW_GROUP_ROWS, digest
from manifests.rows import Artifact, Shard
from mit_builder.config import settings as config
from mit_builder.dataset.index import publish_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver.finished_index import CHECK_BELOW
from mit_builder.driver.finished_store import COUNT, FILES, ROWS, File, Head, Published, Store
from mit_builder.driver.session import resolve
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.specs import worker_specs
from mit_builder.pipeline import STEPS
from mit_builder.storage.settings_file import Kept, keep
from mit_builder.storage.source_catalog import SOURCES_KEY
from mit_builder.storage.workspace import Workspace

DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
SHOTS = 20
"""Shots of a video."""
BATCH = 1 << 16
Array = np.ndarray[Any, Any]


def main() -> None:
    """Make the workspace where it is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=10, help="clips of a source")
    parser.add_argument("--buckets", type=int, default=10_000)
    parser.add_argument("--place", type=Path, help="folder of the workspace; kept")
    options = parser.parse_args()
    size = Size(options.sources, options.clips, options.buckets)
    if options.place is not None:
        measure(options.place, size)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), size)


@dataclass(frozen=True)
class Size:
    """How large the workspace is."""

    n_sources: int
    n_clips: int
    """Of one source."""
    n_buckets: int


@dataclass(frozen=True)
class Measured:
    """What one command took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def measure(place: Path, size: Size) -> dict[str, Measured]:
    """Run the commands over a workspace; prints a table."""
    listed = place / "urls.txt"
    if not listed.exists():
        started = time.monotonic()
        make(Workspace(place / "ws"), size)
        listed.write_text("".join(f"{address(i)}\n" for i in range(size.n_sources)))
        print(f"made in {time.monotonic() - started:.0f} s")
    ws = str(place / "ws")
    n_bytes = sum(path.stat().st_size for path in (place / "ws" / "manifests").rglob("*.parquet"))
    print(f"{size.n_sources} sources, {size.n_sources * size.n_clips} clips, ledgers of {n_bytes / 1e9:.2f} GB")
    sets = ["--set", f"shards.n_buckets={size.n_buckets}", "--set", "run.max_attempts=1"]
    commands = {
        "run, nothing to do": ["run", "--workspace", ws, *sets],
        "run with the list again": ["run", "--workspace", ws, "--sources", str(listed), *sets],
        "status": ["status", "--workspace", ws],
        "status --json": ["status", "--json", "--workspace", ws],
        "gc --dry-run": ["gc", "--dry-run", "--workspace", ws],
    }
    found = {}
    print("\n| command | wall s | CPU s | peak MB |\n|---|---|---|---|")
    for name, arguments in commands.items():
        found[name] = timed(arguments)
        took = found[name]
        print(f"| {name} | {took.wall_s:.1f} | {took.cpu_s:.1f} | {took.peak_mb:.0f} |", flush=True)
    return found


# A process begins with the peak of the one that started it, so that a small one stands between.
IN_BETWEEN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(code)
"""


def timed(arguments: list[str]) -> Measured:
    """Run `mit-build` to its end."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", IN_BETWEEN, sys.executable, "-m", "mit_builder", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    wall_s = time.monotonic() - started
    output, _, usage = done.stdout.rstrip().rpartition("\n")
    if done.returncode != 0 or ("worked on" in output and "0 units worked on" not in output):
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output}")
    cpu_s, peak_kb = usage.split()
    return Measured(wall_s, float(cpu_s), float(peak_kb) / 1024, output)


def address(i: int) -> str:
    """The address of a source."""
    return f"https://videos.example.org/watch?v={i:08d}"


def make(workspace: Workspace, size: Size) -> None:
    """Write everything that a finished run leaves; of many artifacts the names alone."""
    settings, _ = resolve(config.load(None, ["profile=embedded", f"shards.n_buckets={size.n_buckets}"]), None)
    keep(workspace, Kept(settings))
    random = np.random.default_rng(0)
    sources, videos = text(size.n_sources, 16, random), text(size.n_sources, 16, random)
    book(workspace, sources)
    for step, spec in worker_specs(settings, workspace, "make").items():
        stage = spec.load()
        ledger = Ledger(workspace, step, stage.emits)
        for i, table in enumerate(tables(step, ledger.schema, sources, videos, size, random)):
            write(workspace, f"{ledger.folder}/part-made-{i:08d}", table)
    bucket = (np.array(ids_of(videos) >> np.uint64(32)) % np.uint64(size.n_buckets)).astype(np.int32)
    digests = random.integers(1, 2**63, size.n_sources, dtype=np.uint64)
    shards = publish(workspace, bucket, size)
    seen = Snapshot(workspace, settings, run_id="made")
    seen.skip_finished()
    plan = seen.finished.plan
    store = Store(workspace, [f"manifests/{step.name}" for step in STEPS])
    for first in range(0, size.n_sources, PART_ROWS):
        part = slice(first, min(first + PART_ROWS, size.n_sources))
        write(
            workspace, f"manifests/settled/rows-{first:010d}", rows(part, sources, videos, bucket, digests, plan, size)
        )
        named = files(part, videos, size, random)
        write(workspace, f"manifests/settled/files-{first:010d}", named)
        if size.n_sources * (1 + size.n_clips) <= CHECK_BELOW:
            artifacts(workspace, named)
    sums = np.zeros(size.n_buckets, np.uint64)
    np.add.at(sums, bucket, digests)
    published = {b: Published(int(sums[b]), File(key, 0, time.time())) for b, key in shards.items()}
    folders = dict.fromkeys(("videos", "tracks", "clips", "poses", "speech"), 0)
    store.write_head(Head(plan, store.stamps(), dict(folders), published, seen.publisher.digest))


def write(workspace: Workspace, name: str, table: pa.Table) -> None:
    """Write a part under its digest."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    data = buffer.getvalue()
    workspace.write(f"{name}.{digest(data)}.parquet", data)


def book(workspace: Workspace, sources: pa.Array) -> None:
    """The sources that the workspace remembers; their ids are made up as well."""
    n = len(sources)
    columns = {
        "address": pa.array([address(i) for i in range(n)]),
        "source_id": sources,
        "kind": pa.array(["url"] * n),
        "n_bytes": pa.nulls(n, pa.int64()),
        "mtime_ns": pa.nulls(n, pa.int64()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, compression="zstd")
    workspace.write(SOURCES_KEY, buffer.getvalue())


def publish(workspace: Workspace, bucket: Array, size: Size) -> dict[int, str]:
    """The dataset's index and empty files in the place of its shards."""
    assert workspace.root is not None
    (workspace.root / "dataset").mkdir()
    counts = np.bincount(bucket, minlength=size.n_buckets) * size.n_clips
    shards = [
        Shard(b, Artifact(f"dataset/shard-{b:05d}-of-{size.n_buckets:05d}.00000000.parquet", "0" * 64, 0), (), int(n))
        for b, n in enumerate(counts.tolist())
        if n
    ]
    for shard in shards:
        (workspace.root / shard.parquet.key).touch()
    workspace.write(INDEX_KEY, publish_index(shards, size.n_buckets).encode())
    return {shard.bucket: shard.parquet.key for shard in shards}


def text(n: int, width: int, random: np.random.Generator) -> pa.Array:
    """(n,) strings of random hex digits."""
    data = DIGITS[random.integers(0, 16, (n, width), dtype=np.uint8)]
    offsets = np.arange(0, (n + 1) * width, width, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(data.tobytes()))


def rows(
    part: slice, sources: pa.Array, videos: pa.Array, bucket: Array, digests: Array, plan: int, size: Size
) -> pa.Table:
    """Rows about settled sources."""
    n = part.stop - part.start
    ids = ids_of(sources.slice(part.start, n))
    lengths = np.random.default_rng(part.start).uniform(60, 600, n)
    counts = [
        *((f"done/{step.name}", 1, None) for step in STEPS[:3]),
        ("done/filter.select", SHOTS, None),
        *((f"done/{name}", size.n_clips, None) for name in ("filter.cut", "pose", "speech")),
        ("videos", 1, lengths),
        ("shots", SHOTS, lengths),
        ("clips", size.n_clips, None),
        ("candidates/kept", size.n_clips, lengths / 2),
        ("candidates/too_short", SHOTS - size.n_clips, lengths / 2),
    ]
    k = len(counts)
    seconds = np.stack([np.full(n, np.nan) if s is None else s for _, _, s in counts], axis=1).reshape(-1)
    struct = pa.StructArray.from_arrays(
        [
            pa.array([what for what, _, _ in counts]).take(pa.array(np.tile(np.arange(k), n))),
            pa.array(np.tile([c for _, c, _ in counts], n), pa.int64()),
            pa.array(seconds, pa.float64(), from_pandas=True),
            pa.nulls(n * k, pa.float64()),
            pa.nulls(n * k, pa.float64()),
        ],
        fields=list(COUNT),
    )
    columns = {
        "seq": np.arange(part.start, part.stop),
        "source": ids,
        "plan": np.full(n, plan, np.uint64),
        "gone": np.zeros(n, bool),
        "video": ids_of(videos.slice(part.start, n)),
        "media": np.random.default_rng(part.start + 1).integers(1, 2**63, n, dtype=np.uint64),
        "keeper": ids,
        "n_group": np.ones(n, np.int32),
        "bucket": bucket[part],
        "digest": digests[part],
        "failed": pa.array([""] * n),
        "source_id": sources.slice(part.start, n),
        "address": pa.array([address(i) for i in range(part.start, part.stop)]),
        "kind": pa.array(["url"] * n),
        "counts": pa.ListArray.from_arrays(pa.array(np.arange(0, (n + 1) * k, k), pa.int32()), struct),
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(ROWS)


def files(part: slice, videos: pa.Array, size: Size, random: np.random.Generator) -> pa.Table:
    """The artifacts that settled trees name: one byte each, see `artifacts`."""
    n = part.stop - part.start
    keys = text(n, 8, random).to_pylist()
    names = [
        [f"videos/{v}.{k}.mp4", *(f"clips/{v}_{c * 250:06d}to{c * 250 + 250:06d}.{k}.mp4" for c in range(size.n_clips))]
        for v, k in zip(videos.slice(part.start, n).to_pylist(), keys, strict=True)
    ]
    columns = {
        "seq": np.arange(part.start, part.stop),
        "artifacts": names,
        "n_bytes": [[1] * len(of) for of in names],
        "ended_s": [[time.time() + 3600] * len(of) for of in names],
    }
    return pa.table({name: pa.array(column) for name, column in columns.items()}).cast(FILES)


def artifacts(workspace: Workspace, named: pa.Table) -> None:
    """The files themselves, where there are so few that a run looks at each."""
    assert workspace.root is not None
    for key in named["artifacts"].combine_chunks().flatten().to_pylist():
        path = workspace.root / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"0")


def tables(
    step: str, schema: pa.Schema, sources: pa.Array, videos: pa.Array, size: Size, random: np.random.Generator
) -> Iterator[pa.Table]:
    """A stage's ledger, a part at a time."""
    each = {"filter.select": SHOTS, "filter.cut": size.n_clips, "pose": size.n_clips, "speech": size.n_clips}.get(
        step, 1
    )
    total = size.n_buckets if step == "shards" else size.n_sources * each
    for first in range(0, total, PART_ROWS):
        n = min(PART_ROWS, total - first)
        units = text(n, 33, random)
        columns = [units if f.name == "unit_id" else value(f, n, first, random) for f in schema]
        yield pa.Table.from_arrays(columns, schema=schema)


def value(field: pa.Field, n: int, first: int, random: np.random.Generator) -> pa.Array:
    """One column; the digests in outputs are random, as they are what takes room."""
    if pa.types.is_list(field.type):
        ends = pa.array(np.arange(n + 1, dtype=np.int32))
        items = (
            pa.StructArray.from_arrays(
                [value(child, n, first, random) for child in field.type.value_type], fields=list(field.type.value_type)
            )
            if pa.types.is_struct(field.type.value_type)
            else pa.array(np.arange(n)).cast(field.type.value_type)
        )
        return pa.ListArray.from_arrays(ends, items, type=field.type)
    if pa.types.is_struct(field.type):
        children = [value(child, n, first, random) for child in field.type]
        return pa.StructArray.from_arrays(children, fields=list(field.type))
    if field.name in ("input_key", "sha256"):
        return text(n, 32 if field.name == "input_key" else 64, random)
    if field.name == "status":
        return pa.array(["done"] * n)
    if field.name == "seq":
        return pa.array(np.arange(first, first + n))
    if pa.types.is_floating(field.type):
        return pa.array(random.uniform(0, 10, n), field.type)
    if pa.types.is_integer(field.type):
        return pa.array(np.arange(n) % 1000, field.type)
    if pa.types.is_boolean(field.type):
        return pa.array(np.ones(n, bool))
    missing = field.nullable and field.name not in ("settings_key", "run_id")
    return pa.nulls(n, field.type) if missing else pa.array(["made"] * n)


if __name__ == "__main__":
    main()
