from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import fakes
import pytest
import ray  # before the engine tells it what to listen on

from manifests.rows import Artifact
from mit_builder.config import settings as config
from mit_builder.dataset.index import parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver.event_log import Observer
from mit_builder.driver.metrics import METRICS
from mit_builder.driver.runner import Runner
from mit_builder.engine.base import Result
from mit_builder.engine.ray_connect import connect, home_problem
from mit_builder.engine.ray_engine import RayEngine
from mit_builder.engine.ray_nodes import _Suspect, kind_of_loss
from mit_builder.engine.ray_slots import Call, Slot
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.engine.worker import Task, WorkerSpec
from mit_builder.errors import CannotContinue
from mit_builder.stage import Resources
from mit_builder.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
WORKERS_PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
SETTINGS = config.load(None, ["shards.n_buckets=2", "run.max_crashes=2"])
STEPS = fakes.steps(pose="ImpatientPose")
SOURCES = [
    "a",
    "killer?pose=crash&lengths=200",
    "sleeper?pose=sleep&lengths=200",
    "bug?shots=bug",
    "refused?shots=reject",
    "e",
]


@dataclass
class OnRay:
    """One Ray for all tests of this module, with what a run on it left."""

    engine: RayEngine
    runner: Runner
    workspace: Workspace
    folder_before: Path
    on_terminate_before: Any


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnRay]:
    workspace = Workspace(tmp_path_factory.mktemp("ray") / "ws")
    specs = worker_specs(SETTINGS, workspace, "run", STEPS)
    specs |= {
        kind: WorkerSpec(f"fakes:{kind}", SETTINGS.pose, workspace.uri, "run")
        for kind in ("BrokenPose", "CarelessPose", "GpuPose")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", WORKERS_PATH)
        patch.setattr(ray, "init", partial(ray.init, num_gpus=1))
        folder, on_terminate = Path.cwd(), signal.getsignal(signal.SIGTERM)
        engine = RayEngine(specs, fakes.resources(specs), scratch=workspace.scratch("run"), cpus=2)
        runner = Runner(workspace, SETTINGS, run_id="run", engine=engine, steps=STEPS)
        runner.observer = Observer(workspace, "run", meter=engine.meter())
        runner.run(map(fakes.source, SOURCES))
        yield OnRay(engine, runner, workspace, folder, on_terminate)
        engine.close()


def test_a_run_on_ray_ends_with_the_dataset_of_a_serial_run(on_ray: OnRay) -> None:
    workspace = Workspace("memory://serial")
    engine = SerialEngine(worker_specs(SETTINGS, workspace, "serial", STEPS))
    Runner(workspace, SETTINGS, run_id="serial", engine=engine, steps=STEPS).run(map(fakes.source, ["a", "e"]))
    on_ray_index, serial = (parse_index(w.read(INDEX_KEY).decode()) for w in (on_ray.workspace, workspace))
    assert on_ray_index == serial
    assert on_ray.runner.tally.n_dataset == 4


def test_a_unit_that_kills_its_worker_again_and_again_is_poison(on_ray: OnRay) -> None:
    entries = {entry.message: entry for step, entry in on_ray.runner.failures if step == "pose"}
    (crashed,) = (entry for message, entry in entries.items() if message and "took longer" not in message)
    assert (crashed.failure_class, crashed.attempts) == ("poison", 2)
    assert crashed.message is not None
    assert crashed.message.startswith("the worker died 2 times: ")


def test_a_unit_that_takes_too_long_is_stopped_and_counts_as_an_attempt(on_ray: OnRay) -> None:
    (slow,) = (entry for _, entry in on_ray.runner.failures if "took longer" in (entry.message or ""))
    assert (slow.failure_class, slow.attempts) == ("poison", 2)
    assert slow.message == "the worker died 2 times: took longer than 3 s"


def test_failures_and_verdicts_come_back_from_workers_as_entries(on_ray: OnRay) -> None:
    tally = on_ray.runner.tally.steps["shots"]
    assert dict(tally.failed) == {"permanent": 1}
    assert dict(tally.rejected) == {"told_to": 1}
    (bug,) = (entry for step, entry in on_ray.runner.failures if step == "shots")
    assert bug.message == "told to have a bug"
    recorded = on_ray.runner.lanes["shots"].ledger.find(bug.unit_id, bug.input_key)
    assert recorded is not None
    assert "ZeroDivisionError" in (recorded.traceback or "")


def test_a_second_run_finds_everything_done(on_ray: OnRay) -> None:
    again = Runner(on_ray.workspace, SETTINGS, run_id="again", engine=on_ray.engine, steps=STEPS)
    again.run(map(fakes.source, SOURCES))
    assert sum(tally.worked_on for tally in again.tally.steps.values()) == 0
    assert again.tally.failed == 3


@pytest.mark.parametrize(
    ("kind", "message"),
    [("BrokenPose", "no weights: mit-build weights fetch nothing"), ("CarelessPose", "the library found no device")],
)
def test_a_stage_that_cannot_be_set_up_is_reported_with_one_line(on_ray: OnRay, kind: str, message: str) -> None:
    deadline = time.monotonic() + 60
    while kind not in on_ray.engine.unavailable() and time.monotonic() < deadline:
        assert not on_ray.engine.offer(kind)
        on_ray.engine.wait(1.0)
    assert on_ray.engine.unavailable()[kind] == message
    assert not on_ray.engine.offer(kind)


def on_gpu(on_ray: OnRay, *calls: list[str], recall: bool = False) -> list[Result]:
    """What calls come to that the one worker on a GPU is given as early as it takes them; each clip has a text."""
    engine, workspace = on_ray.engine, on_ray.workspace
    (clip, *_) = (e.outputs[0] for e in on_ray.runner.lanes["filter.cut"].ledger.entries() if e.outputs)

    def task(name: str, text: str) -> Task:
        media = Artifact(f"clips/{name}.mp4", hashlib.sha256(text.encode()).hexdigest(), len(text))
        workspace.write(media.key, text.encode())
        return Task(name, f"{name:->16}", replace(clip, clip_id=name, mp4=media))

    left = [[task(f"gpu-{i}-{j}", text) for j, text in enumerate(texts)] for i, texts in enumerate(calls)]
    results: list[Result] = []
    deadline = time.monotonic() + 60
    while len(results) < len(calls) and time.monotonic() < deadline:
        while left and engine.offer("GpuPose", len(left)):
            engine.submit("GpuPose", left.pop(0))
        if recall and not left:
            engine.recall()
        results += engine.wait(1.0)
    return results


def test_a_worker_on_a_gpu_is_given_its_next_call_early_and_the_first_alone_is_blamed(on_ray: OnRay) -> None:
    first, second = (r.entries[0] for r in on_gpu(on_ray, ["?pose=slow"], ["a"]) if r.entries)
    assert (first.unit_id, second.unit_id) == ("gpu-0-0", "gpu-1-0")
    assert 0 <= second.started_at_s - first.started_at_s - first.duration_s < 0.1
    lost = on_gpu(on_ray, ["?pose=crash"], ["a"])
    assert [(result.tasks[0].unit_id, result.lost) for result in lost] == [
        ("gpu-0-0", "crash"),
        ("gpu-1-0", "unstarted"),
    ]


def test_a_worker_whose_unit_ran_out_of_something_is_replaced(on_ray: OnRay) -> None:
    (before,) = on_gpu(on_ray, ["a"])
    (worker,) = on_ray.engine._slots["GpuPose"]
    (short,) = on_gpu(on_ray, ["?pose=resource"])
    assert [e.failure_class for result in (before, short) for e in result.entries or []] == [None, "resource"]
    assert worker not in on_ray.engine._slots["GpuPose"]


def test_a_call_that_has_not_begun_is_taken_back_when_a_run_is_asked_to_end(on_ray: OnRay) -> None:
    lost = {r.tasks[0].unit_id: r.lost for r in on_gpu(on_ray, ["?pose=slow"] * 20, ["a"], recall=True)}
    assert lost == {"gpu-1-0": "unstarted", "gpu-0-0": None}


def test_ray_exports_the_figures_of_a_run_under_the_names_that_the_dashboard_asks_for(on_ray: OnRay) -> None:
    (node,) = ray.nodes()  # type: ignore[no-untyped-call]
    wanted, deadline = {name for metric in METRICS for name in metric.exported}, time.monotonic() + 60
    found: set[str] = set()
    while not wanted <= found and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
            found = {line.partition("{")[0] for line in answer.read().decode().splitlines() if "mit_builder" in line}
    assert wanted <= found
    assert {name for name in found if name.startswith("ray_mit_builder_")} == wanted


def test_ray_keeps_no_list_of_calls_that_grows_with_a_run(on_ray: OnRay) -> None:
    time.sleep(2)  # twice as long as calls are reported late
    assert ray.timeline() == []  # type: ignore[no-untyped-call]


def test_the_driver_keeps_its_folder_and_its_way_to_end(on_ray: OnRay) -> None:
    assert Path.cwd() == on_ray.folder_before
    assert signal.getsignal(signal.SIGTERM) == on_ray.on_terminate_before


def listening(pids: set[int]) -> dict[str, str]:
    """Addresses that processes accept connections on, as the kernel writes them, each with a command line."""
    sockets: dict[str, str] = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # a process that is gone by now
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            sockets |= {os.readlink(descriptor): command for descriptor in Path(f"/proc/{pid}/fd").iterdir()}
    found: dict[str, str] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found[fields[1].partition(":")[0]] = sockets[f"socket:[{fields[9]}]"]
    return found


def family(pid: int) -> set[int]:
    """All descendants of a process."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


def test_ray_listens_on_loopback_only(on_ray: OnRay) -> None:
    addresses = listening(family(os.getpid()))
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert addresses
    assert {address: command for address, command in addresses.items() if address not in loopback} == {}


def test_ray_is_not_started_for_a_run_with_nothing_to_do(tmp_path: Path) -> None:
    engine = RayEngine({}, {}, scratch=tmp_path)
    assert engine.wait(0.0) == []
    engine.close()
    workspace = Workspace(f"memory://{tmp_path.name}")
    specs = worker_specs(SETTINGS, workspace, "run", STEPS)
    engine = RayEngine(specs, fakes.resources(specs), scratch=tmp_path / "none")
    Runner(workspace, SETTINGS, run_id="run", engine=engine, steps=STEPS).run([])
    engine.close()


@pytest.mark.parametrize("error", [None, Exception("timed out"), KeyboardInterrupt()])
def test_rays_way_to_start_its_processes_is_ours_only_while_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    services: Any = ray._private.services
    before, started = services.ConsolePopen, list[Any]()

    def init(**settings: Any) -> None:
        with services.ConsolePopen([sys.executable, "-c", ""]) as process:
            started.append(process)
        if error is not None:
            raise error

    monkeypatch.setattr(services, "ConsolePopen", before)  # as it was, for whoever comes next
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr("mit_builder.engine.ray_connect._there", lambda address: None)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    for _ in range(2):
        with contextlib.suppress(CannotContinue, KeyboardInterrupt):
            connect(None, cpus=1, scratch=tmp_path)
        assert services.ConsolePopen is before
    assert [type(process) for process in started] == [before, before]


@pytest.mark.parametrize("closed", ["home", "."])
def test_a_home_that_may_not_be_looked_at_is_one_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """As for a user without root's rights: `stat` of what lies in a closed folder is refused."""
    home, folder, stat, access = tmp_path / "home" / "me", tmp_path / closed, os.stat, os.access
    home.mkdir(parents=True)

    def refusing(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if isinstance(path, str | Path) and folder in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and access(path, mode))
    monkeypatch.setenv("HOME", str(home))
    assert home_problem() == f"the home folder {home} cannot be written to"


def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        raise Exception("The current node timed out during startup.\nmore")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    with pytest.raises(CannotContinue, match=r"^Ray does not start here \(Exception; .*\): [^\n]* --engine serial$"):
        RayEngine({}, {}, scratch=tmp_path)._start()


def test_a_ray_of_the_users_own_is_left_alone(tmp_path: Path, on_ray: OnRay) -> None:
    with pytest.raises(CannotContinue, match="Ray runs in this process already: end it"):
        RayEngine({}, {}, scratch=tmp_path)._start()
    assert ray.is_initialized()


DRIVER = """
import os, subprocess, sys
import fakes
from mit_builder.config import settings as config
from mit_builder.engine.ray_engine import RayEngine
from mit_builder.pipeline_run import check_layout
from mit_builder.engine.worker import Task
from mit_builder.engine.specs import worker_specs
from mit_builder.storage.workspace import Workspace

check_layout()
workspace, settings = Workspace(sys.argv[1]), config.load()
specs = {"download": worker_specs(settings, workspace, "run", fakes.steps())["download"]}
engine = RayEngine(specs, fakes.resources(specs), scratch=workspace.scratch("run"), cpus=1)
while not engine.offer("download"):
    engine.wait(1.0)
engine.submit("download", [Task("a", "0123456789abcdef", fakes.source("a"))])
results = []
while not results:
    results = engine.wait(1.0)
family = [os.getpid()]
for pid in family:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    family += map(int, found.stdout.split())
print(results[0].entries[0].status, *family[1:])
"""


def test_a_users_folder_named_stages_hides_nothing_and_nothing_runs_on_after_the_driver(tmp_path: Path) -> None:
    for package in ("stages", "manifests", "mit_builder"):
        (tmp_path / "mine" / package).mkdir(parents=True)
        (tmp_path / "mine" / package / "__init__.py").write_text("raise ImportError('not ours')\n")
    script = tmp_path / "driver" / "driver.py"
    script.parent.mkdir()
    script.write_text(DRIVER)
    done = subprocess.run(
        [sys.executable, str(script), "ws"],
        cwd=tmp_path / "mine",
        env=os.environ | {"PYTHONPATH": WORKERS_PATH},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    status, *family = done.stdout.split()
    assert status == "done"
    assert len(family) > 3
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


def test_a_worker_that_never_comes_up_stops_its_stage_with_what_it_needs(tmp_path: Path) -> None:
    engine = RayEngine({"a": None}, {"a": Resources(gpus=0.5)}, scratch=tmp_path)  # type: ignore[dict-item]
    engine._slots["a"].append(Slot(actor=None, starting=object(), deadline=0.0))
    engine._drop = lambda stage, slot: engine._slots[stage].remove(slot)  # type: ignore[method-assign]
    engine._kill_overdue()
    assert engine.unavailable() == {"a": "no worker came up within 900 s: it needs a node with 0.5 GPU free"}


def test_a_crash_on_a_node_that_is_lost_is_not_held_against_the_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([None, True, False])
    monkeypatch.setattr("mit_builder.engine.ray_nodes._is_lost", lambda suspect: next(answers))
    engine = RayEngine({}, {}, scratch=tmp_path)
    crash = Result("pose", [Task("u", "k", None)], lost="crash", message="End of file")
    engine._suspects._waiting.append(_Suspect(crash, "node", None, 0.0))
    assert list(engine._cleared()) == []
    assert [result.lost for result in engine._cleared()] == ["node"]
    engine._suspects._waiting.append(_Suspect(crash, "node", None, 0.0))
    assert list(engine._cleared()) == [crash]
    assert not engine._suspects


def test_short_calls_on_cores_are_given_early_where_nothing_else_wants_the_core(tmp_path: Path) -> None:
    needs = {"first": Resources(), "later": Resources()}
    engine = RayEngine({"first": None, "later": None}, needs, scratch=tmp_path, cpus=1)  # type: ignore[dict-item]
    engine._slots["first"].append(Slot(actor=None, calls=[Call(object(), [])]))
    assert not engine.offer("first", 5)  # nobody knows how long they take
    engine._took_s["first"] = 600.0
    assert not engine.offer("first", 5)
    engine._took_s["first"] = 0.5
    assert engine.offer("first", 5)
    assert not engine.offer("later", 1)
    assert not engine.offer("first", 5)
    engine.wait(0.0)
    assert engine.offer("first", 5)


def died(why: str) -> Exception:
    """What Ray raises for an actor that is gone."""
    error = ray.exceptions.ActorDiedError()
    error.error_msg = why
    return error


@pytest.fixture
def suspected(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Result, str]]:
    """Losses, each with the node that is asked about; every worker's node is known."""
    asked: list[tuple[Result, str]] = []
    monkeypatch.setattr("mit_builder.engine.ray_engine.node_known", lambda where: where)
    monkeypatch.setattr(
        "mit_builder.engine.ray_nodes.Suspects.add", lambda self, item, node: asked.append((item, node))
    )
    return asked


def test_a_node_that_is_lost_while_a_worker_loads_its_models_does_not_stop_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suspected: list[tuple[Result, str]]
) -> None:
    crash = died("Worker exit type: SYSTEM_ERROR ... End of file")
    engine = RayEngine({"a": None}, {"a": Resources()}, scratch=tmp_path)  # type: ignore[dict-item]
    engine._elsewhere = True
    assert engine._loss("a", Slot(actor=None, starting=object(), where="node-1"), crash) is None
    assert ([node for _, node in suspected], engine.unavailable()) == (["node-1"], {})
    loading = Result("a", [], lost="crash", message="End of file")
    for is_lost, problem in ((True, {}), (False, {"a": "the worker died while it was set up: End of file"})):
        monkeypatch.setattr("mit_builder.engine.ray_nodes._is_lost", lambda suspect, is_lost=is_lost: is_lost)
        engine._suspects._waiting.append(_Suspect(loading, "node-1", None, 0.0))
        assert list(engine._cleared()) == []
        assert engine.unavailable() == problem


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ray.exceptions.ActorUnavailableError("The connection is gone", None), "silent"),
        (ray.exceptions.ObjectLostError("0" * 56, None, ""), "node"),
        (died("its node has died"), "node"),
        (died("Worker exit type: SYSTEM_ERROR"), "crash"),
        (ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory"), "memory"),
    ],
)
def test_the_kind_of_a_loss_is_known_by_the_type_of_the_error_or_what_ray_says_of_the_actor(
    error: Exception, kind: str
) -> None:
    assert kind_of_loss(error) == kind


SILENCE = ray.exceptions.ActorUnavailableError("The actor is temporarily unavailable", None)


def test_a_worker_that_was_stopped_on_the_only_machine_is_no_lost_node(tmp_path: Path) -> None:
    engine = RayEngine({"a": None}, {"a": Resources()}, scratch=tmp_path)  # type: ignore[dict-item]
    result = engine._loss("a", Slot(actor=None, calls=[Call(object(), [Task("u", "k", None)])]), SILENCE)
    assert result is not None
    assert result.lost == "silent"
    assert engine._loss("a", Slot(actor=None, starting=object()), SILENCE) is None
    assert engine.unavailable() == {}  # it is not its stage that fails


def test_a_worker_that_falls_silent_is_lost_with_its_node_where_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suspected: list[tuple[Result, str]]
) -> None:
    engine = RayEngine({"a": None}, {"a": Resources()}, scratch=tmp_path)  # type: ignore[dict-item]
    slot = Slot(actor=None, calls=[Call(object(), [Task("u", "k", None)])], where="node-1")
    assert engine._loss("a", slot, SILENCE) is None
    ((result, node),) = suspected
    for is_lost, lost in ((True, "node"), (False, "silent")):
        monkeypatch.setattr("mit_builder.engine.ray_nodes._is_lost", lambda suspect, is_lost=is_lost: is_lost)
        engine._suspects._waiting.append(_Suspect(result, node, None, 0.0))
        assert [found.lost for found in engine._cleared()] == [lost]


def test_time_in_which_the_driver_was_stopped_is_taken_from_no_worker(tmp_path: Path) -> None:
    engine = RayEngine({"a": None}, {"a": Resources()}, scratch=tmp_path)  # type: ignore[dict-item]
    engine._slots["a"].append(Slot(actor=None, starting=object(), deadline=time.monotonic() + 5.0))
    engine._waited_at_s -= 3600.0  # an hour after Ctrl-Z, `fg`
    engine._allow_for_a_stop()
    engine._kill_overdue()
    assert engine.unavailable() == {}
    assert engine._slots["a"][0].deadline > time.monotonic() + 3000.0
    engine._allow_for_a_stop()
    assert engine._slots["a"][0].deadline < time.monotonic() + 3700.0


def test_a_unit_that_takes_too_long_on_a_frozen_node_is_not_blamed(
    tmp_path: Path, suspected: list[tuple[Result, str]]
) -> None:
    engine = RayEngine({"a": None}, {"a": Resources()}, scratch=tmp_path)  # type: ignore[dict-item]
    slot = Slot(actor=None, calls=[Call(object(), [Task("u", "k", None)])], where="node-1", timed_out=True)
    assert engine._loss("a", slot, died("killed by ray.kill")) is None
    assert [result.lost for result, _ in suspected] == ["timeout"]
