from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from mit_builder.media.wholeness import is_cut_short

CONTAINERS = {
    "index_first.mp4": ["-c:v", "libx264", "-movflags", "+faststart"],
    "index_last.mp4": ["-c:v", "libx264"],
    "fragments.mp4": ["-c:v", "libx264", "-movflags", "frag_keyframe+empty_moov", "-g", "10"],
    "a.mkv": ["-c:v", "libx264"],
    "a.webm": ["-c:v", "libvpx", "-b:v", "200k"],
    "a.ts": ["-c:v", "libx264"],
    "a.m2ts": ["-c:v", "libx264"],
    "a.avi": ["-c:v", "mpeg4"],
    "a.flv": ["-c:v", "flv"],
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_file_whose_end_is_missing_is_told_from_a_whole_one(tmp_path: Path, name: str) -> None:
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=6", "-f", "lavfi", "-i", "sine=duration=6"]
    command = [get_ffmpeg_exe(), "-v", "error", *source, "-pix_fmt", "yuv420p", *CONTAINERS[name], "-ar", "44100"]
    audio = ["-c:a", "libopus", "-ar", "48000"] if name == "a.webm" else ["-c:a", "mp3" if name == "a.flv" else "aac"]
    subprocess.run([*command, *audio, str(tmp_path / name)], check=True, stdin=subprocess.DEVNULL)
    assert not is_cut_short(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for share in (0.0, 0.01, 0.31, 0.5, 0.77):
        # Packets of transport streams have an even number of bytes: a cut between two of them would pass.
        (tmp_path / name).write_bytes(whole[: int(len(whole) * share) | 1])
        assert is_cut_short(tmp_path / name), share


def test_what_is_no_media_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("<html></html>")
    assert is_cut_short(tmp_path / "a.mp4")
