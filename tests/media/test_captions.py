from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from manifests.rows import Caption
from mit_builder.media import captions
from mit_builder.media.captions import CaptionFile, cut_captions, load_captions, read_captions, write_captions

HEAD = "WEBVTT\n\n"


def read(folder: Path, text: str | bytes, *, name: str = "x.vtt", automatic: bool = False) -> list[Caption]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_captions(CaptionFile(path, "en", automatic), duration_s=10.0)


def cue(text: str, start: str = "00:00.000", end: str = "00:01.000") -> str:
    return f"{start} --> {end}\n{text}\n\n"


def test_webvtt_and_srt_are_read_alike(tmp_path: Path) -> None:
    vtt = read(tmp_path, f"{HEAD}NOTE nothing\n\none\n00:00:01.500 --> 00:00:02.250 align:start\nHello\nthere\n")
    srt = read(tmp_path, "1\n00:00:01,500 --> 00:00:02,250\nHello\nthere\n", name="x.srt")
    assert vtt == srt == [Caption(1.5, 2.25, "Hello there", "en", automatic=False)]


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("<v Ann>Good <i.loud>morning</i></v>", "Good morning"),
        ("{\\an8}up", "up"),
        ("a &lt;b&gt; &amp; c", "a <b> & c"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("a\x1b[31mb\u202ec\u2028d\x07e", "a [31mb c d e"),
        ("2 < 3", "2 < 3"),
        ("é \udcff", "é �"),
        ("x" * 3000, "x" * captions.MAX_CHARACTERS),
    ],
)
def test_a_text_is_one_plain_line(tmp_path: Path, raw: str, plain: str) -> None:
    found = read(tmp_path, (HEAD + cue(raw)).encode(errors="surrogateescape"))
    assert [c.text.strip("�") for c in found] == [plain.strip("�")]


@pytest.mark.parametrize("raw", ["", " ", "<i></i>", "\u200b"])
def test_a_cue_without_words_is_no_caption(tmp_path: Path, raw: str) -> None:
    assert read(tmp_path, HEAD + cue(raw) + cue("words")) == [Caption(0, 1, "words", "en", automatic=False)]


def test_times_stay_inside_the_video(tmp_path: Path) -> None:
    cues = cue("over the end", "00:09.000", "01:00:00.000") + cue("after it", "00:10.000", "00:11.000")
    assert read(tmp_path, HEAD + cues) == [Caption(9, 10, "over the end", "en", automatic=False)]


def test_times_count_from_the_first_frame(tmp_path: Path) -> None:
    (tmp_path / "x.vtt").write_text(HEAD + cue("gone before") + cue("half", "00:01.500", "00:03.000"))
    file = CaptionFile(tmp_path / "x.vtt", "en")
    assert read_captions(file, zero_s=2.0, duration_s=10.0) == [Caption(0, 1, "half", "en", automatic=False)]


@pytest.mark.parametrize("body", [b"", b"WEBVTT", b"<html></html>", bytes(5000), os.urandom(5000), b"\xff\xfeW\0E\0"])
@pytest.mark.parametrize("name", ["x.vtt", "x.srt"])
def test_what_is_no_captions_file_gives_none(tmp_path: Path, body: bytes, name: str) -> None:
    assert read(tmp_path, body, name=name) == []


def test_what_cannot_be_opened_gives_none(tmp_path: Path) -> None:
    (tmp_path / "x.vtt").mkdir()
    assert read_captions(CaptionFile(tmp_path / "x.vtt", "en"), duration_s=10) == []


def test_files_and_cues_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = HEAD + "".join(cue(str(n)) for n in range(captions.MAX_CUES + 10))
    assert len(read(tmp_path, many)) == captions.MAX_CUES
    files = [CaptionFile(tmp_path / "x.vtt", "en")] * (captions.MAX_FILES + 5)
    monkeypatch.setattr(captions, "MAX_CUES", 1)
    assert write_captions(files, tmp_path / "x.parquet", zero_s=0, duration_s=10)
    assert len(load_captions(tmp_path / "x.parquet")) == captions.MAX_FILES
    monkeypatch.setattr(captions, "MAX_BYTES", len(many) - 1)
    assert read(tmp_path, many) == []
    assert not write_captions(files, tmp_path / "none.parquet", zero_s=0, duration_s=10)
    assert not (tmp_path / "none.parquet").exists()


@pytest.mark.parametrize("piece", ["<", "<a", "{\\", "&", "&lt;", "\u202e", "<v x>"])
def test_a_hostile_text_costs_no_time(tmp_path: Path, piece: str) -> None:
    body = (HEAD + cue(piece * 4000) * 100).encode()[: captions.MAX_BYTES]
    started = time.process_time()
    read(tmp_path, body)
    assert time.process_time() - started < 5


def test_lines_that_roll_up_are_told_once(tmp_path: Path) -> None:
    rolling = [
        " \nso<c> we</c>",
        "so we\n ",
        "so we\nstart <00:00:02.000>here",
        "start here\n ",
        "start here\nand\nhere",
    ]
    text = HEAD + "".join(cue(line, f"00:0{n}.000", f"00:0{n + 1}.000") for n, line in enumerate(rolling))
    assert [(c.start_s, c.text) for c in read(tmp_path, text, automatic=True)] == [
        (0, "so we"),
        (2, "start here"),
        (4, "and here"),
    ]
    assert len(read(tmp_path, text)) == 5


def test_a_language_that_is_none_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "x.vtt").write_text(HEAD + cue("x"))
    for language, kept in (("en-GB", "en-GB"), ("zh-Hans", "zh-Hans"), ("English\n", "und"), ("../../x", "und")):
        (found,) = read_captions(CaptionFile(tmp_path / "x.vtt", language), duration_s=10)
        assert found.language == kept


def test_captions_are_cut_to_a_clip_and_their_texts_are_not() -> None:
    shown = [Caption(s, e, f"{s}", "en", automatic=False) for s, e in ((0.0, 1.0), (0.5, 2.5), (2.0, 3.0), (2.9, 9.0))]
    cut = cut_captions(shown, 1.0, 2.96)
    assert [(c.start_s, c.end_s, c.text) for c in cut] == [(0, 1.5, "0.5"), (1, 1.96, "2.0"), (1.9, 1.96, "2.9")]
    assert cut_captions(shown, 9.0, 12.0) == ()


def test_times_pass_over_what_the_timeline_leaves_out(tmp_path: Path) -> None:
    """Players show frame 3 s for 5 s more, because the file's times jump ahead there, and 8 s (4 s) for 1 s."""
    path = tmp_path / "x.vtt"
    spans = [
        ("00:02.000", "00:02.500"),
        ("00:02.500", "00:04.000"),
        ("00:04.000", "00:07.000"),
        ("00:08.500", "00:11.000"),
    ]
    path.write_text(HEAD + "".join(cue(f"{n}", *span) for n, span in enumerate(spans)))
    found = read_captions(CaptionFile(path, "en"), duration_s=10.0, stills_s=[(3.0, 5.0), (4.0, 1.0)])
    assert [(c.start_s, c.end_s, c.text) for c in found] == [(2.0, 2.5, "0"), (2.5, 3.0, "1"), (3.5, 5.0, "3")]
