"""Starting a Ray on this machine, or joining a cluster that runs already."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.terminal import hears_signals
from mit_builder.engine import memory
from mit_builder.errors import CannotContinue, ConfigError

ANSWER_S = 60.0
"""How long a node may take to say that it can take part; a slower one is found out by its first worker."""
STORE_BYTES = 256 << 20
"""Of memory, for what goes between driver and workers: rows, no media; what does not fit lies on the disk. Ray would
take 30% of what is free, and refuse to start where that is little."""
ADDRESS = "RAY_ADDRESS"
"""Ray's own variable; its job service sets it for what it runs."""


@dataclass(frozen=True)
class Connected:
    """What there is to work with.

    Attributes:
        cpus: cores of all nodes.
        gpus: GPUs of all nodes.
        n_nodes: machines, or what Ray takes for such.
        is_cluster: whether workers may be elsewhere, and nodes may come and go.
    """

    cpus: float
    gpus: float
    n_nodes: int
    is_cluster: bool


def cluster_address(wanted: str | None) -> str | None:
    """The cluster to join, from the settings or the environment; None = a Ray of our own on this machine.

    Raises:
        ConfigError: it is the address of something else.
    """
    address = wanted or os.environ.get(ADDRESS)
    if not address or address == "local":
        return None
    if urlsplit(address).scheme in ("http", "https"):
        advice = f"{hints.say(Hint.SUBMIT, address=address)}; a run joins HOST:6379 or auto"
        raise ConfigError(f"{address} takes jobs: {advice}")
    if "://" in address:
        raise ConfigError(f"cannot join {address}: start the run on a node of the cluster, or submit it")
    return address


def connect(address: str | None, *, cpus: int | None, scratch: Path) -> Connected:
    """Start or join Ray.

    Args:
        address: of the cluster; None = start one of our own.
        cpus: cores that our own may use; None = all.
        scratch: folder to start in: workers import from it, and no package in the user's folder shadows ours.

    While Ray starts, a few seconds, this whole process stands in `scratch`.

    Raises:
        CannotContinue: it does not start, it runs already, or nobody answers.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is None:
        only_here()
        cpus = memory.cores(cpus)
    # A checkout that is not installed works as well: the workers find what the driver runs.
    home = str(Path(sys.modules["mit_builder"].__file__ or "").resolve().parent.parent)
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", home)]
    os.environ["PYTHONPATH"] = os.pathsep.join([home, *others])
    import ray

    if address is None:
        if ray.is_initialized():
            advice = "end it (ray.shutdown()), join it (run.ray_address=auto), or take the serial engine"
            raise CannotContinue(f"Ray runs in this process already: {advice}")
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # where somebody imported it before
    if address and ray.is_initialized():
        return _there(address)
    # On standard output, where our lines and JSON go, and no setting keeps it from there.
    ray._private.worker.print_to_stdstream = _say_nothing
    ours = {"num_cpus": cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ours["object_store_memory"] = STORE_BYTES
    options: dict[str, Any] = ours if address is None else {}
    users_folder, on_terminate = Path.cwd(), signal.getsignal(signal.SIGTERM)
    services: Any = ray._private.services
    popen = services.ConsolePopen
    services.ConsolePopen = partial(_apart, popen)
    try:
        os.chdir(scratch)
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **options,
        )
    except Exception as error:  # Ray raises it bare where a busy machine lets its node start too late
        if address:
            first = (str(error) or type(error).__name__).splitlines()[0]
            raise CannotContinue(f"cannot join the Ray cluster at {address}: {first}") from error
        serial = f"{hints.say(Hint.AGAIN)} --engine serial"
        advice = f"{hints.say(Hint.DOCTOR)} looks for what is missing; without Ray: {serial}"
        raise CannotContinue(f"Ray does not start here ({_why(error)}): {advice}") from error
    finally:
        os.chdir(users_folder)
        services.ConsolePopen = popen
        if hears_signals():
            signal.signal(signal.SIGTERM, on_terminate)  # Ray's would end the program with an exit code of its own
    return _there(address)


def _apart(popen: Any, *arguments: Any, stdin: Any = None, **more: Any) -> Any:
    """How Ray starts its own processes, and they its workers: without the terminal, in sessions of their own.

    So Ctrl-C, Ctrl-Z and the end of the terminal reach the run alone, which knows what they mean for the others.
    """
    nowhere = subprocess.DEVNULL if stdin is None else stdin
    return popen(*arguments, stdin=nowhere, start_new_session=True, **more)


def _why(error: Exception) -> str:
    """What kept Ray from starting, in few words: its own fill pages, and name its settings instead of ours."""
    if isinstance(error, OSError) and error.filename:
        return f"it cannot write {error.filename}: {error.strerror}"
    return f"{type(error).__name__}; {hints.program()} --debug shows all that it says"


def home_problem() -> str | None:
    """Why Ray cannot keep its token in the home folder; None where it can."""
    place = Path(os.path.expanduser("~")) / ".ray"
    there = next(path for path in (place, *place.parents) if os.path.exists(path))  # where it may not be asked: not
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return None
    return f"the home folder {place.parent} cannot be written to"


def _say_nothing(*words: object, **more: object) -> None:
    """Stands in for a function of Ray that prints the last log lines of lost nodes."""


def _there(address: str | None) -> Connected:
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    n_nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    return Connected(resources.get("CPU", 1.0), resources.get("GPU", 0.0), n_nodes, address is not None)


def check_nodes(problem_there: Callable[..., str | None], *arguments: Any) -> None:
    """Ask every node of the cluster whether it can take part.

    Args:
        problem_there: a function that is called on each; returns one line where something is missing.
        arguments: of its calls.

    Raises:
        CannotContinue: names the first that cannot.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    ask: Any = ray.remote(num_cpus=0, max_retries=0)(problem_there)
    calls = {
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        ): node
        for node in alive
    }
    answered, _ = ray.wait(list(calls), num_returns=len(calls), timeout=ANSWER_S)
    for call in answered:
        try:
            problem = ray.get(call)
        except ray.exceptions.RayError as error:
            text = " ".join(str(error).split())
            is_lost = "ModuleNotFoundError" not in text
            problem = None if is_lost else f"mit-builder is not installed there: {text[-200:]}"
        if problem:
            raise CannotContinue(f"node {calls[call]['NodeManagerAddress']} of the cluster: {problem}")


def only_here() -> None:
    """Prepare the environment for a Ray of our own; Ray reads it when it is imported."""
    # Every actor starts a process of its own; the idle ones that Ray keeps ready would never have work.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    os.environ.setdefault("RAY_enable_worker_prestart", "0")
    # Nobody can look at its list of calls, for which gcs_server takes 4 KB a call (measured) up to 100,000 calls.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    if home_problem() and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        # Ray makes a token that whoever asks for work must know, and would keep it in the home folder.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    # Ray takes loopback for a mistake and listens on all interfaces, unless it is told that no cluster will be.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
