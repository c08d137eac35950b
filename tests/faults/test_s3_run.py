"""The command on a workspace on S3: runs with fakes, a server that fails, kills, two drivers, looks from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from object_storage import ENVIRONMENT, SECRET, FlakyProxy, S3Server, flaky_proxy

from mit_builder.dataset.index import Index, parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.storage.lease import KEY
from mit_builder.storage.workspace import Workspace

HERE = Path(__file__).resolve().parent
SOURCES = ("a", "sleeper?pose=sleep&lengths=200&while={flag}", "bug?shots=bug", "list?list=b,c")
"""One of them takes a minute as long as a file is there."""
SETTINGS = (
    "shards.n_buckets=2",
    "download.host_interval_s=0",
    "run.retry_base_s=0.1",
    "download.proxy=http://u:hush@p",
)


@dataclass
class Place:
    """A workspace on S3 behind a flaky proxy, and the command in an environment of its own."""

    uri: str
    proxy: FlakyProxy
    folder: Path
    flag: Path
    said: list[str] = field(default_factory=list)

    def start(self, *arguments: str, name: str = "run") -> subprocess.Popen[str]:
        """Start `mit-build` with fakes; its output goes on in `said`."""
        environment = {
            **os.environ,
            **ENVIRONMENT,
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
            "PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[1], HERE.parent, HERE))),
            "KILLS_FAKES": "1",
            "KILLS_EXPIRY_S": "25",  # on a busy machine a program takes longer to start than the 6 s of other tests
            "KILLS_STARTED": str(self.folder / "started"),
            "TMPDIR": str(self.folder / "tmp"),
            "RAY_TMPDIR": "/tmp",  # its sockets allow no longer one
        }
        (self.folder / "tmp").mkdir(exist_ok=True)
        command = [sys.executable, str(HERE / "launcher.py"), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=self.folder)

    def call(self, *arguments: str) -> tuple[int, str]:
        """Exit code and all output."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=180)
        assert "Traceback" not in err, err
        self.said.append(out + err)
        return process.returncode, out + err

    def run(self, *arguments: str) -> list[str]:
        sources = [f"http://fake.test/{name.format(flag=self.flag)}" for name in SOURCES]
        sets = [part for setting in SETTINGS for part in ("--set", setting)]
        return ["run", "--workspace", self.uri, *sets, *arguments, *sources]

    def index(self) -> Index:
        return parse_index(Workspace(self.uri).read(INDEX_KEY).decode())

    def left(self) -> list[Path]:
        """Files that lie in the temporary folder, those of Ray's sessions aside."""
        return [p for p in (self.folder / "tmp").glob("mit-build-*/**/*") if p.is_file()]


@pytest.fixture
def place(s3: S3Server, tmp_path: Path, flag: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    name = request.node.name.replace("_", "-")[:60].strip("-")
    with flaky_proxy(s3.endpoint, seed=4, share=0.1) as proxy:
        yield Place(f"{s3.bucket(name)}/talks", proxy, tmp_path, flag)


@pytest.fixture(scope="module")
def flag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flag") / "on"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, flag: Path) -> Index:
    """The index that a local workspace ends with."""
    folder = tmp_path_factory.mktemp("local")
    with flaky_proxy("http://127.0.0.1:1", share=0.0) as nobody:
        local = Place(str(folder / "ws"), nobody, folder, flag)
        code, said = local.call(*local.run("--engine", "serial"))
    assert code == 1, said
    return local.index()


def test_the_commands_work_on_s3_that_fails_and_secrets_stay_where_they_are(place: Place, undisturbed: Index) -> None:
    code, said = place.call(*place.run("--engine", "serial"))
    assert code == 1, said
    assert place.index() == undisturbed
    assert place.proxy.count("PUT") > place.proxy.count("PUT", "passed") > 50
    code, said = place.call(*place.run("--engine", "serial"))
    assert code == 1
    assert "0 units worked on" in said
    code, said = place.call("status", "--json", "--workspace", place.uri)
    assert json.loads(said)["stages"]["shots"]["failed"] == {"permanent": 1}
    code, said = place.call("why", "http://fake.test/bug?shots=bug", "--workspace", place.uri)
    assert "shots" in said
    Workspace(place.uri).write("clips/orphan.0123abcd.mp4", b"1")
    code, said = place.call("gc", "--workspace", place.uri)
    assert (code, said) == (0, "1 file removed\n")
    code, said = place.call("retry", "--class", "permanent", "--engine", "serial", "--workspace", place.uri)
    assert code == 1
    assert place.index() == undisturbed
    code, said = place.call("preview", "none", "--workspace", place.uri)
    assert (code, "no clip or candidate none" in said) == (2, True)
    assert place.left() == []
    stored = Workspace(place.uri)
    everything = b"".join(map(stored.read, stored.names(""))) + "".join(place.said).encode()
    assert SECRET.encode() not in everything
    assert b"hush" not in everything


def started(place: Place) -> set[str]:
    """Stages that a call was started of."""
    path = place.folder / "started"
    return {line.partition(" ")[0] for line in path.read_text().splitlines()} if path.exists() else set()


def test_a_second_driver_is_refused_and_a_killed_one_is_followed(place: Place, undisturbed: Index) -> None:
    place.flag.touch()
    first = place.start(*place.run("--engine", "serial"))
    deadline = time.monotonic() + 60
    while "pose" not in started(place) and time.monotonic() < deadline:
        time.sleep(0.1)
    code, said = place.call(*place.run("--engine", "serial"))
    assert code == 3, said
    assert f"another run uses this workspace (process {first.pid} on " in said
    place.flag.unlink()
    first.kill()
    first.communicate()
    assert Workspace(place.uri).exists(KEY)
    code, said = place.call(*place.run("--engine", "serial"))
    assert code == 1, said
    assert f"this workspace was in use (process {first.pid} on " in said
    assert place.index() == undisturbed
    assert place.left() == []
