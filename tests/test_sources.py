from __future__ import annotations

import os
from pathlib import Path

import pytest

from manifests.sources import SourceListError, expand, file_source, url_source


def listing(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_give_their_videos_sorted_and_recursively(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.MP4", "a.mkv", "notes.txt", "deep/er/c.webm", "deep/.hidden.mov"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.mp4").mkdir()
    found = [Path(s.address).relative_to(tmp_path.resolve()).as_posix() for s in expand([str(tmp_path)])]
    assert found == ["a.mkv", "b.MP4", "deep/.hidden.mov", "deep/er/c.webm"]


def test_relative_paths_start_from_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_text("a")
    (source,) = expand(["a.mp4"], base=tmp_path)
    assert source.address == str((tmp_path / "a.mp4").resolve())
    monkeypatch.chdir(tmp_path)
    assert list(expand(["./a.mp4"])) == [source]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(expand(["~/a.mp4"], base=Path("/"))) == [source]


def test_a_file_that_is_named_counts_whatever_its_ending(tmp_path: Path) -> None:
    path = listing(tmp_path, "video.weird", "x")
    assert [s.kind for s in expand([str(path)])] == ["file"]


def test_the_same_content_under_two_names_is_one_source(tmp_path: Path) -> None:
    first, second, other = (listing(tmp_path, name, name[0]) for name in ("x1.mp4", "x2.mp4", "y.mp4"))
    assert file_source(first).source_id == file_source(second).source_id != file_source(other).source_id
    assert file_source(first).address != file_source(second).address


@pytest.mark.parametrize(
    "name", ["with space.mp4", "ünï ço∂é.mp4", "new\nline.mp4", "#hash.mp4", "-dash.mp4", "a'\"b.mp4"]
)
def test_weird_file_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    listing(tmp_path, name, "x")
    (source,) = expand([str(tmp_path)])
    assert Path(source.address).name == name


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    path.write_text("x")
    with pytest.raises(SourceListError, match="not valid UTF-8: rename it"):
        list(expand([str(tmp_path)]))


@pytest.mark.parametrize("address", ["none.mp4", "/no/such/folder", "www.example.org/video", ""])
def test_what_is_neither_file_nor_folder_nor_url_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceListError, match=r"no such file, folder or URL|no video files"):
        list(expand([address], base=tmp_path))


@pytest.mark.parametrize(
    "address",
    ["ftp://host/a.mp4", "file:///etc/passwd", "http://", "https:///a.mp4", "javascript://x", "http://[bad/", "://x"],
)
def test_addresses_that_are_no_http_urls_are_refused(address: str) -> None:
    with pytest.raises(SourceListError, match="cannot fetch"):
        list(expand([address]))
    with pytest.raises(SourceListError, match="cannot fetch"):
        url_source(address)


@pytest.mark.parametrize("login", ["user:hunter22", "hunter22", ":hunter22"])
def test_an_address_with_a_login_is_refused_without_repeating_it(login: str) -> None:
    with pytest.raises(SourceListError, match="an address at host holds a user name or password") as caught:
        url_source(f"https://{login}@Host/a.mp4")
    assert "hunter22" not in str(caught.value)


def test_a_url_that_is_no_text_is_refused() -> None:
    with pytest.raises(SourceListError, match="not valid UTF-8"):
        url_source("http://host/\udce9")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://Host.org/a", "HTTP://host.ORG/a", True),
        ("http://host/a#t=3", "http://host/a", True),
        ("http://host", "http://host/", True),
        (" http://host/a\n", "http://host/a", True),
        ("http://host/e\u0301", "http://host/\u00e9", True),
        ("http://host/a", "http://host/A", False),
        ("http://host/a", "https://host/a", False),
        ("http://host/a", "http://host:8080/a", False),
        ("http://host/watch?v=1", "http://host/watch?v=2", False),
    ],
)
def test_urls_are_compared_in_normal_form(one: str, other: str, same: bool) -> None:
    assert (url_source(one).source_id == url_source(other).source_id) is same


def test_a_url_is_kept_as_given() -> None:
    assert url_source(" HTTP://Host.org/a#t=3 ").address == "HTTP://Host.org/a#t=3"


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.mp4", "~$a.mp4"])
def test_a_name_that_begins_with_a_tilde_is_a_name_like_others(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert [Path(s.address) for s in expand([name], base=tmp_path)] == [tmp_path / name]


@pytest.mark.parametrize("address", ["x" * 300, "x/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused_in_one_short_line(tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceListError) as refused:
        list(expand([address], base=tmp_path))
    assert len(str(refused.value)) < 300


def test_a_workspace_beside_the_footage_is_no_footage(tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    for name in ("mit-workspace/clips/clip.mp4", "mit-workspace/manifests/sources/sources.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"made")
    assert [Path(source.address).name for source in expand([str(tmp_path)])] == ["film.mp4"]
