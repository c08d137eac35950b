"""The row of the finished dataset: one a clip, with its people.

Declared as the rows that stages hand on are, see manifests/rows.py. Raise `SCHEMA_VERSION` in
mit_builder/dataset/index.py when a column changes its name, type or meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from manifests.fields import BOXES, FLAGS, PERIODS, SCORES, doc
from manifests.rows import KEYPOINTS, Caption
from manifests.sound_track import SoundTrack

MEDIA = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
"""Video and Audio form of the `datasets` library; the order of the two fields matters to it."""


@dataclass(frozen=True)
class Person:
    """One person of a clip; every list has one entry a frame."""

    person_id: int = doc("0.. from left to right in the first frame", arrow=pa.int32())
    boxes_xyxy: Any = doc("whole body", arrow=BOXES)
    face_boxes_xyxy: Any = doc("face, as given to the speech model", arrow=BOXES)
    face_box_source: Any = doc('"pose", "detector" or "interpolated"', arrow=pa.list_(pa.string()))
    keypoints: Any = doc("133 x (x, y, score) of COCO-WholeBody; no estimate: (NaN, NaN, 0)", arrow=KEYPOINTS)
    body_visible_ratio: float = doc("mean share of the 17 body points with score >= 0.3", arrow=pa.float32())
    head_visible_ratio: float = doc("the same of nose, eyes and ears", arrow=pa.float32())
    torso_visible_ratio: float = doc("the same of shoulders and hips", arrow=pa.float32())
    arms_visible_ratio: float = doc("the same of elbows and wrists", arrow=pa.float32())
    hands_visible_ratio: float = doc("the same of both hands' 42 points", arrow=pa.float32())
    legs_visible_ratio: float = doc("the same of knees and ankles", arrow=pa.float32())
    speaking_score: Any = doc("raw logit, ungated: > 0 means the face looks like speaking", arrow=SCORES)
    speaking_score_smoothed: Any = doc("mean of frames i-3 .. i+2", arrow=SCORES)
    speaking: Any = doc(
        "smoothed > 0 and voice_activity >= speech.min_voice_activity; in human_periods what a reviewer says",
        arrow=FLAGS,
    )
    human_periods: Any = doc("frames whose `speaking` a reviewer has set, [start, end)", arrow=PERIODS)
    speak_periods: Any = doc(
        "runs of speaking after a median filter of 5 frames, which leaves human_periods as they are, [start, end)",
        arrow=PERIODS,
    )
    listen_periods: Any = doc("the rest, [start, end)", arrow=PERIODS)
    speak_periods_merged: Any = doc(
        "speak periods with all runs shorter than merge_below_frames merged, but those with a frame of human_periods",
        arrow=PERIODS,
    )
    listen_periods_merged: Any = doc("the rest of the merged ones", arrow=PERIODS)
    talk_share: float = doc("share of frames in which this person speaks", arrow=pa.float32())


@dataclass(frozen=True)
class DatasetRow:
    """One clip of the finished dataset."""

    clip_id: str = doc("<video_id>_<start>to<end>, frames on the video's 25 fps timeline")
    video_id: str = doc("the video it was cut from")
    source_url: str = doc("where the video came from, without signatures and tokens")
    title: str | None = doc("title at the source")
    uploader: str | None = doc("uploader or channel name")
    channel_id: str | None = doc("the site's id of the channel")
    licence: str | None = doc("licence as the source states it")
    access: str = doc("public, or authenticated where cookies were needed")
    start_s: float = doc("start in the video, seconds after its first frame")
    end_s: float = doc("end in the video, seconds after its first frame")
    fps: int = doc("frame rate of the timeline that labels lie on: 25", arrow=pa.int32())
    source_fps: str = doc("rate of the source as a fraction")
    source_frame_index: Any = doc("for every frame, the source's frame in display order", arrow=pa.list_(pa.int64()))
    n_frames: int = doc("frames of the timeline", arrow=pa.int32())
    media_fps: str = doc("frame rate of the MP4: 25, or source: the source's own frames and times")
    media_frame_index: Any = doc(
        "for every frame of the timeline, the MP4's frame that it shows; 0, 1, 2, … at 25 frames a second",
        arrow=pa.list_(pa.int64()),
    )
    width_px: int = doc("width", arrow=pa.int32())
    height_px: int = doc("height", arrow=pa.int32())
    split: Literal["train", "val", "test"] = doc("by hash of the uploader or channel, else of the video")
    clip: Any = doc("MP4, H.264 and AAC", arrow=MEDIA)
    audio: Any = doc("FLAC, 16 kHz mono, 640 samples a frame", arrow=MEDIA)
    n_people: int = doc("people in the clip", arrow=pa.int32())
    people: tuple[Person, ...] = doc("the people, by person_id")
    voice_activity: Any = doc("speech probability 0..1, mean of the 9 frames around each", arrow=SCORES)
    captions: tuple[Caption, ...] = doc("what the source shows as captions during the clip, in order of time")
    n_turns: int = doc("changes of the sole speaker, by speak_periods", arrow=pa.int32())
    overlap_ratio: float | None = doc("frames with >= 2 speakers / frames with >= 1; null if nobody speaks")
    silence_ratio: float = doc("frames without a speaker / all frames")
    camera_motion_pct: float | None = doc("median background movement a frame, % of the width")
    min_face_px: float | None = doc("smallest person's face: square root of its mean area")
    face_area_ratio: float | None = doc("smallest mean face area / largest")
    n_bystanders: int = doc("visible people whose face did not qualify", arrow=pa.int32())
    bystander_area: float | None = doc("largest bystander's face area / smallest person's")
    brightness: float | None = doc("mean luma 0..255")
    sharpness: float | None = doc("median variance of the Laplacian")
    loudness_dbfs: float = doc("root mean square of the audio, dB below full scale")
    gain_db: float = doc("gain with which voice and speaker models listened to the audio")
    sound: tuple[SoundTrack, ...] = doc("the source's sound tracks that are heard, without their titles")
    label_tier: str = doc(
        "who made `speaking` outside human_periods: heuristic or model; human only where those of all people cover "
        "every frame"
    )
    min_voice_activity: float = doc("voice_activity below which nobody counts as speaking")
    merge_below_frames: int = doc("shorter periods were merged in the merged ones", arrow=pa.int32())
    min_body_visible: float = doc("clips in which somebody's body_visible_ratio is lower were left out")
    detector: str = doc("people backend, version, weight digest")
    pose_backend: str = doc("pose backend, version, weight digest")
    speech_backend: str = doc("speech backend, version, weight digest")
    mit_builder_version: str = doc("version that wrote the row")
