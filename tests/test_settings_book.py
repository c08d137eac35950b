from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import test_cli
import yaml
from test_cli import A, Cli, E

from manifests.ids import new_run_id
from mit_builder.config import settings as config
from mit_builder.config.settings import Settings
from mit_builder.driver.session import resolve
from mit_builder.errors import ConfigError
from mit_builder.models.weights import store
from mit_builder.storage.settings_file import (
    BEFORE,
    SETTINGS_KEY,
    Changes,
    Kept,
    flat,
    keep,
    kept_in,
    last_settings,
    secret_names,
)
from mit_builder.storage.workspace import Workspace

cli = test_cli.cli
"""The program with fake stages in an empty folder."""
SERIAL = ("--engine", "serial", "-w", "ws")


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def after(kept: Kept | None, run: str = "run 1", **asked: Any) -> Kept:
    """What a workspace remembers after a run with these options."""
    changes = Changes.asked(**asked)
    wanted, pinned = changes.on(kept)
    settings, _ = resolve(wanted, pinned)
    return changes.kept_after(kept, wanted, settings, run)


def said(cli: Cli, *arguments: str) -> dict[str, dict[str, Any]]:
    """What `mit-build settings` tells, by name."""
    code, out, _ = cli("settings", "-w", "ws", "--json", *arguments)
    assert code == 0
    return {line.pop("setting"): line for line in json.loads(out)}


def n_clips(cli: Cli) -> int:
    return int(json.loads(cli("status", "-w", "ws", "--json")[1])["dataset_clips"])


def test_the_next_run_keeps_every_setting_and_every_clip(cli: Cli) -> None:
    test_cli.run(cli, A, E, "--set", "filter.min_clip_s=1")
    assert n_clips(cli) == 6
    for command in (("run",), ("run", "--stage", "shards"), ("retry",), ("run", E)):
        code, out, _ = cli(*command, *SERIAL)
        assert (code, "settings differ" in out, "0 units worked on" in out) == (0, False, True)
        assert n_clips(cli) == 6
    assert last_settings(Workspace("ws")).filter.min_clip_s == 1  # type: ignore[union-attr]


VALUES: dict[str, Any] = {
    "download.speech_level_dbfs": -20,
    "profile": "paper",
    "download.format": "b",
    "download.captions": ["en"],
    "download.cookies_file": "/jar.txt",
    "download.cookies_from_browser": "firefox",
    "download.ytdlp_options": {"format_sort": ["res:720"]},
    "download.proxy": "http://me:secret@host:1",
    "shots.detector": "hash",
    "filter.media_fps": "source",
    "filter.detector": "yolo26n-pose",
    "filter.voice_detector": "elsewhere.voice:Detector",
    "pose.model": "sapiens-1b",
    "pose.precision": "bf16",
    "speech.model": "talknet",
    "speech.precision": "bf16",
    "speech.voice_detector": "elsewhere.voice:Detector",
    "plugins.stages": ["elsewhere.stages:Judge"],
    "plugins.settings": {"judge": {"limit": 2}},
    "run.ray_address": "auto",
    "run.log": "workspace",
}
"""Of settings whose other values cannot be guessed from their type."""


def another(name: str) -> Any:
    """A value of a setting that is not its default."""
    now = flat(Settings())[name]
    guesses = [VALUES[name]] if name in VALUES else [not now] if isinstance(now, bool) else [now or 0, 3, 0.5, 7, "cpu"]
    for value in [*guesses, *([now + 1, now - 1, now / 2] if isinstance(now, int | float) else [])]:
        try:
            found = flat(config.load(None, [f"{name}={json.dumps(value)}"]))[name]
        except ConfigError:
            continue
        if found != now:
            return value
    raise AssertionError(f"give VALUES a value of {name}")


@pytest.mark.parametrize("name", sorted(flat(Settings())))
def test_every_setting_sticks_but_what_may_hold_a_password(name: str, workspace: Workspace) -> None:
    value = another(name)
    kept = after(None, overrides=[f"{name}={json.dumps(value)}"])
    keep(workspace, kept)
    again = kept_in(workspace)
    assert again is not None
    settings, _ = resolve(*Changes.asked().on(again))
    if name in secret_names():
        assert b"secret" not in workspace.read(SETTINGS_KEY)
        assert flat(settings)[name] is None
        assert Changes.asked().missing(again) == [name]
        assert Changes.asked(unset=[name]).missing(again) == []
    else:
        assert flat(settings)[name] == value
        assert settings == kept.settings
    assert again.given[name] == "--set, run 1"


def test_what_a_settings_file_does_not_name_stays_and_set_comes_last(cli: Cli) -> None:
    test_cli.run(cli, A, "--set", "filter.min_clip_s=1", "--set", "pose.stride=2")
    Path("mine.yaml").write_text("filter:\n  crf: 20\n  min_clip_s: 3\npose:\n")
    cli("run", *SERIAL, "--config", "mine.yaml", "--set", "filter.min_clip_s=1.5")
    settings = last_settings(Workspace("ws"))
    assert settings is not None
    assert (settings.filter.crf, settings.filter.min_clip_s, settings.pose.stride) == (20, 1.5, 2)


def test_unset_goes_back_to_the_default_and_a_section_as_a_whole(cli: Cli) -> None:
    test_cli.run(cli, A, "--set", "filter.min_clip_s=1", "--set", "filter.crf=20", "--set", "pose.stride=2")
    code, out, _ = cli("run", *SERIAL, "--unset", "filter.min_clip_s")
    line = "settings differ from the last run here: filter.min_clip_s 1.0 -> 5.0; 1 of 3 clips leaves the dataset"
    assert (code, f"{line}, no model runs again\n" in out) == (0, True)
    assert (n_clips(cli), said(cli)["filter.min_clip_s"]["origin"]) == (2, "default")
    cli("run", *SERIAL, "--unset", "filter", "--set", "filter.min_clip_s=8")
    settings = last_settings(Workspace("ws"))
    assert settings is not None
    assert (settings.filter.crf, settings.filter.min_clip_s, settings.pose.stride) == (16, 8, 2)
    for name in ("filter.min_clip", "filtre", "filter.", ""):
        code, _, err = cli("run", *SERIAL, "--unset", name)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "setting" in err


def test_fresh_settings_start_from_the_defaults(cli: Cli) -> None:
    test_cli.run(cli, A, "--set", "filter.min_clip_s=1", "--set", "pose.stride=2")
    code, out, _ = cli("run", *SERIAL, "--fresh-settings", "--set", "pose.stride=3", *test_cli.QUICK)
    assert (code, "filter.min_clip_s 1.0 -> 5.0, pose.stride 2 -> 3" in out) == (0, True)
    assert {name for name, line in said(cli).items() if line["origin"] == "given"} == {
        "pose.stride",
        "download.host_interval_s",
        "run.retry_base_s",
    }
    Path("ws/mit-build.yaml").write_text("filter:\n  nonsense: 1\n")
    code, _, err = cli("status", "-w", "ws")
    assert (code, "unknown setting filter.nonsense" in err) == (2, True)
    assert "repair it, or give up what it holds: mit-build run --workspace ws --fresh-settings" in err
    assert cli("run", *SERIAL, "--fresh-settings", *test_cli.QUICK)[0] == 0


def test_settings_says_where_each_value_came_from(cli: Cli) -> None:
    code, out, _ = cli("settings", "-w", "ws")
    assert (code, out.startswith("nothing was run in ws yet: these are the defaults\n")) == (0, True)
    assert not Path("ws").exists()
    Path("mine.yaml").write_text("filter:\n  min_clip_s: 3\nshards:\n  embed_media: true\n")
    test_cli.run(cli, A, "--config", "mine.yaml", "--set", "download.proxy=http://me:secret@host")
    cli("run", *SERIAL, "--set", "pose.stride=2", "--set", "filter.min_clip_s=3")
    told = said(cli)
    assert told["filter.min_clip_s"] | {"by": ""} == {"value": 3.0, "default": 5.0, "origin": "given", "by": ""}
    assert told["filter.min_clip_s"]["by"].startswith("--config mine.yaml, run 2"), "the same value is no news"
    assert told["pose.stride"]["by"].startswith("--set, run 2")
    assert told["speech.model"]["origin"] == told["profile"]["origin"] == "decided"
    assert told["filter.crf"] == {"value": 16, "default": 16, "origin": "default", "by": None}
    assert told["download.proxy"]["value"] == "(not kept: may hold a password)"
    assert "secret" not in json.dumps(told)
    changed = said(cli, "--changed")
    assert changed.keys() == {name for name, line in told.items() if line["origin"] != "default"}
    _, out, _ = cli("settings", "-w", "ws")
    (line,) = [line for line in out.splitlines() if line.startswith("filter.min_clip_s ")]
    assert line.split()[:6] == ["filter.min_clip_s", "3.0", "5.0", "given:", "--config", "mine.yaml,"]
    assert cli("tune", "-w", "ws", "--apply", "filter.min_clip_s=1")[0] == 0
    assert said(cli)["filter.min_clip_s"]["by"].startswith("--set, tune 2")


def test_a_workspace_of_before_is_read_as_if_what_is_no_default_had_been_given(cli: Cli) -> None:
    test_cli.run(cli, A, "--set", "filter.min_clip_s=1", "--set", "run.log=workspace")
    text = yaml.safe_load(Path("ws/mit-build.yaml").read_text())
    del text["origin"], text["filter"]["min_stillness"]
    Path("ws/mit-build.yaml").write_text(yaml.safe_dump(text))
    told = said(cli)
    assert told["filter.min_clip_s"] == {"value": 1.0, "default": 5.0, "origin": "given", "by": BEFORE}
    assert told["filter.min_stillness"]["origin"] == "default"
    assert told["speech.model"]["origin"] == "decided"
    code, out, _ = cli("run", *SERIAL)
    assert (code, "settings differ" in out, "0 units worked on" in out) == (0, False, True)
    assert said(cli) == told
    assert n_clips(cli) == 3


def test_a_moved_default_leaves_a_workspace_as_it_is(cli: Cli) -> None:
    test_cli.run(cli, A)
    text = yaml.safe_load(Path("ws/mit-build.yaml").read_text())
    text["filter"]["min_clip_s"] = 1  # as if that had been the default when it was written
    Path("ws/mit-build.yaml").write_text(yaml.safe_dump(text))
    assert said(cli)["filter.min_clip_s"] == {"value": 1.0, "default": 5.0, "origin": "kept", "by": None}
    cli("run", *SERIAL)
    assert (n_clips(cli), said(cli)["filter.min_clip_s"]["origin"]) == (3, "kept")


def test_auto_stays_what_it_was_decided_to_be_until_it_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "missing_for", lambda model: "its weights")
    first = after(None, "run 1")
    assert (first.settings.speech.model, first.decided["speech.model"]) == ("lips", "run 1")
    monkeypatch.setattr(store, "missing_for", lambda model: None)
    for same in ({}, {"overrides": ["speech.model=auto"]}, {"overrides": ["pose.stride=2"]}):
        second = after(first, "run 2", **same)
        assert (second.settings.speech.model, second.decided["speech.model"]) == ("lips", "run 1")
    for anew in ({"unset": ["speech.model"]}, {"unset": ["speech"]}, {"fresh": True}):
        second = after(first, "run 2", **anew)  # type: ignore[arg-type]
        assert (second.settings.speech.model, second.decided["speech.model"]) == ("lr-asd", "run 2")


def test_a_model_that_was_given_stays_under_another_profile_and_can_be_left_to_the_program_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "missing_for", lambda model: None)
    first = after(None, "run 1", profile="paper", overrides=["filter.detector=yolo26n-pose"])
    assert first.given == {"filter.detector": "--set, run 1", "profile": "--set, run 1"}
    stays = after(first, "run 2")
    assert (stays.settings, stays.given, stays.decided) == (first.settings, first.given, first.decided)
    other = after(first, "run 2", profile="embedded").settings
    assert (other.filter.detector, other.pose.model, other.speech.model) == ("yolo26n-pose", "mediapipe", "lr-asd")
    back = after(first, "run 2", overrides=["filter.detector=auto"])
    assert (back.settings.filter.detector, back.decided["filter.detector"]) == ("yolo26x-pose", "run 2")
    assert "filter.detector" not in back.given


def test_a_plan_and_a_retry_change_settings_for_good_and_looking_does_not(cli: Cli) -> None:
    test_cli.run(cli, A, E)
    before = Path("ws/mit-build.yaml").read_bytes()
    for command in (("status",), ("tune", "--set", "filter.min_clip_s=1"), ("settings",), ("doctor",)):
        cli(*command, "-w", "ws")
        assert Path("ws/mit-build.yaml").read_bytes() == before
    for command in (("plan", "--probe", "2"), ("retry",)):
        value = 6 if command[0] == "plan" else 7
        code, out, _ = cli(*command, *SERIAL, "--set", f"filter.min_clip_s={value}")
        assert (code, f"-> {value}.0; 0" not in out, f"-> {value}.0" in out) == (0, True, True)
        assert said(cli)["filter.min_clip_s"]["value"] == value
    assert cli("retry", *SERIAL, "--unset", "filter.min_clip_s")[0] == 0
    assert (said(cli)["filter.min_clip_s"]["value"], n_clips(cli)) == (5, 4)


def test_a_refused_change_changes_nothing(cli: Cli) -> None:
    test_cli.run(cli, A)
    before = Path("ws/mit-build.yaml").read_bytes()
    for wrong in (("--set", "filter.crf=99"), ("--config", "none.yaml"), ("--unset", "nonsense"), ("none.mp4",)):
        assert cli("run", *SERIAL, *wrong)[0] == 2
        assert Path("ws/mit-build.yaml").read_bytes() == before


@pytest.mark.parametrize("origin", ["origin: 3", "origin: {given: 3}", "origin: {given: {}}", "origin: []"])
def test_a_damaged_origin_is_refused_in_one_line(workspace: Workspace, origin: str) -> None:
    workspace.write(SETTINGS_KEY, f"profile: embedded\n{origin}\n".encode())
    with pytest.raises(ConfigError, match=r"mit-build\.yaml in the workspace is damaged: .*--fresh-settings"):
        kept_in(workspace)


def test_a_workspaces_own_file_can_be_given_to_another(workspace: Workspace, tmp_path: Path) -> None:
    keep(workspace, Kept(config.load(None, ["filter.crf=20"])))
    path = tmp_path / "theirs.yaml"
    path.write_bytes(workspace.read(SETTINGS_KEY))
    assert after(None, path=path).settings.filter.crf == 20
