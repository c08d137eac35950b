"""Several sources of one video: whoever comes first in the list, nothing is done that is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from urllib.parse import quote

import fakes
import pytest
from walks import dataset, failed, look, tree, walk, worked

from mit_builder.driver.runner import Runner
from mit_builder.storage.workspace import Workspace

KINDS = {
    "one content": ["x?video=v", "y?video=v", "z?video=v"],
    "one file at three sites": ["x?site=1&video=v", "y?site=2&video=v", "z?site=3&video=v"],
    "one site's video as two files": ["x?site=1&video=v", "y?site=1&video=w"],
    "a chain of both": ["x?site=1&video=v", "y?site=1&video=w", "z?site=2&video=w"],
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def calls(log: Path) -> Counter[str]:
    """Calls of each stage since the last look."""
    found = Counter(line.partition(" ")[0] for line in log.read_text().splitlines()) if log.exists() else Counter()
    log.unlink(missing_ok=True)
    return found


def by_id(names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: fakes.source(name).source_id)


@pytest.mark.parametrize("kind", KINDS)
def test_no_order_of_the_list_causes_work_on_a_finished_workspace(workspace: Workspace, log: Path, kind: str) -> None:
    walk(workspace, ["a", *KINDS[kind], "b"])
    assert calls(log)["pose"] > 0
    before, rows = tree(workspace), dataset(workspace)
    for order in permutations(KINDS[kind]):
        again = walk(workspace, ["a", *order, "b"])
        assert (calls(log), worked(again)) == (Counter(), {})
        assert again.tally.steps["download"].rejected == Counter(duplicate=len(order) - 1)
        assert tree(workspace) == before
    assert dataset(workspace) == rows


@pytest.mark.parametrize("kind", KINDS)
def test_looking_says_the_same_whoever_comes_first(workspace: Workspace, kind: str) -> None:
    walk(workspace, KINDS[kind])
    seen = [look(workspace, order).tally for order in permutations(KINDS[kind])]
    assert all(tally.as_dict() == seen[0].as_dict() and tally.pending == 0 for tally in seen)


def first_done(runner: Runner, names: Sequence[str]) -> list[str]:
    """The sources that the ledger says are no duplicates."""
    ledger = runner.lanes["download"].ledger
    return [name for name in names if ledger.latest(fakes.source(name).source_id).status == "done"]  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["one content", "one file at three sites"])
@pytest.mark.parametrize("turn", [1, -1])
def test_a_smaller_source_takes_a_video_over_once_and_gives_it_back_without_work(
    workspace: Workspace, log: Path, kind: str, turn: int
) -> None:
    new, *old = by_id(KINDS[kind])
    walk(workspace, old)
    calls(log)
    taken = walk(workspace, [new, *old][::turn])
    n_clips = 0 if kind == "one content" else 2  # the clips of another id are other clips
    made = calls(log)
    assert (made["download"], made["filter.cut"], made["pose"], made["speech"]) == (1, n_clips, n_clips, n_clips)
    assert first_done(taken, [new, *old]) == [new]
    for order in permutations([new, *old]):
        assert worked(walk(workspace, order)) == {}
    assert calls(log) == Counter()
    left = walk(workspace, old[::turn])
    assert worked(left).keys() <= {"shards"}
    assert first_done(left, old) == old[:1]
    back = walk(workspace, [*old[::turn], new])
    assert worked(back).keys() <= {"shards"}
    assert {row["source_url"] for row in dataset(workspace)} == {fakes.source(new).address}


def test_a_duplicate_waits_for_what_a_playlist_holds(workspace: Workspace, log: Path) -> None:
    first, second = by_id(KINDS["one file at three sites"][:2])
    names = [second, f"all?list={quote(first)}"]
    walk(workspace, names)
    calls(log)
    assert worked(walk(workspace, names)) == worked(walk(workspace, names[::-1])) == {}
    assert calls(log) == Counter()


def test_clips_stay_when_the_one_that_had_them_cannot_be_fetched_again(workspace: Workspace, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    second = by_id([f"{name}?site=1" for name in "uvwxyz"])[-1]
    failing = (f"{n}?site=1&download=fail&while={flag}" for n in range(100))
    first = next(name for name in failing if by_id([name, second])[0] == name)
    keeper = walk(workspace, [first, second]).lanes["download"].ledger.latest(fakes.source(first).source_id)
    assert keeper is not None
    workspace.delete([keeper.outputs[0].media.key])
    flag.touch()
    again = walk(workspace, [second, first])
    assert (again.tally.n_videos, failed(again)) == (1, {"download": {"permanent": 1}})
    assert {row["title"] for row in dataset(workspace)} == {first.partition("?")[0]}
