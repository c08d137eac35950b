"""`mit-build submit`: what is packed and refused; the job service itself is tried in tests/faults/test_jobs.py."""

from __future__ import annotations

import contextlib
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import pytest
import yaml
from walks import settings_with, walk, worked

from manifests.ids import new_run_id
from mit_builder import __version__
from mit_builder.cli import main
from mit_builder.cli.submit import Submission
from mit_builder.config import settings as config
from mit_builder.console.terminal import Interrupts
from mit_builder.driver.runner import Runner
from mit_builder.driver.shutdown import Stop, drain_s
from mit_builder.engine import ray_jobs
from mit_builder.engine.ray_connect import cluster_address
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.engine.worker import Worker, WorkerSpec, problem_here
from mit_builder.errors import CannotContinue, ConfigError
from mit_builder.models import devices
from mit_builder.storage.settings_file import Changes
from mit_builder.storage.workspace import Workspace


def submission(
    *overrides: str,
    workspace: str = "s3://bucket/talks",
    lists: tuple[Path, ...] = (),
    addresses: Sequence[str] = ("http://a.test/x;y",),
) -> Submission:
    return Submission(workspace, Changes.asked(None, overrides), list(addresses), list(lists), ["all"], 3, True)


def test_what_is_sent_is_a_command_its_lists_and_the_settings_that_differ(tmp_path: Path) -> None:
    given = tmp_path / "my urls; rm -rf.txt"
    given.write_text("http://a.test/1\n")
    folder = tmp_path / "job"
    folder.mkdir()
    command = submission("pose.stride=5", lists=(given,)).pack(folder)
    assert shlex.split(command) == [
        *(
            "python",
            "-m",
            "mit_builder",
            "run",
            "--workspace",
            "s3://bucket/talks",
            "--config",
            "settings.yaml",
        ),
        *("--unset", "run.ray_address"),
        *("--sources", "sources-0.txt", "--stage", "all", "--limit", "3", "--retry-failed", "--", "http://a.test/x;y"),
    ]
    assert yaml.safe_load((folder / "settings.yaml").read_text()) == {"pose": {"stride": 5}}
    assert (folder / "sources-0.txt").read_text() == "http://a.test/1\n"
    assert sorted(path.name for path in folder.iterdir()) == ["settings.yaml", "sources-0.txt"]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (submission(workspace="talks"), "give s3://, gs://, az://, or a shared folder's full path"),
        (submission(workspace="s3://key:hidden@bucket"), "must hold no password"),
        (submission("download.proxy=http://u:hidden@proxy"), "download.proxy may hold a password"),
        (submission("download.proxy=u:hidden@proxy:3128"), "download.proxy may hold a password"),
        (submission("download.proxy=socks5h://u:hidden@[::1]"), "download.proxy may hold a password"),
        (submission("download.proxy=http://proxy:3128/?pass=hidden"), "set HTTPS_PROXY and HTTP_PROXY in the env"),
        (submission("shards.contact=u:hidden@mail.test"), "shards.contact holds a user name or password"),
        (submission(addresses=["u:hidden@a.test/x.mp4"]), "source 1 holds a user name or password"),
        (submission(addresses=["http://a.test", "https://a.test/x?X-Amz-Signature=hidden"]), "source 2 is signed"),
        (submission("shards.contact=https://u:hidden@mail.test"), "shards.contact holds a user name or password"),
        (
            submission(addresses=["http://a.test", "https://u:hidden@a.test/x"]),
            "source 2 holds a user name or password",
        ),
        (submission("run.ray_address=auto"), "run.ray_address is given by the cluster"),
        (submission(lists=(Path("/none.txt"),)), "no such source list: /none.txt"),
        (submission(lists=(Path(__file__),)), "a source list ends in one of"),
    ],
)
def test_what_cannot_work_there_or_would_be_seen_there_is_refused(refused: Submission, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        refused.check()
    assert "hidden" not in str(caught.value)


def test_a_list_with_a_password_in_it_is_not_sent(tmp_path: Path) -> None:
    given = tmp_path / "list.csv"
    given.write_text("url,title\nhttp://a.test/1,x\nhttp://u:hidden@a.test/2?at=me@home,y\n")
    with pytest.raises(ConfigError, match=r"list\.csv, source 2, holds a user name or password") as caught:
        submission(lists=(given,)).check()
    assert "hidden" not in str(caught.value)
    given.write_text("url\nhttp://a.test/@channel\nhttp://a.test/2?at=me@home\n")
    submission(lists=(given,)).check()


class Service:
    """A job service whose connection breaks: in the middle of what a job prints, and while it is asked."""

    def __init__(self, broken: list[Exception | None], states: list[str | Exception]) -> None:
        self.broken, self.states = broken, states

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        text = "one\ntwo\nthree\nfour\n"
        error = self.broken.pop(0)
        for start in range(0, len(text) - 8 * len(self.broken), 4):
            yield text[start : start + 4]
        if error is not None:
            raise error

    def get_job_info(self, job_id: str) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, Exception):
            raise state
        return SimpleNamespace(status=state, message="", driver_exit_code=0)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ray_jobs.Jobs:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(ray_jobs, "AGAIN_S", 0.0)
    made = object.__new__(ray_jobs.Jobs)
    made.address = "http://head:8265"
    return made


@pytest.mark.parametrize("state_at_the_break", ["RUNNING", "SUCCEEDED"])
def test_a_follower_whose_connection_breaks_goes_on_and_says_every_word_once(
    jobs: ray_jobs.Jobs, state_at_the_break: str
) -> None:
    import aiohttp

    broken = [RuntimeError("WebSocket connection closed unexpectedly"), aiohttp.ServerDisconnectedError(), None]
    away: list[str | Exception] = [ConnectionError("refused"), RuntimeError("Request failed with status code 503: x")]
    jobs._client = Service(list(broken), [*away, state_at_the_break, "SUCCEEDED"])
    said: list[str] = []
    jobs.follow("job", said.append)
    assert "".join(said) == "one\ntwo\nthree\nfour\n"
    assert jobs.wait("job") == "SUCCEEDED"


def test_a_job_that_there_is_not_and_a_service_that_stays_away_are_one_line(
    jobs: ray_jobs.Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs._client = Service([], [RuntimeError("Request failed with status code 404: no such job")])
    with pytest.raises(CannotContinue, match="no such job"):
        jobs.wait("job")
    monkeypatch.setattr(ray_jobs, "OUTAGE_S", 0.01)
    jobs._client = Service([], [ConnectionError("refused")])
    with pytest.raises(CannotContinue, match=r"^the job service at http://head:8265 says: refused$"):
        jobs.wait("job")


def test_a_job_waits_for_a_cluster_that_comes_up(
    jobs: ray_jobs.Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    comes_up = RuntimeError("Request failed with status code 500: No available agent to submit job, please try again")
    answers: list[Exception | str] = [comes_up, comes_up, "job-1"]

    def submit_job(**job: Any) -> str:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    jobs._client = SimpleNamespace(submit_job=submit_job)
    assert jobs.submit("true", tmp_path, cpus=1.0, grace_s=30) == "job-1"
    answers[:] = [RuntimeError("status code 500: something else"), "job-2"]
    with pytest.raises(CannotContinue, match="something else"):
        jobs.submit("true", tmp_path, cpus=1.0, grace_s=30)
    monkeypatch.setattr(ray_jobs, "COMES_UP_S", 0.0)
    answers[:] = [comes_up]
    with pytest.raises(CannotContinue, match="No available agent"):
        jobs.submit("true", tmp_path, cpus=1.0, grace_s=30)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and closes them."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def hang_up() -> None:
            try:
                while True:
                    listening.accept()[0].close()
            except OSError:
                return

        threading.Thread(target=hang_up, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--workspace", "s3://a"], 2, "--address is missing"),
        (["--address", "http://127.0.0.1:1"], 2, "--workspace is missing"),
        (["--address", "127.0.0.1:1", "--workspace", "s3://a"], 2, "must look like http://HOST:8265"),
        (["--address", "http://me:hidden@127.0.0.1:1", "--workspace", "s3://a"], 2, "must hold no password"),
        (["--address", "http://127.0.0.1:1", "--workspace", "s3://a"], 3, "nobody answers at http://127.0.0.1:1: "),
        (["--address", "http://127.0.0.1:1", "--stop", "raysubmit_x"], 3, "nobody answers at http://127.0.0.1:1: "),
    ],
)
def test_a_cluster_that_cannot_be_asked_is_one_line(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["submit", *arguments])
    err = capsys.readouterr().err
    assert (ended.value.code, message in err, "hidden" in err, err.count("\n")) == (code, True, False, 1), err


def test_a_token_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    (tmp_path / "empty").touch()
    for name, message in (("none", "No such file"), ("empty", "is empty")):
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / name))
        with pytest.raises(SystemExit) as ended:
            main.main(["submit", "--address", "http://127.0.0.1:1", "--workspace", "s3://a"])
        err = capsys.readouterr().err
        assert (ended.value.code, message in err, err.count("\n")) == (3, True, 1)


def test_something_else_at_the_address_is_one_line(silent_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main(["submit", "--address", f"http://127.0.0.1:{silent_port}", "--workspace", "s3://a"])
    assert ended.value.code == 3
    assert f"the job service at http://127.0.0.1:{silent_port} says: " in capsys.readouterr().err


def test_without_rays_job_client_the_extra_is_named(
    silent_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray.job_submission", None)
    with pytest.raises(SystemExit) as ended:
        main.main(["submit", "--address", f"http://127.0.0.1:{silent_port}", "--workspace", "s3://a"])
    assert ended.value.code == 3
    assert "pip install 'mit-builder[cluster]'" in capsys.readouterr().err


def test_a_run_joins_the_cluster_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address(None) is None
    assert cluster_address("10.0.0.1:6379") == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert cluster_address(None) == "auto"
    assert cluster_address("local") is None
    with pytest.raises(ConfigError, match="takes jobs"):
        cluster_address("http://head:8265")
    with pytest.raises(ConfigError, match="start the run on a node of the cluster"):
        cluster_address("ray://head:10001")


def test_the_grace_is_what_was_set_else_what_the_job_service_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_STOP_WAIT_TIME_S", raising=False)
    assert drain_s(None) == 0.0
    monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", "60")
    assert drain_s(None) == 55.0
    assert drain_s(7.0) == 7.0


def test_a_run_that_is_asked_to_end_records_what_runs_and_starts_nothing_new() -> None:
    def ask(runner: Runner) -> None:
        if any(lane.running for lane in runner.lanes.values()) and not runner.stop.is_asked:
            signal.raise_signal(signal.SIGTERM)

    workspace, settings, steps = Workspace(f"memory://{new_run_id()}"), settings_with(), fakes.steps()
    engine = SerialEngine(worker_specs(settings, workspace, "run", steps))
    runner = Runner(workspace, settings, run_id="run", engine=engine, steps=steps, on_progress=ask)
    # Its worker takes a moment longer than the loop that starts it.
    said: list[str] = []
    wait, engine.wait = engine.wait, lambda timeout_s: wait(timeout_s) if runner.stop.is_asked else []  # type: ignore[method-assign]
    runner.stop = Stop(30.0, said.append)
    with runner.stop.listening(), pytest.raises(KeyboardInterrupt):
        runner.run(map(fakes.source, ("a", "b", "c")))
    assert said == ["asked to end: nothing new is started, what runs has 30 s"]
    assert not any(lane.running for lane in runner.lanes.values())
    assert worked(runner) == {"download": 1}
    assert worked(walk(workspace, ["a", "b", "c"]))["download"] == 2


def test_a_second_signal_or_no_grace_ends_a_run_at_once() -> None:
    stop = Stop(30.0)
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        stop.check(is_working=True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    with Stop(0.0).listening(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_a_further_signal_is_for_our_own_handler_and_no_foreign_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr("mit_builder.console.terminal.end_at_once", lambda: ended.append("at once"))

    def foreign(number: int, frame: object) -> None:
        """As Ray's, which ends the program with an exit code of its own."""
        ended.append("foreign")
        sys.exit(15)

    def asked(n: int) -> None:
        with Stop(30.0).listening():
            for _ in range(n):
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, foreign)
    try:
        asked(3)
        assert ended == []
        assert signal.getsignal(signal.SIGTERM) is foreign
        with Interrupts().taken():
            asked(2)  # the second is the first that ends the program
            assert ended == []
        with Interrupts().taken():
            asked(3)
            assert ended == ["at once"]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_does_not_end_within_its_grace_is_not_waited_for() -> None:
    stop = Stop(0.05)
    with stop.listening():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            stop.check(is_working=True)


def test_on_a_cluster_its_gpus_are_planned_with_though_the_driver_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_elsewhere", {})
    monkeypatch.setattr(devices, "n_gpus_here", lambda: 0)
    assert devices.gpu_resources("auto", share=0.5).gpus == 0
    devices.count_on_cluster(3)
    monkeypatch.delattr(devices, "n_gpus_here")  # it imports torch, for nothing
    needs = devices.gpu_resources("auto", share=0.5)
    assert (needs.gpus, needs.max_workers) == (0.5, 3)


def test_a_machine_says_why_it_cannot_take_part(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "ws")
    workspace.scratch("run-1")
    spec = WorkerSpec("fakes:FakePose", config.Settings().pose, workspace.uri, "run-1")
    assert problem_here(spec, __version__) is None
    assert "mit-builder" in str(problem_here(spec, "0.0.0"))
    other_run = replace(spec, run_id="run-2")
    assert "is not the workspace of this run: share it" in str(problem_here(other_run, __version__))
    nowhere = replace(spec, workspace_uri=str(tmp_path / "none"))
    assert "cannot use workspace" in str(problem_here(nowhere, __version__))
    assert not (tmp_path / "none").exists()
    worker = Worker(other_run)
    assert "share it between the machines" in str(worker.ready(elsewhere=True))
    assert Worker(spec).ready(elsewhere=True) is None
