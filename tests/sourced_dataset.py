"""The tiny dataset as a run would have left it: videos that can be fetched again, and every stage's ledger."""

from __future__ import annotations

import dataclasses
import wave
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_dataset

from manifests.arrays import write_arrays, write_columns
from manifests.ledger import Entry, Ledger
from manifests.rows import (
    SIGNALS,
    TRACK,
    Artifact,
    Candidate,
    Clip,
    Labelled,
    Pose,
    Shard,
    Shot,
    Source,
    Speech,
    Tracks,
    Video,
    short_id,
)
from manifests.schema import arrow_schema, to_dict
from manifests.sources import url_source
from mit_builder.config import settings as config
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.cut import cut_native
from mit_builder.media.write import write_video
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.settings_file import Kept, keep
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace

SECRETS = ("A very readable title of video {}", "Uploader number {}", "UC-channel-{}", "Words said in video {}")
EMITS: dict[str, tuple[type, ...]] = {
    "download": (Video, Source),
    "shots": (Shot,),
    "filter.detect": (Tracks,),
    "filter.select": (Candidate,),
    "filter.cut": (Clip,),
    "pose": (Pose,),
    "speech": (Speech,),
    "shards": (Shard,),
}


def write_sources(folder: Path, fps: int = 25) -> list[Path]:
    """Two videos with noise in picture and sound: no stretch of bytes is in both, or twice in one."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"talk{n}.mp4" for n in (0, 1)]
    for n, path in enumerate(paths):
        rng = np.random.default_rng(n)
        sound = folder / "noise.wav"
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(48_000)
            samples = rng.integers(-8000, 8000, tiny_dataset.SOURCE_FRAMES * 48_000 // 25)
            file.writeframes(samples.astype("<i2").tobytes())
        size = {"width_px": tiny_dataset.WIDTH_PX, "height_px": tiny_dataset.HEIGHT_PX}
        write_video(path, _noisy(rng), fps=fps, audio=sound, crf=18, **size)
        sound.unlink()
    return paths


def _noisy(rng: np.random.Generator) -> Iterator[np.ndarray]:
    for image in tiny_dataset.source_frames():
        image[:16] = rng.integers(0, 255, (16, tiny_dataset.WIDTH_PX, 3))
        yield image


class SourcedBuilder(tiny_dataset.Builder):
    """Videos come from `sources`, whose addresses are given; ids are those that download would give."""

    def __init__(self, root: Path, sources: Sequence[Path], addresses: Sequence[str], *, native: bool = False) -> None:
        super().__init__(root)
        self._sources, self._addresses, self._native = sources, addresses, native

    def _video(self, plan: tiny_dataset.ClipPlan) -> Video:
        n = plan.video
        digest = sha256_of(self._sources[n])
        video_id = short_id("content", digest)
        path = self.root / "videos" / f"{video_id}.01234567.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self._sources[n].read_bytes())
        captions, sound = self._said(n, video_id), choose_sound(path)
        return dataclasses.replace(
            tiny_dataset.Builder._video(self, plan),
            video_id=video_id,
            source_id=url_source(self._addresses[n]).source_id,
            source_url=self._addresses[n],
            title=SECRETS[0].format(n),
            uploader=SECRETS[1].format(n),
            channel_id=SECRETS[2].format(n),
            media=Artifact(f"videos/{path.name}", digest, path.stat().st_size),
            captions=captions,
            sound=sound.tracks,
            gain_db=sound.gain_db,
        )

    def _clip(self, plan: tiny_dataset.ClipPlan, video: Video, name: str) -> Clip:
        clip = super()._clip(plan, video, name)
        if not self._native:
            return clip
        mp4, flac = self._scratch / "native.mp4", self._scratch / "native.flac"
        frames = plan.start_frame, plan.end_frame
        cut = cut_native(self.root / video.media.key, *frames, mp4, flac, crf=16, audio_kbps=64, sound=video.sound)
        ctx = self.context("89abcdef")
        return dataclasses.replace(
            clip,
            mp4=ctx.commit(mp4, "clips", name),
            flac=ctx.commit(flac, "clips", name),
            source_fps=str(cut.source_fps),
            source_frame_index=cut.source_frame_index,
            media_fps="source",
            media_frame_index=cut.media_frame_index,
        )

    def _said(self, n: int, video_id: str) -> Artifact:
        caption = dataclasses.replace(tiny_dataset.CAPTIONS[1], text=SECRETS[3].format(n))
        path = self._scratch / "captions.parquet"
        write_arrays(path, arrow_schema(type(caption)), [to_dict(caption)])
        return self.context().commit(path, "videos", video_id)


def build(root: Path, sources: Sequence[Path], addresses: Sequence[str], *, native: bool = False) -> list[Labelled]:
    """A workspace with a dataset of the three tiny clips, with its ledger, settings and source book."""
    builder = SourcedBuilder(root, sources, addresses, native=native)
    workspace = Workspace(root)
    clips = [builder.labelled(plan) for plan in tiny_dataset.PLANS]
    for path in (root / "videos").glob("source*"):
        path.unlink()  # made by the base class
    settings = config.load(
        None, ["filter.audio_kbps=64", "download.allow_private_addresses=true", "shards.n_buckets=4"]
    )
    keep(workspace, Kept(settings.model_copy(update={"profile": "embedded"})))
    book = SourceCatalog(workspace)
    book.add(addresses)
    book.save()
    by_bucket: dict[int, list[Labelled]] = {}
    for clip in clips:
        by_bucket.setdefault(int(clip.video.video_id[:8], 16) % 4, []).append(clip)
    shards = [
        builder.shard(tuple(sorted(c, key=lambda x: x.clip.clip_id)), bucket=b) for b, c in sorted(by_bucket.items())
    ]
    builder.publish(*shards)
    _record(builder, workspace, clips, shards)
    return clips


def _record(builder: SourcedBuilder, workspace: Workspace, clips: list[Labelled], shards: list[Shard]) -> None:
    rows: dict[str, dict[str, tuple[Any, ...]]] = {name: {} for name in EMITS}
    for c in clips:
        video = c.video
        shot = f"{video.video_id}_000000to{tiny_dataset.SOURCE_FRAMES:06d}"
        rows["download"][video.source_id] = (video,)
        rows["shots"][video.video_id] = (Shot(video.video_id, 0, tiny_dataset.SOURCE_FRAMES),)
        rows["filter.detect"][shot] = (_tracks(builder, video, shot),)
        rows["filter.select"][shot] = (*rows["filter.select"].get(shot, ()), c.candidate)
        rows["filter.cut"][c.clip.clip_id] = (c.clip,)
        rows["pose"][c.clip.clip_id] = (c.pose,)
        rows["speech"][c.clip.clip_id] = (c.speech,)
    for shard in shards:
        rows["shards"][f"{shard.bucket:05d}-of-00004"] = (shard,)
    for stage, units in rows.items():
        entries = [Entry(unit_id, f"key-of-{unit_id}", "done", outputs) for unit_id, outputs in units.items()]
        Ledger(workspace, stage, EMITS[stage]).append(entries, run_id="20260101T000000-abcdef")


def _tracks(builder: SourcedBuilder, video: Video, name: str) -> Tracks:
    ctx = builder.context()
    n_frames = tiny_dataset.SOURCE_FRAMES
    tracks, signals = builder._scratch / "tracks.parquet", builder._scratch / "signals.parquet"
    boxes = np.tile(np.float32([10, 10, 40, 40]), (n_frames, 1))
    track = {
        "track_id": 5,
        "start_frame": 0,
        "face_boxes_xyxy": boxes,
        "face_scores": np.ones(n_frames, np.float32),
        "face_detected": np.ones(n_frames, bool),
        "boxes_xyxy": boxes,
        "stillness": 3.0,
        "similarity_beside": None,
        "similarity_above": None,
    }
    write_arrays(tracks, TRACK, [track])
    columns = {field.name: np.linspace(0, 1, n_frames).astype(field.type.to_pandas_dtype()) for field in SIGNALS}
    write_columns(signals, SIGNALS, columns | {"frame": np.arange(n_frames, dtype=np.int32)})
    return Tracks(
        video_id=video.video_id,
        start_frame=0,
        end_frame=n_frames,
        width_px=video.width_px,
        height_px=video.height_px,
        has_audio=True,
        n_tracks=1,
        tracks=ctx.commit(tracks, "tracks", f"{name}.tracks"),
        signals=ctx.commit(signals, "tracks", f"{name}.signals"),
        detector="tiny-detector 1",
    )


def files(root: Path) -> Iterable[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file())
