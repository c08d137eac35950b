"""How the story of a clip ends: where it is, or what keeps it out of the dataset."""

from __future__ import annotations

import re
from typing import Literal

import fakes
import pytest
import test_cli
from test_cli import Cli, run

from manifests.rows import Review, clip_id, short_id
from mit_builder.dataset.index import parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.labels.reviews import Reviews
from mit_builder.storage.workspace import Workspace

cli = test_cli.cli
A = "http://fake.test/a"
KEPT, SHORT = (clip_id(short_id("content", "a"), *span) for span in ((50, 200), (0, 50)))


def fate(cli: Cli, name: str) -> str:
    """The last line of a clip's story."""
    code, out, err = cli("why", name, "-w", "ws")
    assert code == 0, err
    return out.splitlines()[-1]


def judge(clip: str, verdict: Literal["accept", "reject"], reason: str = "") -> None:
    Reviews(Workspace("ws")).save([Review(clip, verdict, reason, (), labels_checked=False, people="", labels="")])


def test_a_clip_of_the_dataset_is_told_with_its_shard(cli: Cli) -> None:
    run(cli, A)
    shards = {s.bucket: s.name for s in parse_index(Workspace("ws").read(INDEX_KEY).decode()).shards}
    name = shards[int(KEPT[:8], 16) % 2]
    assert fate(cli, KEPT) == f"fate of {KEPT}: in the dataset: dataset/{name}, split train"


def test_a_candidate_that_the_filter_rejected_says_so_and_how_many_people_were_found(cli: Cli) -> None:
    run(cli, A)
    assert fate(cli, SHORT) == f"fate of {SHORT}: rejected by the filter: too_short"
    assert "    2 people found\n" in cli("why", SHORT, "-w", "ws")[1]


def test_a_rejected_clip_is_in_the_dataset_until_the_next_run(cli: Cli) -> None:
    run(cli, A)
    judge(KEPT, "reject", "no conversation")
    why = "rejected by a reviewer (no conversation)"
    told = fate(cli, KEPT)
    assert re.fullmatch(rf"fate of {KEPT}: still in the dataset \(dataset/shard-.*, split train\): .*", told)
    assert told.endswith(f"{why}; taken out by mit-build run --workspace ws --stage shards")
    assert cli("run", "--engine", "serial", "--workspace", "ws", "--stage", "shards")[0] == 0
    assert fate(cli, KEPT) == f"fate of {KEPT}: {why}"


def test_an_accepted_clip_is_told_with_its_verdict(cli: Cli) -> None:
    run(cli, A)
    judge(KEPT, "accept")
    assert fate(cli, KEPT).endswith("split train (reviewed: accept)")


@pytest.mark.parametrize("stages", ["download,shots,filter", "download,shots,filter,pose"])
def test_a_clip_without_labels_says_which_step_comes_next(cli: Cli, stages: str) -> None:
    run(cli, A, "--stage", stages)
    step = "speech" if stages.endswith("pose") else "pose"
    told = f"fate of {KEPT}: no labels yet, {step} comes next: mit-build run --workspace ws --stage all"
    assert fate(cli, KEPT) == told


def test_a_clip_whose_labels_failed_or_that_waits_for_a_shard_says_so(cli: Cli) -> None:
    bad = "http://fake.test/bad?pose=fail"
    run(cli, bad)
    failed = clip_id(short_id("content", "bad"), 50, 200)
    assert fate(cli, failed) == f"fate of {failed}: no labels: pose failed (permanent), see above"
    run(cli, A, "--stage", "download,shots,filter,pose,speech")
    told = f"fate of {KEPT}: labelled, not in the dataset yet: mit-build run --workspace ws --stage shards"
    assert fate(cli, KEPT) == told


def test_the_story_of_a_video_ends_with_all_its_clips(cli: Cli) -> None:
    run(cli, "http://fake.test/v?lengths=50,150,50,150")
    *_, first, second, rejected = cli("why", fakes.source("v?lengths=50,150,50,150").source_id, "-w", "ws")[
        1
    ].splitlines()
    assert rejected == "rejected by the filter: 2 too_short"
    assert all(": in the dataset: " in line for line in (first, second))


def test_a_damaged_shard_is_said_with_what_mends_it(cli: Cli) -> None:
    run(cli, A)
    for shard in Workspace("ws").root.joinpath("dataset").glob("*.parquet"):  # type: ignore[union-attr]
        shard.write_bytes(b"no shard")
    code, out, err = cli("why", KEPT, "-w", "ws")
    assert (code, f"{KEPT}: kept" in out) == (2, True)
    assert "cannot be read; mit-build run --workspace ws --verify mends it" in err
