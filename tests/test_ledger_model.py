"""The ledger against a model, while drivers come and go, die in the middle, and parts are damaged."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import manifests.ledger
import manifests.parts
from manifests.ledger import Entry, Ledger
from manifests.rows import Shot
from manifests.schema import content_hash
from mit_builder.storage.workspace import Workspace

FOLDER = "manifests/shots"
UNITS, KEYS = st.sampled_from("vwx"), st.sampled_from(("k1", "k2"))
ENTRIES = st.lists(st.tuples(UNITS, KEYS), max_size=4)

Row = tuple[int, str, str, int]
"""seq, unit, key, and a number that only this row has."""


class Killed(Exception):
    """The driver died here."""


class Storage:
    """A workspace in memory that dies at a chosen write or delete, and where files may vanish between two calls."""

    def __init__(self) -> None:
        self.real = Workspace(f"memory://{secrets.token_hex(8)}")
        self.dies_before: int | None = None
        self._n_changes = 0

    @contextmanager
    def dying(self, before: int) -> Iterator[None]:
        """Raise `Killed` in the place of the change after `before` others."""
        self.dies_before, self._n_changes = before, 0
        try:
            with suppress(Killed):
                yield
        finally:
            self.dies_before = None

    def _change(self) -> None:
        if self._n_changes == self.dies_before:
            raise Killed
        self._n_changes += 1

    def names(self, folder: str) -> set[str]:
        return self.real.names(folder)

    def read(self, key: str) -> bytes:
        return self.real.read(key)

    def write(self, key: str, data: bytes) -> None:
        self._change()
        self.real.write(key, data)

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self._change()
            self.real.delete([key])


class LedgerMachine(RuleBasedStateMachine):
    """`parts` is what each file should hold; of several rows with one unit and key, the highest seq counts."""

    @initialize()
    def begin(self) -> None:
        self.storage = Storage()
        self.parts: dict[str, list[Row]] = {}
        self.damaged: set[str] = set()
        self.n_rows = self.n_runs = 0
        self.new_run()

    def new_run(self) -> None:
        self.n_runs += 1
        # Names in any order, the same ones each time.
        self.run_id = content_hash(self.n_runs)[:6]
        self.ledger = Ledger(self.storage, "shots", (Shot,))
        self.next_seq = 1 + max((row[0] for row in self.rows()), default=-1)

    def rows(self) -> list[Row]:
        return [row for name, rows in self.parts.items() if name not in self.damaged for row in rows]

    def append_to(self, entries: list[tuple[str, str]]) -> list[Row]:
        rows = [(self.next_seq + i, u, k, self.n_rows + i) for i, (u, k) in enumerate(entries)]
        self.n_rows += len(rows)
        made = [Entry(u, k, "done", (Shot(u, 0, 1 + number),)) for _, u, k, number in rows]
        self.ledger.append(made, run_id=self.run_id)
        return rows

    def settle(self, expected: list[Row]) -> None:
        """Take note of which files there are by now: a new one must be `expected`."""
        names = self.storage.names(FOLDER)
        self.parts = {name: rows for name, rows in self.parts.items() if name in names}
        self.damaged &= names
        for name in names - self.parts.keys():
            self.parts[name] = expected

    @rule(entries=ENTRIES)
    def append(self, entries: list[tuple[str, str]]) -> None:
        self.settle(self.append_to(entries))
        self.next_seq += len(entries)

    @rule(entries=ENTRIES.filter(bool))
    def die_before_a_part_is_written(self, entries: list[tuple[str, str]]) -> None:
        with self.storage.dying(0):
            self.append_to(entries)
        self.settle([])
        self.new_run()

    @rule(entries=ENTRIES)
    def die_after_a_part_is_written(self, entries: list[tuple[str, str]]) -> None:
        self.settle(self.append_to(entries))
        self.new_run()

    @rule(n_changes=st.integers(0, 5))
    def die_while_parts_are_merged(self, n_changes: int) -> None:
        expected = self.rows()
        with self.storage.dying(n_changes):
            self.ledger.compact(self.run_id)
        self.settle(expected)
        assert set(self.rows()) == set(expected), "nothing is lost"
        self.new_run()

    @rule()
    def a_run_starts(self) -> None:
        self.new_run()
        assert set(self.ledger.damaged) == self.damaged
        assert set(self.ledger.set_aside()) == self.damaged
        expected = self.rows()
        self.ledger.compact(self.run_id)
        self.settle(expected)
        assert set(self.rows()) == set(expected), "nothing is lost"

    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        whole = sorted(self.parts.keys() - self.damaged)
        if not whole:
            return
        name = data.draw(st.sampled_from(whole))
        content = self.storage.read(name)
        self.storage.real.write(name, content[: data.draw(st.integers(0, len(content) - 1))])
        self.damaged.add(name)
        self.new_run()

    @invariant()
    def whoever_looks_finds_what_the_model_holds(self) -> None:
        expected: dict[tuple[str, str], Row] = {}
        latest: dict[str, Row] = {}
        for row in sorted(self.rows()):
            expected[row[1], row[2]] = latest[row[1]] = row
        for ledger in (self.ledger, Ledger(self.storage, "shots", (Shot,))):
            found = {(e.unit_id, e.input_key): (e.seq, e.outputs[0].end_frame - 1) for e in ledger.entries()}
            assert found == {key: (row[0], row[3]) for key, row in expected.items()}
            assert {e.unit_id: e.input_key for e in ledger.newest()} == {unit: row[2] for unit, row in latest.items()}
            assert [e.unit_id for e in ledger.newest("w".__eq__)] == [unit for unit in latest if unit == "w"]
            for unit in "vwx":
                newest = ledger.latest(unit)
                assert (newest.input_key if newest else None) == (latest[unit][2] if unit in latest else None)
                for key in ("k1", "k2"):
                    assert (ledger.find(unit, key) is not None) == ((unit, key) in expected)


@pytest.fixture(autouse=True)
def _merge_early() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests.ledger, "COMPACT_ABOVE_PARTS", 2)
        yield


class TestLedger(LedgerMachine.TestCase):  # type: ignore[name-defined, misc]
    settings = settings(max_examples=25, stateful_step_count=15, deadline=None)


def test_parts_that_vanish_while_somebody_looks_are_found_where_they_went() -> None:
    storage = Storage()
    for i in range(4):
        Ledger(storage, "shots", (Shot,)).append([Entry(f"v{i}", "k", "done", (Shot("v", 0, 9),))], run_id=f"r{i}")

    class Reader(Storage):
        def __init__(self) -> None:
            self.real = storage.real

        def names(self, folder: str) -> set[str]:
            names = super().names(folder)
            Ledger(storage, "shots", (Shot,)).compact("r9")
            return names

    found = Ledger(Reader(), "shots", (Shot,)).attempts(["unit_id"])["unit_id"].to_pylist()
    assert sorted(found) == ["v0", "v1", "v2", "v3"]


@pytest.mark.parametrize("n_told", range(4))
def test_who_reads_all_entries_has_each_once_also_where_parts_are_merged_meanwhile(
    n_told: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests.parts, "KEEP_BYTES", 0)
    storage = Storage()
    ledger = Ledger(storage, "shots", (Shot,))
    for i in range(4):
        ledger.append([Entry(f"v{i}", "k", "done", (Shot("v", 0, 9),))], run_id=f"r{i}")
    entries = Ledger(storage, "shots", (Shot,)).entries()
    told = [next(entries).unit_id for _ in range(n_told)]
    ledger.append([Entry(name, "k", "done") for name in ("v0", "v3", "later")], run_id="r4")
    ledger.compact("r9")
    told += [entry.unit_id for entry in entries]
    assert sorted(set(told) - {"later"}) == sorted(name for name in told if name != "later") == ["v0", "v1", "v2", "v3"]
