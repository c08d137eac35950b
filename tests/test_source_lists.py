"""Source lists as spreadsheets, databases and people write them."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manifests.source_lists import ListRow, encoding_of, read_list, read_rows
from manifests.sources import SourceListError
from mit_builder.driver.session import open_sources
from mit_builder.errors import ConfigError
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace

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
        ("list.csv", "name,where\nx,y\n", "no column is named url, address, .* its first line is: name, where"),
        ("list.csv", 'url,title\nhttp://host/a,"not closed\nhttp://host/b,x\n', "in the row of line 2 is not closed"),
        ("list.jsonl", '{"url": "http://host/a"}\n{broken\n', "cannot read source list .*: line 2 is no JSON"),
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


def test_lists_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceListError, match="cannot read source list"):
        list(read_list(tmp_path / "none.txt"))
    with pytest.raises(SourceListError, match="cannot read source list"):
        list(read_list(tmp_path / "none.parquet"))


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


def test_a_row_may_hold_more_cells_than_the_header(tmp_path: Path) -> None:
    assert list(read_list(listing(tmp_path, "l.csv", "url\nhttp://host/a,more,cells\n"))) == ["http://host/a"]


def test_the_first_known_column_counts(tmp_path: Path) -> None:
    rows = [{"link": "l", "path": "p", "url": None}, {"path": "p", "URL": "u"}]
    path = listing(tmp_path, "l.jsonl", "\n".join(map(json.dumps, rows)))
    assert list(read_list(path)) == ["p", "u"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize(
    "header", ["id,url,title", "id, url, title", '" id ", "URL " ,title', "\n\nid,url,title", ",,\nid,url,title"]
)
def test_a_table_has_any_separator_and_blanks_in_its_header(
    tmp_path: Path, suffix: str, separator: str, line_end: str, header: str
) -> None:
    text = f"{header}\n1, http://host/a,x\n2,clips/b.mp4 ,\n".replace(",", separator).replace("\n", line_end)
    path = tmp_path / f"list{suffix}"
    path.write_bytes(text.encode())
    assert list(read_list(path)) == TWO


def test_the_separator_is_the_one_that_makes_the_header_a_table(tmp_path: Path) -> None:
    assert list(read_list(listing(tmp_path, "a.csv", 'id;"a, b";url\n1;"x, y";http://host/a,b\n'))) == [
        "http://host/a,b"
    ]
    assert list(read_list(listing(tmp_path, "b.csv", "url;note\nhttp://host/?q=a|b;1,5\n"))) == ["http://host/?q=a|b"]
    assert list(read_list(listing(tmp_path, "c.csv", "sep=;\nurl;n\nhttp://host/a;1\n"))) == ["http://host/a"]
    assert list(read_list(listing(tmp_path, "d.csv", "url\nhttp://host/a\n"))) == ["http://host/a"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "windows-1252"]
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "# caf\u00e9\n\u00fcber/caf\u00e9.mp4\n"),
        ("l.csv", "title;url\nna\u00efve;\u00fcber/caf\u00e9.mp4\n"),
        ("l.csv", "title\turl\nna\u00efve\t\u00fcber/caf\u00e9.mp4\n"),
        ("l.jsonl", '{"url": "\u00fcber/caf\u00e9.mp4"}\n'),
        ("l.yaml", "- \u00fcber/caf\u00e9.mp4\n"),
    ],
)
def test_text_in_any_usual_encoding_holds_the_same_addresses(
    tmp_path: Path, name: str, text: str, encoding: str
) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert list(read_list(tmp_path / name)) == ["\u00fcber/caf\u00e9.mp4"]


def test_an_encoding_is_found_however_late_the_first_sign_of_it_comes(tmp_path: Path) -> None:
    lines = [f"http://host/{i:06d}" for i in range(70_000)]
    (tmp_path / "l.txt").write_bytes("\n".join([*lines, "caf\u00e9.mp4"]).encode("latin-1"))
    assert list(read_list(tmp_path / "l.txt"))[-1] == "caf\u00e9.mp4"
    (tmp_path / "l.txt").write_bytes("\n".join([*lines, "caf\u00e9.mp4"]).encode())
    assert list(read_list(tmp_path / "l.txt"))[-1] == "caf\u00e9.mp4"


def test_a_zero_byte_in_a_cell_makes_no_utf16(tmp_path: Path) -> None:
    assert encoding_of(listing(tmp_path, "l.csv", "url,title\nhttp://host/a,x\0y\nhttp://host/b,\n")) == "utf-8"


def test_a_cell_may_be_longer_than_pythons_limit(tmp_path: Path) -> None:
    path = listing(tmp_path, "l.csv", f'transcript,url\n"{"word, " * 100_000}",http://host/a\n')
    assert list(read_list(path)) == ["http://host/a"]


@pytest.mark.parametrize(
    ("name", "text", "without"),
    [
        ("l.csv", "url,title\nhttp://host/a,x\n,none\nhttp://host/b,y\n  ,blank\n,\n", [3, 5, 6]),
        ("l.csv", 'title,url\n"two\nlines",http://host/a\nnone,\n\nshort\nx,http://host/b\n', [4, 6]),
        ("l.tsv", "\ufeff\nurl\ttitle\n\tx\nhttp://host/a\t\nhttp://host/b\t\n", [3]),
        ("l.jsonl", '{"url": "http://host/a"}\n\n{"url": 7}\n[1]\nnull\n" "\n"http://host/b"\n', [3, 4, 5, 6]),
        ("l.yaml", "- http://host/a\n-\n- {title: x}\n- 7\n- http://host/b\n", [2, 3, 4]),
    ],
)
def test_rows_without_an_address_are_named_and_the_others_taken(
    tmp_path: Path, name: str, text: str, without: list[int]
) -> None:
    rows = list(read_rows(listing(tmp_path, name, text)))
    assert [row.number for row in rows if row.address is None] == without
    assert [row.address for row in rows if row.address] == ["http://host/a", "http://host/b"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_nulls_in_a_parquet_list_are_rows_without_an_address(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["http://host/a", None, "", "http://host/b"], pa.string()).cast(kind)
    pq.write_table(pa.table({" URL": column, "path": pa.nulls(4)}), tmp_path / "l.parquet", row_group_size=1)
    assert list(read_rows(tmp_path / "l.parquet")) == [
        ListRow(1, "http://host/a"),
        ListRow(2, None),
        ListRow(3, None),
        ListRow(4, "http://host/b"),
    ]


def test_a_parquet_list_without_a_column_of_addresses_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "l.parquet")
    with pytest.raises(SourceListError, match="no column is named url, address, source, path or link"):
        list(read_rows(tmp_path / "l.parquet"))


@pytest.fixture
def book(tmp_path: Path) -> SourceCatalog:
    return SourceCatalog(Workspace(tmp_path / "ws"))


def test_a_run_names_the_lines_without_an_address(tmp_path: Path, book: SourceCatalog) -> None:
    rows = "".join(f"{'' if i % 3 == 1 else f'http://host/{i}'},x\n" for i in range(9))
    sources, line = open_sources(book, [], [listing(tmp_path, "urls.csv", f"url,title\n{rows}")], None)
    assert (len(sources), line) == (6, "6 sources given, 6 in this workspace")
    assert book.notes == ["urls.csv: 3 rows without an address skipped: lines 3, 6, 9"]


def test_of_many_lines_without_an_address_the_first_are_named(tmp_path: Path, book: SourceCatalog) -> None:
    book.add([], [listing(tmp_path, "urls.csv", "url,n\nhttp://host/a,0\n" + ",1\n" * 500)])
    named = ", ".join(str(n) for n in range(3, 13))
    assert book.notes == [f"urls.csv: 500 rows without an address skipped: lines {named} and 490 more"]


def test_an_encoding_that_was_guessed_is_said(tmp_path: Path, book: SourceCatalog) -> None:
    (tmp_path / "caf\u00e9.mp4").write_text("x")
    (tmp_path / "l.txt").write_bytes("caf\u00e9.mp4\n".encode("latin-1"))
    assert book.add([], [tmp_path / "l.txt"]) == 1
    assert book.notes == ["l.txt is not UTF-8: read as windows-1252; save it as UTF-8 where names come out wrong"]


def test_a_list_with_no_usable_row_is_an_error(tmp_path: Path, book: SourceCatalog) -> None:
    with pytest.raises(ConfigError, match=r"urls\.csv: no row has an address in a column named url, address"):
        open_sources(book, ["http://host/other"], [listing(tmp_path, "urls.csv", "url,title\n,x\n,y\n")], None)


def test_an_address_that_is_no_text_is_named_with_its_line(tmp_path: Path, book: SourceCatalog) -> None:
    book.add(["http://host/known"])
    with pytest.raises(ConfigError, match=r"^l\.jsonl, line 2: .* is not valid UTF-8"):
        book.add([], [listing(tmp_path, "l.jsonl", '"http://host/a"\n"http://host/\\ud800"\n')])


@pytest.mark.parametrize("address", ["none.mp4", "ftp://host/a", "y" * 300])
def test_an_address_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, book: SourceCatalog, address: str
) -> None:
    path = listing(tmp_path, "urls.csv", f"title,url\n\nx,http://host/a\ny,{address}\n")
    with pytest.raises(ConfigError, match=r"^urls\.csv, line 4: "):
        book.add([], [path])


@pytest.mark.parametrize("name", ["semicolon", "blank_before_header", "long_cell", "one_row_without_url"])
def test_lists_of_reported_kinds_are_taken(tmp_path: Path, book: SourceCatalog, shared_dir: Path, name: str) -> None:
    path = Path(shutil.copy(shared_dir / "cases" / "lists" / f"{name}.csv", tmp_path))
    video = Path(shutil.copy(shared_dir / "cases" / "media" / "base.mp4", tmp_path))
    assert book.add([], [path]) == 1
    assert [source.address for source in book.sources()] == [str(video)]
    skipped = ["one_row_without_url.csv: 1 row without an address skipped: line 3"]
    assert book.notes == (skipped if name == "one_row_without_url" else [])
