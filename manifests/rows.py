"""Every row that one stage hands to another; that of the finished dataset is in manifests/dataset_row.py.

The dataclasses are the Arrow schemas (manifests/schema.py) and the documentation (docs/SCHEMA.md is generated from the
field docs). Conventions: times are seconds (`_s`), sizes pixels (`_px`), intervals half-open, frames 0-based on the
clip timeline of 25 frames a second, boxes `xyxy` in the pixels of the media that the row names.

A field declared with `identity=False` does not count when a row's content is hashed: where something lies, what it is
called and how long it took must not cause work to be done again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from manifests.fields import BOXES, FLAGS, PERIODS, SCORES, doc
from manifests.sound_track import SoundTrack

TIMELINE_FPS = 25
"""Frame rate of the clip timeline: the rate TalkNet was trained at."""
AUDIO_RATE_HZ = 16_000
"""Sample rate of the audio that labels are computed from."""
SAMPLES_PER_FRAME = AUDIO_RATE_HZ // TIMELINE_FPS
"""Audio samples that belong to one frame of the clip timeline (640)."""
N_KEYPOINTS = 133
"""Keypoints of COCO-WholeBody."""
KEYPOINTS = pa.list_(pa.list_(pa.list_(pa.float32(), 3), N_KEYPOINTS))
"""(n_frames, 133, 3) float32: x, y, score."""


@dataclass(frozen=True)
class Artifact:
    """A file in the workspace."""

    key: str = doc("path below the workspace's root", identity=False)
    sha256: str = doc("hex digest of the bytes")
    n_bytes: int = doc("size", identity=False)


@dataclass(frozen=True)
class Source:
    """An address that was asked for: one line of a source list."""

    source_id: str = doc(
        "16 hex digits: hash of the normalised address without its signature, for local files of the content"
    )
    address: str = doc("path or URL as given", identity=False)
    kind: Literal["file", "url"] = doc("local file, or an http(s) address for yt-dlp")


@dataclass(frozen=True)
class Video:
    """One downloaded video file."""

    video_id: str = doc("16 hex digits: hash of extractor and id for sites, else of the file's content")
    source_id: str = doc("the source it came from", identity=False)
    source_url: str = doc(
        "canonical address, without signatures and tokens; for local files `file:` and the file's name", identity=False
    )
    title: str | None = doc("title at the source, else the file's name", identity=False)
    uploader: str | None = doc("uploader or channel name", identity=False)
    channel_id: str | None = doc("the site's id of the channel", identity=False)
    upload_date: str | None = doc("YYYYMMDD", identity=False)
    licence: str | None = doc("licence as the source states it", identity=False)
    access: Literal["public", "authenticated"] = doc("whether cookies were needed", identity=False)
    media: Artifact = doc("the file as downloaded")
    duration_s: float = doc("length of the clip timeline", identity=False)
    n_frames: int = doc("frames on the clip timeline", identity=False)
    source_fps: str = doc("average rate of the source as a fraction, e.g. 30000/1001", identity=False)
    width_px: int = doc("width of the upright picture with square pixels", identity=False)
    height_px: int = doc("height of the upright picture with square pixels", identity=False)
    has_audio: bool = doc("whether an audio track can be decoded", identity=False)
    time_jumps: int = doc("places where the file's times jump or begin anew", identity=False, default=0)
    captions: Artifact | None = doc(
        "Parquet, one row a caption, times in the video; none where the source has none", identity=False, default=None
    )
    sound: tuple[SoundTrack, ...] | None = doc(
        "the sound tracks that decode, in the order of the file; null in rows of before they were compared",
        identity="where set",
        default=None,
    )
    gain_db: float | None = doc("gain that brings speech to the models' level", identity="where set", default=None)
    combed_share: float | None = doc("share of moving pictures with combs (interlaced)", identity=False, default=None)


@dataclass(frozen=True)
class Caption:
    """Words that the source shows for a while."""

    start_s: float = doc("first moment, seconds after the first frame of the clip (of the video, in its artifact)")
    end_s: float = doc("moment after the last")
    text: str = doc("one line without markup, at most 500 characters; not cut where the clip begins or ends in it")
    language: str = doc("as the source names it, und where it does not")
    automatic: bool = doc("whether a machine wrote it")


@dataclass(frozen=True)
class Shot:
    """Frames between two cuts."""

    video_id: str = doc("the video")
    start_frame: int = doc("first frame")
    end_frame: int = doc("frame after the last")


@dataclass(frozen=True)
class ShotRun:
    """Whole shots of one video that are decoded together (unit of filter.detect)."""

    video: Video = doc("the video")
    shots: tuple[Shot, ...] = doc("consecutive shots, in order")


@dataclass(frozen=True)
class Tracks:
    """What was seen and heard in one shot (output of filter.detect)."""

    video_id: str = doc("the video")
    start_frame: int = doc("first frame of the shot")
    end_frame: int = doc("frame after the shot's last")
    width_px: int = doc("width of the upright source")
    height_px: int = doc("height of the upright source")
    has_audio: bool = doc("whether the video has audio")
    n_tracks: int = doc("face tracks in the shot")
    tracks: Artifact = doc("Parquet, one row a face track (schema `TRACK`)")
    signals: Artifact = doc("Parquet, one row a frame of the shot (schema `SIGNALS`)")
    detector: str = doc("people backend with version and weight digest")


TRACK = pa.schema(
    [
        pa.field("track_id", pa.int32(), nullable=False),
        pa.field("start_frame", pa.int32(), nullable=False),
        pa.field("face_boxes_xyxy", BOXES),
        pa.field("face_scores", SCORES),
        pa.field("face_detected", FLAGS),
        pa.field("boxes_xyxy", BOXES),
        pa.field("stillness", pa.float32()),
        pa.field("similarity_beside", pa.float32()),
        pa.field("similarity_above", pa.float32()),
    ]
)
"""A face track: boxes in the upright source for every frame from `start_frame` (a frame of the video) on; score 0 and
not `face_detected` where interpolated. `boxes_xyxy` is the whole body. `stillness`: the face's own movement in half a
second, % of its size (low for photographs). `similarity_…`: how well the face is found in the other of the halves left
and right, above and below (median correlation; near 1 where both are views of one scene)."""

SIGNALS = pa.schema(
    [
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("camera_motion_pct", pa.float32()),
        pa.field("voice_activity", pa.float32()),
        pa.field("brightness", pa.float32()),
        pa.field("sharpness", pa.float32()),
    ]
)
"""Per frame: movement of the background in % of the frame's width since the frame before (null where it cannot be
fitted), speech probability 0..1, mean luma 0..255, variance of the Laplacian of the luma."""

Reason = Literal[
    "too_few_people",
    "too_many_people",
    "face_too_small",
    "face_sizes_differ",
    "camera_motion",
    "too_short",
    "no_audio",
    "no_speech",
    "still_picture",
    "bystander",
]
"""Why a candidate is rejected; one that fails several tests names the first in this order."""


@dataclass(frozen=True)
class Candidate:
    """A stretch of a shot in which the same people are visible, with its verdict (output of filter.select)."""

    clip_id: str = doc("<video_id>_<start>to<end>, six digits each")
    video_id: str = doc("the video")
    start_frame: int = doc("first frame, on the video's timeline")
    end_frame: int = doc("frame after the last")
    track_ids: tuple[int, ...] = doc("the people's face tracks, left to right in the first frame")
    n_people: int = doc("people whose face qualifies")
    tracks: Artifact = doc("the shot's face tracks")
    verdict: Literal["kept", "rejected"] = doc("whether the clip is made", identity=False)
    reason: Reason | None = doc("first test that failed", identity=False)
    min_face_px: float | None = doc("smallest person's face: square root of its mean area", identity=False)
    face_area_ratio: float | None = doc("smallest mean face area / largest", identity=False)
    camera_motion_pct: float | None = doc("median movement of the background a frame, % of the width", identity=False)
    voice_activity: float | None = doc("share of frames with speech", identity=False)
    stillness: float | None = doc("smallest own movement of a face in half a second, % of its size", identity=False)
    n_bystanders: int = doc("visible people whose face does not qualify", identity=False)
    bystander_area: float | None = doc("largest bystander's face area / smallest person's", identity=False)
    brightness: float | None = doc("mean luma 0..255", identity=False)
    sharpness: float | None = doc("median variance of the Laplacian", identity=False)
    detector: str = doc("people backend with version and weight digest", identity=False)
    view_similarity: float | None = doc("how well a face is found in the other half", identity=False, default=None)


@dataclass(frozen=True)
class CutJob:
    """Input of filter.cut."""

    video: Video = doc("the video")
    candidate: Candidate = doc("a kept candidate")


@dataclass(frozen=True)
class Clip:
    """A kept clip: its own media, and its people in the pixels of that media."""

    clip_id: str = doc("<video_id>_<start>to<end>")
    video_id: str = doc("the video")
    start_frame: int = doc("first frame on the video's timeline")
    end_frame: int = doc("frame after the last")
    n_frames: int = doc("frames on the clip's timeline, 25 a second")
    width_px: int = doc("width of the clip's picture (even)")
    height_px: int = doc("height of the clip's picture (even)")
    n_people: int = doc("people in the clip")
    mp4: Artifact = doc("H.264 and AAC; 25 frames a second, or with filter.media_fps=source the source's own frames")
    flac: Artifact = doc("16 kHz mono, exactly 640 samples a frame")
    people: Artifact = doc("Parquet, one row a person (schema `PEOPLE`)")
    source_fps: str = doc("rate of the source as a fraction")
    source_frame_index: tuple[int, ...] = doc("for every clip frame, the index of the source's frame in display order")
    loudness_dbfs: float = doc("root mean square of the FLAC in dB below full scale")
    media_fps: str = doc("25, or source: the MP4 keeps the source's frames and times", identity=False, default="25")
    media_frame_index: tuple[int, ...] = doc(
        "for every frame of the timeline the MP4's frame that it shows; follows from source_frame_index, "
        "empty where frame k shows frame k",
        identity=False,
        default=(),
    )
    gain_db: float = doc(
        "gain with which the models listen to the FLAC, which has the source's level", identity=False, default=0.0
    )
    sound: tuple[SoundTrack, ...] = doc("the source's tracks that are heard", identity=False, default=())


PEOPLE = pa.schema(
    [
        pa.field("person_id", pa.int32(), nullable=False),
        pa.field("track_id", pa.int32(), nullable=False),
        pa.field("boxes_xyxy", BOXES),
        pa.field("face_boxes_xyxy", BOXES),
        pa.field("face_detected", FLAGS),
    ]
)
"""People of a clip, boxes in the clip's pixels, one box for every frame."""


@dataclass(frozen=True)
class Pose:
    """The people's keypoints (output of pose)."""

    clip_id: str = doc("the clip")
    poses: Artifact = doc("Parquet, one row a person (schema `POSES`)")
    pose_backend: str = doc("backend with version and weight digest", identity=False)
    mean_keypoint_score: float = doc("mean score of the body's 17 points over people and frames", identity=False)
    min_body_visible_ratio: float = doc("smallest body_visible_ratio of the people", identity=False)


POSES = pa.schema(
    [
        pa.field("person_id", pa.int32(), nullable=False),
        pa.field("keypoints", KEYPOINTS),
        pa.field("body_visible_ratio", pa.float32()),
        pa.field("head_visible_ratio", pa.float32()),
        pa.field("torso_visible_ratio", pa.float32()),
        pa.field("arms_visible_ratio", pa.float32()),
        pa.field("hands_visible_ratio", pa.float32()),
        pa.field("legs_visible_ratio", pa.float32()),
    ]
)
"""`keypoints` are x, y (clip pixels) and score (0..1) in the order of COCO-WholeBody; a point without an estimate is
(NaN, NaN, 0). `body_visible_ratio`: share of the 17 body points with score >= 0.3 that lie inside the picture, mean
over frames; the others: the same of nose, eyes and ears (head), shoulders and hips (torso), elbows and wrists (arms),
all points of the hands, knees and ankles (legs)."""


@dataclass(frozen=True)
class SpeechJob:
    """Input of speech."""

    clip: Clip = doc("the clip")
    pose: Pose = doc("its keypoints")


@dataclass(frozen=True)
class Speech:
    """Who speaks when (output of speech)."""

    clip_id: str = doc("the clip")
    speech: Artifact = doc("Parquet, one row a person (schema `SPEECH`)")
    voice: Artifact = doc("Parquet, one row a frame (schema `VOICE`)")
    speech_backend: str = doc("backend with version and weight digest", identity=False)
    label_tier: Literal["heuristic", "model", "human"] = doc("how far to trust the labels", identity=False)
    min_voice_activity: float = doc("speech.min_voice_activity with which `speaking` was decided")
    merge_below_frames: int = doc("speech.merge_below_frames with which the merged periods were made")


SPEECH = pa.schema(
    [
        pa.field("person_id", pa.int32(), nullable=False),
        pa.field("face_boxes_xyxy", BOXES),
        pa.field("face_box_source", pa.list_(pa.string())),
        pa.field("speaking_score", SCORES),
        pa.field("speaking_score_smoothed", SCORES),
        pa.field("speaking", FLAGS),
        pa.field("speak_periods", PERIODS),
        pa.field("listen_periods", PERIODS),
        pa.field("speak_periods_merged", PERIODS),
        pa.field("listen_periods_merged", PERIODS),
    ]
)
"""`face_box_source` is "pose", "detector" or "interpolated" for every frame."""

VOICE = pa.schema([pa.field("voice_activity", pa.float32(), nullable=False)])
"""Speech probability 0..1 of every frame of the clip, mean of the 9 frames around each."""


@dataclass(frozen=True)
class Correction:
    """Whether one person speaks in a span of a clip, as a reviewer says."""

    person_id: int = doc("the person")
    start_frame: int = doc("first frame of the clip that is corrected")
    end_frame: int = doc("frame after the last")
    speaking: bool = doc("whether the person speaks in all of them")
    face_x_px: float = doc("centre of the person's face in the middle frame of the span: finds the person again")
    face_y_px: float = doc("its y")


@dataclass(frozen=True)
class Review:
    """What a reviewer says about a clip; the latest one of a clip counts, whole."""

    clip_id: str = doc("the clip")
    verdict: Literal["accept", "reject"] | None = doc("whether it belongs into the dataset; null: only labels count")
    reason: str = doc("why, in the reviewer's words")
    corrections: tuple[Correction, ...] = doc("of who speaks, in order; the later of two counts")
    labels_checked: bool = doc("whether who speaks was looked at in the whole clip: what is not corrected is right")
    people: str = doc("16 hex digits of the people's artifact that was shown")
    labels: str = doc("16 hex digits of the labels that were shown")


@dataclass(frozen=True)
class Sample:
    """Clips drawn at random for review."""

    sample_id: str = doc("seed and size")
    seed: int = doc("of the drawing")
    n_population: int = doc("clips it was drawn from: all that the filter kept and that have labels")
    clip_ids: tuple[str, ...] = doc("in the order in which they are shown, a random one")


@dataclass(frozen=True)
class Labelled:
    """Everything known about one clip (input of shards)."""

    video: Video = doc("the video")
    candidate: Candidate = doc("its measurements")
    clip: Clip = doc("its media")
    pose: Pose = doc("its keypoints")
    speech: Speech = doc("its labels")
    corrections: tuple[Correction, ...] = doc("of a reviewer, those that still fit the clip", default=())
    plugged: tuple[Any, ...] | None = doc("PluginRows", identity="where set", default=None, arrow=pa.null())


@dataclass(frozen=True)
class Bucket:
    """All clips that share one shard (unit of shards)."""

    bucket: int = doc("number of the shard")
    n_buckets: int = doc("how many shards the dataset has, fixed at its first write")
    clips: tuple[Labelled, ...] = doc("ordered by clip_id")


@dataclass(frozen=True)
class Shard:
    """One Parquet file of the dataset."""

    bucket: int = doc("number of the shard")
    parquet: Artifact = doc("the file")
    media: tuple[Artifact, ...] = doc("MP4 and FLAC files beside it; none where media is embedded")
    n_clips: int = doc("rows in it")


def short_id(*parts: str) -> str:
    """16 hex digits that name a source or a video."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def clip_id(video_id: str, start_frame: int, end_frame: int) -> str:
    """The clip's name; half-open interval on the video's timeline."""
    return f"{video_id}_{start_frame:06d}to{end_frame:06d}"
