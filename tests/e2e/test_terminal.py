"""A run as a person types it: in an interactive shell, on a terminal, on Ray, with the real stages."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminals import CTRL_C, CTRL_Z, Terminal, program, terminal

from mit_builder.engine.orphan_reaper import MARK
from mit_builder.media.write import ffmpeg_executable

pytestmark = [
    pytest.mark.skipif(shutil.which("bash") is None, reason="no bash"),
    pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed"),
    pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system does not show processes as files"),
    pytest.mark.timeout(300),
]
BAR = "━"


def run(video: Path | str, workspace: str = "ws", stage: str = "all", engine: str = "ray") -> str:
    """The command line of a run."""
    return f"{program()} run --stage {stage} --engine {engine} --workspace {workspace} {video}"


def state(pid: int) -> str:
    """One letter: R runs, S sleeps, T is stopped; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def of_run(workspace: Path) -> list[int]:
    """Processes of a run: they share a mark, and one has the workspace among its arguments or as its folder."""
    marks: dict[int, str] = {}
    wanted: set[str] = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            folder, words = os.readlink(f"/proc/{pid}/cwd"), Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        mark = next((e.decode() for e in environment if e.startswith(f"{MARK}=".encode())), None)
        if mark is not None and state(pid) not in ("", "Z"):
            marks[pid] = mark
            if str(workspace) in folder or str(workspace) in words:
                wanted.add(mark)
    return [pid for pid, mark in marks.items() if mark in wanted]


def wait_until_gone(workspace: Path, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while (left := of_run(workspace)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


@pytest.fixture(scope="module")
def first_seconds(tmp_path_factory: pytest.TempPathFactory, demo_video: Path) -> Path:
    """Of the demo: too short to become a clip, long enough to be looked through."""
    path = tmp_path_factory.mktemp("first") / "first.mp4"
    subprocess.run(
        [ffmpeg_executable(), "-nostdin", "-v", "error", "-i", str(demo_video), "-t", "3", str(path)], check=True
    )
    return path


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Terminal]:
    with terminal(tmp_path) as opened:
        yield opened
    wait_until_gone(tmp_path)


def test_the_first_command_ends_and_draws_bars_that_fit_a_window_of_any_width(
    tmp_path: Path, first_seconds: Path
) -> None:
    with terminal(tmp_path, width=60) as window:
        window.type(run(first_seconds))
        window.wait_for(rf"shots +{BAR}+ 0/1")
        bars = [line for line in window.text.splitlines() if BAR in line]
        assert [line.split()[0] for line in bars] == ["download", "shots"]  # each on one line, drawn once
        assert all(state(pid) != "T" for pid in of_run(tmp_path))
        window.resize(200)
        window.wait_for(rf"filter.detect +{BAR}+ [01]/1")
        text = window.wait_for_prompt()
    assert BAR not in text
    lines = text.splitlines()[1:-1]
    assert lines[-4:-3] == ["try next:"]
    assert any("1 candidates too_short" in line or "1 candidate too_short" in line for line in lines)
    assert not [line for line in lines if re.search(r"Traceback|lost|Stopped|ray::", line)]
    wait_until_gone(tmp_path)


def test_nothing_of_a_run_but_the_command_has_the_terminal(tmp_path: Path, window: Terminal, demo_video: Path) -> None:
    window.type(run(demo_video))
    window.wait_for(r"shots .*1 running")
    with_terminal = {pid for pid in of_run(tmp_path) if os.getsid(pid) == window.shell}
    assert with_terminal == set()
    inputs = {os.readlink(f"/proc/{pid}/fd/0") for pid in of_run(tmp_path)}
    assert {name for name in inputs if not name.startswith("pipe:")} == {os.devnull}  # raylet holds its agents by pipes
    assert len(of_run(tmp_path)) > 3

    window.press(CTRL_Z)
    window.wait_for(r"Stopped")
    stopped = of_run(tmp_path)
    time.sleep(0.5)
    assert {state(pid) for pid in stopped} == {"T"}
    assert BAR not in window.look(0.5).rpartition("Stopped")[2]

    window.type("clear; fg")
    window.wait_for(rf"shots +{BAR}+")
    assert "T" not in {state(pid) for pid in stopped}
    window.wait_for(r"filter.detect .*1 running")

    window.press(CTRL_C)
    window.wait_for(r"Ctrl-C again ends it at once")
    text = window.wait_for_prompt()
    assert BAR not in text.rpartition("fg")[2]
    # The command that goes on is whole, and may need more than one line of the screen.
    assert any(line.startswith("mit-build: interrupted; ") for line in text.splitlines()[-5:])
    assert "Traceback" not in text
    window.type("echo code $?")
    window.wait_for("code 130")
    wait_until_gone(tmp_path)


def test_a_run_in_the_background_leaves_the_prompt_alone_and_draws_when_it_is_in_front(
    tmp_path: Path, window: Terminal, demo_video: Path
) -> None:
    window.type(f"{run(demo_video)} &")
    window.wait_for("pose model")
    window.type("echo still here")
    window.wait_for("\nstill here")
    assert BAR not in window.wait_for("\ndownload 1/1  ")
    window.type("clear; fg")
    window.wait_for(BAR)
    window.press(CTRL_C)
    window.press(CTRL_C)  # who has no patience
    text = window.wait_for_prompt()
    assert "Traceback" not in text
    wait_until_gone(tmp_path)
    window.type("echo code $?")
    window.wait_for("code 130")


def test_a_closed_terminal_ends_the_run_and_a_later_one_goes_on(tmp_path: Path, demo_video: Path) -> None:
    with terminal(tmp_path) as window:
        window.type(run(demo_video))
        window.wait_for(r"shots .*1 running")
        window.close()
        wait_until_gone(tmp_path)
    with terminal(tmp_path) as window:
        window.type(run("", stage="shots", engine="serial"))
        assert "1 units worked on" in window.wait_for_prompt().replace("1 unit ", "1 units ")


def test_a_run_that_hears_of_no_hangup_survives_its_terminal(tmp_path: Path, first_seconds: Path) -> None:
    with terminal(tmp_path) as window:
        window.type(f"nohup {run(first_seconds)} &")
        window.wait_for("nohup.out")
        window.type("")
        # Nothing takes what it writes from then on.
        window.type(f"{{ {run(first_seconds, 'other', engine='serial')}; echo $? > code; }} & disown -h")
        window.wait_for("pose model")
        window.close()
        deadline = time.monotonic() + 120
        reports = [tmp_path / name / "report" / "index.html" for name in ("ws", "other")]
        while not (all(file.exists() for file in [*reports, tmp_path / "code"])) and time.monotonic() < deadline:
            time.sleep(0.2)
        wait_until_gone(tmp_path)
    assert [report.exists() for report in reports] == [True, True]
    assert "try next:" in (tmp_path / "nohup.out").read_text()
    assert (tmp_path / "code").read_text() == "0\n"
