"""A run that is stopped while a takedown goes through (a closed laptop, a paused machine) ends and changes nothing."""

from __future__ import annotations

import io
import re
import signal
import time

import pyarrow.parquet as pq
import pytest
from test_s3_run import Place, flag, place, started  # noqa: F401  # fixtures

from manifests.rows import short_id
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.storage.lease import KEY
from mit_builder.storage.tombstones import Tombstones
from mit_builder.storage.workspace import Workspace

TAKEN, STAYS = short_id("content", "a"), short_id("content", "b")
"""Videos of the two sources."""


def everything(workspace: Workspace) -> str:
    """All that lies in a workspace, the values of tables as text."""
    found = []
    for key in sorted(workspace.names("")):
        data = workspace.read(key)
        rows = (
            pq.read_table(io.BytesIO(data)).to_pylist() if key.endswith(".parquet") else data.decode(errors="replace")
        )
        found.append(f"{key}: {rows}")
    return "\n".join(found)


@pytest.mark.parametrize("step", ["pose", "shards"])
def test_a_run_that_slept_through_a_takedown_ends_and_nothing_comes_back(place: Place, step: str) -> None:  # noqa: F811
    place.uri, place.proxy.share = f"{place.uri}/{step}", 0.0
    place.flag.touch()
    address = f"http://fake.test/a?{step}=wait&while={place.flag}&lengths=200"
    sources = (address, "http://fake.test/b?lengths=200")
    options = [part for s in ("shards.n_buckets=1", "download.host_interval_s=0") for part in ("--set", s)]
    run = place.start("run", "-w", place.uri, "--engine", "serial", *options, *sources)
    workspace = Workspace(place.uri)
    deadline = time.monotonic() + 60
    while step not in started(place) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGSTOP)
    code, said = place.call("takedown", "-w", place.uri, address)
    assert (code, said.splitlines()[-1]) == (0, "1 taken down")
    assert not workspace.exists(KEY)
    assert TAKEN not in everything(workspace)
    before = workspace.stamps("")
    place.flag.unlink()
    run.send_signal(signal.SIGCONT)
    out, err = run.communicate(timeout=30)
    assert run.returncode == 3, out + err
    assert len(err.splitlines()) == 1
    assert re.match(r"mit-build: (this run stood still for \d+ s|another run was in this workspace)", err), err
    assert workspace.stamps("") == before
    assert Tombstones.of(workspace).bars("video", TAKEN)
    code, said = place.call("run", "-w", place.uri, "--engine", "serial", *options, *sources)
    assert code == 0, said
    assert TAKEN not in everything(workspace)
    assert STAYS in everything(workspace)
    assert workspace.exists(INDEX_KEY)
