from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes
import pytest
import test_cli
from test_cli import A, Cli, E
from walks import settings_with, tree, walk, worked

from manifests.ids import new_run_id
from manifests.rows import Review
from mit_builder.labels.reviews import Reviews
from mit_builder.planning import change_effects as foretell_module
from mit_builder.planning.change_effects import foretell
from mit_builder.storage.workspace import Workspace

cli = test_cli.cli
"""The program with fake stages in an empty folder."""
NAMES = ("a", "b", "c")
"""Each has a clip of 10 s, one of 6 s and one of 2 s, which is too short."""


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def told(workspace: Workspace, names: tuple[str, ...], before: list[str], after: list[str], **options: Any) -> str:
    """What is foretold after the settings' names."""
    sources = [fakes.source(name) for name in names]
    steps = fakes.steps()
    line = foretell(workspace, settings_with(*before), settings_with(*after), sources, steps=steps, **options)
    assert line is not None
    assert "\n" not in line
    return line.partition("; ")[2]


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ([], ["filter.min_clip_s=8"], "3 of 6 clips leave the dataset, no model runs again"),
        ([], ["filter.min_clip_s=100"], "6 of 6 clips leave the dataset, no model runs again"),
        (
            [],
            ["filter.min_clip_s=1"],
            "no clip leaves the dataset, 3 come in, units that come due: 3 filter.cut and what follows",
        ),
        ([], ["pose.stride=2"], "no clip leaves the dataset, units that come due: 6 pose and what follows"),
        ([], ["speech.merge_below_frames=3"], "no clip leaves the dataset, units that come due: 6 speech"),
        ([], ["filter.crf=20"], "no clip leaves the dataset, units that come due: 6 filter.cut and what follows"),
        (
            [],
            ["pose.stride=2", "filter.min_clip_s=8"],
            "3 of 6 clips leave the dataset, units that come due: 3 pose and what follows",
        ),
        ([], ["shards.min_body_visible=0.5"], "3 of 6 clips leave the dataset, no model runs again"),
        (
            ["shards.min_body_visible=0.5"],
            [],
            "no clip leaves the dataset, 3 come in, no model runs again",
        ),
        (
            [],
            ["filter.tile_stride=3"],
            "which of 6 clips stay is known after that, units that come due: 3 filter.detect and what follows",
        ),
        (
            [],
            ["shots.threshold=3"],
            "which of 6 clips stay is known after that, units that come due: 3 shots and what follows",
        ),
        (
            [],
            ["download.max_file_gb=3"],
            "which of 6 clips stay is known after that, units that come due: 3 download and what follows",
        ),
        ([], ["run.cpus=1", "shards.contact=me"], "no clip leaves the dataset, no model runs again"),
    ],
)
def test_what_is_foretold_is_what_a_run_does(
    workspace: Workspace, before: list[str], after: list[str], line: str
) -> None:
    walk(workspace, NAMES, *before)
    n_before = walk(workspace, NAMES, *before).tally.n_dataset
    before_bytes = tree(workspace)
    assert told(workspace, NAMES, before, after) == line
    assert tree(workspace) == before_bytes, "nothing was written"
    done = walk(workspace, NAMES, *after)
    due = {step: n for step, n in worked(done).items() if step not in ("filter.select", "shards")}
    said = line.partition("units that come due: ")[2].removesuffix(" and what follows")
    foretold = {part.split()[1]: int(part.split()[0]) for part in said.split(", ") if part}
    # The fakes give the same rows again whatever their settings are, so that only of new clips something follows.
    assert foretold.items() <= due.items()
    assert foretold or not due
    if "is known after" in line:
        return
    words = line.split()
    n_gone = 0 if words[0] == "no" else int(words[0])
    n_new = int(line.partition("dataset, ")[2].split()[0]) if "come in" in line else 0
    assert done.tally.n_dataset == n_before - n_gone + n_new


def test_what_is_pending_anyway_does_not_count(workspace: Workspace) -> None:
    walk(workspace, ["a"], only=list(fakes.CLASSES)[:5])
    names = ("a", "new")
    assert (
        told(workspace, names, [], ["filter.min_clip_s=8"])
        == "no clip leaves the dataset, 1 come in, no model runs again"
    )
    assert told(workspace, names, [], ["speech.merge_below_frames=3"]).endswith("no model runs again")


def test_rejected_clips_do_not_come_in(workspace: Workspace) -> None:
    runner = walk(workspace, ["a"])
    clip_id = runner.clips.kept()[0].clip.clip_id
    review = Review(
        clip_id=clip_id, verdict="reject", reason="", corrections=(), labels_checked=False, people="", labels=""
    )
    Reviews(workspace).save([review])
    assert told(workspace, ("a",), [], ["pose.stride=2"]).startswith("no clip leaves the dataset, units")


def test_of_many_sources_some_are_looked_at_and_that_is_said(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk(workspace, NAMES)
    line = told(workspace, NAMES, [], ["filter.min_clip_s=8"], patience_s=-1.0)
    assert line == "of 1 of 3 sources: 1 of 2 clips leaves the dataset, no model runs again"
    monkeypatch.setattr(foretell_module, "MOST_SOURCES", 2)
    line = told(workspace, NAMES, [], ["filter.min_clip_s=8"])
    assert line == "of 2 of 3 sources: 2 of 4 clips leave the dataset, no model runs again"


def test_equal_settings_are_passed_over_and_many_are_counted(workspace: Workspace) -> None:
    assert foretell(workspace, settings_with(), settings_with(), []) is None
    many = [f"{name}=9" for name in ("run.overlays", "run.max_attempts", "run.max_crashes", "pose.batch")]
    many += [f"download.{name}=9" for name in ("timeout_s", "per_host", "host_rests", "host_refusals")]
    line = foretell(workspace, settings_with(), settings_with(*many), [], steps=fakes.steps())
    assert line is not None
    assert ", and 2 more; no clip leaves" in line


def test_a_run_says_it_before_it_works_and_a_password_is_not_said(cli: Cli) -> None:
    test_cli.run(cli, A, E)
    code, out, _ = test_cli.run(cli, "--set", "filter.min_clip_s=8", "--set", "download.proxy=http://me:secret@host")
    lines = out.splitlines()
    (line,) = [line for line in lines if line.startswith("settings differ")]
    assert (code, line.endswith("2 of 4 clips leave the dataset, no model runs again")) == (0, True)
    assert lines.index(line) < next(i for i, text in enumerate(lines) if "sources -> 2 videos" in text)
    assert "secret" not in out
    _, out, _ = cli("run", "--engine", "serial", "-w", "ws")
    assert "download.proxy was given before and may hold a password, which is not kept: give it again" in out
    assert "settings differ" not in out


def test_tracks_that_are_gone_are_said_and_stop_nothing(cli: Cli) -> None:
    test_cli.run(cli, A)
    for path in Path("ws/tracks").iterdir():
        path.unlink()
    code, out, _ = test_cli.run(cli, "--set", "filter.min_clip_s=8")
    assert (code, "settings differ from the last run here: filter.min_clip_s 5.0 -> 8.0; " in out) == (0, True)
