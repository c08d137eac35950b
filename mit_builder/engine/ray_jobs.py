"""Ray's job service: a run is handed to a cluster, followed and stopped over HTTP. Needs ray[default] on both sides.

A token (`RAY_AUTH_MODE=token` with `RAY_AUTH_TOKEN` or `RAY_AUTH_TOKEN_PATH`) is read by Ray from the environment and
goes into a header: it is in no argument, file or log of ours.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mit_builder.console import hints
from mit_builder.errors import CannotContinue, ConfigError

ANSWER_S = 10.0
_CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
STOPPED = ("SUCCEEDED", "FAILED", "STOPPED")
OUTAGE_S, AGAIN_S = 300.0, 1.0
"""A run goes on while its job service cannot be reached; who follows it waits for so long, and asks so often."""
TAILS = 3
"""How often the end of what a job has printed is asked for."""
_AWAY = re.compile(r"status code 5\d\d")
_NOT_UP = "No available agent"
"""What the job service says, having taken nothing, while the cluster comes up; more than a minute is no start."""
COMES_UP_S = 60.0
GRACE = "RAY_JOB_STOP_WAIT_TIME_S"
"""How long Ray waits between SIGTERM and SIGKILL, read by its job supervisor; 3 s where it is not set."""


def _check_token() -> None:
    """Ray ends the whole program where it is told to read a token and finds none."""
    if os.environ.get("RAY_AUTH_MODE") != "token" or os.environ.get("RAY_AUTH_TOKEN"):
        return
    told = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(told) if told else Path.home() / ".ray" / "auth_token"
    try:
        found = path.read_text().strip()
    except OSError as error:
        raise CannotContinue(f"no token: {path}: {error.strerror}; set RAY_AUTH_TOKEN_PATH") from error
    if not found:
        raise CannotContinue(f"no token: {path} is empty")


class Jobs:
    """The jobs of one cluster.

    Args:
        address: `http://HOST:8265`.

    Raises:
        ConfigError: the address is no such address.
        CannotContinue: nobody answers there, the token is missing or wrong, or ray[default] is not installed here.
    """

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--address {parts.scheme or address} must look like http://HOST:8265")
        if "@" in parts.netloc:
            raise ConfigError("--address must hold no password: give the token by RAY_AUTH_TOKEN_PATH")
        _check_token()
        self.address = address.rstrip("/")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), ANSWER_S).close()
        except OSError as error:
            raise CannotContinue(f"nobody answers at {self.address}: {error.strerror or error}") from error
        with self._asking():
            # Ray prefers what stands in the environment, where a run would look for a cluster to join.
            for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
                os.environ.pop(name, None)
            from ray.job_submission import JobSubmissionClient

            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.ERROR)
            self._client: Any = JobSubmissionClient(self.address)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        import ray

        try:
            yield
        except ImportError as error:
            raise CannotContinue(f"submitting needs ray[default]: {hints.pip('mit-builder[cluster]')}") from error
        except ray.exceptions.AuthenticationError as error:
            advice = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token"
            raise CannotContinue(f"{self.address} does not let us in: {advice}") from error
        except (RuntimeError, ConnectionError, ValueError, OSError) as error:
            text = " ".join(str(error).split())
            if "Please install" in text or "ray[default]" in text:
                raise CannotContinue(f"submitting needs ray[default]: {hints.pip('mit-builder[cluster]')}") from error
            raise CannotContinue(f"the job service at {self.address} says: {text[:300]}") from error

    def submit(self, entrypoint: str, folder: Path, *, cpus: float, grace_s: int) -> str:
        """Hand a command over; the job's id.

        Args:
            entrypoint: a line for a shell on the cluster.
            folder: what the command finds in its working directory.
            cpus: cores that Ray reserves for the command itself.
            grace_s: from SIGTERM to SIGKILL when it is stopped.
        """
        environment = {"working_dir": str(folder), "env_vars": {GRACE: str(grace_s)}}
        until_s = time.monotonic() + COMES_UP_S
        while True:
            try:
                with self._asking():
                    return str(
                        self._client.submit_job(
                            entrypoint=entrypoint, runtime_env=environment, entrypoint_num_cpus=cpus
                        )
                    )
            except CannotContinue as error:
                if _NOT_UP not in str(error) or time.monotonic() > until_s:
                    raise
            time.sleep(AGAIN_S)

    def _info(self, job_id: str) -> Any:
        until_s = time.monotonic() + OUTAGE_S
        while True:
            try:
                with self._asking():
                    return self._client.get_job_info(job_id)
            except CannotContinue as error:
                is_away = isinstance(error.__cause__, OSError) or _AWAY.search(str(error))
                if not is_away or time.monotonic() > until_s:
                    raise
            time.sleep(AGAIN_S)

    def status(self, job_id: str) -> tuple[str, str]:
        """State of a job, in Ray's words, and what Ray says of it."""
        info = self._info(job_id)
        return str(info.status), " ".join((info.message or "").split())

    def exit_code(self, job_id: str) -> int | None:
        """What the command ended with; None where Ray does not know."""
        code: int | None = self._info(job_id).driver_exit_code
        return code

    def wait_until_begun(self, job_id: str, limit_s: float) -> None:
        """Return once a job runs or has ended.

        Raises:
            CannotContinue: it is still pending when the time is over; it is stopped then.
        """
        until_s = time.monotonic() + limit_s
        while self.status(job_id)[0] == "PENDING":
            if time.monotonic() > until_s:
                why = self.status(job_id)[1]
                self.stop(job_id)
                raise CannotContinue(
                    f"{job_id} did not begin within {limit_s:g} s, so it was stopped: has the cluster what it asks for "
                    f"(--driver-cpus), and does its head reach the job's files? Ray says: {why}"
                )
            time.sleep(0.5)

    def follow(self, job_id: str, say: Callable[[str], None]) -> None:
        """Pass on what a job prints until it ends, each word once, also where the connection breaks in between."""
        n_said = 0

        async def tail() -> None:
            nonlocal n_said
            n_seen = 0  # each time it is told from the start
            async for text in self._client.tail_job_logs(job_id):
                n_seen += len(text)
                if n_seen > n_said:
                    say(text[n_said - n_seen :])
                    n_said = n_seen

        with self._asking():
            from aiohttp import ClientError

        n_ended = 0
        while n_ended < TAILS:
            try:
                with self._asking():
                    asyncio.run(tail())
            except (CannotContinue, ClientError):
                is_whole = False
            else:
                is_whole = True
            if self.status(job_id)[0] in STOPPED:
                n_ended += TAILS if is_whole else 1
            else:
                time.sleep(AGAIN_S)

    def wait(self, job_id: str, limit_s: float | None = None) -> str:
        """The state in which a job ended, or in which it is when the time is over."""
        until_s = None if limit_s is None else time.monotonic() + limit_s
        while True:
            state = self.status(job_id)[0]
            if state in STOPPED or (until_s is not None and time.monotonic() > until_s):
                return state
            time.sleep(1.0)

    def stop(self, job_id: str) -> bool:
        """Ask a job to end: SIGTERM now, SIGKILL after its grace; whether it was still going on."""
        with self._asking():
            return bool(self._client.stop_job(job_id))
