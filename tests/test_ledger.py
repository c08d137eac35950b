from __future__ import annotations

import io
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import manifests.ledger
import manifests.parts
from manifests.fields import doc
from manifests.ids import new_run_id
from manifests.ledger import Entry, Ledger
from manifests.rows import Artifact, Shard, Shot, Source
from manifests.schema import artifacts, content_hash
from mit_builder.storage.workspace import Workspace


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def shots(workspace: Workspace) -> Ledger:
    return Ledger(workspace, "shots", (Shot,))


def done(unit_id: str, input_key: str, *outputs: object) -> Entry:
    return Entry(unit_id, input_key, "done", outputs)


def ids(ledger: Ledger) -> list[str]:
    return sorted(entry.unit_id for entry in ledger.newest())


def test_an_entry_is_found_by_unit_and_input_with_its_outputs(workspace: Workspace) -> None:
    entry = done("v", "k", Shot("v", 0, 40), Shot("v", 40, 90))
    shots(workspace).append([entry], run_id="r")
    for ledger in (shots(workspace), shots(workspace)):
        found = ledger.find("v", "k")
        assert found == replace(entry, run_id="r")
        assert ledger.find("v", "another input") is None
        assert ledger.find("w", "k") is None


def test_the_files_that_entries_name_are_found_without_making_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shard(name: str, *media: str) -> Shard:
        return Shard(0, Artifact(name, "", 0), tuple(Artifact(m, "", 0) for m in media), 1)

    ledger = Ledger(workspace, "shards", (Shard, Shot))
    ledger.append([done("a", "k", shard("a-old", "m-old")), done("a", "other", shard("a"))], run_id="r")
    ledger.append([done("a", "k", shard("a-new", "m1", "m2"), shard("b")), done("c", "k"), done("d", "k")], run_id="r")
    ledger.append([Entry("d", "k", "failed"), done("e", "k", Shot("v", 0, 1))], run_id="r")
    for read in (ledger, Ledger(workspace, "shards", (Shard, Shot))):
        wanted = {a.key for entry in read.entries() for row in entry.outputs for a in artifacts(row)}
        assert wanted == {"a", "a-new", "b", "m1", "m2"}
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "_row", None)
            assert set(read.artifact_keys().to_pylist()) == wanted
    assert shots(workspace).artifact_keys().to_pylist() == []
    # Rows of another version of the classes name nothing that counts.
    assert Ledger(workspace, "shards", (Shot,)).artifact_keys().to_pylist() == []


def test_entries_of_this_run_count_before_they_are_read_back(workspace: Workspace) -> None:
    ledger = shots(workspace)
    ledger.append([done("v", "k", Shot("v", 0, 40))], run_id="r")
    assert ledger.find("v", "k") == shots(workspace).find("v", "k")
    assert ledger.latest("v") == ledger.find("v", "k")


def test_what_a_run_has_written_is_not_kept_as_rows(workspace: Workspace) -> None:
    ledger, shot = shots(workspace), [Shot("v", k, k + 1) for k in range(10)]
    tracemalloc.start()
    try:
        for i in range(8):
            ledger.append([done(f"v{j}", content_hash(i, j), *map(replace, shot)) for j in range(50)], run_id="r")
            if i == 3:
                before, _ = tracemalloc.get_traced_memory()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / (4 * 50) < 400, "bytes a row, with its place in the index"
    found = ledger.find("v7", content_hash(7, 7))
    assert found is not None
    assert found.outputs == tuple(shot)


def test_every_field_survives(workspace: Workspace) -> None:
    entry = Entry(
        "v", "k", "failed", (), "transient", "why", "a message", "a traceback", '{"a": 1}', 3, "s", 1.5, 2.5, 3.5
    )
    shots(workspace).append([entry], run_id="r")
    assert shots(workspace).latest("v") == replace(entry, run_id="r")


def test_outputs_of_several_kinds_and_nested_rows_survive(workspace: Workspace) -> None:
    @dataclass(frozen=True)
    class Made:
        media: Artifact = doc("a file")
        parts: tuple[Shot, ...] = doc("rows in a row")
        title: str | None = doc("may be absent")

    outputs = (Made(Artifact("k", "s", 3), (Shot("v", 0, 1), Shot("v", 1, 2)), None), Source("s", "a", "url"))
    Ledger(workspace, "made", (Made, Source)).append([done("v", "k", *outputs)], run_id="r")
    found = Ledger(workspace, "made", (Made, Source)).find("v", "k")
    assert found is not None
    assert found.outputs == outputs


def test_the_latest_entry_of_one_input_wins_whatever_the_parts_are_called(workspace: Workspace) -> None:
    shots(workspace).append([Entry("v", "k", "failed", message="first")], run_id="z-run")
    shots(workspace).append([done("v", "k")], run_id="a-run")
    ledger = shots(workspace)
    assert ledger.find("v", "k") == ledger.latest("v")
    assert ledger.latest("v").status == "done"  # type: ignore[union-attr]


def test_a_setting_that_is_moved_back_finds_its_old_work(workspace: Workspace) -> None:
    ledger = shots(workspace)
    ledger.append([done("v", "before", Shot("v", 0, 9))], run_id="r1")
    ledger.append([done("v", "after")], run_id="r2")
    ledger = shots(workspace)
    assert ledger.find("v", "before").outputs == (Shot("v", 0, 9),)  # type: ignore[union-attr]
    assert ledger.latest("v").input_key == "after"  # type: ignore[union-attr]
    assert sorted(entry.input_key for entry in ledger.entries()) == ["after", "before"]
    assert ids(ledger) == ["v"]


def test_nothing_to_append_writes_nothing(workspace: Workspace) -> None:
    shots(workspace).append([], run_id="r")
    assert workspace.names("manifests") == set()


def test_stages_do_not_share_entries(workspace: Workspace) -> None:
    shots(workspace).append([done("v", "k")], run_id="r")
    assert Ledger(workspace, "shots.other", (Shot,)).latest("v") is None
    assert Ledger(workspace, "shot", (Shot,)).latest("v") is None


def test_parts_with_other_rows_stay_readable_and_their_units_are_due(workspace: Workspace) -> None:
    @dataclass(frozen=True)
    class OldShot:
        video_id: str = doc("the video")

    OldShot.__name__ = "Shot"
    old = [done("v", "k", OldShot("v")), Entry("w", "k", "failed", message="it was so")]
    Ledger(workspace, "shots", (OldShot,)).append(old, run_id="old")
    ledger = shots(workspace)
    assert ledger.find("v", "k") is None
    assert ledger.latest("v").status == "done"  # type: ignore[union-attr]
    assert ledger.latest("w").message == "it was so"  # type: ignore[union-attr]
    ledger.append([done("v", "k", Shot("v", 0, 9))], run_id="new")
    assert shots(workspace).find("v", "k").outputs == (Shot("v", 0, 9),)  # type: ignore[union-attr]


def test_parts_without_a_column_of_today_stay_readable(workspace: Workspace) -> None:
    shots(workspace).append([done("v", "k")], run_id="r")
    (key,) = workspace.names("manifests/shots")
    buffer = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(workspace.read(key))).drop_columns(["cpu_s", "settings_key"]), buffer)
    workspace.delete([key])
    workspace.write("manifests/shots/part-of-an-earlier-version.parquet", buffer.getvalue())
    ledger = shots(workspace)
    assert ledger.find("v", "k") is None
    assert ledger.latest("v") is not None


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def two_parts(workspace: Workspace) -> tuple[str, str]:
    """A ledger of two parts, unit v in the first, w in the second."""
    ledger = shots(workspace)
    for unit_id in "vw":
        ledger.append([done(unit_id, "k", Shot(unit_id, 0, 40))], run_id=f"r-{unit_id}")
    first, second = sorted(workspace.names("manifests/shots"))
    return first, second


DAMAGES = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:-1],
    "half": lambda data: data[: len(data) // 2],
    "no Parquet": lambda data: b"x" * len(data),
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_part_is_passed_over_and_the_others_count(
    workspace: Workspace, damage: Callable[[bytes], bytes]
) -> None:
    first, _ = two_parts(workspace)
    workspace.write(first, damage(workspace.read(first)))
    ledger = shots(workspace)
    assert ledger.damaged == [first]
    assert ledger.find("v", "k") is None
    assert ledger.find("w", "k").outputs == (Shot("w", 0, 40),)  # type: ignore[union-attr]


def test_every_flipped_bit_is_noticed(workspace: Workspace) -> None:
    first, _ = two_parts(workspace)
    whole = workspace.read(first)
    for at in range(0, len(whole), 37):
        workspace.write(first, flipped(whole, at))
        assert shots(workspace).damaged == [first], at
    workspace.write(first, whole)
    assert shots(workspace).damaged == []


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1 nothing of the sort PAR1"])
def test_a_damaged_part_of_a_version_without_digests_is_passed_over(workspace: Workspace, data: bytes) -> None:
    two_parts(workspace)
    workspace.write("manifests/shots/part-old.parquet", data)
    ledger = shots(workspace)
    assert ledger.damaged == ["manifests/shots/part-old.parquet"]
    assert ids(ledger) == ["v", "w"]


def test_damaged_parts_are_set_aside_once_and_never_deleted(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = two_parts(workspace)
    workspace.write(first, b"damaged")
    monkeypatch.setattr(manifests.ledger, "COMPACT_ABOVE_PARTS", 1)
    shots(workspace).compact("r9")
    assert workspace.read(first) == b"damaged"
    ledger = shots(workspace)
    assert ledger.set_aside() == [first]
    assert ledger.set_aside() == []
    assert shots(workspace).damaged == []
    (kept,) = workspace.names("damaged")
    assert kept == first.replace("manifests", "damaged")
    assert workspace.read(kept) == b"damaged"
    assert ids(shots(workspace)) == ["w"]
    assert second not in workspace.names("manifests")


@pytest.mark.parametrize(("n_at_once", "group_rows"), [(16, 8192), (3, 8192), (2, 5), (16, 3)])
def test_many_parts_become_one_and_every_entry_stays(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, n_at_once: int, group_rows: int
) -> None:
    monkeypatch.setattr(manifests.ledger, "COMPACT_ABOVE_PARTS", 3)
    monkeypatch.setattr(manifests.ledger, "MERGE_TABLES", n_at_once)
    for module in (manifests.ledger, manifests.parts):
        monkeypatch.setattr(module, "ROW_GROUP_ROWS", group_rows)
    ledger = shots(workspace)
    for i in range(8):
        ledger.append([done(f"v{i}", "k", Shot(f"v{i}", 0, i))], run_id=f"r{i}")
    before = sorted(shots(workspace).entries(), key=lambda e: e.seq)
    # Entries that were appended after loading are not lost either.
    ledger.compact("r9")
    (part,) = workspace.names("manifests/shots")
    assert part.startswith("manifests/shots/part-r9-compact.")
    after = shots(workspace)
    assert sorted(after.entries(), key=lambda e: e.seq) == before
    assert all(ledger.find(e.unit_id, e.input_key) == e == after.find(e.unit_id, e.input_key) for e in before)
    after.append([Entry("v0", "k", "failed")], run_id="r10")
    assert shots(workspace).find("v0", "k").status == "failed"  # type: ignore[union-attr]


def test_what_another_program_wrote_or_merged_meanwhile_is_merged_as_well(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests.ledger, "COMPACT_ABOVE_PARTS", 2)
    mine, another = shots(workspace), shots(workspace)
    mine.append([done("mine", "k")], run_id="m1")
    for i in range(3):
        another.append([done(f"another{i}", "k")], run_id=f"a{i}")
    another.compact("a9")
    for i in range(3):
        another.append([done(f"later{i}", "k")], run_id=f"b{i}")
    mine.compact("m9")
    (part,) = workspace.names("manifests/shots")
    assert "m9-compact" in part
    everything = sorted(["mine", *(f"another{i}" for i in range(3)), *(f"later{i}" for i in range(3))])
    assert ids(mine) == ids(shots(workspace)) == everything
    assert all(mine.find(name, "k") for name in everything)


def test_few_parts_are_left_alone(workspace: Workspace) -> None:
    ledger = shots(workspace)
    for i in range(3):
        ledger.append([done(f"v{i}", "k")], run_id=f"r{i}")
    ledger.compact("r9")
    assert len(workspace.names("manifests/shots")) == 3


def test_a_crash_while_parts_are_merged_loses_and_doubles_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests.ledger, "COMPACT_ABOVE_PARTS", 1)
    ledger = shots(workspace)
    for i in range(3):
        ledger.append([done("v", f"k{i}")], run_id=f"r{i}")
    before = list(shots(workspace).entries())
    monkeypatch.setattr(workspace, "delete", lambda keys: None)
    shots(workspace).compact("r9")
    assert len(workspace.names("manifests/shots")) == 4
    assert list(shots(workspace).entries()) == before


KEYS = st.sampled_from(["k1", "k2", "k3"])
ENTRIES = st.lists(st.tuples(st.sampled_from("vwx"), KEYS, st.integers(0, 5)), max_size=4)


@settings(max_examples=40, deadline=None)
@given(runs=st.lists(st.tuples(ENTRIES, st.booleans(), st.sampled_from(["r", "a", "z"])), max_size=5))
def test_a_ledger_answers_like_a_dictionary(runs: list[tuple[list[tuple[str, str, int]], bool, str]]) -> None:
    workspace = Workspace(f"memory://{new_run_id()}")
    ledger = shots(workspace)
    model: dict[tuple[str, str], int] = {}
    latest: dict[str, str] = {}
    for i, (entries, reload, name) in enumerate(runs):
        ledger.append([done(v, k, Shot(v, 0, n)) for v, k, n in entries], run_id=f"{name}{i}")
        model |= {(v, k): n for v, k, n in entries}
        latest |= {v: k for v, k, _ in entries}
        if reload:
            ledger = shots(workspace)
    answers = {(e.unit_id, e.input_key): e.outputs[0].end_frame for e in ledger.entries()}
    assert answers == model
    for unit_id in "vwx":
        for key in ("k1", "k2", "k3"):
            found = ledger.find(unit_id, key)
            assert (found.outputs[0].end_frame if found else None) == model.get((unit_id, key))
        newest = ledger.latest(unit_id)
        assert (newest.input_key if newest else None) == latest.get(unit_id)
    assert ids(ledger) == sorted(latest)
