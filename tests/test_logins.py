"""A login that failed is tried again when the cookies or the proxy have changed, and nothing tells what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from walks import look, settings_with, tree, walk, worked

from mit_builder.driver.login_changes import SALT_KEY, settings_key
from mit_builder.storage.workspace import Workspace

SOURCES = ["a?video=v", "b?download=auth"]
ONE, TWO = "http://ann:hunter22@proxy.test:9", "http://ann:hunter23@proxy.test:9"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "ws")


def test_other_cookies_in_the_same_file_let_a_failed_login_be_tried_again(workspace: Workspace, tmp_path: Path) -> None:
    jar = tmp_path / "jar.txt"
    setting = f"download.cookies_file={jar}"
    jar.write_text("session hunter22")
    walk(workspace, SOURCES, setting)
    assert worked(walk(workspace, SOURCES, setting)) == {}
    jar.touch()
    assert worked(walk(workspace, SOURCES, setting)) == {}
    jar.write_text("session hunter23")
    assert worked(walk(workspace, SOURCES, setting)) == {"download": 1}
    assert worked(walk(workspace, SOURCES, setting)) == {}
    jar.unlink()
    assert worked(walk(workspace, SOURCES, setting)) == {"download": 1}
    assert not any(b"hunter" in data for data in tree(workspace).values())


def test_another_proxy_lets_a_failed_login_be_tried_again(workspace: Workspace) -> None:
    for proxy in (ONE, TWO, None, ONE):
        settings = [f"download.proxy={proxy}"] if proxy else []
        assert worked(walk(workspace, SOURCES, *settings))["download"] >= 1
        assert worked(walk(workspace, SOURCES, *settings)) == {}
    assert not any(b"hunter" in data for data in tree(workspace).values())


def test_a_login_with_a_browsers_cookies_is_tried_by_every_run(workspace: Workspace) -> None:
    setting = "download.cookies_from_browser=firefox"
    walk(workspace, SOURCES, setting)
    assert worked(walk(workspace, SOURCES, setting)) == {"download": 1}


def test_what_tells_passwords_apart_is_slow_and_differs_between_workspaces(tmp_path: Path) -> None:
    places = [Workspace(tmp_path / name) for name in "ab"]
    sections = [settings_with(f"download.proxy={proxy}").download for proxy in (ONE, TWO)]
    keys = [settings_key(section, place, "run") for place in places for section in sections]
    assert len(set(keys)) == 4
    assert keys[0] == settings_key(sections[0], places[0], "another run")
    assert len(places[0].read(SALT_KEY)) == 16


def test_without_secrets_there_is_no_salt_and_looking_writes_none(workspace: Workspace) -> None:
    walk(workspace, SOURCES)
    look(workspace, SOURCES, f"download.proxy={ONE}")
    assert not workspace.exists(SALT_KEY)
