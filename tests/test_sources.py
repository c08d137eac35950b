from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.sources import SourceListError, expand, file_source, read_list, url_source

TWO = ["http://host/a", "clips/b.mp4"]
BOM = "\ufeff"


def listing(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("bom", ["", BOM], ids=["", "bom"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# mine\nhttp://host/a\n\n   \n  # more\n  clips/b.mp4  \n"),
        ("LIST.TXT", "http://host/a\r\nclips/b.mp4"),
        ("list.csv", 'title,url,note\nx,http://host/a,"with, comma"\ny,clips/b.mp4,'),
        ("list.csv", "URL\nhttp://host/a\nclips/b.mp4\n"),
        ("list.tsv", "path\tn\nhttp://host/a\t1\nclips/b.mp4\t2\n"),
        ("list.jsonl", '{"url": "http://host/a", "n": 1}\n\n"clips/b.mp4"\n'),
        ("list.yaml", "- http://host/a\n- {path: clips/b.mp4, note: x}\n"),
        ("list.yml", "sources:\n  - link: http://host/a\n  - clips/b.mp4\n"),
    ],
)
def test_lists_of_every_format_hold_the_same_addresses(tmp_path: Path, name: str, text: str, bom: str) -> None:
    assert list(read_list(listing(tmp_path, name, bom + text))) == TWO


def test_a_parquet_list_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "Address": TWO}), tmp_path / "list.parquet", row_group_size=1)
    assert list(read_list(tmp_path / "list.parquet")) == TWO


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.jsonl"])
def test_an_empty_list_holds_nothing(tmp_path: Path, name: str) -> None:
    assert list(read_list(listing(tmp_path, name, ""))) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "name,where\nx,y\n", "a row has no address in a column named url, address"),
        ("list.csv", "url\nhttp://host/a\n,\n", "a row has no address"),
        ("list.jsonl", '{"url": "http://host/a"}\n{"url": 7}\n', "a row has no address"),
        ("list.jsonl", "{broken\n", "cannot read source list"),
        ("list.jsonl", "[1, 2]\n", "a row has no address"),
        ("list.yaml", "a: b\n", "must be a YAML list"),
        ("list.yaml", "[unclosed\n", "cannot read source list"),
        ("list.yaml", "", "must be a YAML list"),
        ("list.yaml", "[" * 20_000, "cannot read source list"),
        ("list.yaml", "- 2026-02-30\n", "cannot read source list"),
        ("list.yaml", "- !!python/object/apply:os.getcwd []\n", "cannot read source list"),
        ("list.jsonl", "[" * 200_000, "cannot read source list"),
        ("list.parquet", "no parquet", "cannot read source list"),
        ("list.doc", "x", r"a source list ends in one of \.csv, "),
        ("list", "x", r"a source list ends in one of \.csv, "),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_name(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = listing(tmp_path, name, text)
    with pytest.raises(SourceListError, match=message) as refused:
        list(read_list(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_lists_that_are_missing_or_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceListError, match="cannot read source list"):
        list(read_list(tmp_path / "none.txt"))
    with pytest.raises(SourceListError, match="cannot read source list"):
        list(read_list(tmp_path / "none.parquet"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.mp4\n")
    with pytest.raises(SourceListError, match="cannot read source list"):
        list(read_list(tmp_path / "latin.txt"))


def test_a_damaged_parquet_list_is_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"url": [f"http://host/{i}" for i in range(200)]}), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(SourceListError):
            assert len(list(read_list(path))) == 200


def test_other_columns_of_a_parquet_list_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "list.parquet", []
    pq.write_table(pa.table({"bomb": ["x" * 1000] * 10, "URL": ["http://host/a"] * 10}), path)
    read = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, **options: Any) -> Any:
        asked.append(options["columns"])
        return read(self, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert list(read_list(path)) == ["http://host/a"] * 10
    assert asked == [["URL"]]


def test_a_list_is_streamed(tmp_path: Path) -> None:
    path = listing(tmp_path, "list.jsonl", '"first"\n{broken\n')
    addresses = read_list(path)
    assert next(addresses) == "first"
    with pytest.raises(SourceListError):
        next(addresses)


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


def test_a_row_may_hold_more_cells_than_the_header(tmp_path: Path) -> None:
    assert list(read_list(listing(tmp_path, "l.csv", "url\nhttp://host/a,more,cells\n"))) == ["http://host/a"]


def test_the_first_known_column_counts(tmp_path: Path) -> None:
    rows = [{"link": "l", "path": "p", "url": None}, {"path": "p", "URL": "u"}]
    path = listing(tmp_path, "l.jsonl", "\n".join(map(json.dumps, rows)))
    assert list(read_list(path)) == ["p", "u"]
