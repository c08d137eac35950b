"""Damaged artifacts: none gets into the dataset, and one run makes all of them again.

The stages are quick ones; media, tables and shards are real.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fakes
import pytest
import quick_stages
import ray  # before the engine tells it what to listen on
import typer
from object_storage import S3Server
from walks import worked

from manifests.ids import new_run_id
from manifests.ledger import DAMAGED
from mit_builder.cli.main import validate
from mit_builder.config import settings as config
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.dataset.reader import read_rows
from mit_builder.driver.options import RunOptions
from mit_builder.driver.runner import Runner
from mit_builder.driver.snapshot import Snapshot
from mit_builder.engine.base import Engine
from mit_builder.engine.ray_engine import RayEngine
from mit_builder.engine.serial import SerialEngine
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import ConfigError, DamagedError
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.pipeline import STEPS, Step
from mit_builder.pipeline_run import walk_until_whole
from mit_builder.removal.takedown import finish_pending, take_down
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, digest
from mit_builder.storage.workspace import ASIDE, FOLDERS, Workspace

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = (
    "shards.n_buckets=2",
    "filter.min_clip_s=1",
    "filter.min_face_px=36",
    "run.retry_base_s=0",
    "download.host_interval_s=0",
)
NAMES = ("a?frames=60&shots=2", "b?frames=40", "c?frames=30")
EVERY = {
    "videos": "videos/*.mp4",
    "tracks": "tracks/*",
    "mp4": "clips/*.mp4",
    "flac": "clips/*.flac",
    "people": "clips/*.parquet",
    "poses": "poses/*",
    "labels": "speech/*",
    "shards": "dataset/*.parquet",
}
"""Kinds of artifacts."""
ALL = frozenset(step.name for step in STEPS)
EMPTY = hashlib.sha256().hexdigest()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick stages in the place of the real ones, in this process."""
    for name, module in quick_stages.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def run(
    workspace: Workspace,
    names: Sequence[str] = NAMES,
    *overrides: str,
    pipeline: tuple[Step, ...] = STEPS,
    engine: Callable[[Any, str], Engine] = lambda specs, run_id: SerialEngine(specs),
    source: Callable[[str], Any] = lambda name: fakes.url_source(f"http://quick.test/{name}"),
    **choice: Any,
) -> tuple[Runner, list[str]]:
    """A run as `mit-build run` does it; the runner of its last walk, and what was said."""
    settings, run_id, said = config.load(None, [*SETTINGS, *overrides]), new_run_id(), list[str]()
    used = engine(worker_specs(settings, workspace, run_id, pipeline), run_id)

    def make() -> Runner:
        chosen = RunOptions(**choice)
        return Runner(
            workspace, settings, run_id=run_id, choice=chosen, engine=used, on_note=said.append, steps=pipeline
        )

    runner = walk_until_whole(make, list(map(source, names)), said.append)
    used.close()
    workspace.leave(run_id)
    return runner, said


def look(workspace: Workspace) -> Snapshot:
    seen = Snapshot(workspace, config.load(None, list(SETTINGS)))
    seen.follow([fakes.url_source(f"http://quick.test/{name}") for name in NAMES])
    return seen


def digests(workspace: Workspace) -> dict[str, str]:
    keys = (key for folder in FOLDERS for key in workspace.names(folder))
    return {key: hashlib.sha256(workspace.read(key)).hexdigest() for key in keys}


def flip(path: Path, chance: random.Random, n_bytes: int = 1, *, keeps_time: bool) -> None:
    """Change bytes of a file in place; with `keeps_time` as a disk does it."""
    times, data = path.stat(), bytearray(path.read_bytes())
    at = chance.randrange(max(1, len(data) - n_bytes))
    end = min(len(data), at + n_bytes)
    data[at:end] = bytes(byte ^ chance.randrange(1, 256) for byte in data[at:end])
    path.write_bytes(data)
    if keeps_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced_by(what: str, path: Path, chance: random.Random) -> None:
    """A file is cut off, emptied, gone, a folder or a link to another file."""
    data = path.read_bytes()
    if what == "cut off":
        path.write_bytes(data[: chance.randrange(len(data))])
        return
    path.unlink()
    if what == "emptied":
        path.touch()
    elif what == "a folder":
        (path / "x").mkdir(parents=True)
    elif what == "a link":
        path.symlink_to(__file__)
    elif what == "a link to nothing":
        path.symlink_to(path)


def some(workspace: Workspace, kind: str, chance: random.Random) -> Path:
    assert workspace.root is not None
    return chance.choice(sorted(workspace.root.glob(EVERY[kind])))


def twenty(workspace: Workspace, chance: random.Random) -> list[Path]:
    """Files of all kinds in turn."""
    assert workspace.root is not None
    left = {kind: sorted(workspace.root.glob(pattern)) for kind, pattern in EVERY.items()}
    assert all(left.values())
    found: list[Path] = []
    while len(found) < 20:
        found += [paths.pop(chance.randrange(len(paths))) for paths in left.values() if paths]
    return found[:20]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("finished") / "ws")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in quick_stages.modules().items():
            patch.setitem(sys.modules, name, module)
        run(workspace)
    return workspace


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of a finished workspace, times included."""
    subprocess.run(["cp", "-a", finished.uri, tmp_path / "ws"], check=True)
    return Workspace(tmp_path / "ws")


@pytest.mark.parametrize("seed", range(int(os.environ.get("DAMAGE_SEEDS", "1"))))
def test_twenty_damages_over_all_kinds_of_artifacts_are_mended_by_one_plain_run(
    workspace: Workspace, quick: None, seed: int
) -> None:
    chance, before, hit = random.Random(seed), digests(workspace), twenty(workspace, random.Random(seed))
    for path in hit:
        way = chance.choice(("bits", "4 kB", "cut off", "emptied", "gone", "a folder", "a link", "a link to nothing"))
        if way in ("bits", "4 kB"):
            flip(path, chance, 1 if way == "bits" else 4096, keeps_time=False)
        else:
            replaced_by(way, path, chance)
    runner, said = run(workspace)
    assert digests(workspace) == before
    assert runner.tally.failed == runner.tally.pending == 0
    assert len(runner.files.damaged) == len(hit)
    counted = sum(int(line.split()[-2]) for line in said if line.startswith("gone or damaged as well"))
    assert sum("due again" in line for line in said) + counted == len(hit)
    assert worked(run(workspace)[0]) == {}


@pytest.mark.parametrize("kind", ["videos", "mp4", "flac", "people", "poses", "labels"])
def test_what_a_disk_changed_is_found_by_who_reads_it_and_never_published(
    workspace: Workspace, quick: None, kind: str
) -> None:
    """All files of a kind are flipped without a trace in their times, then everything that reads them is due."""
    chance, before = random.Random(kind), digests(workspace)
    assert workspace.root is not None
    for path in sorted(workspace.root.glob(EVERY[kind])):
        flip(path, chance, 4096, keeps_time=True)
    readers = {"filter.cut"} if kind == "videos" else {"shards"}
    runner, said = run(workspace, forced=frozenset(readers))
    assert any("holds other bytes than were written" in line for line in said)
    assert digests(workspace) == before
    assert runner.tally.failed == runner.tally.pending == 0
    assert all(key.startswith(f"{ASIDE}/") for key in workspace.names(DAMAGED))


def validated(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> str:
    """What `mit-build validate` prints."""
    capsys.readouterr()
    with pytest.raises(typer.Exit):
        validate(workspace.uri)
    return capsys.readouterr().out


def test_all_of_twenty_silent_flips_are_named_by_validate_and_mended_by_the_run_that_it_names(
    workspace: Workspace, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, before = random.Random(1), digests(workspace)
    hit = twenty(workspace, chance)
    for i, path in enumerate(hit):
        flip(path, chance, 1 + 4095 * (i % 2), keeps_time=True)
    printed = validated(workspace, capsys)
    assert [path.name for path in hit if path.name not in printed] == []
    assert printed.endswith(f"made again by: mit-build run --workspace {workspace.uri} --verify\n")
    runner, _ = run(workspace, verify=True)
    assert digests(workspace) == before
    assert runner.tally.failed == runner.tally.pending == 0
    assert validated(workspace, capsys) == "valid\n"


def test_flips_in_media_of_a_clip_are_seen_by_status_and_validate_and_published_nowhere(
    workspace: Workspace, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    chance, before = random.Random(2), digests(workspace)
    for kind in ("mp4", "flac"):
        flip(some(workspace, kind, chance), chance, 4096, keeps_time=False)
    assert look(workspace).tally.steps["filter.cut"].pending > 0
    assert digests(workspace).keys() == before.keys()  # who only looks sets nothing aside
    assert validated(workspace, capsys).count("holds other bytes than were written") == 2
    runner, _ = run(workspace, forced=frozenset(["shards"]))
    assert digests(workspace) == before
    assert worked(runner).keys() == {"filter.cut", "shards"}  # the clips are the same again: nothing follows


def test_shards_that_a_selection_left_behind_are_no_damage_when_it_comes_back(
    workspace: Workspace, quick: None
) -> None:
    before = workspace.read(INDEX_KEY)
    run(workspace, NAMES, "filter.min_clip_s=1.3")
    assert workspace.read(INDEX_KEY) != before
    runner, said = run(workspace)
    assert (said, runner.files.damaged) == ([], set())
    assert worked(runner).keys() == {"shards"}
    assert workspace.read(INDEX_KEY) == before


def test_a_truncated_file_is_no_failure_of_who_reads_it(workspace: Workspace, quick: None) -> None:
    before = digests(workspace)
    replaced_by("cut off", some(workspace, "poses", random.Random(3)), random.Random(3))
    runner, said = run(workspace, forced=frozenset(["shards"]))
    assert runner.tally.failed == 0
    assert [line for line in said if "poses/" in line and "bytes, not" in line]
    assert digests(workspace) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-40],
        lambda text: b"",
        lambda text: text.replace(b'"n_buckets": 2', b'"n_buckets": 3'),
        lambda text: text.replace(b'"sha256": "', b'"sha256": "0', 1),
        lambda text: text.replace(b'"n_clips": ', b'"n_clips": 9', 1),
        lambda text: text.replace(b"shard-0", b"../ard-0", 1),
        lambda text: text.replace(b"shard", b"sha\xffd", 1),
    ],
)
def test_a_damaged_index_is_written_anew_and_no_shard_with_it(
    workspace: Workspace, quick: None, damage: Callable[[bytes], bytes]
) -> None:
    before, text = digests(workspace), workspace.read(INDEX_KEY)
    assert damage(text) != text
    workspace.write(INDEX_KEY, damage(text))
    assert worked(run(workspace)[0]) == {}
    assert digests(workspace) == before


def test_a_damaged_index_loses_no_shard_that_this_run_cannot_judge(workspace: Workspace, quick: None) -> None:
    before = digests(workspace)
    workspace.write(INDEX_KEY, b"{}")
    (key, *_) = sorted(workspace.names("poses"))
    workspace.delete([key])
    runner, _ = run(workspace, steps=ALL - {"pose"})
    assert runner.tally.pending
    assert digests(workspace).items() >= {key: value for key, value in before.items() if "dataset/" in key}.items()
    run(workspace)
    assert digests(workspace) == before


def test_files_whose_times_changed_with_a_copy_are_read_once(
    finished: Workspace, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["cp", "-r", finished.uri, tmp_path / "ws"], check=True)
    workspace, read = Workspace(tmp_path / "ws"), list[str]()
    original = Workspace.problem

    def noting(self: Workspace, artifact: Any) -> str | None:
        read.append(artifact.key)
        return original(self, artifact)

    monkeypatch.setattr(Workspace, "problem", noting)
    assert worked(run(workspace)[0]) == {}
    assert len(read) >= len(digests(workspace)) - 1
    read.clear()
    assert worked(run(workspace)[0]) == {}
    assert read == []


def test_media_beside_the_shards_are_compared_with_the_index_and_written_again(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path / "ws")
    run(workspace, NAMES, "shards.embed_media=false")
    assert validated(workspace, capsys) == "valid\n"
    before, chance = digests(workspace), random.Random(8)
    (path, *_) = sorted(Path(workspace.uri).glob("dataset/clips/*.mp4"))
    flip(path, chance, 4096, keeps_time=False)
    subprocess.run(["cp", "-r", f"{workspace.uri}/dataset", tmp_path / "alone"], check=True)
    for place in (workspace.uri, str(tmp_path / "alone")):  # the dataset alone is compared with its index
        with pytest.raises(typer.Exit):
            validate(place)
        assert f"clips/{path.name}: sha256 differs from the index" in capsys.readouterr().out
    run(workspace, NAMES, "shards.embed_media=false")
    assert digests(workspace) == before


def test_no_export_is_made_of_a_damaged_shard(workspace: Workspace, quick: None, tmp_path: Path) -> None:
    flip(some(workspace, "shards", random.Random(9)), random.Random(9), keeps_time=True)
    with pytest.raises(ConfigError, match=r"is damaged: mit-build run --verify"):
        make_export(workspace, ExportRequest("manifest", tmp_path / "out", with_media=False))
    run(workspace, verify=True)
    make_export(workspace, ExportRequest("manifest", tmp_path / "out", with_media=False))


def published(workspace: Workspace) -> dict[str, list[str]]:
    """Names of the clips in every file of the dataset's folder."""
    keys = sorted(key for key in workspace.names("dataset") if key.endswith(".parquet"))
    return {key: [row["clip_id"] for row in read_rows(Path(workspace.uri) / key, ["clip_id"])] for key in keys}


@pytest.mark.parametrize("what", ["shard", "index"])
def test_a_takedown_is_not_held_up_by_damage(workspace: Workspace, quick: None, what: str) -> None:
    before = published(workspace)
    key, (clip_id, *_) = max(before.items(), key=lambda item: len(item[1]))
    if what == "index":  # the takedown was told before, and is finished by the run
        workspace.write(INDEX_KEY, b"{")
        stone = Tombstone("span", digest("span", clip_id[:16]), 0, 10**6, pending=True)
        workspace.write(KEY, Tombstones([stone]).dump())
        assert finish_pending(workspace) == []
    else:
        flip(Path(workspace.uri) / key, random.Random(10), 4096, keeps_time=True)
        take_down(workspace, [clip_id])
    run(workspace)
    left = {name for names in published(workspace).values() for name in names}
    gone = {name for names in before.values() for name in names} - left
    assert clip_id in gone
    assert {name[:16] for name in gone} == {clip_id[:16]}


def test_many_files_that_are_gone_are_counted_not_listed(workspace: Workspace, quick: None) -> None:
    workspace.delete(sorted(key for folder in ("clips", "tracks") for key in workspace.names(folder)))
    _, said = run(workspace)
    assert sum(line.startswith("clips/") for line in said) == 5
    assert "gone or damaged as well, in clips/: 7 more" in said


def test_what_could_not_be_read_at_first_is_no_damage(
    workspace: Workspace, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mit_builder.storage import scratch

    original, n_slips = scratch.sha256_of, [1]

    def slipping(path: Path) -> str:
        if path.suffix == ".flac" and n_slips[0]:
            n_slips[0] -= 1
            return "0" * 64
        return original(path)

    monkeypatch.setattr(scratch, "sha256_of", slipping)
    runner, said = run(workspace, forced=frozenset(["shards"]))
    assert (runner.tally.failed, runner.files.damaged, n_slips) == (0, set(), [0])
    assert not [line for line in said if "due again" in line]


def test_a_unit_of_which_a_stage_is_not_asked_for_is_left_and_told(workspace: Workspace, quick: None) -> None:
    before = digests(workspace)
    flip(some(workspace, "poses", random.Random(4)), random.Random(4), keeps_time=True)
    runner, said = run(workspace, steps=frozenset(["shards"]), forced=frozenset(["shards"]))
    assert runner.tally.unmended == 1
    assert "still to be made again: mit-build run" in said[-1]
    assert digests(workspace).items() >= {key: value for key, value in before.items() if "dataset/" in key}.items()
    run(workspace)
    assert digests(workspace) == before


def test_what_cannot_be_made_again_takes_nothing_with_it(tmp_path: Path) -> None:
    """A video is damaged and its source is gone: its clips are whole, and stay in the dataset."""
    workspace, gone = Workspace(tmp_path / "ws"), tmp_path / "gone"
    names = [f"a?download=fail&while={gone}&pose=slow", "b"]
    given: dict[str, Any] = {"pipeline": fakes.steps(), "source": fakes.source}
    run(workspace, names, **given)
    before = digests(workspace)
    gone.touch()
    for key in workspace.names("videos"):
        replaced_by("cut off", Path(workspace.uri) / key, random.Random(5))
    for _ in range(2):
        runner, said = run(workspace, names, **given)
        assert dict(runner.tally.steps["download"].failed) == {"permanent": 1}
        assert any("failed, what was made of it before stays" in line for line in said)
        assert digests(workspace).items() >= {k: v for k, v in before.items() if "videos/" not in k}.items()
    gone.unlink()
    run(workspace, names, **given)
    assert digests(workspace) == before


def test_a_run_that_is_killed_while_it_mends_is_gone_on_with(tmp_path: Path) -> None:
    workspace, flag = Workspace(tmp_path / "ws"), tmp_path / "flag"
    names = [f"a?pose=kill-driver&while={flag}", "b"]
    given: dict[str, Any] = {"pipeline": fakes.steps(), "source": fakes.source}
    run(workspace, names, **given)
    before = digests(workspace)
    for key in sorted(key for folder in ("clips", "poses") for key in workspace.names(folder)):
        flip(Path(workspace.uri) / key, random.Random(key), keeps_time=False) if before[key] != EMPTY else None
    flag.touch()
    code = f"import walks; walks.walk(walks.Workspace({workspace.uri!r}), {names!r})"
    paths = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=False)
    assert killed.returncode == -9
    assert digests(workspace) != before
    flag.unlink()
    workspace.sweep()
    run(workspace, names, **given)
    assert digests(workspace) == before


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Any, str], Engine]]:
    """Makes engines on one Ray."""
    place = tmp_path_factory.mktemp("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        yield lambda specs, run_id: RayEngine(specs, fakes.resources(specs), scratch=place, cpus=2)
    ray.shutdown()


def test_damage_that_workers_on_ray_find_is_mended_in_the_same_run(
    tmp_path: Path, on_ray: Callable[[Any, str], Engine]
) -> None:
    workspace, names = Workspace(tmp_path / "ws"), ["a?lengths=50"]
    given: dict[str, Any] = {"pipeline": fakes.steps(), "source": fakes.source}
    run(workspace, names, **given)
    before = digests(workspace)
    for key in sorted(key for folder in ("videos", "clips") for key in workspace.names(folder) if key.endswith(".mp4")):
        flip(Path(workspace.uri) / key, random.Random(key), keeps_time=True)
    runner, said = run(workspace, names, engine=on_ray, forced=frozenset(["pose"]), **given)
    assert digests(workspace) == before
    assert runner.tally.failed == runner.tally.pending == 0
    assert sum("walking over the sources again" in line for line in said) == 2  # clips first, then what they are cut of


@pytest.mark.parametrize("storage", ["memory", "s3"])
def test_objects_that_were_overwritten_are_noticed_by_their_size_or_when_they_are_read(
    storage: str, request: pytest.FixtureRequest
) -> None:
    if storage == "s3":
        server: S3Server = request.getfixturevalue("s3")
        workspace = Workspace(f"{server.bucket(f'damage-{new_run_id()}')}/a")
    else:
        workspace = Workspace(f"memory://{new_run_id()}")
    names = ["a", "b"]
    given: dict[str, Any] = {"pipeline": fakes.steps(), "source": fakes.source}
    run(workspace, names, **given)
    before, (gone, shorter, *_) = digests(workspace), sorted(workspace.names("poses"))
    (other, *_) = sorted(key for key in workspace.names("clips") if key.endswith(".mp4"))
    workspace.delete([gone])
    workspace.write(shorter, b"x")
    workspace.write(other, bytes(len(workspace.read(other))))
    _, said = run(workspace, names, forced=frozenset(["speech"]), **given)
    assert digests(workspace) == before
    assert {gone, shorter, other} <= {line.split()[0] for line in said}
    workspace.write(other, bytes(len(workspace.read(other))))
    assert run(workspace, names, verify=True, **given)[0].files.damaged == {other}
    assert digests(workspace) == before


def test_a_copy_of_an_object_that_a_disk_changed_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    workspace = Workspace(f"memory://{new_run_id()}")
    new = tmp_path / "new"
    new.write_bytes(bytes(100))
    artifact = workspace.commit(new, "clips/x.mp4")
    with workspace.artifact(artifact) as path:
        copy = path
    flip(copy, random.Random(6), keeps_time=True)
    with workspace.artifact(artifact) as path:
        assert path.read_bytes() == bytes(100)


def test_a_file_is_hashed_once_while_it_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mit_builder.storage import scratch

    workspace, hashed, original = Workspace(tmp_path / "ws"), list[Path](), scratch.sha256_of
    (tmp_path / "new").write_bytes(bytes(100))
    artifact = workspace.commit(tmp_path / "new", "clips/x.mp4")
    monkeypatch.setattr(scratch, "sha256_of", lambda path: hashed.append(path) or original(path))
    for _ in range(3):
        with workspace.artifact(artifact) as path:
            assert len(hashed) == 1
    flip(path, random.Random(7), keeps_time=True)
    with pytest.raises(DamagedError, match="holds other bytes"), workspace.artifact(artifact):
        pass
