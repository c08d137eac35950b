"""A small real dataset for tests: clips cut by the media modules, labels of known shape, shards by the real stage."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from promised import promised

from manifests.arrays import write_arrays
from manifests.rows import (
    N_KEYPOINTS,
    PEOPLE,
    POSES,
    SPEECH,
    VOICE,
    Artifact,
    Bucket,
    Candidate,
    Caption,
    Clip,
    Labelled,
    Pose,
    Shard,
    Speech,
    Video,
    clip_id,
    short_id,
)
from manifests.schema import arrow_schema, to_dict
from mit_builder.config.settings import ShardsSettings
from mit_builder.dataset.index import FOLDER, INDEX_NAME, index_text, publish_index
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.engine.worker import UnitContext
from mit_builder.labels.keypoints import visible_ratios
from mit_builder.labels.speaking import is_speaking, merged_periods, periods, smooth
from mit_builder.media.cut import cut_clip
from mit_builder.media.write import write_video
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.workspace import Workspace
from stages.shards import WriteShard

WIDTH_PX, HEIGHT_PX = 160, 120
SOURCE_FRAMES = 80
MIN_VOICE_ACTIVITY = 0.25
MERGE_BELOW_FRAMES = 8
NO_FILE = Artifact("tracks/none.parquet", "0" * 64, 0)


@dataclass(frozen=True)
class ClipPlan:
    """One clip to make: which video, which of its frames, how many people."""

    video: int
    start_frame: int
    end_frame: int
    n_people: int
    channel_id: str | None = None


PLANS = (
    ClipPlan(video=0, start_frame=0, end_frame=40, n_people=2, channel_id="channel-a"),
    ClipPlan(video=0, start_frame=44, end_frame=76, n_people=2, channel_id="channel-a"),
    ClipPlan(video=1, start_frame=5, end_frame=40, n_people=3),
)
"""Two clips of one video and one of another, with three people."""
CAPTIONS = (
    Caption(0.2, 0.9, "Good <b>morning</b> | all", "en", automatic=False),
    Caption(1.2, 2.0, "in both clips", "en", automatic=False),
    Caption(1.7, 1.75, "between them", "de", automatic=True),
    Caption(2.5, 9.0, "to the end", "de", automatic=True),
)
"""Of the first video; its clips last from 0 to 1.6 s and from 1.76 to 3.04 s."""


class Builder:
    """Makes the artifacts of labelled clips in a workspace folder, and its shards."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._workspace = Workspace(root)
        self._scratch = root / ".scratch" / "tiny"
        self._scratch.mkdir(parents=True)

    def context(self, input_key: str = "0123456789abcdef") -> UnitContext:
        """A context that stores into the folder."""
        return UnitContext(self._workspace, input_key, self._scratch)

    def labelled(self, plan: ClipPlan) -> Labelled:
        """Media and labels of one clip."""
        video = self._video(plan)
        name = clip_id(video.video_id, plan.start_frame, plan.end_frame)
        clip = self._clip(plan, video, name)
        return Labelled(video, _candidate(plan, video, name), clip, self._pose(plan, clip), self._speech(plan, clip))

    def shard(self, clips: tuple[Labelled, ...], *, bucket: int = 0, embed_media: bool = True) -> Shard:
        """One shard with these clips, written by the stage of a run."""
        stage = WriteShard(ShardsSettings(embed_media=embed_media))
        stage.setup()
        (shard,) = stage.process(Bucket(bucket, 4, clips), self.context())
        return shard

    def publish(self, *shards: Shard) -> None:
        """Write the index."""
        (self.root / FOLDER / INDEX_NAME).write_text(publish_index(shards, 4))

    def _video(self, plan: ClipPlan) -> Video:
        path = self.root / "videos" / f"source{plan.video}.mp4"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            sound = write_tone(self._scratch / "tone.wav", SOURCE_FRAMES / 25)
            write_video(path, source_frames(), width_px=WIDTH_PX, height_px=HEIGHT_PX, audio=sound)
        return Video(
            video_id=short_id("tiny", str(plan.video)),
            source_id=short_id("source", str(plan.video)),
            source_url=f"file:source{plan.video}.mp4",
            title="Two | discs <b>talk</b>",
            uploader=None,
            channel_id=plan.channel_id,
            upload_date=None,
            licence="CC0",
            access="public",
            media=promised(path),
            duration_s=SOURCE_FRAMES / 25,
            n_frames=SOURCE_FRAMES,
            source_fps="25",
            width_px=WIDTH_PX,
            height_px=HEIGHT_PX,
            has_audio=True,
            captions=self._captions() if plan.video == 0 else None,
        )

    def _captions(self) -> Artifact:
        path = self._scratch / "captions.parquet"
        write_arrays(path, arrow_schema(Caption), [to_dict(caption) for caption in CAPTIONS])
        return self.context().commit(path, "videos", "source0")

    def _clip(self, plan: ClipPlan, video: Video, name: str) -> Clip:
        mp4, flac = self._scratch / "clip.mp4", self._scratch / "clip.flac"
        source = self.root / video.media.key
        cut = cut_clip(source, plan.start_frame, plan.end_frame, mp4, flac, crf=16, audio_kbps=64, sound=video.sound)
        people = self._scratch / "people.parquet"
        write_arrays(people, PEOPLE, [_person(plan, person) for person in range(plan.n_people)])
        ctx = self.context()
        return Clip(
            clip_id=name,
            video_id=video.video_id,
            start_frame=plan.start_frame,
            end_frame=plan.end_frame,
            n_frames=cut.n_frames,
            width_px=cut.width_px,
            height_px=cut.height_px,
            n_people=plan.n_people,
            mp4=ctx.commit(mp4, "clips", name),
            flac=ctx.commit(flac, "clips", name),
            people=ctx.commit(people, "clips", name),
            source_fps=str(cut.source_fps),
            source_frame_index=cut.source_frame_index,
            loudness_dbfs=cut.loudness_dbfs,
            media_fps="source" if cut.media_frame_index else "25",
            media_frame_index=cut.media_frame_index,
            sound=tuple(track for track in video.sound or () if track.weights),
        )

    def _pose(self, plan: ClipPlan, clip: Clip) -> Pose:
        path = self._scratch / "pose.parquet"
        points = [keypoints(plan, i) for i in range(plan.n_people)]
        rows = [
            {"person_id": i, "keypoints": p, **visible_ratios(p, WIDTH_PX, HEIGHT_PX)} for i, p in enumerate(points)
        ]
        write_arrays(path, POSES, rows)
        return Pose(clip.clip_id, self.context().commit(path, "poses", clip.clip_id), "tiny-pose 1", 0.9, 16 / 17)

    def _speech(self, plan: ClipPlan, clip: Clip) -> Speech:
        speech, voice = self._scratch / "speech.parquet", self._scratch / "voice.parquet"
        activity = voice_activity(clip.n_frames)
        write_arrays(speech, SPEECH, [_spoken(plan, person, activity) for person in range(plan.n_people)])
        write_arrays(voice, VOICE, [{"voice_activity": value} for value in activity])
        ctx = self.context()
        return Speech(
            clip_id=clip.clip_id,
            speech=ctx.commit(speech, "speech", clip.clip_id),
            voice=ctx.commit(voice, "speech", f"{clip.clip_id}.voice"),
            speech_backend="tiny-speech 1",
            label_tier="heuristic",
            min_voice_activity=MIN_VOICE_ACTIVITY,
            merge_below_frames=MERGE_BELOW_FRAMES,
        )


def build(root: Path, *, embed_media: bool = True) -> Builder:
    """A workspace folder with a published dataset of the three clips in `PLANS`, one shard a video."""
    builder = Builder(root)
    clips = [builder.labelled(plan) for plan in PLANS]
    builder.publish(
        builder.shard(tuple(clips[:2]), bucket=0, embed_media=embed_media),
        builder.shard(tuple(clips[2:]), bucket=3, embed_media=embed_media),
    )
    return builder


def source_frames() -> Iterator[np.ndarray]:
    """Grey frames with a bright block that moves one pixel a frame."""
    for i in range(SOURCE_FRAMES):
        image = np.full((HEIGHT_PX, WIDTH_PX, 3), 90, np.uint8)
        image[40:70, 10 + i : 40 + i] = (230, 200, 170)
        yield image


def write_tone(path: Path, duration_s: float, rate_hz: int = 48_000) -> Path:
    """A WAV file with a tone of 220 Hz."""
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((8000 * np.sin(2 * np.pi * 220 * times)).astype("<i2").tobytes())
    return path


def face_boxes(plan: ClipPlan, person: int) -> np.ndarray:
    """(n_frames, 4): people stand side by side and drift by half a pixel a frame at most."""
    n_frames = plan.end_frame - plan.start_frame
    left = 12 + person * 46 + 4 * np.sin(np.arange(n_frames) / 9)
    return np.stack([left, 20 + 0 * left, left + 24, 50 + 0 * left], axis=1).astype(np.float32)


def _bodies(plan: ClipPlan, person: int) -> np.ndarray:
    faces = face_boxes(plan, person)
    return np.stack([faces[:, 0] - 6, faces[:, 1] - 8, faces[:, 2] + 6, faces[:, 3] + 66], axis=1)


def keypoints(plan: ClipPlan, person: int) -> np.ndarray:
    """(n_frames, 133, 3) float32: all points seen, inside the picture, but for the nose, which has no estimate."""
    faces = face_boxes(plan, person)
    n_frames = len(faces)
    rng = np.random.default_rng(person)
    inside = rng.uniform(0.1, 0.9, (1, N_KEYPOINTS, 2))
    points = np.empty((n_frames, N_KEYPOINTS, 3), np.float32)
    points[..., :2] = faces[:, None, :2] + inside * (24, 90)
    points[..., 2] = 0.9
    points[:, 0] = (np.nan, np.nan, 0)
    return points


def voice_activity(n_frames: int) -> np.ndarray:
    """(n_frames,) float32: voice all the time but in six frames from the tenth on."""
    activity = np.full(n_frames, 0.9, np.float32)
    activity[10:16] = 0.05
    return activity


def _person(plan: ClipPlan, person: int) -> dict[str, object]:
    faces = face_boxes(plan, person)
    return {
        "person_id": person,
        "track_id": person + 5,
        "boxes_xyxy": _bodies(plan, person),
        "face_boxes_xyxy": faces,
        "face_detected": np.ones(len(faces), bool),
    }


def _spoken(plan: ClipPlan, person: int, activity: np.ndarray) -> dict[str, object]:
    """People speak in turn, twelve frames each; neighbouring turns overlap a little after smoothing."""
    n_frames = len(activity)
    turn = np.arange(n_frames) // 12 % plan.n_people
    score = np.where(turn == person, 2.5, -1.5).astype(np.float32)
    smoothed = smooth(score)
    speaking = is_speaking(smoothed, activity, MIN_VOICE_ACTIVITY)
    return {
        "person_id": person,
        "face_boxes_xyxy": face_boxes(plan, person),
        "face_box_source": np.array(["pose"] * n_frames, object),
        "speaking_score": score,
        "speaking_score_smoothed": smoothed,
        "speaking": speaking,
        "speak_periods": periods(speaking),
        "listen_periods": periods(~speaking),
        "speak_periods_merged": merged_periods(speaking, MERGE_BELOW_FRAMES),
        "listen_periods_merged": merged_periods(~speaking, MERGE_BELOW_FRAMES),
    }


def _candidate(plan: ClipPlan, video: Video, name: str) -> Candidate:
    return Candidate(
        clip_id=name,
        video_id=video.video_id,
        start_frame=plan.start_frame,
        end_frame=plan.end_frame,
        track_ids=tuple(person + 5 for person in range(plan.n_people)),
        n_people=plan.n_people,
        tracks=NO_FILE,
        verdict="kept",
        reason=None,
        min_face_px=26.8,
        face_area_ratio=1.0,
        camera_motion_pct=None,
        voice_activity=0.8,
        stillness=3.0,
        n_bystanders=0,
        bystander_area=None,
        brightness=101.5,
        sharpness=55.0,
        detector="tiny-detector 1",
    )


def point_clips_at(root: Path, name: str) -> None:
    """Have every row of a workspace's dataset say that its video lies at `name`."""
    index, shards = DatasetFiles(root).index(), []
    for shard in index.shards:
        path = root / "dataset" / shard.name
        table = pq.read_table(path)
        column, field = table.schema.get_field_index("clip"), table.schema.field("clip")
        cells = pa.array([{"bytes": None, "path": name}] * len(table), field.type)
        pq.write_table(table.set_column(column, field, cells), path)
        shards.append(replace(shard, sha256=sha256_of(path)))
    text = index_text(replace(index, shards=tuple(shards)))
    (root / "dataset" / INDEX_NAME).write_text(text)
