"""Time, memory and size of the report of thousands of clips.

    python benchmarks/report_scale.py [--clips 5000] [--workspace FOLDER]

The clips are synthetic (200 frames, two people, 133 noisy keypoints each; stages of tests/quick_stages.py, one video
file for all), the ledger and its artifacts are those of a run, and what is measured is the command `mit-build report`
in a process of its own: with nothing there, again with nothing new, and with one clip's data removed. Making the
clips takes minutes and is not measured; a workspace that is given is kept and not made again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import quick_stages  # noqa: E402
from numbered_video import HEIGHT_PX, WIDTH_PX, write_numbered  # noqa: E402

import mit_builder.pipeline_run  # noqa: E402
from manifests.rows import Artifact, Bucket, Clip, CutJob, Pose, Shard, Source, Video, short_id  # noqa: E402
from mit_builder.cli.main import main as program  # noqa: E402
from mit_builder.stage import Context, Resources  # noqa: E402

CLIP_FRAMES = 200
CLIPS_A_VIDEO = 5
SHOT_FRAMES = 100
"""Between two clips lies a shot that is too short: half of the candidates are rejected."""
NOISE_PX = 0.4


class Download(quick_stages.QuickDownload):
    def process(self, row: Source, ctx: Context) -> Iterator[Video]:
        n_frames = CLIPS_A_VIDEO * (CLIP_FRAMES + SHOT_FRAMES)
        video_id = short_id(row.address)
        path = ctx.tmp / "video.mp4"
        path.write_bytes(video_id.encode())
        media = ctx.commit(path, "videos", video_id)
        yield Video(
            video_id, row.source_id, row.address, f"Talk {row.address[-5:]}", None, None, None, None, "public",
            media, n_frames / 25, n_frames, "25", WIDTH_PX, HEIGHT_PX, True,
        )  # fmt: skip


class Shots(quick_stages.QuickShots):
    def process(self, row: Video, ctx: Context) -> Iterator[Any]:
        start = 0
        for n_frames in (CLIP_FRAMES, SHOT_FRAMES) * CLIPS_A_VIDEO:
            yield quick_stages.Shot(row.video_id, start, start + n_frames)
            start += n_frames


class Cut(quick_stages.QuickCut):
    shared: ClassVar[bytes] = b""
    """The video of every clip."""

    def media(self, row: CutJob, ctx: Context) -> tuple[Artifact, Artifact, tuple[int, ...]]:
        name = row.candidate.clip_id
        mp4, flac = ctx.tmp / "clip.mp4", ctx.tmp / "clip.flac"
        if not Cut.shared:
            write_numbered(mp4, range(CLIP_FRAMES), Fraction(1, 25))
            Cut.shared = mp4.read_bytes()
        mp4.write_bytes(Cut.shared)
        flac.write_bytes(b"no sound")
        return ctx.commit(mp4, "clips", name), ctx.commit(flac, "clips", name), tuple(range(CLIP_FRAMES))


class EstimatePose(quick_stages.QuickPose):
    def process(self, row: Clip, ctx: Context) -> Iterator[Pose]:
        rng = np.random.default_rng(int(row.clip_id[:8], 16))
        people = []
        for i in range(row.n_people):
            points = quick_stages.keypoints(i, row.n_frames)
            points[..., :2] += rng.normal(0, NOISE_PX, points[..., :2].shape).astype(np.float32)
            ratios = quick_stages.visible_ratios(points, row.width_px, row.height_px)
            people.append({"person_id": i, "keypoints": points, **ratios})
        poses = quick_stages.commit(ctx, "poses", row.clip_id, quick_stages.POSES, people)
        yield Pose(row.clip_id, poses, self.backend(), 0.7, min(p["body_visible_ratio"] for p in people))


class Shards(quick_stages.fakes.Fake):
    """A shard with nothing but names: the report reads none."""

    name: ClassVar[str] = "shards"
    emits: ClassVar[tuple[type, ...]] = (Shard,)
    resources: ClassVar[Resources] = Resources(cpus=0.5)

    def unit_id(self, row: Bucket) -> str:
        return f"{row.bucket:05d}-of-{row.n_buckets:05d}"

    def process(self, row: Bucket, ctx: Context) -> Iterator[Shard]:
        path = ctx.tmp / "shard.parquet"
        pq.write_table(pa.table({"clip_id": [labelled.clip.clip_id for labelled in row.clips]}), path)
        yield Shard(row.bucket, ctx.commit(path, "dataset", f"shard-{row.bucket:05d}"), (), len(row.clips))


CLASSES = {"download": Download, "shots": Shots, "filter.cut": Cut, "pose": EstimatePose, "shards": Shards}


def run_program(*arguments: str) -> None:
    """The program with these stages; pictures and reports are not made at the end of a run."""
    quick_stages.CLASSES.update(CLASSES)
    sys.modules.update(quick_stages.modules())
    mit_builder.pipeline_run.check_all = lambda *checked: []
    mit_builder.pipeline_run._report = lambda *drawn: []
    program(list(arguments))


def make_clips(workspace: Path, n_clips: int) -> None:
    """As a run of the program would, in pieces that can be gone on with."""
    addresses = [f"http://quick.test/{i:05d}" for i in range(-(-n_clips // CLIPS_A_VIDEO))]
    options = ["filter.min_face_px=30", "download.host_interval_s=0", "filter.min_clip_s=5"]
    command = [sys.executable, __file__, "--program", "run", "--engine", "serial", "--workspace", str(workspace)]
    command += [part for option in options for part in ("--set", option)]
    subprocess.run([*command, *addresses], check=True, stdout=subprocess.DEVNULL)


def measure(workspace: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processor time and peak resident memory in MB (of its largest process) of the command."""
    began = time.monotonic()
    command = [sys.executable, __file__, "--program", "report", "--workspace", str(workspace)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"mit-build report ended with {child.returncode}")
    return time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=5000)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--no-making", action="store_true", help="the workspace has its clips already")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report-scale-") as folder:
        workspace = options.workspace or Path(folder) / "workspace"
        if not options.no_making:
            make_clips(workspace, options.clips)
        report = workspace / "report"
        for name, prepare in (
            ("new", lambda: None),
            ("nothing new", lambda: None),
            ("one clip new", lambda: drop(report)),
        ):
            prepare()
            took_s, cpu_s, peak_mb = measure(workspace)
            print(f"| {name} | {took_s:.1f} s | {cpu_s:.1f} s | {peak_mb:.0f} MB |", flush=True)
        data = [path.stat().st_size for path in (report / "data").iterdir()]
        sizes = ", ".join(f"{name} {size_mb(report / name)}" for name in ("index.html", "gallery.js", "rejects.js"))
        print(f"{len(data)} clips; {sizes}; a clip's data {sum(data) / len(data) / 1e3:.0f} kB on average")


def drop(report: Path) -> None:
    next((report / "data").iterdir()).unlink()


def size_mb(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--program"]:
        run_program(*sys.argv[2:])
    else:
        main()
