from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from mit_builder.cli.weights import app
from mit_builder.errors import CannotContinue
from mit_builder.models.weights import store


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "weights"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_shows_licences_and_what_is_missing() -> None:
    lines = [line for line in run("list").splitlines() if "lr-asd-talkset" in line]
    assert len(lines) == 1
    assert "missing" in lines[0]
    assert "MIT" in lines[0]


def test_imported_file_is_listed_and_verified(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "finetuning_TalkSet.model"
    if not path.exists():
        pytest.skip("no LR-ASD weights beside the checkout")
    assert "is lr-asd-talkset" in run("import", str(path))
    assert "lr-asd-talkset: ok" in run("verify")


def test_fetch_of_what_is_there_needs_no_network(shared_dir: Path) -> None:
    path = shared_dir / "weights" / "finetuning_TalkSet.model"
    if not path.exists():
        pytest.skip("no LR-ASD weights beside the checkout")
    store.import_file(path)
    assert "lr-asd-talkset: " in run("fetch", "lr-asd-talkset")


def test_verify_fails_on_a_damaged_file(folder: Path) -> None:
    folder.mkdir()
    (folder / store.entry("lr-asd-ava").file_name).write_bytes(b"half")
    with pytest.raises(CannotContinue, match="damaged: lr-asd-ava"):
        run("verify")
