"""Stages that fulfil the real protocol in milliseconds and behave as a source's address tells them.

    http://fake.test/NAME?video=V&lengths=50,150&pose=crash&while=/path/of/flag

`video` names the content (two addresses with one `video` are duplicates; by default NAME), `site` the id that a site
has for it (without one the id comes from the content), `lengths` those of the shots in frames, `list` the names of a
playlist's entries, or a file that holds them. A step's name with one of `BEHAVIOURS` makes that step misbehave for this
source; with `while`, only as long as that file exists. The address travels inside the artifacts, so every step knows
it. Every call of `process` leaves a line in the file that the environment variable `FAKES_LOG` names.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.rows import (
    Artifact,
    Bucket,
    Candidate,
    Clip,
    CutJob,
    Pose,
    Shard,
    Shot,
    ShotRun,
    Source,
    Speech,
    SpeechJob,
    Tracks,
    Video,
    clip_id,
    short_id,
)
from manifests.sources import url_source
from mit_builder.config.settings import SelectSettings
from mit_builder.engine.worker import WorkerSpec
from mit_builder.errors import FailureClass, StageUnavailable, UnitError
from mit_builder.pipeline import STEPS as REAL_STEPS
from mit_builder.pipeline import Step
from mit_builder.stage import Context, Reject, Resources

LOG = "FAKES_LOG"
LENGTHS = "50,150,250"
"""Lengths of the shots of a fake video, in frames: 2, 6 and 10 s."""
FAILURES: dict[str, FailureClass] = {
    "fail": "permanent",
    "transient": "transient",
    "auth": "auth",
    "resource": "resource",
}
BEHAVIOURS = (*FAILURES, "bug", "reject", "crash", "sleep", "slow", "wait", "kill-driver")


def source(text: str) -> Source:
    """The source of `NAME` or `NAME?step=behaviour`."""
    return url_source(f"http://fake.test/{text}")


def query(text: str) -> dict[str, str]:
    """The instructions of an address or of an artifact's text."""
    return {key: values[0] for key, values in parse_qs(urlsplit(text).query).items()}


def read_text(artifact: Artifact, ctx: Context) -> str:
    with ctx.local(artifact) as path:
        return path.read_text()


def write_text(text: str, ctx: Context, folder: str, name: str, suffix: str = ".txt") -> Artifact:
    path = ctx.tmp / f"{name.replace('/', '-')}{suffix}"
    path.write_text(text)
    return ctx.commit(path, folder, name)


class Fake:
    """What all fakes share."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources(cpus=0.5, timeout_s=30)
    emits: ClassVar[tuple[type, ...]]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def setup(self) -> None:
        """Nothing to load."""

    def backend(self) -> str:
        return f"fake {self.name}"

    def limit_key(self, row: Any) -> str | None:
        return None

    def obey(self, text: str) -> None:
        """Log the call, then do what the address says about this step."""
        if os.environ.get(LOG):
            with open(os.environ[LOG], "a") as log:
                log.write(f"{self.name} {text}\n")
        told = query(text)
        behaviour = told.get(self.name)
        if behaviour is None or ("while" in told and not Path(told["while"]).exists()):
            return
        assert behaviour in BEHAVIOURS, behaviour
        if behaviour in FAILURES:
            raise UnitError(f"told to fail: {behaviour}", failure_class=FAILURES[behaviour])
        if behaviour == "bug":
            raise ZeroDivisionError("told to have a bug")
        if behaviour == "reject":
            raise Reject("told_to", answer=42)
        if behaviour == "crash":
            os._exit(3)
        if behaviour == "kill-driver":
            os.kill(os.getpid(), signal.SIGKILL)
        while behaviour == "wait" and Path(told["while"]).exists():
            time.sleep(0.05)
        if behaviour == "wait":
            return
        time.sleep(60.0 if behaviour == "sleep" else 0.2)


class FakeDownload(Fake):
    name: ClassVar[str] = "download"
    emits: ClassVar[tuple[type, ...]] = (Video, Source)
    resources: ClassVar[Resources] = Resources(cpus=0.25, timeout_s=30)

    def unit_id(self, row: Source) -> str:
        return row.source_id

    def limit_key(self, row: Source) -> str | None:
        return urlsplit(row.address).hostname

    def process(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        self.obey(row.address)
        told = query(row.address)
        if "list" in told:
            names = Path(told["list"]).read_text() if os.path.isabs(told["list"]) else told["list"]
            yield from (source(name) for name in names.split(",") if name)
            return
        name = urlsplit(row.address).path.strip("/")
        # The same content for all addresses of one video: what the text says, but not under which name.
        query_of = re.sub(r"&?site=[^&]*", "", urlsplit(row.address).query)
        text = f"?{query_of}" if "video" in told else f"{name}?{query_of}"
        video_id = short_id(*(("site", told["site"]) if "site" in told else ("content", told.get("video", name))))
        n_frames = sum(map(int, told.get("lengths", LENGTHS).split(",")))
        yield Video(
            video_id=video_id,
            source_id=row.source_id,
            source_url=row.address,
            title=name,
            uploader=None,
            channel_id=None,
            upload_date=None,
            licence=None,
            access="public",
            media=write_text(text, ctx, "videos", video_id, ".mp4"),
            duration_s=n_frames / 25,
            n_frames=n_frames,
            source_fps="25",
            width_px=64,
            height_px=48,
            has_audio=True,
        )


class FakeShots(Fake):
    name: ClassVar[str] = "shots"
    emits: ClassVar[tuple[type, ...]] = (Shot,)

    def unit_id(self, row: Video) -> str:
        return row.video_id

    def process(self, row: Video, ctx: Context) -> Iterator[Shot]:
        text = read_text(row.media, ctx)
        self.obey(text)
        start = 0
        for n_frames in map(int, query(text).get("lengths", LENGTHS).split(",")):
            yield Shot(row.video_id, start, start + n_frames)
            start += n_frames


class FakeDetect(Fake):
    name: ClassVar[str] = "filter.detect"
    emits: ClassVar[tuple[type, ...]] = (Tracks,)

    def unit_id(self, row: ShotRun) -> str:
        return clip_id(row.video.video_id, row.shots[0].start_frame, row.shots[-1].end_frame)

    def process(self, row: ShotRun, ctx: Context) -> Iterator[Tracks]:
        text = read_text(row.video.media, ctx)
        self.obey(text)
        for shot in row.shots:
            name = clip_id(shot.video_id, shot.start_frame, shot.end_frame)
            yield Tracks(
                video_id=shot.video_id,
                start_frame=shot.start_frame,
                end_frame=shot.end_frame,
                width_px=64,
                height_px=48,
                has_audio=True,
                n_tracks=2,
                tracks=write_text(text, ctx, "tracks", name),
                signals=write_text("", ctx, "tracks", f"{name}-signals"),
                detector=self.backend(),
            )


class FakeSelect(Fake):
    name: ClassVar[str] = "filter.select"
    emits: ClassVar[tuple[type, ...]] = (Candidate,)
    resources: ClassVar[Resources] = Resources(cpus=0.5, batch=4, timeout_s=30)
    settings: SelectSettings

    def unit_id(self, row: Tracks) -> str:
        return clip_id(row.video_id, row.start_frame, row.end_frame)

    def process(self, row: Tracks, ctx: Context) -> Iterator[Candidate]:
        self.obey(read_text(row.tracks, ctx))
        kept = row.end_frame - row.start_frame >= self.settings.min_clip_s * 25
        yield Candidate(
            clip_id=clip_id(row.video_id, row.start_frame, row.end_frame),
            video_id=row.video_id,
            start_frame=row.start_frame,
            end_frame=row.end_frame,
            track_ids=(0, 1),
            n_people=2,
            tracks=row.tracks,
            verdict="kept" if kept else "rejected",
            reason=None if kept else "too_short",
            min_face_px=100.0,
            face_area_ratio=0.9,
            camera_motion_pct=0.0,
            voice_activity=0.5,
            stillness=1.0,
            n_bystanders=0,
            bystander_area=None,
            brightness=100.0,
            sharpness=10.0,
            detector=row.detector,
        )


class FakeCut(Fake):
    name: ClassVar[str] = "filter.cut"
    emits: ClassVar[tuple[type, ...]] = (Clip,)

    def unit_id(self, row: CutJob) -> str:
        return row.candidate.clip_id

    def process(self, row: CutJob, ctx: Context) -> Iterator[Clip]:
        text = read_text(row.video.media, ctx)
        self.obey(text)
        name, n_frames = row.candidate.clip_id, row.candidate.end_frame - row.candidate.start_frame
        yield Clip(
            clip_id=name,
            video_id=row.video.video_id,
            start_frame=row.candidate.start_frame,
            end_frame=row.candidate.end_frame,
            n_frames=n_frames,
            width_px=64,
            height_px=48,
            n_people=2,
            mp4=write_text(text, ctx, "clips", name, ".mp4"),
            flac=write_text(name, ctx, "clips", name, ".flac"),
            people=write_text("", ctx, "clips", f"{name}-people"),
            source_fps="25",
            source_frame_index=(0,) * n_frames,
            loudness_dbfs=-20.0,
        )


class FakePose(Fake):
    name: ClassVar[str] = "pose"
    emits: ClassVar[tuple[type, ...]] = (Pose,)

    def unit_id(self, row: Clip) -> str:
        return row.clip_id

    def process(self, row: Clip, ctx: Context) -> Iterator[Pose]:
        self.obey(read_text(row.mp4, ctx))
        visible = 0.9 if row.start_frame > 100 else 0.4
        yield Pose(row.clip_id, write_text("keypoints", ctx, "poses", row.clip_id), self.backend(), 0.9, visible)


class FakeSpeech(Fake):
    name: ClassVar[str] = "speech"
    emits: ClassVar[tuple[type, ...]] = (Speech,)

    def unit_id(self, row: SpeechJob) -> str:
        return row.clip.clip_id

    def process(self, row: SpeechJob, ctx: Context) -> Iterator[Speech]:
        self.obey(read_text(row.clip.mp4, ctx))
        name = row.clip.clip_id
        yield Speech(
            clip_id=name,
            speech=write_text("scores", ctx, "speech", name),
            voice=write_text("", ctx, "speech", f"{name}-voice"),
            speech_backend=self.backend(),
            label_tier="heuristic",
            min_voice_activity=self.settings.min_voice_activity,
            merge_below_frames=self.settings.merge_below_frames,
        )


class FakeShards(Fake):
    """A shard is a Parquet file with the clips' names, split and titles."""

    name: ClassVar[str] = "shards"
    emits: ClassVar[tuple[type, ...]] = (Shard,)

    def unit_id(self, row: Bucket) -> str:
        return f"{row.bucket:05d}-of-{row.n_buckets:05d}"

    def process(self, row: Bucket, ctx: Context) -> Iterator[Shard]:
        for labelled in row.clips:
            self.obey(read_text(labelled.clip.mp4, ctx))
        told = ("video_id", "title", "source_url", "uploader", "channel_id")
        rows = [
            {"clip_id": c.clip.clip_id, "split": "train", **{name: getattr(c.video, name) for name in told}}
            for c in row.clips
        ]
        path = ctx.tmp / "shard.parquet"
        columns = pa.schema([(name, pa.string()) for name in ("clip_id", "split", *told)])
        pq.write_table(pa.Table.from_pylist(rows, columns), path)
        parquet = ctx.commit(path, "dataset", f"shard-{self.unit_id(row)}")
        yield Shard(bucket=row.bucket, parquet=parquet, media=(), n_clips=len(rows))


class BrokenPose(FakePose):
    """A pose stage whose weights are missing."""

    def setup(self) -> None:
        raise StageUnavailable("no weights: mit-build weights fetch nothing")


class CarelessPose(FakePose):
    """A pose stage whose setup raises what its library raises."""

    def setup(self) -> None:
        raise RuntimeError("the library\nfound no device")


class BatchedPose(FakePose):
    """A pose stage that takes several clips at once."""

    resources: ClassVar[Resources] = Resources(cpus=0.5, batch=8, timeout_s=30)


class ImpatientPose(FakePose):
    """A pose stage that is given three seconds for a clip."""

    resources: ClassVar[Resources] = Resources(cpus=0.5, timeout_s=3)


class GpuPose(FakePose):
    """A pose stage that takes half of a GPU."""

    resources: ClassVar[Resources] = Resources(cpus=0.5, gpus=0.5, max_workers=1, timeout_s=30)


def find_no_room(work: object) -> None:
    """In the place of what a process was to do."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die(work: object) -> None:
    """In the place of what a process was to do."""
    os._exit(3)


CLASSES = {step.name: next(kind for kind in Fake.__subclasses__() if kind.name == step.name) for step in REAL_STEPS}
"""By step; each has a fake."""


def steps(**replaced: str) -> tuple[Step, ...]:
    """The pipeline with fakes; `steps(pose="BrokenPose")` puts another class of this module into it."""
    names = {name: kind.__name__ for name, kind in CLASSES.items()} | replaced
    return tuple(replace(step, stage=f"fakes:{names[step.name]}") for step in REAL_STEPS)


def resources(specs: dict[str, WorkerSpec]) -> dict[str, Resources]:
    """What each step's stage needs."""
    return {name: spec.load().resources for name, spec in specs.items()}
