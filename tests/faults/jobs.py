"""`mit-build submit` against a Ray head of its own on loopback, with real stages on two short videos.

    python tests/faults/jobs.py

A run is submitted to a head that asks for a token, stopped in mid-pose, submitted again and followed; its workspace
lies on an S3 server, and its dataset is compared with that of a run without a cluster. Then what cannot work: no token,
a wrong one, more cores than there are.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import REAL_SETTINGS, contents, short_videos
from cluster import Result, compare, fetch
from object_storage import ENVIRONMENT, SECRET, free_port, s3_server
from processes import Family, alive, command_of, family

HERE = Path(__file__).resolve().parent
PATIENCE_S = 240.0


class Trial:
    """One head, one workspace, and everything that is said.

    Attributes:
        problems: one line each.
    """

    def __init__(self, base: Path, endpoint: str) -> None:
        self.base = base
        self.problems: list[str] = []
        self.said: list[str] = []
        self.arguments_seen: set[str] = set()
        self.token = secrets.token_hex(32)
        (base / "token").write_text(self.token)
        self.environment = {
            **os.environ,
            **ENVIRONMENT,
            "AWS_ENDPOINT_URL": endpoint,
            "PYTHONPATH": str(HERE.parents[1]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(base / "token"),
            "RAY_worker_niceness": "0",
            "TMPDIR": str(base / "tmp"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self.environment.pop("RAY_ADDRESS", None)
        (base / "tmp").mkdir()
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    def expect(self, what: str, holds: bool) -> None:
        print(f"{'ok' if holds else 'NOT'} {what}", flush=True)
        if not holds:
            self.problems.append(what)

    @contextmanager
    def head(self) -> Iterator[None]:
        """A head with two cores, as `ray start --head` makes it."""
        command = ["ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}"]
        command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.port}"]
        command += ["--num-cpus=2", f"--temp-dir={self.base / 'ray'}", "--disable-usage-stats"]
        with (self.base / "head.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=self.base)
        seen: Family = {}
        try:
            self._wait_for_head(process)
            yield
        finally:
            seen |= family(process.pid)
            process.terminate()
            process.wait(60)
            for pid, _ in seen:
                if alive({key: text for key, text in seen.items() if key[0] == pid}):
                    os.kill(pid, 9)

    def _wait_for_head(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + 90
        while time.monotonic() < until and process.poll() is None:
            _, said = self.call("submit", "--address", self.address, "--stop", "none")
            if "does not exist" in said or "Could not find" in said:
                return
            time.sleep(1.0)
        raise SystemExit(f"the head does not come up: {(self.base / 'head.log').read_text()}")

    def call(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """`mit-build` from elsewhere: exit code and all output."""
        command = [sys.executable, "-m", "mit_builder", *arguments]
        told = self.environment | environment
        done = subprocess.run(
            command, env=told, cwd=self.base, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )
        self.said.append(done.stdout + done.stderr)
        if "Traceback" in done.stderr or "internal error" in done.stderr:
            self.problems.append(done.stderr)
        return done.returncode, done.stdout + done.stderr

    def watch_arguments(self) -> None:
        """Note the command line of every process there is."""
        self.arguments_seen |= {command_of(int(name)) for name in os.listdir("/proc") if name.isdigit()}


def stopped_and_resumed(trial: Trial, uri: str, videos: list[str]) -> None:
    """Submit, stop in mid-pose, look, submit again and follow."""
    (trial.base / "urls.txt").write_text("\n".join(videos))
    sets = [part for setting in REAL_SETTINGS for part in ("--set", setting)]
    submit = ["submit", "--address", trial.address, "--sources", "urls.txt", "--workspace", uri, *sets]
    started = time.monotonic()
    code, said = trial.call(*submit)
    job_id = said.split()[1]
    trial.expect(f"submitted within {time.monotonic() - started:.1f} s: {job_id}", code == 0)
    until = time.monotonic() + PATIENCE_S
    begun = False
    while not begun and time.monotonic() < until:
        trial.watch_arguments()
        code, said = trial.call("status", "--json", "--workspace", uri)
        begun = code == 0 and json.loads(said)["stages"].get("shots", {}).get("done", 0) > 0
        time.sleep(0.5)
    trial.expect("status from elsewhere tells of the run while it goes on", begun)
    started = time.monotonic()
    code, said = trial.call("submit", "--address", trial.address, "--stop", job_id)
    trial.expect(
        f"stopped within {time.monotonic() - started:.1f} s: {said.strip()}", (code, "stopped" in said) == (0, True)
    )
    code, said = trial.call("submit", "--address", trial.address, "--attach", job_id)
    trial.expect("its log says that it was asked to end", "asked to end: nothing new is started" in said)
    trial.expect("the lease was given back", not _has(uri, "lease.json"))
    code, said = trial.call(*submit, "--follow")
    trial.expect("submitted again, followed to its end", (code, "2 clips in the dataset" in said) == (0, True))
    print("".join(f"    {line}\n" for line in said.splitlines()[-12:]))
    code, said = trial.call("status", "--workspace", uri, RAY_AUTH_MODE="disabled")
    trial.expect("status from elsewhere, without a token", "2 clips in the dataset" in said)
    code, said = trial.call(*submit, "--wait", "--limit", "1", "--set", "filter.min_clip_s=-1")
    trial.expect("a wrong setting is refused before anything is sent", code == 2)


def _has(uri: str, key: str) -> bool:
    from mit_builder.storage.workspace import Workspace

    return Workspace(uri).exists(key)


def what_cannot_work(trial: Trial, uri: str) -> None:
    """Each is one line and an exit code."""
    submit = ["submit", "--address", trial.address, "--workspace", uri, "http://127.0.0.1:1/a.mp4"]
    (trial.base / "wrong").write_text("0" * 64)
    code, said = trial.call(*submit, RAY_AUTH_TOKEN_PATH=str(trial.base / "wrong"))
    trial.expect(f"a wrong token: {said.strip()}", (code, "does not let us in" in said) == (3, True))
    code, said = trial.call(*submit, RAY_AUTH_TOKEN_PATH=str(trial.base / "none"), HOME=str(trial.base))
    trial.expect(f"no token: {said.strip()}", code == 3 and said.count("\n") == 1)
    code, said = trial.call(*submit, "--driver-cpus", "64", "--pending-s", "8")
    trial.expect(f"more cores than there are: {said.splitlines()[-1]}", (code, "did not begin" in said) == (3, True))


def nothing_leaked(trial: Trial) -> None:
    """The token and the keys of the storage stand in no log, no job and no command line."""
    files = [path for path in (trial.base / "ray").rglob("*") if path.is_file()]
    wrong = [path.name for path in files for what in (trial.token, SECRET) if what.encode() in path.read_bytes()]
    trial.expect(f"no secret in {len(files)} files of Ray's session: {wrong}", not wrong)
    said = "".join(trial.said)
    trial.expect("no secret in what was said", trial.token not in said and SECRET not in said)
    seen = " ".join(trial.arguments_seen)
    trial.expect(
        f"no secret in {len(trial.arguments_seen)} command lines", trial.token not in seen and SECRET not in seen
    )


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="jobs-") as folder, s3_server() as server:
        base = Path(folder)
        os.environ.update(ENVIRONMENT | {"AWS_ENDPOINT_URL": server.endpoint})
        uri = f"{server.bucket('jobs')}/talks"
        videos = [str(path) for path in short_videos(base)]
        trial = Trial(base, server.endpoint)
        sets = [part for setting in REAL_SETTINGS for part in ("--set", setting)]
        trial.call("run", "--engine", "serial", "--workspace", str(base / "alone"), *sets, *videos)
        with trial.head():
            stopped_and_resumed(trial, uri, videos)
            what_cannot_work(trial, uri)
        nothing_leaked(trial)
        compared = Result()
        compare(contents(base / "alone"), fetch(uri, base / "fetched"), compared)
        trial.expect(
            f"dataset and artifacts are those of a run without a cluster {compared.problems or ''}",
            not compared.problems,
        )
    print(*(trial.problems or ["all as it should be"]), sep="\n")
    return 1 if trial.problems else 0


if __name__ == "__main__":
    sys.exit(main())
