"""A few rounds of kills.py with fakes: one kill a kind, without Ray."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from bench import Bench, Contents
from kills import KINDS, MOUNTS, Round, compare, kinds_for, one_round

LEFT_OUT = ("process group, any time", "ledger part emptied")
"""As others here; the time is short."""
HERE = [kind for kind in KINDS if kind in kinds_for("serial", fakes=True) and kind not in LEFT_OUT]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("kills"), engine="serial", fakes=True, rng=random.Random(7))
    yield made
    # Guardians stay for ten seconds.
    assert [command for command in made.left() if "orphan_reaper.py" not in command] == []


@pytest.mark.parametrize("kind", HERE)
def test_after_a_kill_the_next_run_makes_the_same_dataset_and_repeats_nothing(bench: Bench, kind: str) -> None:
    result = one_round(bench, kind)
    assert result.problems == []
    assert result.again <= result.in_flight


def test_where_mounting_is_not_allowed_the_kinds_that_need_it_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kills.may_mount", lambda: False)
    assert not set(MOUNTS) & set(kinds_for("ray", fakes=False))


def test_what_differs_from_an_undisturbed_run_is_a_problem() -> None:
    wanted = Contents((("a", "1"), ("b", "2")), {"clips/a": "1", "clips/b": "2"})
    result = Round("kind", "point")
    compare(wanted, Contents((("b", "x"), ("b", "x"), ("c", "3")), {"clips/a": "1", "clips/b": "x"}), result)
    assert (result.lost, result.duplicated, result.different) == (1, 1, 2)
    assert len(result.problems) == 2
    same = Round("kind", "point")
    compare(wanted, wanted, same)
    assert same.problems == []
