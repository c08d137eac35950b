from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import mit_builder.storage.source_catalog
from manifests.ids import new_run_id
from manifests.sources import file_source
from mit_builder.config import settings as config
from mit_builder.config.settings import Settings
from mit_builder.driver.session import open_sources, resolve
from mit_builder.errors import ConfigError
from mit_builder.models import devices
from mit_builder.models.weights import store
from mit_builder.storage.settings_file import SETTINGS_KEY, Kept, changed_settings, keep, last_settings
from mit_builder.storage.source_catalog import DEMO, SOURCES_KEY, SourceCatalog
from mit_builder.storage.workspace import Workspace


@pytest.fixture
def workspace() -> Workspace:
    return Workspace(f"memory://{new_run_id()}")


def video(folder: Path, name: str, text: str | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or name)
    return path


def test_a_workspace_remembers_every_source_in_the_order_given(workspace: Workspace, tmp_path: Path) -> None:
    book = SourceCatalog(workspace)
    assert book.add([str(video(tmp_path, "b.mp4")), "http://host/x"]) == 2
    book.save()
    again = SourceCatalog(workspace)
    assert again.add([str(video(tmp_path, "a.mp4")), "http://host/x"]) == 2
    names = [source.address.rpartition("/")[2] for source in again.sources()]
    assert names == ["b.mp4", "x", "a.mp4"]
    assert [source.address.rpartition("/")[2] for source in again.sources(limit=2)] == ["b.mp4", "x"]


def test_relative_paths_of_a_list_start_from_the_list(workspace: Workspace, tmp_path: Path) -> None:
    path = video(tmp_path, "lists/mine.txt", "../videos\nhttp://host/x\n")
    video(tmp_path, "videos/a.mp4")
    book = SourceCatalog(workspace)
    assert book.add([], [path]) == 2
    assert [source.address for source in book.sources()] == [str(tmp_path / "videos" / "a.mp4"), "http://host/x"]


def test_of_files_with_equal_content_one_that_is_there_counts(workspace: Workspace, tmp_path: Path) -> None:
    book = SourceCatalog(workspace)
    before, after = (video(tmp_path, name, "same") for name in ("a.mp4", "moved/a.mp4"))
    assert book.add([str(before), str(after), "http://host/x", "http://host/x#part"]) == 4
    assert [source.address for source in book.sources()] == [str(before), "http://host/x"]
    before.unlink()
    assert [source.address for source in book.sources()] == [str(after), "http://host/x"]
    after.unlink()
    assert [source.address for source in book.sources()] == [str(before), "http://host/x"]


def test_an_address_that_is_signed_anew_takes_the_place_of_the_old_one(workspace: Workspace) -> None:
    old, new = (f"https://media.test/a.mp4?v=1&X-Amz-Date={n}&X-Amz-Signature={n}" for n in ("zz", "aa"))
    first = SourceCatalog(workspace)
    first.add([old, "http://host/x"])
    first.save()
    for given in (new, old, "https://media.test/a.mp4?v=1"):
        book = SourceCatalog(workspace)
        book.add([given])
        book.save()
        assert [source.address for source in SourceCatalog(workspace).sources()] == [given, "http://host/x"]
        assert book.sources()[0].source_id == first.sources()[0].source_id


def test_files_with_equal_content_are_one_source_whatever_the_order(workspace: Workspace, tmp_path: Path) -> None:
    pair = [str(video(tmp_path, name, "same")) for name in ("b.mp4", "a.mp4")]
    for order in (pair, pair[::-1]):
        book = SourceCatalog(workspace)
        book.add(order)
        assert [source.address for source in book.sources()] == [pair[1]]


def test_an_unchanged_file_is_not_read_again(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video(tmp_path, "a.mp4")
    book = SourceCatalog(workspace)
    book.add([str(path)])
    book.save()
    before = book.sources()
    monkeypatch.setattr(mit_builder.storage.source_catalog, "file_source", None)
    again = SourceCatalog(workspace)
    again.add([str(path)])
    assert again.sources() == before


def test_a_file_that_changed_is_another_source(workspace: Workspace, tmp_path: Path) -> None:
    path = video(tmp_path, "a.mp4", "first")
    book = SourceCatalog(workspace)
    book.add([str(path)])
    book.save()
    path.write_text("second version")
    again = SourceCatalog(workspace)
    again.add([str(path)])
    assert again.sources() == [file_source(path)]


@pytest.mark.parametrize("address", ["none.mp4", "ftp://x/y", "x" * 300, "a\0b"])
def test_an_address_that_cannot_be_used_is_a_setting_to_correct(workspace: Workspace, address: str) -> None:
    with pytest.raises(ConfigError):
        SourceCatalog(workspace).add([address])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_setting_to_correct(workspace: Workspace, tmp_path: Path) -> None:
    path = video(tmp_path, "a.mp4")
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        SourceCatalog(workspace).add([str(path)])


def test_without_sources_a_run_takes_the_demo_and_leaves_it_when_there_are_own_ones(
    workspace: Workspace, tmp_path: Path
) -> None:
    book = SourceCatalog(workspace)
    sources, line = open_sources(book, [], [], None)
    assert [source.address for source in sources] == [str(DEMO)]
    assert "demo" in line
    book.save()
    again = SourceCatalog(workspace)
    assert open_sources(again, [], [], None)[0] == sources
    own, line = open_sources(again, [str(video(tmp_path, "a.mp4"))], [], None)
    assert [Path(source.address).name for source in own] == ["a.mp4"]
    assert line == "1 source given, 1 in this workspace"
    assert open_sources(again, [], [], None)[0] == own


def test_a_list_that_is_missing_or_empty_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such source list"):
        open_sources(SourceCatalog(workspace), [], [tmp_path / "none.txt"], None)
    with pytest.raises(ConfigError, match="no sources in"):
        open_sources(SourceCatalog(workspace), [], [video(tmp_path, "l.txt", "# nothing\n")], None)


def test_settings_are_pinned_in_the_workspace(workspace: Workspace) -> None:
    assert last_settings(workspace) is None
    settings = config.load(None, ["filter.min_face_px=36", "speech.model=lips"])
    keep(workspace, Kept(settings))
    assert last_settings(workspace) == settings


def test_damaged_pinned_settings_are_refused(workspace: Workspace) -> None:
    for text in (b"a: [1", b"\x00\x01", b"just text", b"filter:\n  nonsense: 1\n"):
        workspace.write(SETTINGS_KEY, text)
        with pytest.raises(ConfigError):
            last_settings(workspace)


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"nothing of the sort"])
def test_a_damaged_list_of_sources_is_refused_with_what_to_do(workspace: Workspace, damage: bytes) -> None:
    workspace.write(SOURCES_KEY, damage)
    with pytest.raises(ConfigError, match=r"sources\.parquet in the workspace is damaged: delete it and give"):
        SourceCatalog(workspace)


def test_a_changed_setting_is_named_with_both_values(workspace: Workspace) -> None:
    before = config.load(None, ["profile=embedded"])
    after = config.load(None, ["filter.min_face_px=36", "pose.stride=2"])
    assert changed_settings(before, after) == [
        "profile embedded -> auto",
        "filter.min_face_px 64.0 -> 36.0",
        "pose.stride 1 -> 2",
    ]
    assert changed_settings(after, after) == []


def test_a_proxys_password_is_neither_said_nor_written_down(workspace: Workspace) -> None:
    proxied = config.load(None, ["download.proxy=http://user:secret@host:1"])
    assert changed_settings(Settings(), proxied) == []
    keep(workspace, Kept(proxied))
    assert b"secret" not in workspace.read(SETTINGS_KEY)
    assert last_settings(workspace) == Settings()


def test_auto_is_resolved_and_stays_what_the_workspace_was_pinned_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "missing_for", lambda model: "its weights")
    first, notes = resolve(Settings(), None)
    assert (first.profile, first.speech.model) == ("embedded", "lips")
    assert "speech model: lips (for lr-asd: its weights)" in notes
    monkeypatch.setattr(store, "missing_for", lambda model: None)
    assert resolve(Settings(), first)[0] == first
    assert resolve(Settings(), None)[0].speech.model == "lr-asd"
    asked = config.load(None, ["speech.model=lr-asd"])
    assert resolve(asked, first)[0].speech.model == "lr-asd"


@pytest.fixture
def n_gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    monkeypatch.setattr(store, "missing_for", lambda model: None)
    return lambda number: monkeypatch.setattr(devices, "n_gpus", lambda: number)


def chosen(settings: Settings) -> tuple[str, str, str, str]:
    return settings.profile, settings.filter.detector, settings.pose.model, settings.speech.model


EMBEDDED = ("embedded", "mediapipe", "mediapipe", "lr-asd")
PAPER = ("paper", "yolo26x-pose", "sapiens-2b", "talknet")


def test_the_profile_follows_the_gpu_and_decides_every_model(n_gpus: Callable[[int], None]) -> None:
    n_gpus(0)
    settings, notes = resolve(Settings(), None)
    assert chosen(settings) == EMBEDDED
    assert notes[0] == "profile: embedded (CPU models that come inside Python packages)"
    n_gpus(1)
    settings, notes = resolve(Settings(), None)
    assert chosen(settings) == PAPER
    assert [note.partition(" (")[0] for note in notes] == [
        "profile: paper",
        "people model: yolo26x-pose",
        "pose model: sapiens-2b",
        "speech model: talknet",
    ]
    assert chosen(resolve(config.load(None, ["profile=embedded"]), None)[0]) == EMBEDDED


def test_a_profile_stays_pinned_until_another_is_asked_for(n_gpus: Callable[[int], None]) -> None:
    n_gpus(0)
    small = config.load(None, ["profile=paper", "filter.detector=yolo26n-pose"])
    first = resolve(small, None)[0]
    assert chosen(first) == ("paper", "yolo26n-pose", "sapiens-2b", "talknet")
    settings, notes = resolve(Settings(), first)
    assert settings == first
    assert all("pinned by the last run here" in note for note in notes)
    assert chosen(resolve(config.load(None, ["profile=embedded"]), first)[0]) == EMBEDDED
    assert chosen(resolve(config.load(None, ["filter.detector=mediapipe"]), first)[0]) == (
        "paper",
        "mediapipe",
        *PAPER[2:],
    )


def test_torch_is_not_imported_to_find_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    devices.n_gpus_here.cache_clear()
    assert devices.n_gpus() == 0
    devices.n_gpus_here.cache_clear()


def test_a_relative_cookie_file_is_the_one_beside_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Workers run in another folder.
    settings, _ = resolve(config.load(None, ["download.cookies_file=jar.txt"]), None)
    assert settings.download.cookies_file == str(tmp_path / "jar.txt")


def test_run_names_sort_by_time_and_never_repeat() -> None:
    names = [new_run_id() for _ in range(50)]
    assert len(set(names)) == 50
    assert [name[:15] for name in names] == sorted(name[:15] for name in names)
