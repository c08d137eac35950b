"""Work for the report in several processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from mit_builder.errors import CannotContinue

Task = TypeVar("Task")
Made = TypeVar("Made")


def in_processes(function: Callable[[Task], Made], tasks: Sequence[Task], n_processes: int, died: str) -> list[Made]:
    """What a function makes of each task, in their order.

    A process between this one and those that work starts them, as they import the main module of who starts them: so a
    script that calls `mit_builder.run` needs no `__main__` guard. They hear no Ctrl-C, which goes to all: this one ends
    them.

    Args:
        function: of a module.
        tasks: at least one.
        n_processes: at most.
        died: what is said where a process dies.

    Raises:
        CannotContinue: a process died.
        Exception: what the function raised.
    """
    begin = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import start; start()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", begin], stdin=pipe, stdout=pipe, start_new_session=True) as between:
        try:
            answer, _ = between.communicate(pickle.dumps((function, list(tasks), min(len(tasks), n_processes))))
        except BaseException:
            os.killpg(between.pid, signal.SIGKILL)
            raise
    if between.returncode != 0:
        raise CannotContinue(died)
    made, errors = pickle.loads(answer)
    for error in errors:
        if isinstance(error, BrokenProcessPool):
            raise CannotContinue(died) from error
        raise error
    return made  # type: ignore[no-any-return]


def start() -> None:
    """What the process between does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    function, tasks, n_processes = pickle.load(sys.stdin.buffer)
    # A fresh interpreter a process: forking one that has threads of Arrow can hang.
    with ProcessPoolExecutor(n_processes, multiprocessing.get_context("spawn")) as pool:
        calls = [pool.submit(function, task) for task in tasks]
    errors = [error for call in calls if (error := call.exception()) is not None]
    with answers:
        pickle.dump(([] if errors else [call.result() for call in calls], errors), answers)
