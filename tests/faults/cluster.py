"""A run on a cluster of several nodes on this machine, of which one dies in mid-run and another joins.

    python tests/faults/cluster.py [--real] [--s3 [--share 0.1]] [--nodes 3] [--seed 1]

Compares the dataset and all artifacts with those of a run on one machine; with `--real` it is the bundled demo by the
embedded stages, else fakes. With `--s3` the workspace lies on a server behind a proxy that lets requests fail. The
workspace of the run on one machine may be given (`--alone DIR`); it must have been made with the same settings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from bench import Contents, contents, parts_of
from object_storage import ENVIRONMENT, FlakyProxy, flaky_proxy, s3_server
from ray.cluster_utils import Cluster

from mit_builder.storage.workspace import Workspace

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "manifests" / "demo" / "demo.mp4"
FAKES = (*(f"v{i}?lengths=150,150&pose=slow" for i in range(8)), "bug?shots=bug", "refused?shots=reject")
FAKE_SETTINGS = ("shards.n_buckets=2", "download.host_interval_s=0")
REAL_SETTINGS = ("run.overlays=0",)
HEALTH = {"period_ms": "1000", "timeout_ms": "2000", "failure_threshold": "5", "initial_delay_ms": "0"}
"""How Ray looks after its nodes here; by default it takes a minute to give a silent one up."""
NODE: dict[str, Any] = {"num_cpus": 1}
PATIENCE_S = 540.0


@dataclass
class Result:
    """What a run on the cluster came to.

    Attributes:
        nodes: of each step, the calls that each node was given.
        n_again: units that were started more than once.
        problems: what differs from the run on one machine, or was blamed on a unit.
    """

    took_s: float = 0.0
    nodes: dict[str, Counter[str]] = field(default_factory=dict)
    n_in_flight: int = 0
    n_again: int = 0
    problems: list[str] = field(default_factory=list)
    log: str = ""


def environment(base: Path, *, fakes: bool) -> dict[str, str]:
    """For the driver and for the nodes, whose workers inherit it."""
    (base / "tmp").mkdir(exist_ok=True)
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE)))
    health = {f"RAY_health_check_{name}": value for name, value in HEALTH.items()}
    told = {"PYTHONPATH": path, "TMPDIR": str(base / "tmp"), "RAY_worker_niceness": "0", **health}
    return told | ({"KILLS_FAKES": "1"} if fakes else {})


def arguments(place: str, *, fakes: bool) -> list[str]:
    sources = [f"http://fake.test/{text}" for text in FAKES] if fakes else [str(DEMO)]
    sets = [part for setting in (FAKE_SETTINGS if fakes else REAL_SETTINGS) for part in ("--set", setting)]
    return ["run", "--workspace", place, *sets, *sources]


def start(base: Path, place: str, name: str, *, fakes: bool, more: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Start the command; its calls go to `<name>.started` and `<name>.nodes`, what it says to `<name>.log`."""
    told = {f"KILLS_{what.upper()}": str(base / f"{name}.{what}") for what in ("started", "nodes")}
    command = [sys.executable, str(HERE / "launcher.py"), *arguments(place, fakes=fakes), *more]
    with (base / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=base, env=os.environ | told)


def calls(base: Path, name: str) -> list[list[str]]:
    """Node, stage and units of each call so far."""
    path = base / f"{name}.nodes"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def fetch(uri: str, folder: Path) -> Path:
    """All objects of a workspace as files of a folder."""
    workspace = Workspace(uri)
    for key in workspace.names(""):
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(workspace.read(key))
    return folder


def on_cluster(base: Path, uri: str, *, fakes: bool, n_nodes: int) -> Result:
    """Run on a new cluster; the node that works on the second pose is killed, then one is added."""
    result, started = Result(), time.monotonic()
    # The head holds the cluster together and takes part as well; it is not the one to die.
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        ray.init(cluster.address, log_to_driver=False)
        ray._private.worker.print_to_stdstream = lambda *words, **more: None
        nodes = [cluster.add_node(**NODE) for _ in range(n_nodes - 1)]
        driver = start(base, uri, "cluster", fakes=fakes, more=["--set", f"run.ray_address={cluster.address}"])
        victim = _in_mid_pose(base, {node.node_id for node in nodes}, driver)
        if victim is None:
            result.problems.append("no pose was given to a node that may die")
        else:
            before = calls(base, "cluster")
            result.n_in_flight = sum(node == victim for node, *_ in before)
            cluster.remove_node(next(node for node in nodes if node.node_id == victim), allow_graceful=False)
            cluster.add_node(**NODE)
        code = driver.wait(PATIENCE_S)
        if code != (1 if fakes else 0):
            result.problems.append(f"exit code {code}")
    finally:
        ray.shutdown()
        cluster.shutdown()
    result.took_s = time.monotonic() - started
    result.log = (base / "cluster.log").read_text()
    _count(base, result)
    return result


def _in_mid_pose(base: Path, mortal: set[str], driver: subprocess.Popen[bytes]) -> str | None:
    """A node that was just given a pose."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and driver.poll() is None:
        poses = [node for node, stage, *_ in calls(base, "cluster") if stage == "pose" and node in mortal]
        if poses:
            return poses[-1]
        time.sleep(0.05)
    return None


def _count(base: Path, result: Result) -> None:
    units: Counter[tuple[str, str]] = Counter()
    for node, stage, *given in calls(base, "cluster"):
        result.nodes.setdefault(stage, Counter())[node[:6]] += 1
        units.update((stage, unit) for unit in given)
    result.n_again = sum(n - 1 for n in units.values())


def compare(wanted: Contents, place: Path, result: Result) -> None:
    """Note what differs from the run on one machine, and whether a unit was blamed for its node."""
    found = contents(place)
    if found.rows != wanted.rows:
        result.problems.append(f"rows of the dataset differ: {len(found.rows)} for {len(wanted.rows)}")
    files = {name for name in {**found.files, **wanted.files} if not name.startswith("report/")}
    names = {name for name in files if found.files.get(name) != wanted.files.get(name)}
    if names:
        result.problems.append(f"{len(names)} artifacts differ, first {min(names)}")
    for part in parts_of(place):
        rows = pq.read_table(part, columns=["unit_id", "attempts", "failure_class", "message"]).to_pylist()
        blamed = [
            (row["unit_id"], row["attempts"], row["message"])
            for row in rows
            if row["attempts"] > 1 or (row["failure_class"] and "told to" not in row["message"])
        ]
        if blamed:
            result.problems.append(f"blamed in {part.parent.name}: {blamed}")


def trial(base: Path, *, fakes: bool, alone: Path | None, s3: bool, share: float, n_nodes: int, seed: int) -> Result:
    """The whole comparison."""
    with ExitStack() as stack:
        for name, value in environment(base, fakes=fakes).items():
            os.environ[name] = value
        if alone is None:
            alone = base / "alone"
            start(base, str(alone), "alone", fakes=fakes, more=["--engine", "serial"]).wait()
        uri, proxy = str(base / "shared"), None
        if s3:
            os.environ.update(ENVIRONMENT)
            server = stack.enter_context(s3_server())
            uri = f"{server.bucket('cluster')}/talks"
            proxy = stack.enter_context(flaky_proxy(server.endpoint, seed=seed, share=share))
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        result = on_cluster(base, uri, fakes=fakes, n_nodes=n_nodes)
        print(result.log)
        if s3:
            os.environ["AWS_ENDPOINT_URL"] = server.endpoint
        compare(contents(alone), fetch(uri, base / "fetched") if s3 else Path(uri), result)
        if proxy:
            _say_requests(proxy)
        return result


def _say_requests(proxy: FlakyProxy) -> None:
    fates = Counter(fate for _, _, fate in proxy.requests)
    print(f"{len(proxy.requests)} requests: {dict(fates)}; {proxy.n_bytes_down / 1e6:.1f} MB fetched")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--alone", type=Path)
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        result = trial(
            Path(folder),
            fakes=not wanted.real,
            alone=wanted.alone,
            s3=wanted.s3,
            share=wanted.share,
            n_nodes=wanted.nodes,
            seed=wanted.seed,
        )
    print(
        f"{result.took_s:.0f} s; {result.n_in_flight} calls given to the node that died; {result.n_again} units again"
    )
    for stage, nodes in result.nodes.items():
        print(f"  {stage}: {dict(nodes)}")
    print(*(result.problems or ["equal to the run on one machine, nobody blamed"]), sep="\n")
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
