"""Shards: everything known about the clips of one bucket, as one Parquet file of the dataset.

In: `Bucket`. Out: `Shard`. Nothing is dropped here (driver/labelled_clips.py has done so). A reviewer's corrections are
applied here, so that scores and artifacts stay what the models said. The file has the
columns of `DatasetRow`, one row a clip ordered by `clip_id`, and holds no clock, host or attempt value: the same clips
give the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from manifests.arrays import read_arrays, to_arrow
from manifests.dataset_row import DatasetRow, Person
from manifests.rows import TIMELINE_FPS, Artifact, Bucket, Caption, Labelled, Shard, Video
from manifests.signatures import unsigned
from mit_builder.config.settings import ShardsSettings
from mit_builder.dataset.index import FOLDER, dataset_schema
from mit_builder.dataset.plugged import fields_of, plugged_columns
from mit_builder.dataset.shard_file import ShardFile
from mit_builder.errors import DamagedError, MediaError
from mit_builder.labels.corrections import human_mask, label_tier, with_corrections
from mit_builder.labels.speaking import interaction_labels
from mit_builder.media.captions import cut_captions, load_captions
from mit_builder.media.clip import media_frames
from mit_builder.stage import Context, Resources
from mit_builder.version import __version__

Split = Literal["train", "val", "test"]


class WriteShard:
    """Write one shard of the dataset."""

    name: ClassVar[str] = "shards"
    version: ClassVar[int] = 5
    resources: ClassVar[Resources] = Resources(cpus=1.0, max_workers=2)
    emits: ClassVar[tuple[type, ...]] = (Shard,)

    def __init__(self, settings: ShardsSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Nothing to load."""

    def unit_id(self, row: Bucket) -> str:
        """The bucket's number and how many there are."""
        return f"{row.bucket:05d}-of-{row.n_buckets:05d}"

    def backend(self) -> str:
        """No model takes part."""
        return ""

    def limit_key(self, row: Bucket) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: Bucket, ctx: Context) -> Iterator[Shard]:
        """Join the clips' artifacts one clip at a time, and commit the file.

        Raises:
            DamagedError: artifacts are; all clips were looked at, so that all are made again together.
            MediaError: the artifacts of a clip name different people.
        """
        path = ctx.tmp / "shard.parquet"
        media: list[Artifact] = []
        schema = dataset_schema(fields_of(row.clips[0]) if row.clips else ())
        damaged: DamagedError | None = None
        with ShardFile(path, schema) as writer:
            for labelled in sorted(row.clips, key=lambda labelled: labelled.clip.clip_id):
                try:
                    clip, audio, committed = self._media(labelled, ctx)
                    labels = _people(labelled, ctx), _voice(labelled, ctx), _captions(labelled, ctx)
                except DamagedError as error:
                    damaged = error
                    continue
                media += committed
                values = vars(_dataset_row(labelled, *labels, clip, audio, self._settings)) | plugged_columns(labelled)
                writer.add(_table(values, schema))
        if damaged:
            raise damaged
        parquet = ctx.commit(path, FOLDER, f"shard-{row.bucket:05d}-of-{row.n_buckets:05d}")
        yield Shard(bucket=row.bucket, parquet=parquet, media=tuple(media), n_clips=len(row.clips))

    def _media(self, labelled: Labelled, ctx: Context) -> tuple[dict[str, Any], dict[str, Any], list[Artifact]]:
        clip = labelled.clip
        cells: list[dict[str, Any]] = []
        committed: list[Artifact] = []
        for artifact, suffix in ((clip.mp4, ".mp4"), (clip.flac, ".flac")):
            with ctx.local(artifact) as path:
                if self._settings.embed_media:
                    cells.append({"bytes": path.read_bytes(), "path": f"clips/{clip.clip_id}{suffix}"})
                    continue
                copy = ctx.tmp / f"{clip.clip_id}{suffix}"
                shutil.copyfile(path, copy)
            committed.append(ctx.commit(copy, FOLDER, f"clips/{clip.clip_id}"))
            cells.append({"bytes": None, "path": committed[-1].key.removeprefix(f"{FOLDER}/")})
        return cells[0], cells[1], committed


def _table(values: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([_column(values[field.name], field.type) for field in schema], schema=schema)


def _column(value: Any, kind: pa.DataType) -> pa.Array:
    if not (pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)):
        return to_arrow([value], kind)
    struct = kind.value_type
    children = [to_arrow([getattr(item, field.name) for item in value], field.type) for field in struct]
    items = pa.StructArray.from_arrays(children, fields=list(struct))
    return pa.ListArray.from_arrays(pa.array([0, len(value)], pa.int32()), items, type=kind)


def split_of(video: Video, val_share: float, test_share: float) -> Split:
    """The split of all clips of a video: one channel's videos (else one uploader's) never part.

    The hash of the name is a number in [0, 1): the lowest `test_share` of it is test, the next `val_share` val.
    """
    name = video.channel_id or video.uploader or video.video_id
    place = int.from_bytes(hashlib.sha256(f"split:{name}".encode()).digest()[:8], "big") / 2**64
    if place < test_share:
        return "test"
    return "val" if place < test_share + val_share else "train"


def _people(labelled: Labelled, ctx: Context) -> tuple[Person, ...]:
    tables: list[dict[int, dict[str, Any]]] = []
    for artifact in (labelled.clip.people, labelled.pose.poses, labelled.speech.speech):
        with ctx.local(artifact) as path:
            tables.append({row["person_id"]: row for row in read_arrays(path)})
    people, poses, speech = tables
    if not people.keys() == poses.keys() == speech.keys():
        raise MediaError(f"{labelled.clip.clip_id}: people, poses and speech name different people")
    wanted = {field.name for field in fields(Person)} - {"talk_share"}
    joined = [{**people[i], **poses[i], **speech[i]} for i in sorted(people)]
    return tuple(
        Person(**{name: values[name] for name in wanted}, talk_share=float(np.mean(values["speaking"])))
        for values in with_corrections(joined, labelled.corrections, labelled.speech.merge_below_frames)
    )


def _voice(labelled: Labelled, ctx: Context) -> np.ndarray[Any, Any]:
    with ctx.local(labelled.speech.voice) as path:
        return np.array([row["voice_activity"] for row in read_arrays(path)], np.float32)


def _captions(labelled: Labelled, ctx: Context) -> tuple[Caption, ...]:
    if labelled.video.captions is None:
        return ()
    with ctx.local(labelled.video.captions) as path:
        start_s, end_s = (frame / TIMELINE_FPS for frame in (labelled.clip.start_frame, labelled.clip.end_frame))
        return cut_captions(load_captions(path), start_s, end_s)


def _dataset_row(
    labelled: Labelled,
    people: tuple[Person, ...],
    voice_activity: np.ndarray[Any, Any],
    captions: tuple[Caption, ...],
    clip_cell: dict[str, Any],
    audio_cell: dict[str, Any],
    settings: ShardsSettings,
) -> DatasetRow:
    video, candidate, clip = labelled.video, labelled.candidate, labelled.clip
    human = np.stack([human_mask(vars(person)) for person in people])
    interaction = interaction_labels(np.stack([person.speaking for person in people]), human)
    return DatasetRow(
        clip_id=clip.clip_id,
        video_id=video.video_id,
        source_url=unsigned(video.source_url),  # one of an older download may be signed
        title=video.title,
        uploader=video.uploader,
        channel_id=video.channel_id,
        licence=video.licence,
        access=video.access,
        start_s=clip.start_frame / TIMELINE_FPS,
        end_s=clip.end_frame / TIMELINE_FPS,
        fps=TIMELINE_FPS,
        source_fps=clip.source_fps,
        source_frame_index=np.array(clip.source_frame_index, np.int64),
        n_frames=clip.n_frames,
        media_fps=clip.media_fps,
        media_frame_index=np.array(media_frames(clip.n_frames, clip.media_frame_index), np.int64),
        width_px=clip.width_px,
        height_px=clip.height_px,
        split=split_of(video, settings.val_share, settings.test_share),
        clip=clip_cell,
        audio=audio_cell,
        n_people=len(people),
        people=people,
        voice_activity=voice_activity,
        captions=captions,
        n_turns=interaction.n_turns,
        overlap_ratio=interaction.overlap_ratio,
        silence_ratio=interaction.silence_ratio,
        camera_motion_pct=candidate.camera_motion_pct,
        min_face_px=candidate.min_face_px,
        face_area_ratio=candidate.face_area_ratio,
        n_bystanders=candidate.n_bystanders,
        bystander_area=candidate.bystander_area,
        brightness=candidate.brightness,
        sharpness=candidate.sharpness,
        loudness_dbfs=clip.loudness_dbfs,
        gain_db=clip.gain_db,
        sound=tuple(replace(track, title=None) for track in clip.sound),
        label_tier=label_tier([vars(person) for person in people], clip.n_frames, labelled.speech.label_tier),
        min_voice_activity=labelled.speech.min_voice_activity,
        merge_below_frames=labelled.speech.merge_below_frames,
        min_body_visible=settings.min_body_visible,
        detector=candidate.detector,
        pose_backend=labelled.pose.pose_backend,
        speech_backend=labelled.speech.speech_backend,
        mit_builder_version=__version__,
    )
