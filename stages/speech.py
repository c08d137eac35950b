"""Speech: who speaks in every frame of a clip.

In: `SpeechJob` (a clip and its pose). Out: one `Speech` with two artifacts: scores, labels and periods of every person
(schema `SPEECH`) and the voice activity of the clip (schema `VOICE`). No verdicts.

A person speaks where the smoothed score is positive and somebody's voice is heard; scores are stored ungated. Smoothing
and periods follow the scripts of the MIT dataset (see labels/speaking.py), which take their scores from TalkNet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from manifests.arrays import read_arrays, write_arrays, write_columns
from manifests.rows import SAMPLES_PER_FRAME, SPEECH, VOICE, Speech, SpeechJob
from mit_builder.config import backends
from mit_builder.config.settings import SpeechSettings
from mit_builder.errors import MediaError
from mit_builder.labels.face_boxes import FaceBoxSource, speech_face_boxes
from mit_builder.labels.speaking import is_speaking, merged_periods, periods, smooth, smooth_voice
from mit_builder.media.audio import read_flac
from mit_builder.media.clip import read_clip
from mit_builder.media.level import amplified
from mit_builder.models.base import Floats, SpeakerScorer, SpeechInput, VoiceDetector
from mit_builder.models.devices import resources_of
from mit_builder.stage import Context, Resources


class ScoreSpeech:
    """Speaking labels of the people of a clip."""

    name: ClassVar[str] = "speech"
    version: ClassVar[int] = 3
    emits: ClassVar[tuple[type, ...]] = (Speech,)

    def __init__(self, settings: SpeechSettings) -> None:
        self._settings = settings
        self._speaker = backends.find("speaker", settings.model)
        self._listener = backends.find("voice", settings.voice_detector)
        self._scorer: SpeakerScorer | None = None
        self._voice: VoiceDetector | None = None

    @property
    def resources(self) -> Resources:
        """A core, and what the registry says of the speaker model."""
        return resources_of(self._speaker, self._settings.device)

    def setup(self) -> None:
        """Load the speaker model and the voice detector.

        Raises:
            StageUnavailable: a package or the model's weights are missing.
        """
        self._scorer = self._speaker.load(self._settings)
        self._voice = self._listener.load(self._settings)

    def unit_id(self, row: SpeechJob) -> str:
        """The clip."""
        return row.clip.clip_id

    def backend(self) -> str:
        """Speaker model and voice detector with versions and weight digests."""
        return f"{self._speaker.label_of(self._settings)}; {self._listener.label_of(self._settings)}"

    def limit_key(self, row: SpeechJob) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: SpeechJob, ctx: Context) -> Iterator[Speech]:
        """Score every person in every frame.

        Raises:
            MediaError: the clip's media cannot be decoded, or its sound is not 640 samples a frame.
            ModelError: the speaker model failed.
        """
        assert self._scorer, "setup() comes first"
        assert self._voice, "setup() comes first"
        clip = row.clip
        with ctx.local(clip.flac) as path:
            samples = amplified(read_flac(path), clip.gain_db)
        if len(samples) != SAMPLES_PER_FRAME * clip.n_frames:
            raise MediaError(f"{clip.clip_id}: {len(samples)} samples for {clip.n_frames} frames")
        voice_activity = smooth_voice(self._voice.probabilities(samples))
        people = _read_people(row, ctx)
        with ctx.local(clip.mp4) as mp4:
            scores = self._scorer.score(
                SpeechInput(
                    frames=lambda: (f.image for f in read_clip(mp4, clip.n_frames, clip.media_frame_index)),
                    samples=samples,
                    voice_activity=voice_activity,
                    keypoints=np.stack([p.keypoints for p in people]),
                    face_boxes_xyxy=np.stack([p.face_boxes_xyxy for p in people]),
                )
            )
        speech, voice = ctx.tmp / "speech.parquet", ctx.tmp / "voice.parquet"
        labelled = [self._labels(p, s, voice_activity) for p, s in zip(people, scores, strict=True)]
        write_arrays(speech, SPEECH, labelled)
        write_columns(voice, VOICE, {"voice_activity": voice_activity})
        yield Speech(
            clip_id=clip.clip_id,
            speech=ctx.commit(speech, "speech", clip.clip_id),
            voice=ctx.commit(voice, "speech", f"{clip.clip_id}.voice"),
            speech_backend=self.backend(),
            label_tier=self._scorer.label_tier,
            min_voice_activity=self._settings.min_voice_activity,
            merge_below_frames=self._settings.merge_below_frames,
        )

    def _labels(self, person: _Seen, scores: Floats, voice_activity: Floats) -> dict[str, Any]:
        """One row of `SPEECH`."""
        smoothed = smooth(scores)
        speaking = is_speaking(smoothed, voice_activity, self._settings.min_voice_activity)
        limit = self._settings.merge_below_frames
        return {
            "person_id": person.person_id,
            "face_boxes_xyxy": person.face_boxes_xyxy,
            "face_box_source": np.array(person.face_box_source, object),
            "speaking_score": scores,
            "speaking_score_smoothed": smoothed,
            "speaking": speaking,
            "speak_periods": periods(speaking),
            "listen_periods": periods(~speaking),
            "speak_periods_merged": merged_periods(speaking, limit),
            "listen_periods_merged": merged_periods(~speaking, limit),
        }


class _Seen(NamedTuple):
    """What is known of one person before speech."""

    person_id: int
    keypoints: Floats
    face_boxes_xyxy: Floats
    face_box_source: list[FaceBoxSource]


def _read_people(row: SpeechJob, ctx: Context) -> list[_Seen]:
    with ctx.local(row.clip.people) as path:
        detected = {person["person_id"]: person for person in read_arrays(path)}
    with ctx.local(row.pose.poses) as path:
        posed = read_arrays(path)
    people = []
    for pose in posed:
        face = detected[pose["person_id"]]
        boxes, source = speech_face_boxes(pose["keypoints"], face["face_boxes_xyxy"], face["face_detected"])
        people.append(_Seen(pose["person_id"], pose["keypoints"], boxes, source))
    return people
