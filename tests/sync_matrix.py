"""A flash and a click at one moment, through every container: how far apart are they in what the pipeline reads?

    python tests/sync_matrix.py [--only WORD]

prints the table of docs/TIMELINE.md and fails where a file is off by more than a millisecond, or more than a frame
where the container counts frames. Files are written by ffmpeg, which copies one encoding into each container.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from manifests.rows import AUDIO_RATE_HZ
from mit_builder.media.audio import read_samples
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import read_timeline
from mit_builder.media.write import ffmpeg_executable

FLASHES = (20, 65, 95, 140)
"""Frames that are white in one quarter of the picture each, and the moments of four tones."""
PITCHES_HZ = (700, 1100, 1700, 2600)
N_FRAMES, FPS, RATE_HZ = 150, 25, 48_000
STARTS_S = (Fraction(0), Fraction(2, 5), Fraction(2), Fraction(-2, 5))
"""When the picture begins after the sound."""
TRIM_S = "0.3"
KINDS = ("whole", "trimmed", "joined")


@dataclass(frozen=True)
class Container:
    """How ffmpeg is asked for one."""

    ending: str
    video: str
    sound: str
    has_b_frames: bool = True
    joins_bytes: bool = False
    """Whether joined files are their bytes one after another, so that times begin anew; else ffmpeg joins them."""
    counts_frames: bool = False
    """Whether the container knows no time but the number of frames and samples: late sound begins with silence."""
    has_no_starts: bool = False
    """Whether pictures cannot begin late either: the first stands still until then."""


X264 = "libx264 -preset ultrafast -g 12 -keyint_min 12"
MPEG2 = "mpeg2video -b:v 800k -g 12"
CONTAINERS = {
    "MP4": Container("mp4", X264, "aac"),
    "MOV": Container("mov", X264, "ac3"),
    "MKV": Container("mkv", X264, "flac"),
    "MKV, bytes joined": Container("mkv", X264, "flac", joins_bytes=True),
    "WebM": Container("webm", "libvpx-vp9 -cpu-used 8 -deadline realtime -g 12", "libopus", has_b_frames=False),
    "TS": Container("ts", X264, "aac", joins_bytes=True),
    "M2TS": Container("m2ts", X264, "ac3", joins_bytes=True),
    "PS": Container("mpg", MPEG2, "mp2", joins_bytes=True),
    "AVI, H.264": Container("avi", X264, "pcm_s16le", counts_frames=True),
    "AVI, MPEG-4": Container("avi", "mpeg4 -g 12", "pcm_s16le", counts_frames=True),
    "ASF, H.264": Container("asf", X264, "pcm_s16le"),
    "ASF, WMV2": Container("wmv", "wmv2 -g 12", "pcm_s16le", has_b_frames=False),
    "FLV": Container("flv", X264, "aac"),
    "MXF": Container("mxf", MPEG2, "pcm_s16le", counts_frames=True, has_no_starts=True),
}


def flash_and_click(folder: Path) -> tuple[Path, Path]:
    """Picture and sound without loss: in frame FLASHES[k] quarter k is white, and tone k is loudest at its start."""
    moments = [(number / FPS, pitch) for number, pitch in zip(FLASHES, PITCHES_HZ, strict=True)]
    boxes = ",".join(
        f"drawbox=x={k % 2 * 32}:y={k // 2 * 32}:w=32:h=32:color=white:t=fill:enable='eq(n,{number})'"
        for k, number in enumerate(FLASHES)
    )
    tones = "+".join(f"0.8*cos({2 * np.pi * hz}*(t-{at}))*exp(-pow((t-{at})/0.006,2))" for at, hz in moments)
    length_s = N_FRAMES / FPS
    picture, sound = folder / "picture.mkv", folder / "sound.wav"
    _ffmpeg(["-f", "lavfi", "-i", f"color=gray:s=64x64:r={FPS}:d={length_s},{boxes}", "-c:v", "ffv1", picture])
    _ffmpeg(["-f", "lavfi", "-i", f"aevalsrc='{tones}':s={RATE_HZ}:d={length_s}", sound])
    return picture, sound


def write_cell(
    source: tuple[Path, Path], folder: Path, name: str, *, start_s: Fraction, b_frames: bool, kind: str
) -> Path:
    """A file of one cell; a start below zero delays the sound instead of the picture."""
    made = CONTAINERS[name]
    whole = folder / f"whole.{made.ending}"
    picture, sound = source
    late_s = [max(start_s, Fraction(0)), max(-start_s, Fraction(0))]
    video = ["-pix_fmt", "yuv420p", "-c:v", *made.video.split(), "-bf", "2" if b_frames else "0"]

    def mux(target: Path, from_s: Fraction, to_s: Fraction) -> Path:
        """What begins later lacks its beginning, so that a moment stays the same in both streams."""
        spans = [f"start={float(from_s + late)}:end={float(to_s)}" for late in late_s]
        moves = [f"setpts=PTS-{from_s}/TB", f"asetpts=PTS-{from_s}/TB"]
        if made.has_no_starts:
            moves[0] = f"setpts=PTS-STARTPTS,tpad=start_mode=clone:start_duration={float(late_s[0])}"
        if made.counts_frames:
            moves[1] = f"asetpts=PTS-STARTPTS,adelay={int(late_s[1] * 1000)}"
        cuts = ["-vf", f"trim={spans[0]},{moves[0]}", "-af", f"atrim={spans[1]},{moves[1]}"]
        coded = ["-fps_mode", "passthrough", *video, "-c:a", *made.sound.split()]
        _ffmpeg(["-i", picture, "-i", sound, *cuts, *coded, target.with_suffix(".nut")])
        _ffmpeg(["-i", target.with_suffix(".nut"), "-map", "0", "-c", "copy", target])
        return target

    length_s = Fraction(N_FRAMES, FPS)
    if kind != "joined":
        whole = mux(folder / f"whole.{made.ending}", Fraction(0), length_s)
        part = folder / f"part.{made.ending}"
        if kind == "trimmed":
            _ffmpeg(["-ss", TRIM_S, "-i", whole, "-map", "0", "-c", "copy", part])
        return part if kind == "trimmed" else whole
    halves = [mux(folder / f"half{k}.{made.ending}", k * length_s / 2, (k + 1) * length_s / 2) for k in range(2)]
    joined = folder / f"joined.{made.ending}"
    if made.joins_bytes:
        joined.write_bytes(b"".join(half.read_bytes() for half in halves))
    else:
        listed = folder / "list.txt"
        listed.write_text("".join(f"file '{half}'\nduration {float(length_s / 2)}\n" for half in halves))
        _ffmpeg(["-f", "concat", "-safe", "0", "-i", listed, "-map", "0", "-c", "copy", joined])
    return joined


def distances_ms(path: Path) -> list[float]:
    """Sound's time less picture's for every flash that is seen."""
    timeline = read_timeline(path)
    zero = int(timeline.source_pts[0])
    seen: dict[int, float] = {}
    for frame in read_frames(path, timeline=timeline):
        bright = frame.image.reshape(2, 32, 2, 32, 3).mean(axis=(1, 3, 4)).ravel()
        quarter = int(bright.argmax())
        if bright[quarter] > np.median(bright) + 40 and quarter not in seen:
            seen[quarter] = float((int(timeline.source_pts[frame.source_index]) - zero) * timeline.time_base)
    samples = read_samples(path, 0, timeline.n_frames + 100, timeline=timeline).astype(np.float64)
    return [1000 * (_heard_s(samples, PITCHES_HZ[k]) - at) for k, at in sorted(seen.items())]


def _heard_s(samples: np.ndarray[Any, Any], pitch_hz: int) -> float:
    """Where the tone of this pitch lies, by correlation with its like (a carrier's phase tells cycles apart)."""
    t = np.arange(-320, 321) / AUDIO_RATE_HZ
    like = np.exp(2j * np.pi * pitch_hz * t) * np.exp(-((t / 0.006) ** 2))
    found = np.abs(np.convolve(samples, np.conj(like[::-1]), "same"))
    return float(found.argmax()) / AUDIO_RATE_HZ


def _ffmpeg(arguments: list[Any]) -> None:
    command = [ffmpeg_executable(), "-nostdin", "-y", "-v", "error", "-threads", "1", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def worst_ms(source: tuple[Path, Path], folder: Path, name: str, kind: str, b_frames: bool, start_s: Fraction) -> float:
    """The largest distance in one file, in which at least two moments are seen."""
    path = write_cell(source, folder, name, start_s=start_s, b_frames=b_frames, kind=kind)
    found = distances_ms(path)
    assert len(found) >= 2, f"{len(found)} flashes are seen"
    return max(found, key=abs)


def table(only: str = "") -> Iterator[tuple[str, bool]]:
    """Lines of Markdown, and whether all of their files are as exact as their container can be."""
    columns = [f"{kind}{', B-frames' if b_frames else ''}" for kind in KINDS for b_frames in (False, True)]
    yield f"| container | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}", True
    with tempfile.TemporaryDirectory() as scratch:
        source = flash_and_click(Path(scratch))
        for name, made in CONTAINERS.items():
            if only.lower() not in name.lower():
                continue
            row, limit_ms = [], 1000 / FPS if made.counts_frames else 1.0
            for kind in KINDS:
                for b_frames in (False, True):
                    if b_frames and not made.has_b_frames:
                        row.append([])
                        continue
                    row.append([worst_ms(source, Path(scratch), name, kind, b_frames, s) for s in STARTS_S])
            cells = " | ".join(" ".join(f"{ms:.1f}" for ms in found) or "has none" for found in row)
            is_exact = all(abs(ms) <= limit_ms + 0.05 for found in row for ms in found)
            yield f"| {name} | {cells.replace('-0.0', '0.0')} |", is_exact


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="WORD", help="containers whose name has this word")
    results = []
    for line, is_exact in table(parser.parse_args().only):
        print(line, flush=True)
        results.append(is_exact)
    sys.exit(not all(results))
