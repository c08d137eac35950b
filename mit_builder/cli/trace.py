"""`mit-build trace`: what ran when, as trace events that ui.perfetto.dev opens.

The ledger knows when each unit started and how long it took; units of a stage that ran at once lie in rows of their
own. Attempts that failed and were tried again are in the ledger as well, and so in the trace.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import typer

from manifests.ledger import Ledger
from mit_builder.config import Settings
from mit_builder.errors import ConfigError
from mit_builder.lanes import worker_specs
from mit_builder.pipeline import STEPS
from mit_builder.workspace import Workspace, existing

COLUMNS = ["unit_id", "status", "failure_class", "attempts", "started_at_s", "duration_s", "cpu_s", "run_id", "seq"]


def trace(
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Where the run was.")] = "mit-workspace",
    run_id: Annotated[str | None, typer.Option("--run", help="Name of a run; the last one by default.")] = None,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("trace.json"),
) -> None:
    """Write what a run did when, for https://ui.perfetto.dev."""
    tables = read(existing(workspace))
    runs = sorted({name for table in tables.values() for name in pc.unique(table["run_id"]).to_pylist()})
    if not runs:
        raise ConfigError(f"nothing was run in {workspace} yet: mit-build run --stage all")
    chosen = run_id or runs[-1]
    if chosen not in runs:
        raise ConfigError(f"no run {chosen} here; there are {', '.join(runs[-5:])}")
    n = write(tables, chosen, output)
    print(f"{n} units of run {chosen} in {output}: open it in https://ui.perfetto.dev")


def read(workspace: Workspace) -> dict[str, pa.Table]:
    """What every stage's ledger says about what ran when."""
    tables = {}
    for name, spec in worker_specs(Settings(), workspace, "trace").items():
        tables[name] = Ledger(workspace, name, spec.load().emits).attempts(COLUMNS)
    return tables


def write(tables: dict[str, pa.Table], run_id: str, path: Path) -> int:
    """Write the events of a run; how many units there are."""
    n = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for number, step in enumerate(STEPS, start=1):
            name = {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": step.name}}
            order = {"name": "process_sort_index", "ph": "M", "pid": number, "tid": 0, "args": {"sort_index": number}}
            file.write(f"{',' if number > 1 else ''}{json.dumps(name)},\n{json.dumps(order)}\n")
            table = tables[step.name].filter(pc.equal(tables[step.name]["run_id"], run_id)).sort_by("started_at_s")
            for event in events(table, number):
                file.write(f",{json.dumps(event)}\n")
                n += 1
        file.write("]}\n")
    return n


def events(table: pa.Table, number: int) -> Iterator[dict[str, Any]]:
    """Complete events, microseconds; those that overlap in different rows."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    n_rows = 0
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            start_us, duration_us = round(row["started_at_s"] * 1e6), round(row["duration_s"] * 1e6)
            while busy and busy[0][0] <= start_us:
                heapq.heappush(free, heapq.heappop(busy)[1])
            if not free:
                n_rows += 1
                free.append(n_rows)
            place = heapq.heappop(free)
            heapq.heappush(busy, (start_us + duration_us, place))
            told = {
                name: row[name] for name in ("status", "failure_class", "attempts", "cpu_s") if row[name] is not None
            }
            yield {
                "name": row["unit_id"],
                "cat": row["status"],
                "ph": "X",
                "ts": start_us,
                "dur": duration_us,
                "pid": number,
                "tid": place,
                "args": told,
            }
