from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest
import test_cli
from test_cli import Cli
from walks import settings_with, tree, walk

from manifests.ids import new_run_id
from manifests.rows import Pose, Review
from mit_builder.cli import tune as tune_command
from mit_builder.config import settings as config
from mit_builder.config.settings import Settings
from mit_builder.errors import CannotContinue, ConfigError
from mit_builder.labels.reviews import REJECTED, Reviews
from mit_builder.pipeline import LEFT_OUT_BY, left_out
from mit_builder.planning import tune
from mit_builder.planning.what_if import Outlook, WhatIf
from mit_builder.storage.lease import lease
from mit_builder.storage.settings_file import kept_in, last_settings
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, clip_span, digest
from mit_builder.storage.workspace import Workspace

cli = test_cli.cli
"""The program with fake stages in an empty folder."""


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def foresee(workspace: Workspace, names: list[str], *overrides: str) -> tuple[WhatIf, list[Outlook]]:
    """What the fakes would keep of these sources with each override."""
    variants = [settings_with(*([override] if override else [])) for override in overrides]
    sources = map(fakes.source, names)
    seen = WhatIf(workspace, settings_with(), sources, variants, steps=fakes.steps())
    return seen, [seen.outlook(variant) for variant in variants]


def lengths(outlook: Outlook) -> list[int]:
    return sorted(outlook.kept_frames.values())


def test_each_value_is_judged_by_the_stage_itself_and_nothing_is_written(workspace: Workspace) -> None:
    walk(workspace, ["a", "b"])
    before = tree(workspace)
    seen, (now, looser, tighter) = foresee(workspace, ["a", "b"], "", "filter.min_clip_s=1", "filter.min_clip_s=8")
    assert [lengths(found) for found in (now, looser, tighter)] == [
        [150, 150, 250, 250],
        [50, 50, 150, 150, 250, 250],
        [250, 250],
    ]
    assert (tighter.dropped, tighter.dropped_frames) == ({"too_short": 4}, {"too_short": 400})
    assert not looser.dropped
    assert (seen.n_shots, seen.pending) == (6, {"download": 0, "shots": 0, "filter.detect": 0})
    assert tree(workspace) == before


def test_what_it_foretells_is_what_a_run_keeps(workspace: Workspace) -> None:
    walk(workspace, ["a", "b"])
    _, (looser,) = foresee(workspace, ["a", "b"], "filter.min_clip_s=1")
    walk(workspace, ["a", "b"], "filter.min_clip_s=1")
    _, (after,) = foresee(workspace, ["a", "b"], "filter.min_clip_s=1")
    assert looser.kept_frames == after.kept_frames
    assert (len(looser.labelled), len(after.labelled)) == (4, 6)


@pytest.mark.parametrize(
    ("done", "due"),
    [("filter.select", "filter.cut"), ("filter.cut", "pose"), ("pose", "speech"), ("speech", None), ("shards", None)],
)
def test_kept_clips_say_which_step_they_still_need(workspace: Workspace, done: str, due: str | None) -> None:
    names = list(fakes.CLASSES)
    walk(workspace, ["a"], only=names[: names.index(done) + 1])
    _, (now,) = foresee(workspace, ["a"], "")
    assert lengths(now) == [150, 250]
    assert sorted(now.due.values()) == ([due] * 2 if due else [])
    assert len(now.labelled) == (0 if due else 2)


def test_new_clips_need_everything_and_the_others_nothing(workspace: Workspace) -> None:
    walk(workspace, ["a"])
    _, (looser,) = foresee(workspace, ["a"], "filter.min_clip_s=1")
    (new,) = looser.due
    assert (looser.due[new], looser.kept_frames[new]) == ("filter.cut", 50)


def test_clips_that_a_step_failed_on_are_told_apart(workspace: Workspace) -> None:
    walk(workspace, ["bad?pose=fail&lengths=200", "a"])
    _, (now,) = foresee(workspace, ["bad?pose=fail&lengths=200", "a"], "")
    assert list(now.failed.values()) == ["pose"]
    assert (len(now.kept_frames), len(now.labelled), now.due) == (3, 2, {})


def test_verdicts_of_the_shards_need_the_poses_alone(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    _, (now, stricter) = foresee(workspace, ["a", "e"], "", "shards.min_body_visible=0.5")
    assert now.left_out == {}
    assert set(stricter.left_out.values()) == {"body_not_visible"}
    assert stricter.left_out.keys() == {clip_id for clip_id in now.kept_frames if "_000050to" in clip_id}
    assert stricter.kept_frames == now.kept_frames


def test_what_was_taken_down_or_rejected_by_a_reviewer_is_not_foretold(workspace: Workspace) -> None:
    walk(workspace, ["a", "e"])
    _, (before,) = foresee(workspace, ["a", "e"], "")
    taken, rejected, *others = sorted(before.kept_frames)
    span = clip_span(taken)
    assert span is not None
    video_id, start, end = span
    stone = Tombstone("span", digest("span", video_id), start, end)
    workspace.write(KEY, Tombstones([stone]).dump())
    review = Review(
        clip_id=rejected, verdict="reject", reason="", corrections=(), labels_checked=False, people="", labels=""
    )
    Reviews(workspace).save([review])
    _, (now, looser) = foresee(workspace, ["a", "e"], "", "filter.min_clip_s=1")
    assert sorted(now.kept_frames) == [rejected, *others]
    assert now.left_out == looser.left_out == {rejected: REJECTED}
    assert taken not in looser.kept_frames


def test_shots_that_were_not_looked_at_are_counted(workspace: Workspace) -> None:
    walk(workspace, ["a", "b"], only=["download", "shots"])
    seen, (now,) = foresee(workspace, ["a", "b"], "")
    assert (seen.n_shots, now.kept_frames) == (0, {})
    assert seen.pending == {"download": 0, "shots": 0, "filter.detect": 2}


def test_tracks_that_cannot_be_read_are_one_line_with_what_to_do(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: fakes.FakeSelect, row: Any, ctx: Any) -> Iterator[Any]:
        raise OSError("not a Parquet file")

    walk(workspace, ["a"])
    monkeypatch.setattr(fakes.FakeSelect, "process", broken)
    with pytest.raises(CannotContinue, match=r"cannot read the tracks of .*run --verify"):
        foresee(workspace, ["a"], "")


def test_every_setting_that_leaves_clips_out_can_be_tuned() -> None:
    asked: set[str] = set()

    class Asked:
        def __getattr__(self, name: str) -> float:
            asked.add(name)
            return 0.0

    class Values:
        shards = Asked()

    left_out(Values(), Pose("x", None, "", 0.9, 0.9))  # type: ignore[arg-type]
    assert asked == set(LEFT_OUT_BY)


@pytest.mark.parametrize("name", tune.tunable())
def test_every_setting_has_values_around_its_own_within_its_bounds(name: str) -> None:
    columns = tune._columns(Settings(), name, None)
    values = [column.value for column in columns]
    assert values == sorted(set(values))
    assert tune._value(Settings(), name) in values
    assert len(values) >= 3
    for column in columns:
        assert config.load(None, [f"{name}={column.value}"]) == column.settings


def test_the_table_shows_new_and_lost_clips_and_what_they_would_need(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A)
    code, out, err = cli("tune", "-w", "ws", "--setting", "filter.min_clip_s", "--values", "8,1", "--list-clips")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line and "\t" not in line]
    assert [line.split("  ")[0] for line in lines] == [
        "3 shots judged anew with each value",
        "filter.min_clip_s",
        "kept",
        "",
        "",
        "",
        "",
        "dropped: too_short",
    ]
    assert lines[1].split() == ["filter.min_clip_s", "1", "5", "(now)", "8"]
    assert lines[2].split()[1:] == ["3", "(0.3", "min)", "2", "(0.3", "min)", "1", "(0.2", "min)"]
    assert lines[6].split() == ["would", "still", "need", "cut,", "pose,", "speech", "1", "0", "0"]
    listed = [line.split("\t") for line in out.splitlines() if "\t" in line]
    assert [(at, clip_id.partition("_")[2], standing) for at, clip_id, standing in listed] == [
        ("filter.min_clip_s=1", "000000to000050", "needs cut, pose, speech"),
        ("filter.min_clip_s=1", "000050to000200", "labelled"),
        ("filter.min_clip_s=1", "000200to000450", "labelled"),
        ("filter.min_clip_s=5", "000050to000200", "labelled"),
        ("filter.min_clip_s=5", "000200to000450", "labelled"),
        ("filter.min_clip_s=8", "000200to000450", "labelled"),
    ]


def test_without_a_setting_all_are_shown(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A)
    code, out, _ = cli("tune", "-w", "ws", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["settings"].keys() == tune.tunable().keys()
    assert told["now"] == {
        "clips": 2,
        "hours": pytest.approx(16 / 3600, abs=1e-6),
        "new": [],
        "gone": [],
        "labelled": 2,
        "due": {},
        "failed": 0,
        "left_out": {},
        "dropped": {"too_short": {"candidates": 1, "hours": pytest.approx(2 / 3600, abs=1e-6)}},
    }


def test_settings_moved_together_stand_beside_those_of_now(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A)
    pinned = Path("ws/mit-build.yaml").read_bytes()
    code, out, _ = cli("tune", "-w", "ws", "--set", "filter.min_clip_s=1", "--set", "shards.min_body_visible=0.5")
    assert code == 0
    assert out.endswith(
        "\nclips of the dataset that these settings would lose: 1; a run with the same --set takes them over\n"
    )
    assert [line.split() for line in out.splitlines() if line.startswith(("as set", "  labelled", "  left"))] == [
        ["as", "set", "now", "as", "set"],
        ["labelled", "2", "2"],
        ["left", "out:", "body_not_visible", "0", "1"],
    ]
    assert Path("ws/mit-build.yaml").read_bytes() == pinned


def test_apply_writes_the_settings_and_selects_and_nothing_else(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A)
    dataset = sorted(Path("ws/dataset").iterdir())
    code, out, err = cli("tune", "-w", "ws", "--apply", "filter.min_clip_s=1")
    assert (code, err) == (0, "")
    goes_on = "run --workspace ws"
    assert f"3 shots selected anew; the dataset stays as it is until:\n  mit-build {goes_on}\n" in out
    settings = last_settings(Workspace("ws"))
    assert settings is not None
    assert settings.filter.min_clip_s == 1
    assert settings.shards.n_buckets == 2, "the others stay"
    told = json.loads(cli("status", "-w", "ws", "--json")[1])
    assert told["stages"]["filter.select"]["done"] == 3
    assert told["stages"]["filter.cut"] | {"duration_s": 0, "cpu_s": 0} == {
        "done": 2,
        "rejected": {},
        "failed": {},
        "pending": 1,
        "worked_on": 0,
        "duration_s": 0,
        "cpu_s": 0,
    }
    assert sorted(Path("ws/dataset").iterdir()) == dataset
    assert cli(*goes_on.split(), "--engine", "serial")[0] == 0
    assert json.loads(cli("status", "-w", "ws", "--json")[1])["dataset_clips"] == 3


def test_apply_keeps_what_was_given_and_decided_before(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A, "--set", "pose.model=mediapipe")
    workspace = Workspace("ws")
    before = kept_in(workspace)
    assert before is not None
    assert before.decided.keys() == {"profile", "filter.detector", "speech.model"}
    for value in (1, 2):
        assert cli("tune", "-w", "ws", "--apply", f"filter.min_clip_s={value}")[0] == 0
    after = kept_in(workspace)
    assert after is not None
    assert after.decided == before.decided
    assert after.given.items() > before.given.items()
    assert after.given["filter.min_clip_s"].startswith("--set, tune ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setting", "filter.tile_stride"), "'filter.tile_stride' is no threshold that moves without inference"),
        (("--set", "pose.stride=2"), "'pose.stride' is no threshold that moves without inference"),
        (("--apply", "filter.crf=2"), "'filter.crf' is no threshold that moves without inference"),
        (("--setting", "filter.min_face_px", "--values", "wide"), "setting filter.min_face_px"),
        (("--setting", "filter.min_face_px", "--values", " , "), "holds no value"),
        (("--values", "1,2"), "--values belong to one setting"),
        (("--apply", "filter.min_face_px"), "must look like"),
        (("-w", "none"), "no workspace at none"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(cli: Cli, arguments: tuple[str, ...], message: str) -> None:
    test_cli.run(cli, test_cli.A)
    pinned = Path("ws/mit-build.yaml").read_bytes()
    code, _, err = cli("tune", "-w", "ws", *arguments)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert Path("ws/mit-build.yaml").read_bytes() == pinned


def test_apply_waits_for_no_other_run(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A)
    pinned = Path("ws/mit-build.yaml").read_bytes()
    with lease(Workspace("ws")):
        assert cli("tune", "-w", "ws", "--setting", "filter.min_clip_s")[0] == 0
        code, _, err = cli("tune", "-w", "ws", "--apply", "filter.min_clip_s=1")
    assert code == 3
    assert "another run uses this workspace" in err
    assert Path("ws/mit-build.yaml").read_bytes() == pinned


def test_an_empty_folder_says_that_nothing_was_run(cli: Cli) -> None:
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match="nothing was run in empty yet"):
        tune_command.tune(workspace="empty")
