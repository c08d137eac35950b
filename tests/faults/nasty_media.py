"""Media that lies: makes hostile files, feeds each to download and shots, and prints a table of what became of them.

    python tests/faults/nasty_media.py [--only WORD]

Files of a developer's `shared/samples/nasty` come first where they are at hand.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av

from manifests.rows import Source, Video
from manifests.sources import SourceListError, expand
from mit_builder.config.section import Section
from mit_builder.config.settings import DownloadSettings, ShotsSettings
from mit_builder.engine.worker import Task, Worker, WorkerSpec
from mit_builder.media.frames import read_frames
from mit_builder.media.write import ffmpeg_executable
from mit_builder.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "manifests" / "demo" / "demo.mp4"
H264 = "-c:v libx264 -preset ultrafast"
JUMP = "setts=pts=PTS+if(gte(N\\,25)\\,{0}/TB\\,0):dts=DTS+if(gte(N\\,25)\\,{0}/TB\\,0)"
ENCODED = {
    "audio_only.m4a": "-vn -c:a copy",
    "no_audio.mp4": "-an -c:v copy",
    "audio_short.mp4": f"{H264} -af atrim=0:0.5",
    "audio_long.mp4": f"{H264} -vf trim=0:0.5",
    "audio_late.mp4": f"{H264} -af asetpts=PTS+0.8/TB",
    "three_tracks.mkv": "-map 0:v -map 0:a -map 0:a -map 0:a -c copy",
    "vfr.mp4": f"{H264} -vf select=not(mod(n\\,3))+lt(n\\,10) -fps_mode vfr",
    "fps_23976.mp4": f"{H264} -r 24000/1001",
    "fps_2997.mp4": f"{H264} -r 30000/1001",
    "fps_50.mp4": f"{H264} -r 50",
    "fps_120.mp4": f"{H264} -r 120",
    "odd_sizes_444.mp4": f"{H264} -vf scale=321:179 -pix_fmt yuv444p",
    "one_pixel.mkv": "-vf scale=1:1 -c:v ffv1 -pix_fmt yuv444p",
    "eight_k.mkv": "-frames:v 2 -vf scale=7680:4320 -c:v mjpeg -an",
    "sar_4_3.mp4": f"{H264} -vf setsar=4/3",
    "hevc_10bit.mp4": "-c:v libx265 -preset ultrafast -pix_fmt yuv420p10le -x265-params log-level=none",
    "av1.mkv": "-c:v libsvtav1 -preset 12",
    "interlaced.ts": "-c:v mpeg2video -flags +ildct+ilme -vf setfield=tff -c:a mp2",
    "one_frame.mp4": f"{H264} -frames:v 1 -an",
    "starts_negative.mkv": "-c copy -output_ts_offset -1 -avoid_negative_ts disabled",
    "starts_late.ts": "-c copy -output_ts_offset 5000",
    "jumps_a_minute.mkv": f"-c copy -an -bsf:v {JUMP.format(60)}",
    "ten_hours.mkv": f"-c copy -an -bsf:v {JUMP.format(36000)}",
    "a_year.mkv": f"-c copy -an -bsf:v {JUMP.format(31536000)}",
    "noise_in_packets.mp4": "-c copy -bsf:v noise=amount=200",
    "avi_with_b_frames.avi": "-c:v libx264 -bf 3",
    "rgb_lossless.mkv": "-c:v libx264rgb -preset ultrafast -qp 0",
}
NAMES = ("-o out.mp4", 'it\'s "a" name.mp4', "new\nline.mp4", "$(touch x);.mp4", "é" * 125 + ".mp4", "concat:a|b.mp4")


def ffmpeg(source: Path, arguments: str, target: Path) -> None:
    command = [ffmpeg_executable(), "-nostdin", "-y", "-v", "error", "-threads", "1", "-i", str(source)]
    subprocess.run([*command, *shlex.split(arguments.replace("\\,", "\\\\,")), str(target)], check=True)


def make(folder: Path) -> Iterator[Path]:
    """Every file, made when it is asked for."""
    base = folder / "base.mp4"
    ffmpeg(DEMO, f"-t 2 -vf scale=320:180 {H264} -g 12 -c:a aac", base)
    yield base
    for name, arguments in ENCODED.items():
        ffmpeg(base, arguments, folder / name)
        yield folder / name
    whole = base.read_bytes()
    for tenth in range(1, 10):
        yield put(folder / f"cut_at_{tenth}0_percent.mp4", whole[: len(whole) * tenth // 10])
    ffmpeg(base, "-c copy -movflags +faststart", folder / "index_first.mp4")
    first = (folder / "index_first.mp4").read_bytes()
    for percent in (30, 60, 99):
        yield put(folder / f"index_first_cut_at_{percent}_percent.mp4", first[: len(first) * percent // 100])
    yield from not_what_they_seem(folder, whole)
    for name in NAMES:
        yield put(folder / name, whole)


def not_what_they_seem(folder: Path, whole: bytes) -> Iterator[Path]:
    chance = random.Random(1)
    yield put(folder / "empty.mp4", b"")
    yield put(folder / "zeros.mp4", bytes(100_000))
    yield put(folder / "random.mp4", chance.randbytes(100_000))
    yield put(folder / "page.mp4", b"<!doctype html><title>x</title>" * 100)
    yield put(folder / "playlist.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    yield put(folder / "concat.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n")
    yield put(folder / "really_an_mp4.avi", whole)
    yield put(folder / "hole_in_the_middle.mp4", whole[:8000] + bytes(20_000) + whole[28_000:])
    yield bomb(folder / "bomb_16384x8192.mkv")
    os.mkfifo(folder / "named_pipe.mp4")
    yield folder / "named_pipe.mp4"
    (folder / "link_out.mp4").symlink_to("/etc/hostname")
    yield folder / "link_out.mp4"
    (folder / "link_to_itself.mp4").symlink_to(folder / "link_to_itself.mp4")
    yield folder / "link_to_itself.mp4"


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def bomb(path: Path) -> Path:
    """Pictures of a few hundred bytes whose own header says 16384x8192."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        small = bytes((stream.encode(av.VideoFrame(64, 48, "yuvj420p")) + stream.encode())[0])
        at = small.index(b"\xff\xc0")
        for i in range(3):
            packet = av.Packet(small[: at + 5] + struct.pack(">HH", 8192, 16384) + small[at + 9 :])
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 25)
            out.mux(packet)
    return path


class Trial:
    """Download and shots on one file after another."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace(folder / "ws")
        self._download = self._worker("stages.download:Download", DownloadSettings())
        self._shots = self._worker("stages.shots:DetectShots", ShotsSettings())

    def _worker(self, stage: str, settings: Section) -> Worker:
        worker = Worker(WorkerSpec(stage, settings, self.workspace.uri, "trial"))
        assert worker.ready() is None
        return worker

    def outcome(self, path: Path) -> tuple[str, str]:
        """What became of a file, and its measurements or message."""
        try:
            (source,) = expand([str(path)])
        except (SourceListError, OSError) as error:
            return "refused", str(error).replace(str(path), path.name)
        assert isinstance(source, Source)
        (entry,) = self._download.run([Task("x", source.source_id[-8:] * 2, source)])
        if entry.status == "rejected":
            return f"rejected: {entry.reason}", entry.measurements or ""
        if entry.status == "failed":
            return f"failed: {entry.failure_class}", entry.message or ""
        (video,) = entry.outputs
        assert isinstance(video, Video)
        (shots,) = self._shots.run([Task("x", source.source_id[-8:] * 2, video)])
        if shots.status == "failed":
            return f"shots failed: {shots.failure_class}", shots.message or ""
        with self.workspace.local(video.media.key) as local:
            n_read = sum(1 for _ in read_frames(local, max_side_px=320))
        sound = "sound" if video.has_audio else "silent"
        size = f"{video.width_px}x{video.height_px}"
        return "done", f"{size}, {video.source_fps} fps, {n_read} of {video.n_frames} frames read, {sound}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names that hold this word")
    only = parser.parse_args().only
    shared = Path(os.environ.get("MIT_BUILDER_TEST_SHARED") or ROOT.parent / "shared") / "samples" / "nasty"
    print("| file | outcome | measured, or why | s |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trial = Trial(folder)
        for path in chain(sorted(shared.glob("n*")), make(folder)):
            if only in path.name:
                started = time.monotonic()
                outcome, text = trial.outcome(path)
                shown = repr(path.name)[1:-1].replace("|", "\\|")
                shown = shown if len(shown) < 50 else f"{shown[:20]}... ({len(os.fsencode(path.name))} bytes)"
                text = " ".join(text.replace("|", "\\|").split())
                print(f"| {shown} | {outcome} | {text} | {time.monotonic() - started:.1f} |", flush=True)
        left = list(trial.workspace.scratch("trial").iterdir())
    print(f"\nunfinished files left: {len(left)}")


if __name__ == "__main__":
    main()
