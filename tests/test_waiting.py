"""The line that a command shows while somebody waits: when it is there, what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_cli
from terminals import terminal
from test_cli import A, Cli, run

from mit_builder.console import terminal as terminal_of_a_run
from mit_builder.console import waiting

ROOT = Path(__file__).resolve().parent.parent
cli = test_cli.cli
SLOW = """
import json, sys, time
from mit_builder.console import terminal, waiting

terminal.keep_for_ourselves()
waiting.APPEARS_AFTER_S = float(sys.argv[1])
with waiting.waiting("reading the ledger", quiet="--json" in sys.argv) as shown:
    time.sleep(0.7)
    shown.say("first")
    shown.now("looking at 7 of 9 sources")
    time.sleep(1.5)
print("last")
"""


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """The command line of a program that takes 2.2 s."""
    (tmp_path / "slow.py").write_text(SLOW)
    return f"env PYTHONPATH={ROOT} {sys.executable} slow.py"


def test_on_a_terminal_what_lasts_is_shown_and_goes_without_a_trace(slow: str, tmp_path: Path) -> None:
    with terminal(tmp_path) as window:
        window.type(f"{slow} 0.3")
        window.wait_for(r"reading the ledger 0:00:0\d")
        window.wait_for(r"first\n. looking at 7 of 9 sources 0:00:0\d")
        said = window.wait_for_prompt()
    assert said.splitlines()[1:3] == ["first", "last"]
    assert "0:00" not in said
    assert not window.screen.cursor.hidden


@pytest.mark.parametrize("end", ["30", "0.3 --json"])
def test_what_is_quick_or_read_by_a_program_shows_nothing(slow: str, tmp_path: Path, end: str) -> None:
    with terminal(tmp_path) as window:
        window.type(f"{slow} {end}")
        window.wait_for("first")
        assert "0:00" not in window.look(0.8)
        assert window.wait_for_prompt().splitlines()[1:3] == ["first", "last"]


def test_what_is_shown_never_gets_into_a_file(slow: str, tmp_path: Path) -> None:
    with terminal(tmp_path) as window:
        window.type(f"{slow} 0.3 > out.txt")
        window.wait_for(r"looking at 7 of 9 sources 0:00:0\d")
        window.wait_for_prompt()
    assert (tmp_path / "out.txt").read_text() == "first\nlast\n"
    done = subprocess.run(
        [*slow.split()[2:], "0.3"],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("first\nlast\n", "")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("status",), "reading the workspace"),
        (("status", "--json"), ""),
        (("why", A), "reading the ledger"),
        (("tune",), "judging shots anew"),
        (("tune", "--json"), ""),
        (("gc", "--dry-run"), "looking for files that nothing names"),
        (("trace",), "reading the ledger"),
        (("doctor",), "checking"),
    ],
)
def test_commands_say_what_they_are_doing(
    cli: Cli, command: tuple[str, ...], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cli, A)
    begun: list[str] = []
    plain = waiting.Waiting.__init__

    def noted(self: waiting.Waiting, said: str, *, quiet: bool) -> None:
        begun.append("" if quiet else said)
        plain(self, said, quiet=quiet)

    monkeypatch.setattr(waiting.Waiting, "__init__", noted)
    cli(*command, "-w", "ws")
    assert begun[:1] == [what]


@pytest.mark.parametrize("lost", ["os.close(2)", "os.close(master)"])
def test_it_ends_at_once_where_its_terminal_is_gone(lost: str, tmp_path: Path) -> None:
    """A shell's window that was closed: nothing can be written, and the process ends all the same."""
    program = f"""
import os, pty
from mit_builder.console import terminal

master, screen = pty.openpty()
os.dup2(screen, 2)
os.close(screen)
{lost}
terminal.end_at_once()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        timeout=60,
    )
    assert ended.returncode == terminal_of_a_run.INTERRUPTED
