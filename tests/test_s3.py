"""The workspace on a real S3 server, and on one that fails."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fakes
import pytest
from object_storage import S3Server, flaky_proxy
from tiny_dataset import build

import mit_builder.storage.lease
import mit_builder.storage.object_store
import mit_builder.storage.scratch
import mit_builder.storage.workspace
from manifests.ids import new_run_id
from manifests.rows import Artifact
from mit_builder.config import settings
from mit_builder.dataset.index import parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.dataset.validate import validate
from mit_builder.driver.runner import Runner
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.engine.worker import Worker, WorkerSpec
from mit_builder.errors import CannotContinue, ConfigError, UnitError, WorkspaceError
from mit_builder.storage.lease import KEY, lease
from mit_builder.storage.workspace import Workspace

SETTINGS = settings.load(None, ["shards.n_buckets=2"])


@pytest.fixture
def uri(s3: S3Server, request: pytest.FixtureRequest) -> str:
    """A workspace of the test's own; of the same name each time, so that the same requests fail."""
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:16]
    return f"{s3.bucket(f'test-{name}')}/a/b"


def run(workspace: Workspace, names: list[str]) -> Runner:
    engine = SerialEngine(worker_specs(SETTINGS, workspace, "run", fakes.steps()))
    runner = Runner(workspace, SETTINGS, run_id="run", engine=engine, steps=fakes.steps())
    runner.run(map(fakes.source, names))
    return runner


def in_memory(names: list[str]) -> Workspace:
    workspace = Workspace(f"memory://{new_run_id()}")
    run(workspace, names)
    return workspace


def assert_same_dataset(one: Workspace, other: Workspace) -> None:
    assert parse_index(one.read(INDEX_KEY).decode()) == parse_index(other.read(INDEX_KEY).decode())
    for folder in ("videos", "tracks", "clips", "poses", "speech", "dataset"):
        assert one.names(folder) == other.names(folder)


def file_of(folder: Path, n_bytes: int, name: str = "new.bin") -> Path:
    path = folder / name
    path.write_bytes(random.Random(n_bytes).randbytes(n_bytes))
    return path


def test_a_run_on_s3_makes_what_a_run_in_memory_makes(uri: str) -> None:
    remote = Workspace(uri)
    run(remote, ["a", "b"])
    assert_same_dataset(remote, in_memory(["a", "b"]))


@pytest.mark.parametrize("seed", [1])
def test_a_run_on_s3_that_fails_in_every_way_makes_the_same(
    s3: S3Server, uri: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky_proxy(s3.endpoint, seed=seed, share=0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        remote = Workspace(uri)
        runner = run(remote, ["a", "b"])
        again = run(remote, ["a", "b"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert runner.tally.failed == again.tally.failed == 0
    assert sum(step.worked_on for step in again.tally.steps.values()) == 0
    assert {fate for _, _, fate in proxy.requests} == {*proxy.only, "passed"}
    assert_same_dataset(Workspace(uri), in_memory(["a", "b"]))


@pytest.mark.parametrize("fate", ["error", "cut before", "cut after", "cut inside"])
def test_a_large_file_goes_up_in_parts_and_comes_down_whole_whatever_fails(
    s3: S3Server, uri: str, fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky_proxy(s3.endpoint, seed=3, share=0.3, only=(fate,)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        workspace = Workspace(uri)
        path = file_of(tmp_path, 12_000_000)
        data = path.read_bytes()
        artifact = workspace.commit(path, "videos/large.bin")
        assert proxy.count("PUT") >= 3
        assert proxy.count("POST") >= 2
        with workspace.artifact(artifact) as local:
            assert local.read_bytes() == data
        with workspace.local(artifact.key) as local:
            assert local.read_bytes() == data
        assert workspace.read(artifact.key) == data


def test_many_objects_are_listed_and_deleted_by_few_requests(
    s3: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.workspace, "LONGEST_LIST", 150)
    keys = [f"clips/{i:04d}" for i in range(200)]
    workspace = Workspace(uri)
    for key in keys:
        workspace.write(key, b"1")
    with flaky_proxy(s3.endpoint, share=0.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        workspace = Workspace(uri)
        assert workspace.names("clips") == set(keys)
        assert proxy.count("GET") == 1  # a thousand, whatever we want
        workspace.delete([*keys, "clips/none"])
        assert (proxy.count("DELETE"), proxy.count("POST")) == (0, 2)
        assert workspace.names("clips") == set()


def test_parts_are_listed_with_patience_and_a_listing_that_never_comes_is_one_line(
    s3: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.object_store, "PAUSE_S", 0.001)
    Workspace(uri).write("manifests/pose/part-1.parquet", b"1")
    with flaky_proxy(s3.endpoint, seed=4, share=0.5, only=("cut inside",)) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        workspace = Workspace(uri)
        for _ in range(5):
            assert list(workspace.stamps("manifests/")) == ["manifests/pose/part-1.parquet"]
        assert proxy.count("GET", "cut inside") > 0
        proxy.share = 1.0
        with pytest.raises(WorkspaceError, match=r"^cannot read manifests/ in workspace s3://[^\n]*$"):
            workspace.stamps("manifests/")


def test_a_video_that_many_units_read_is_fetched_once(
    s3: S3Server, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Workspace(uri).commit(file_of(tmp_path, 3_000_000), "videos/a.mp4")
    with flaky_proxy(s3.endpoint, share=0.0) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)

        def read(times: int) -> None:
            workspace = Workspace(uri)
            for _ in range(times):
                with workspace.artifact(artifact) as path:
                    assert path.stat().st_size == artifact.n_bytes
                    assert path.suffix == ".mp4"

        threads = [threading.Thread(target=read, args=(5,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.count("GET") == 1
        assert proxy.n_bytes_down < 1.1 * artifact.n_bytes


def test_copies_take_no_more_than_their_room_and_the_oldest_go_first(uri: str, tmp_path: Path) -> None:
    workspace = Workspace(uri, scratch_gb=0.005)
    made = [workspace.commit(file_of(tmp_path, 2_000_000 + i), f"videos/{i}.mp4") for i in range(4)]
    for artifact in made:
        with workspace.artifact(artifact):
            assert workspace._scratch.used_bytes() <= 5_000_000
        time.sleep(0.01)
    copies = workspace._scratch.base / mit_builder.storage.scratch.COPIES
    assert {path.name for path in copies.rglob("*.mp4")} == {"2.mp4", "3.mp4"}
    workspace.leave("run")
    assert workspace._scratch.used_bytes() == 0


def test_a_copy_in_use_is_left_alone_and_what_finds_no_room_says_so(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.scratch, "ROOM_WAIT_S", 0.5)
    workspace = Workspace(uri, scratch_gb=0.003)
    first, second = (workspace.commit(file_of(tmp_path, 2_000_000 + i), f"videos/{i}.mp4") for i in range(2))
    with workspace.artifact(first) as path:
        with pytest.raises(WorkspaceError, match=r"no room in \S+ for 0\.0 GB: run\.scratch_gb=0\.003"):
            workspace.artifact(second).__enter__()
        assert path.exists()
    with workspace.artifact(second):
        assert not path.exists()


def test_an_object_that_is_not_what_the_ledger_promises_fails_its_unit(uri: str, tmp_path: Path) -> None:
    workspace = Workspace(uri)
    artifact = workspace.commit(file_of(tmp_path, 1000), "videos/a.mp4")
    workspace.write("videos/a.mp4", b"another")
    with pytest.raises(UnitError, match=r"videos/a\.mp4 holds other bytes than were written") as caught:
        workspace.artifact(artifact).__enter__()
    assert caught.value.failure_class == "transient"
    with pytest.raises(UnitError, match=r"videos/none\.mp4 is gone"):
        workspace.artifact(Artifact("videos/none.mp4", "0" * 64, 1)).__enter__()


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(uri: str) -> None:
    workspace = Workspace(uri)
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    dead, living = (workspace.scratch("run") / f"{pid}-unit" for pid in (gone.pid, os.getpid()))
    for folder in (dead, living):
        folder.mkdir()
        (folder / "half").write_bytes(b"1")
    workspace.sweep()
    assert not dead.exists()
    assert living.exists()
    workspace.leave("run")
    assert not living.exists()


def test_a_temporary_folder_of_somebody_else_is_not_used(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"mit-build-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceError, match="belongs to somebody else: set TMPDIR"):
        Workspace(uri).scratch("run")


def test_a_dataset_on_s3_is_validated_where_it_lies(uri: str, tmp_path: Path) -> None:
    build(tmp_path, embed_media=False)
    workspace = Workspace(uri)
    for path in (tmp_path / "dataset").rglob("*"):
        if path.is_file():
            workspace.write(path.relative_to(tmp_path).as_posix(), path.read_bytes())
    assert validate(uri) == validate(f"{uri}/dataset") == []
    shard = next(key for key in workspace.names("dataset") if key.endswith(".parquet"))
    workspace.write(shard, workspace.read(shard)[:-1])
    assert any("sha256 differs" in str(problem) for problem in validate(uri))
    with pytest.raises(ConfigError, match="no dataset"):
        validate(f"{uri}/nothing")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mit_builder.storage.lease, "RENEW_S", 0.2)
    monkeypatch.setattr(mit_builder.storage.lease, "EXPIRY_S", 2.0)
    return


@pytest.mark.usefixtures("impatient")
def test_a_lease_on_s3_that_fails_is_held_by_one_at_a_time(
    s3: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with flaky_proxy(s3.endpoint, seed=5, share=0.3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for _ in range(5):
            with lease(Workspace(uri)):
                with pytest.raises(CannotContinue, match="another run uses this workspace"), lease(Workspace(uri)):
                    pass
                assert Workspace(uri).exists(KEY)
            assert not Workspace(uri).exists(KEY)
    assert len(proxy.requests) - proxy.count("GET", "passed") > 20


def test_storage_that_is_not_there_is_one_line_at_once(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.monotonic()
    with pytest.raises(WorkspaceError, match=r"^cannot reach workspace s3://no-such-bucket/a: NoSuchBucket: "):
        Workspace("s3://no-such-bucket/a").check_reachable()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(WorkspaceError, match="cannot reach workspace s3://b/a: ") as caught:
        Workspace("s3://b/a").check_reachable()
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


def test_a_worker_on_a_cluster_waits_for_storage_that_is_away_for_a_moment(
    s3: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mit_builder.storage.object_store, "PAUSE_S", 0.01)
    spec = WorkerSpec("fakes:FakePose", SETTINGS.pose, uri, "run")
    with flaky_proxy(s3.endpoint, share=1.0, only=("cut inside", "error")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        fate, proxy.fate = proxy.fate, lambda *asked: fate(*asked) if len(proxy.requests) < 5 else "passed"  # type: ignore[method-assign]
        assert Worker(spec).ready(elsewhere=True) is None
        assert proxy.count("GET") == 5


def test_the_address_may_name_its_endpoint(s3: S3Server, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    workspace = Workspace(f"{uri}?endpoint={s3.endpoint}&region=us-east-1")
    workspace.write("a", b"1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert Workspace(uri).read("a") == b"1"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:hidden@bucket/a", "must hold no password"),
        ("s3://bucket/a?secret_access_key=hidden", "takes endpoint, region after its"),
        ("s3://bucket/a?endpoint=http://u:hidden@host", "must hold no password"),
        ("gs://bucket/a?sig=hidden", "takes nothing after its"),
        ("ftp://key:hidden@host/a", "give a folder, or s3://, gs://, az://"),
        ("s3:///a", "names no bucket"),
    ],
)
def test_an_address_that_does_not_fit_is_refused_and_what_may_be_secret_in_it_is_not_said(
    address: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Workspace(address)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(("address", "kind"), [("gs://bucket/a/b", "GCSStore"), ("az://container/a/b", "AzureStore")])
def test_other_clouds_are_reached_by_the_same_door(address: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    store = Workspace(address).store
    assert type(store).__name__ == kind
    assert store.prefix == "a/b"
