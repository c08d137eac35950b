"""A run and the terminal it was typed into: only the command itself has it, and what a person does there reaches all.

The system stops whoever reads a terminal, or changes its modes, while another group of processes has it (POSIX.1-2017,
11.1.4: SIGTTIN, SIGTTOU). Ray's workers are groups of their own, and programs such as ffmpeg read their standard input.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import IO, Any

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 and the signal's number."""
_SHOW_CURSOR = b"\x1b[?25h"


class _Screen(io.FileIO):
    """A terminal to write to, which may be closed while a run goes on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return len(data)


def keep_for_ourselves() -> None:
    """Give nothing that this process starts the terminal: it finds /dev/null on its standard input.

    Questions can still be asked: `sys.stdin` reads on. What is written to a terminal that was closed is dropped.
    """
    if not _reads_nothing():
        terminal = os.dup(0)  # programs that are started do not get it
        detach()
        sys.stdin = open(terminal)  # noqa: SIM115 - as long as the process
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty() and os.isatty(number):
            screen = io.BufferedWriter(_Screen(number, "w", closefd=False))
            setattr(sys, name, io.TextIOWrapper(screen, stream.encoding, stream.errors, line_buffering=True))


def hears_signals() -> bool:
    """Whether this thread may say what signals do: the first thread of a program alone."""
    return threading.current_thread() is threading.main_thread()


def detach() -> None:
    """Put /dev/null in the place of this process's standard input."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    if nowhere != 0:  # it is 0 where standard input was closed
        os.dup2(nowhere, 0)
        os.close(nowhere)


def _reads_nothing() -> bool:
    try:
        return os.path.samestat(os.fstat(0), os.stat(os.devnull))
    except OSError:  # it is closed
        detach()
        return True


def is_in_front(file: IO[str]) -> bool:
    """Whether this process may draw on a terminal: a job in the background writes lines, as others do."""
    try:
        return os.tcgetpgrp(file.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


class Interrupts:
    """Ctrl-C, SIGTERM and the end of the terminal end the program in order; a second Ctrl-C or SIGTERM at once.

    What a run has recorded is kept either way.
    """

    def __init__(self) -> None:
        self._n = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the signals while the context is open; what was started with nohup goes on without its terminal."""
        before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
        for number in before:
            signal.signal(number, self)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal.

        Raises:
            KeyboardInterrupt: it is the first.
        """
        self._n += 1
        if self._n == 1:
            raise KeyboardInterrupt
        if number != signal.SIGHUP:  # of which a shell and the system may send one each
            end_at_once()


def end_at_once() -> None:
    """End the process without tidying up; the guardian ends what it started."""
    screen = _SHOW_CURSOR if os.isatty(2) else b""
    with suppress(OSError):  # the terminal may be gone
        os.write(2, screen + b"\nmit-build: ended at once; what was recorded is kept\n")
    os._exit(INTERRUPTED)


@contextmanager
def suspendable(
    others: Callable[[], Iterator[int]], pause: Callable[[], None], resume: Callable[[], None]
) -> Iterator[None]:
    """Let Ctrl-Z stop a run with all its processes, and `fg` or `bg` let it go on.

    Args:
        others: processes that stop with this one; they are not in its group, so that the terminal does not reach them.
        pause: called before.
        resume: called when it goes on.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        pause()
        _send(others(), signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)  # nothing happens where no shell could let it go on
        signal.signal(signal.SIGTSTP, stop)
        _send(others(), signal.SIGCONT)
        resume()

    before = signal.getsignal(signal.SIGTSTP)
    if not hears_signals() or before is signal.SIG_IGN:  # a shell without job control
        yield
        return
    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, before)


def _send(processes: Iterator[int], number: int) -> None:
    for process in processes:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue
