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

from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.config.settings import Settings
from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.driver.session import nothing_was_run
from mit_builder.engine.specs import ledger_of
from mit_builder.errors import ConfigError
from mit_builder.pipeline import steps_of
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.workspace import Workspace, existing

COLUMNS = ["unit_id", "status", "failure_class", "attempts", "started_at_s", "duration_s", "cpu_s", "run_id", "seq"]


def trace(
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    run_id: Annotated[str | None, typer.Option("--run", help="Name of a run; the last one by default.")] = None,
    output: Annotated[Path, typer.Option(help="File to write.")] = Path("trace.json"),
) -> None:
    """Write what a run did when, for https://ui.perfetto.dev."""
    with waiting("reading the ledger"):
        space = existing(workspace)
        tables = read(space)
    runs = sorted({name for table in tables.values() for name in pc.unique(table["run_id"]).to_pylist()})
    if not runs:
        raise nothing_was_run(space, workspace)
    chosen = run_id or runs[-1]
    if chosen not in runs:
        raise ConfigError(f"no run {chosen} here; there are {', '.join(runs[-5:])}")
    with waiting("writing the trace"):
        n = write(tables, chosen, output)
    print(f"{counted(n, 'unit')} of run {chosen} in {output}: open it in https://ui.perfetto.dev")


def read(workspace: Workspace) -> dict[str, pa.Table]:
    """What every stage's ledger says about what ran when."""
    settings = last_settings(workspace) or Settings()
    return {step.name: ledger_of(workspace, step.name, settings).attempts(COLUMNS) for step in steps_of(settings)}


def write(tables: dict[str, pa.Table], run_id: str, path: Path) -> int:
    """Write the events of a run; how many units there are."""
    n = 0
    with path.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
        for number, (step, ran) in enumerate(tables.items(), start=1):
            name = {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": step}}
            order = {"name": "process_sort_index", "ph": "M", "pid": number, "tid": 0, "args": {"sort_index": number}}
            file.write(f"{',' if number > 1 else ''}{json.dumps(name)},\n{json.dumps(order)}\n")
            table = ran.filter(pc.equal(ran["run_id"], run_id)).sort_by("started_at_s")
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
