from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mit_builder.config import settings
from mit_builder.console import hints
from mit_builder.driver.preflight import check_engine
from mit_builder.engine import memory
from mit_builder.engine.memory import Memory
from mit_builder.errors import CannotContinue

GB = 10**9


def machine(root: Path, files: dict[str, str]) -> Path:
    """A root with these files; 32 GB of memory, of which 20 are free."""
    meminfo = f"MemTotal: {32 * GB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {20 * GB // 1024} kB\n"
    for name, text in ({"proc/meminfo": meminfo} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def group(place: str, most: str, used: int, cached: int = 0) -> dict[str, str]:
    """The files of a control group of version 2."""
    files = {"memory.max": most, "memory.current": str(used), "memory.stat": f"anon 1\ninactive_file {cached}\n"}
    return {f"sys/fs/cgroup/{place}{name}": text for name, text in files.items()}


def group_1(place: str, most: int, used: int) -> dict[str, str]:
    """The same of version 1."""
    files = {"memory.limit_in_bytes": str(most), "memory.usage_in_bytes": str(used)}
    return {f"sys/fs/cgroup/memory/{place}{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("files", "total_gb", "free_gb"),
    [
        ({}, 32, 20),
        (group("", str(8 * GB), 6 * GB, cached=GB), 8, 3),
        ({"proc/self/cgroup": "0::/a/b\n"} | group("a/", str(4 * GB), 3 * GB) | group("a/b/", "max", 2 * GB), 4, 1),
        ({"proc/self/cgroup": "0::/a\n"} | group("a/", str(64 * GB), 60 * GB), 32, 4),
        ({"proc/self/cgroup": "8:cpu:/x\n7:memory:/job\n"} | group_1("job/", 6 * GB, 5 * GB), 6, 1),
        (group_1("", (1 << 63) - 4096, 25 * GB), 32, 20),
    ],
    ids=["no group", "container", "the group around", "a group larger than the machine", "version 1", "no limit"],
)
def test_the_tightest_bound_counts(tmp_path: Path, files: dict[str, str], total_gb: float, free_gb: float) -> None:
    found = memory.look(machine(tmp_path, files))
    assert found is not None
    assert (round(found.total_gb, 3), round(found.free_gb, 3)) == (total_gb, free_gb)


def test_another_system_tells_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.look(tmp_path) is None
    monkeypatch.setattr(memory, "look", lambda: None)
    assert memory.cores(None) is None
    assert memory.said(None)[0]


@pytest.mark.parametrize(
    ("free_gb", "cpus", "is_enough", "says", "cores"),
    [
        (20.0, None, True, "workers for 8 of 8 cores", 8),
        (8.0, None, False, "workers for 3 of 8 cores, the others stay idle; run.cpus decides otherwise", 3),
        (8.0, 8, False, "workers for 3 of 8 cores; lower run.cpus, or take --engine serial", 8),
        (8.0, 2, True, "workers for 2 of 2 cores", 2),
    ],
)
def test_a_run_takes_as_many_cores_as_memory_has_room_for(
    monkeypatch: pytest.MonkeyPatch, free_gb: float, cpus: int | None, is_enough: bool, says: str, cores: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(memory, "look", lambda: Memory(10.0, free_gb))
    assert memory.said(cpus)[0] is is_enough
    assert says in memory.said(cpus)[1]
    assert memory.cores(cpus) == cores


def test_others_that_have_all_memory_are_waited_for_and_then_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Memory(16.0, 1.0)]
    monkeypatch.setattr(memory, "LOOK_S", 0.01)
    monkeypatch.setattr(memory, "look", lambda: there[-1])
    assert "a run waits 120 s for more" in memory.said(None)[1]
    threading.Timer(0.1, there.append, [Memory(16.0, 5.0)]).start()
    assert memory.cores(None) == 1
    there.append(Memory(16.0, 1.0))
    monkeypatch.setattr(memory, "WAIT_S", 0.05)
    with pytest.raises(CannotContinue, match=r"^1\.0 of 16\.0 GB of memory are free, .* wants 3\.8: .*--engine serial"):
        memory.cores(4)


def test_a_machine_that_is_too_small_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "look", lambda: Memory(2.0, 1.9))
    monkeypatch.setattr("time.sleep", None)
    assert "too little; free some" in memory.said(None)[1]
    with pytest.raises(CannotContinue, match="--engine serial"):
        memory.cores(None)


def test_a_home_that_cannot_be_written_to_is_said_and_does_not_hinder_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check_engine(settings.Settings())[0].verdict == "ok"
    monkeypatch.setenv("HOME", "/dev/null/home")
    check = check_engine(settings.Settings())[0]
    assert check.verdict == "warning"
    assert "the home folder /dev/null/home cannot be written to" in check.text
    program = (
        "from pathlib import Path\nfrom mit_builder.engine.ray_connect import connect\n"
        f"print(connect(None, cpus=1, scratch=Path({str(tmp_path)!r})).cpus)\n"
    )
    root = Path(__file__).resolve().parent.parent
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "1.0\n"), ran.stderr


def test_what_keeps_ray_from_starting_is_said_in_our_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from mit_builder.engine.ray_connect import connect

    def fails(error: Exception) -> None:
        def init(**options: object) -> None:
            raise error

        monkeypatch.setattr(ray, "init", init)

    fails(PermissionError(13, "Permission denied", "/tmp/ray"))
    with pytest.raises(
        CannotContinue, match=r"^Ray does not start here \(it cannot write /tmp/ray: Permission denied\)"
    ):
        connect(None, cpus=1, scratch=tmp_path)
    fails(ValueError("Attempting to cap object store memory usage at 100 bytes, but the minimum allowed is ..."))
    hints.begin("talks")
    hints.go_on(["retry", "--class", "auth"])
    with pytest.raises(CannotContinue, match="doctor --workspace talks looks for what is missing; ") as caught:
        connect(None, cpus=1, scratch=tmp_path)
    advised = "without Ray: mit-build retry --workspace talks --class auth --engine serial"
    assert str(caught.value).endswith(advised)
    assert "Attempting" not in str(caught.value)
