"""Filter: which stretches of a video become clips. Three steps that are one `--stage`.

- `filter.detect`: `ShotRun` -> one `Tracks` per shot. The run is decoded once, in order: faces into tracks, camera
  motion, light; voice activity from the sound. Everything that needs pixels happens here.
- `filter.select`: `Tracks` -> every `Candidate` of the shot with its verdict. Arithmetic only, so that thresholds move
  without looking at the video again.
- `filter.cut`: `CutJob` (a kept candidate) -> `Clip` with media of its own.

A candidate is a maximal interval in which exactly the same people are visible. It is rejected for the first of:
too_few_people, too_many_people, face_too_small (there would be enough people, counting small faces), face_sizes_differ,
camera_motion, too_short, no_audio, no_speech, still_picture, bystander (somebody else's face is almost as large).
Thresholds follow the scripts of the MIT dataset (Zhu et al.) where they have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq

from manifests.arrays import read_arrays, write_arrays, write_columns
from manifests.rows import PEOPLE, SIGNALS, TRACK, Candidate, Clip, CutJob, Shot, ShotRun, Tracks, Video, clip_id
from mit_builder.config import CutSettings, DetectSettings, SelectSettings
from mit_builder.media.audio import iter_samples
from mit_builder.media.cut import cut_clip, cut_native
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import read_timeline
from mit_builder.models import mediapipe_people, silero_voice, weights
from mit_builder.models.base import Floats, PeopleDetector, VoiceDetector
from mit_builder.models.devices import device_of, gpu_resources
from mit_builder.models.weights_table import PEOPLE_MODELS
from mit_builder.selection import Selector, ShotSignals, sightings
from mit_builder.shot_scan import ShotScan
from mit_builder.stage import Context, Resources


class DetectTracks:
    """See the module's text; unit: a run of whole shots."""

    name: ClassVar[str] = "filter.detect"
    version: ClassVar[int] = 1
    emits: ClassVar[tuple[type, ...]] = (Tracks,)

    def __init__(self, settings: DetectSettings) -> None:
        self._settings = settings
        self._people: PeopleDetector | None = None
        self._voice: VoiceDetector | None = None
        self._detector = ""

    @property
    def resources(self) -> Resources:
        """A quarter of a GPU for a network on one."""
        if self._settings.detector in PEOPLE_MODELS:
            return gpu_resources(self._settings.device, share=0.25)
        return Resources()

    def setup(self) -> None:
        """Load the people detector and the voice detector.

        Raises:
            StageUnavailable: a package or the detector's weights are missing.
        """
        self._people = load_people(self._settings)
        self._detector = people_name(self._settings.detector)
        self._voice = silero_voice.SileroVoice()

    def unit_id(self, row: ShotRun) -> str:
        """Video and frames of the run."""
        return clip_id(row.video.video_id, row.shots[0].start_frame, row.shots[-1].end_frame)

    def backend(self) -> str:
        """People and voice detectors."""
        return f"{people_name(self._settings.detector)}; {silero_voice.backend_name()}"

    def limit_key(self, row: ShotRun) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: ShotRun, ctx: Context) -> Iterator[Tracks]:
        """Decode the run once.

        Raises:
            MediaError: the file cannot be decoded.
            ModelError: a detector failed.
        """
        assert self._people is not None
        assert self._voice is not None
        start, end = row.shots[0].start_frame, row.shots[-1].end_frame
        with ctx.local(row.video.media) as path:
            timeline = read_timeline(path)
            voice = np.full(end - start, np.nan, np.float32)
            if row.video.has_audio:
                voice = self._voice.stream(iter_samples(path, start, end, timeline=timeline))
            frames = read_frames(path, start, end, timeline=timeline)
            for shot in row.shots:
                scan = ShotScan(self._people, self._settings, shot.start_frame)
                for frame in frames:
                    if frame.index >= shot.start_frame:
                        scan.add(frame.image)
                    if frame.index + 1 == shot.end_frame:
                        break
                heard = voice[shot.start_frame - start : shot.end_frame - start]
                yield _store(row.video, shot, scan, heard, ctx, self._detector)


def load_people(settings: DetectSettings) -> PeopleDetector:
    """The detector of the settings; a run replaces "auto" beforehand, alone it means mediapipe.

    Raises:
        StageUnavailable: its package or its weights are missing.
    """
    if settings.detector not in PEOPLE_MODELS:
        return mediapipe_people.MediapipePeople(settings.face_confidence)
    path = weights.file_for("filter.detector", settings.detector)
    from mit_builder.models.yolo import YoloPeople

    return YoloPeople(
        path,
        settings.detector,
        confidence=settings.person_confidence,
        device=device_of(settings.device),
        batch=settings.detect_batch,
    )


def people_name(detector: str) -> str:
    """Name, version and weight digest of the people detector, without loading it."""
    if detector not in PEOPLE_MODELS:
        return mediapipe_people.backend_name()
    try:
        package = version("ultralytics")
    except PackageNotFoundError:
        package = "(missing)"
    return f"ultralytics {package} {weights.label(PEOPLE_MODELS[detector])}"


def _store(video: Video, shot: Shot, scan: ShotScan, voice_activity: Floats, ctx: Context, detector: str) -> Tracks:
    """Write what a scan found and commit it."""
    tracks, stillness, signals = scan.finish()
    name = clip_id(video.video_id, shot.start_frame, shot.end_frame)
    track_rows = [
        {
            "track_id": track_id,
            "start_frame": track.start_frame,
            "face_boxes_xyxy": track.face_boxes_xyxy,
            "face_scores": track.scores,
            "face_detected": track.detected,
            "boxes_xyxy": track.boxes_xyxy,
            "stillness": None if np.isnan(still) else still,
        }
        for track_id, (track, still) in enumerate(zip(tracks, stillness, strict=True))
    ]
    columns = {
        "frame": np.arange(shot.start_frame, shot.end_frame, dtype=np.int32),
        "camera_motion_pct": signals.camera_motion_pct,
        "voice_activity": voice_activity,
        "brightness": signals.brightness,
        "sharpness": signals.sharpness,
    }
    tracks_path, signals_path = ctx.tmp / "tracks.parquet", ctx.tmp / "signals.parquet"
    write_arrays(tracks_path, TRACK, track_rows)
    write_columns(signals_path, SIGNALS, columns)
    return Tracks(
        video_id=video.video_id,
        start_frame=shot.start_frame,
        end_frame=shot.end_frame,
        width_px=video.width_px,
        height_px=video.height_px,
        has_audio=video.has_audio,
        n_tracks=len(tracks),
        tracks=ctx.commit(tracks_path, "tracks", f"{name}.tracks"),
        signals=ctx.commit(signals_path, "tracks", f"{name}.signals"),
        detector=detector,
    )


class SelectCandidates:
    """See the module's text; unit: a shot."""

    name: ClassVar[str] = "filter.select"
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources(cpus=1.0, batch=16)
    emits: ClassVar[tuple[type, ...]] = (Candidate,)

    def __init__(self, settings: SelectSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Nothing to load."""

    def unit_id(self, row: Tracks) -> str:
        """Video and frames of the shot."""
        return clip_id(row.video_id, row.start_frame, row.end_frame)

    def backend(self) -> str:
        """None."""
        return ""

    def limit_key(self, row: Tracks) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: Tracks, ctx: Context) -> Iterator[Candidate]:
        """Measure and judge."""
        with ctx.local(row.tracks) as path:
            seen = sightings(read_arrays(path))
        with ctx.local(row.signals) as path:
            signals = _read_signals(path)
        yield from Selector(row, seen, signals, self._settings).candidates()


def _read_signals(path: Path) -> ShotSignals:
    table = pq.read_table(path)
    columns = {
        name: table[name].to_numpy().astype(np.float32)
        for name in ("camera_motion_pct", "voice_activity", "brightness", "sharpness")
    }
    return ShotSignals(**columns)


class CutClips:
    """See the module's text; unit: a kept candidate."""

    name: ClassVar[str] = "filter.cut"
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources(cpus=1.0)
    emits: ClassVar[tuple[type, ...]] = (Clip,)

    def __init__(self, settings: CutSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Nothing to load."""

    def unit_id(self, row: CutJob) -> str:
        """The clip."""
        return row.candidate.clip_id

    def backend(self) -> str:
        """None: the encoder is fixed by the settings and the lock file."""
        return ""

    def limit_key(self, row: CutJob) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: CutJob, ctx: Context) -> Iterator[Clip]:
        """Encode the clip and write its people.

        Raises:
            MediaError: the source cannot be read or the clip not be written.
        """
        candidate = row.candidate
        start, end = candidate.start_frame, candidate.end_frame
        mp4, flac, people = (ctx.tmp / f"clip{suffix}" for suffix in (".mp4", ".flac", ".parquet"))
        with ctx.local(row.video.media) as source:
            settings = self._settings
            cut_media = cut_native if settings.media_fps == "source" else cut_clip
            cut = cut_media(source, start, end, mp4, flac, crf=settings.crf, audio_kbps=settings.audio_kbps)
        with ctx.local(candidate.tracks) as path:
            tracks = {track["track_id"]: track for track in read_arrays(path)}
        write_arrays(people, PEOPLE, people_rows([tracks[key] for key in candidate.track_ids], start, end))
        yield Clip(
            clip_id=candidate.clip_id,
            video_id=candidate.video_id,
            start_frame=start,
            end_frame=end,
            n_frames=cut.n_frames,
            width_px=cut.width_px,
            height_px=cut.height_px,
            n_people=len(candidate.track_ids),
            mp4=ctx.commit(mp4, "clips", candidate.clip_id),
            flac=ctx.commit(flac, "clips", candidate.clip_id),
            people=ctx.commit(people, "clips", f"{candidate.clip_id}.people"),
            source_fps=str(cut.source_fps),
            source_frame_index=cut.source_frame_index,
            loudness_dbfs=cut.loudness_dbfs,
            media_fps=str(self._settings.media_fps),
            media_frame_index=cut.media_frame_index,
        )


def people_rows(tracks: Sequence[dict[str, Any]], start_frame: int, end_frame: int) -> list[dict[str, Any]]:
    """Rows of `PEOPLE` for tracks given from left to right: their boxes within [start_frame, end_frame).

    Boxes need no change: a clip is padded on the right and at the bottom only.
    """
    rows = []
    for person_id, track in enumerate(tracks):
        frames = slice(start_frame - track["start_frame"], end_frame - track["start_frame"])
        boxes = {name: track[name][frames] for name in ("boxes_xyxy", "face_boxes_xyxy", "face_detected")}
        rows.append({"person_id": person_id, "track_id": track["track_id"], **boxes})
    return rows
