"""A person at a terminal: an interactive shell with job control on a pseudo-terminal, and what its screen shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

PROMPT = "ready> "
CTRL_C, CTRL_Z = "\x03", "\x1a"


class Terminal:
    """A shell and its screen.

    Args:
        folder: where the shell is.
        width, height: of the screen, in characters.
    """

    def __init__(self, folder: Path, width: int = 100, height: int = 40) -> None:
        environment = os.environ | {"PS1": PROMPT, "TERM": "xterm", "HISTFILE": "", "LC_ALL": "C.UTF-8"}
        environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.screen = pyte.HistoryScreen(width, height, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.shell, self._fd = pty.fork()
        if self.shell == 0:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup, which a shell cannot take back
            os.chdir(folder)
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.resize(width, height)
        self.wait_for_prompt()

    def resize(self, width: int, height: int = 40) -> None:
        """Change the size of the window, as a person does who drags its corner."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.screen.resize(height, width)

    def type(self, line: str) -> None:
        """A line and Enter."""
        self.press(line + "\n")

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    @property
    def text(self) -> str:
        """What is on the screen and above it, without blanks at the ends of lines."""
        above = ["".join(line[x].data for x in range(max(line, default=-1) + 1)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip()

    def look(self, for_s: float = 0.0) -> str:
        """Let time pass; the text."""
        deadline = time.monotonic() + for_s
        while True:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return self.text
            try:
                self._stream.feed(os.read(self._fd, 1 << 16))
            except OSError:  # the shell has ended
                return self.text

    def wait_for(self, pattern: str, limit_s: float = 120.0) -> str:
        """The text, as soon as a pattern is in it."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if re.search(pattern, self.look(0.2)):
                return self.text
        raise AssertionError(f"no {pattern!r} in {limit_s:g} s; the screen:\n{self.text}")

    def wait_for_prompt(self, limit_s: float = 120.0) -> str:
        """The text, as soon as the shell asks for the next command."""
        return self.wait_for(rf"{PROMPT.strip()}\s*\Z", limit_s)

    def close(self) -> None:
        """Close the window: the shell and its jobs get SIGHUP."""
        os.close(self._fd)


@contextmanager
def terminal(folder: Path, width: int = 100, height: int = 40) -> Iterator[Terminal]:
    """A terminal that is closed in the end, with all that was started in it."""
    made = Terminal(folder, width, height)
    try:
        yield made
    finally:
        for pid in session_of(made.shell):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(made.shell, 0)


def session_of(leader: int) -> list[int]:
    """Processes of a session: what was typed into its terminal, but for what made itself independent."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(name)) == leader:
                found.append(int(name))
        except ProcessLookupError:
            continue
    return found


def program() -> str:
    """The command line that a person types to call this checkout."""
    return f"env PYTHONPATH={Path(__file__).resolve().parent.parent} {sys.executable} -m mit_builder"
