"""`mit-build rebuild`: a dataset out of a manifest. Fetch the sources again, cut the same clips, join the labels.

A source that is gone, has changed or was taken down is named and its clips are left out; the others become a dataset
whose labels equal the manifest's. What was fetched and cut stays, so that a rebuild that was stopped goes on.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ids import new_run_id
from manifests.ledger import Ledger
from manifests.rows import TIMELINE_FPS, Caption, Shard, Source, Video, short_id
from manifests.schema import content_hash, from_dict, to_dict
from manifests.sound_track import SoundTrack
from manifests.sources import SourceListError, file_source, url_source
from mit_builder.config.settings import Settings
from mit_builder.console.wording import counted
from mit_builder.dataset.index import FOLDER, INDEX_NAME, bucket_of, dataset_schema, parse_index, publish_index
from mit_builder.dataset.plugged import plugged_fields
from mit_builder.dataset.shard_file import ShardFile
from mit_builder.driver.session import REBUILT
from mit_builder.engine.worker import Task, Worker, WorkerSpec
from mit_builder.errors import ConfigError, MediaError
from mit_builder.exports.manifest import HEAD, TOLD_BY_SOURCE, Head, downloads, read_head, read_manifest
from mit_builder.exports.manifest_check import check_manifest
from mit_builder.media.audio_tracks import sound_of
from mit_builder.media.captions import cut_captions, load_captions
from mit_builder.media.cut import cut_clip, cut_native
from mit_builder.removal.takedown import finish
from mit_builder.report.clips import write_card
from mit_builder.storage.lease import lease
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.settings_file import SETTINGS_KEY
from mit_builder.storage.tombstones import BESIDE_DATASET, Tombstones, check_unchanged
from mit_builder.storage.workspace import Workspace

_CLIP_COLUMNS = [
    "clip_id",
    "video_id",
    "source_url",
    "start_s",
    "n_frames",
    "width_px",
    "height_px",
    "media_fps",
    "sound",
]
_HASH_COLUMNS = ["source_sha256", "clip_sha256", "audio_sha256", "source_frame_index"]


@dataclass
class Outcome:
    """What a rebuild did.

    Attributes:
        n_clips: in the dataset.
        n_other_bytes: clips with the right frames whose files differ: cut by another build of the encoder.
        missing: `ID: reason` for each video or clip that is not there.
        problems: exports of the workspace that still hold what was taken down.
    """

    n_clips: int = 0
    n_other_bytes: int = 0
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def rebuild(manifest: Path, workspace: Workspace, settings: Settings, files: Path | None) -> Outcome:
    """Rebuild a manifest's dataset in a workspace of its own.

    Args:
        manifest: its folder.
        workspace: new, or one in which this manifest's rebuild was begun, or that of an earlier state of it.
        settings: of download.
        files: where sources of the form `file:NAME` lie; None where there are none.

    Raises:
        ConfigError: the manifest cannot be used, or the workspace holds something else.
        CannotContinue: the workspace is in use or full.
    """
    head = read_head(manifest)
    check_manifest(manifest, head)
    with lease(workspace):
        workspace.sweep()
        tombstones, is_due = _tombstones(workspace, manifest)
        _claim(workspace, manifest, head, tombstones)
        problems = finish(workspace, tombstones) if is_due else []
        work = _Rebuild(manifest, head, workspace, settings, files, tombstones)
        work.outcome.problems = problems
        for video_id, clips in work.videos().items():
            work.make(video_id, clips)
        work.publish()
        write_card(workspace, contact=None)
        workspace.leave(work.run_id)
    return work.outcome


def _tombstones(workspace: Workspace, manifest: Path) -> tuple[Tombstones, bool]:
    """What may not be here, and whether the workspace may still hold some of it."""
    here = Tombstones.of(workspace)
    with suppress(FileNotFoundError):
        here_too = workspace.read(f"{FOLDER}/{BESIDE_DATASET}")  # outlives the ledger's folder
        here += Tombstones.parse(here_too, f"{FOLDER}/{BESIDE_DATASET}")
    every = Tombstones(
        replace(stone, pending=False) for stone in (here + Tombstones.at(manifest / BESIDE_DATASET)).stones
    )
    known = {replace(stone, pending=False) for stone in Tombstones.of(workspace).stones}
    return every, here.is_pending or not known.issuperset(every.stones)


def _claim(workspace: Workspace, manifest: Path, head: Head, tombstones: Tombstones) -> None:
    mark = (json.dumps({"fingerprint": head.fingerprint}) + "\n").encode()
    try:
        if workspace.read(REBUILT) == mark:
            return
    except FileNotFoundError:
        if workspace.exists(SETTINGS_KEY) or workspace.exists(f"{FOLDER}/{INDEX_NAME}"):
            message = f"{workspace.uri} holds a dataset of its own: give a new --workspace to rebuild into"
            raise ConfigError(message) from None
    else:
        made = {Path(key).name.partition(".")[0] for key in workspace.names("clips")}
        named = {table["clip_id"][0].as_py() for table in read_manifest(manifest, head, ["clip_id"])}
        if any(name not in named and not tombstones.bars_clip(name) for name in made):
            raise ConfigError(f"{workspace.uri} holds the rebuild of another manifest: give a new --workspace")
    workspace.write(REBUILT, mark)


class _Rebuild:
    """One rebuild under way."""

    def __init__(
        self,
        manifest: Path,
        head: Head,
        workspace: Workspace,
        settings: Settings,
        files: Path | None,
        tombstones: Tombstones,
    ) -> None:
        self.outcome = Outcome()
        self._manifest, self._head, self._workspace, self._files = manifest, head, workspace, files
        self._tombstones = tombstones
        self.run_id = new_run_id()
        self._scratch = workspace.scratch(self.run_id)
        self._ledger = Ledger(workspace, "download", (Video, Source))
        self._known = downloads(workspace)
        self._worker = Worker(WorkerSpec("stages.download:Download", settings.download, workspace.uri, self.run_id))
        problem = self._worker.ready()
        if problem:
            raise ConfigError(problem)
        self._made: dict[str, tuple[str, str]] = {}
        """Keys of MP4 and FLAC of each clip that is there."""

    def videos(self) -> dict[str, list[dict[str, Any]]]:
        """The manifest's clips by video; what was taken down is named at once."""
        videos: dict[str, list[dict[str, Any]]] = {}
        for table in read_manifest(self._manifest, self._head, [*_CLIP_COLUMNS, *_HASH_COLUMNS]):
            row = table.to_pylist()[0]
            if self._tombstones.bars_clip(row["clip_id"]):
                self.outcome.missing.append(f"{row['clip_id']}: taken down")
            else:
                videos.setdefault(row["video_id"], []).append(row)
        return videos

    def make(self, video_id: str, clips: list[dict[str, Any]]) -> None:
        """Cut a video's clips, those that are not there yet."""
        due = [clip for clip in clips if not (self._is_made(clip) and self._is_told(clip))]
        if not due:
            return
        video, problem = self._fetch(video_id, clips[0])
        if video is None:
            self.outcome.missing.append(f"{video_id} ({counted(len(due), 'clip')}): {problem}")
            for clip in due:
                self._made.pop(clip["clip_id"], None)
            return
        self._known[video_id] = video
        with self._workspace.local(video.media.key) as path:
            for clip in (clip for clip in due if clip["clip_id"] not in self._made):
                try:
                    self._cut(path, clip, video)
                except MediaError as error:
                    self.outcome.missing.append(f"{clip['clip_id']}: {error}")

    def _keys(self, clip: dict[str, Any]) -> tuple[str, str]:
        name = f"clips/{clip['clip_id']}.{clip['clip_sha256'][:8]}"
        return f"{name}.mp4", f"{name}.flac"

    def _is_made(self, clip: dict[str, Any]) -> bool:
        keys = self._keys(clip)
        if all(self._workspace.exists(key) for key in keys):
            self._made[clip["clip_id"]] = keys
            return True
        return False

    @cached_property
    def _published(self) -> dict[str, dict[str, Any]]:
        """What the sources said, by clip, as the dataset here has it: all there is where the ledger was lost."""
        found: dict[str, dict[str, Any]] = {}
        with suppress(FileNotFoundError):
            index = parse_index(self._workspace.read(f"{FOLDER}/{INDEX_NAME}").decode(errors="replace"))
            for shard in index.shards:
                with self._workspace.local(f"{FOLDER}/{shard.name}") as path:
                    rows = pq.read_table(path, columns=["clip_id", *TOLD_BY_SOURCE], use_threads=False).to_pylist()
                found |= {row.pop("clip_id"): row for row in rows}
        return found

    def _is_told(self, clip: dict[str, Any]) -> bool:
        """Whether it is known what the source says of itself, from its download or from the dataset written before."""
        return clip["video_id"] in self._known or clip["clip_id"] in self._published

    def _fetch(self, video_id: str, clip: dict[str, Any]) -> tuple[Video | None, str]:
        known = self._known.get(video_id)
        if self._tombstones.bars_any([known]):
            return None, "taken down"
        if known is not None and self._workspace.exists(known.media.key):
            return _as_promised(known, clip)
        try:
            source = self._source(clip)
        except (SourceListError, OSError) as error:
            return None, f"gone: {error}"
        if self._tombstones.bars("source", source.source_id):
            return None, "taken down"
        task = Task(source.source_id, content_hash("rebuild", self._head.fingerprint, source), source)
        (entry,) = self._worker.run([task])
        self._ledger.append([entry], run_id=self.run_id)
        video = next((row for row in entry.outputs if isinstance(row, Video)), None)
        if video is None:
            return None, "taken down" if entry.reason == "removed" else f"gone: {entry.message or entry.reason}"
        if self._tombstones.bars_output(video):
            self._workspace.delete([video.media.key])
            return None, "taken down"
        return _as_promised(video, clip)

    def _source(self, clip: dict[str, Any]) -> Source:
        address = clip["source_url"]
        if not address.startswith("file:"):
            return url_source(address)
        if self._files is None:
            raise SourceListError(f"{address} is a local file: give --files, the folder with it")
        name = Path(address.removeprefix("file:")).name
        named = [path for path in sorted(self._files.rglob("*")) if path.name == name and path.is_file()]
        if not named:
            raise SourceListError(f"no file {name} below {self._files}")
        same = (path for path in named if sha256_of(path) == clip["source_sha256"]) if len(named) > 1 else iter(())
        return file_source(next(same, named[0]))

    def _cut(self, source: Path, clip: dict[str, Any], video: Video) -> None:
        same_source = video.media.sha256 == clip["source_sha256"]
        told = tuple(from_dict(SoundTrack, track) for track in clip["sound"] or ())
        start = round(clip["start_s"] * TIMELINE_FPS)
        place = self._scratch / secrets.token_hex(4)
        place.mkdir()
        mp4, flac = place / "clip.mp4", place / "clip.flac"
        cut_media = cut_native if clip["media_fps"] == "source" else cut_clip
        cut = cut_media(
            source,
            start,
            start + clip["n_frames"],
            mp4,
            flac,
            crf=self._head.crf,
            audio_kbps=self._head.audio_kbps,
            sound=told if same_source and told else sound_of(video, source).tracks,
        )
        same_bytes = (sha256_of(mp4), sha256_of(flac)) == (clip["clip_sha256"], clip["audio_sha256"])
        same_frames = (list(cut.source_frame_index), cut.width_px, cut.height_px) == (
            clip["source_frame_index"],
            clip["width_px"],
            clip["height_px"],
        )
        if not same_frames or not (same_bytes or same_source):
            raise MediaError("changed: the clip cut from it has other frames than the labels were made for")
        self.outcome.n_other_bytes += not same_bytes
        keys = self._keys(clip)
        # The FLAC first: a clip counts as there when both are.
        self._workspace.commit(flac, keys[1])
        self._workspace.commit(mp4, keys[0])
        self._made[clip["clip_id"]] = keys

    def publish(self) -> None:
        """Write the shards with the clips that are there, then the index."""
        shards: dict[int, Shard] = {}
        for bucket, rows in self._by_bucket():
            path = self._scratch / f"shard-{bucket}.parquet"
            n_clips = 0
            with ShardFile(path, self._schema) as file:
                for row in rows:
                    file.add(row)
                    n_clips += 1
            name = f"shard-{bucket:05d}-of-{self._head.n_buckets:05d}.{sha256_of(path)[:8]}.parquet"
            shards[bucket] = Shard(bucket, self._workspace.commit(path, f"{FOLDER}/{name}"), (), n_clips)
            self.outcome.n_clips += n_clips
        index = publish_index(shards.values(), self._head.n_buckets)
        check_unchanged(self._workspace, self._tombstones)
        self._workspace.write(f"{FOLDER}/{INDEX_NAME}", index.encode())
        if self._tombstones:
            self._workspace.write(f"{FOLDER}/{BESIDE_DATASET}", self._tombstones.dump(published=True))
        named = {shard.parquet.key for shard in shards.values()}
        parquet = {key for key in self._workspace.names(FOLDER) if key.endswith(".parquet")}
        self._workspace.delete(sorted(parquet - named))

    def _by_bucket(self) -> Iterator[tuple[int, Iterable[pa.Table]]]:
        """Rows of the clips that are there, a bucket at a time: a manifest has the order of the dataset it is of."""
        tables = read_manifest(self._manifest, self._head)
        made = (table for table in tables if table["clip_id"][0].as_py() in self._made)
        return ((bucket, map(self._joined, rows)) for bucket, rows in groupby(made, self._bucket))

    def _bucket(self, table: pa.Table) -> int:
        return bucket_of(table["video_id"][0].as_py(), self._head.n_buckets)

    def _joined(self, table: pa.Table) -> pa.Table:
        clip_id, video = table["clip_id"][0].as_py(), self._known.get(table["video_id"][0].as_py())
        mp4, flac = self._made[clip_id]
        start_s, end_s = table["start_s"][0].as_py(), table["end_s"][0].as_py()
        media = {
            "clip": {"bytes": self._workspace.read(mp4), "path": f"clips/{clip_id}.mp4"},
            "audio": {"bytes": self._workspace.read(flac), "path": f"clips/{clip_id}.flac"},
        }
        told = self._published[clip_id] if video is None else self._told(video, start_s, end_s)
        values, schema = media | told, self._schema
        columns = [
            pa.array([values[f.name]], f.type) if f.name in values else table[f.name].cast(f.type) for f in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    @cached_property
    def _schema(self) -> pa.Schema:
        """The dataset's schema, with the columns of other packages' stages that the manifest has."""
        names = self._head.files[:1]
        return dataset_schema([f for name in names for f in plugged_fields(pq.read_schema(self._manifest / name))])

    def _told(self, video: Video, start_s: float, end_s: float) -> dict[str, Any]:
        """The columns that a manifest leaves to the source."""
        captions: tuple[Caption, ...] = ()
        if video.captions is not None:
            with self._workspace.local(video.captions.key) as path:
                captions = cut_captions(load_captions(path), start_s, end_s)
        names = {"title": video.title, "uploader": video.uploader, "channel_id": video.channel_id}
        return names | {"captions": [to_dict(caption) for caption in captions]}


def _as_promised(video: Video, clip: dict[str, Any]) -> tuple[Video | None, str]:
    promised = clip["source_sha256"]
    if promised is not None and video.media.sha256 != promised:
        return None, "changed: its file is not the one the labels were made for"
    is_by_content = video.video_id == short_id("content", video.media.sha256)
    if video.video_id != clip["video_id"] and (promised is None or is_by_content):
        return None, f"changed: its address gives another video, {video.video_id}"
    return video, ""


def head_of(folder: Path) -> Path:
    """The manifest's folder, where its `manifest.json` was given."""
    return folder.parent if folder.name == HEAD else folder
