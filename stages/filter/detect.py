"""`filter.detect`: a run of shots -> one `Tracks` per shot. Everything of the filter that needs pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from manifests.arrays import write_arrays, write_columns
from manifests.rows import SIGNALS, TRACK, Shot, ShotRun, Tracks, Video, clip_id
from mit_builder.config import backends
from mit_builder.config.settings import DetectSettings
from mit_builder.media.audio import iter_samples
from mit_builder.media.audio_tracks import sound_of
from mit_builder.media.frames import read_frames
from mit_builder.media.level import amplified
from mit_builder.media.timeline import read_timeline
from mit_builder.models.base import Floats, PeopleDetector, VoiceDetector
from mit_builder.models.devices import resources_of
from mit_builder.stage import Context, Resources
from stages.filter.shot_scan import ShotScan


class DetectTracks:
    """Faces into tracks, camera motion, light and voice; unit: a run of whole shots."""

    name: ClassVar[str] = "filter.detect"
    version: ClassVar[int] = 2
    emits: ClassVar[tuple[type, ...]] = (Tracks,)

    def __init__(self, settings: DetectSettings) -> None:
        self._settings = settings
        self._finder = backends.find("people", settings.detector)
        self._listener = backends.find("voice", settings.voice_detector)
        self._people: PeopleDetector | None = None
        self._voice: VoiceDetector | None = None
        self._detector = ""

    @property
    def resources(self) -> Resources:
        """A core, and what the registry says of the people detector."""
        return resources_of(self._finder, self._settings.device)

    def setup(self) -> None:
        """Load the people detector and the voice detector.

        Raises:
            StageUnavailable: a package or the detector's weights are missing.
        """
        self._people = self._finder.load(self._settings)
        self._detector = self._finder.label_of(self._settings)
        self._voice = self._listener.load(self._settings)

    def unit_id(self, row: ShotRun) -> str:
        """Video and frames of the run."""
        return clip_id(row.video.video_id, row.shots[0].start_frame, row.shots[-1].end_frame)

    def backend(self) -> str:
        """People and voice detectors."""
        return f"{self._finder.label_of(self._settings)}; {self._listener.label_of(self._settings)}"

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
                sound = sound_of(row.video, path)
                chunks = iter_samples(path, start, end, timeline=timeline, sound=sound.tracks)
                voice = self._voice.stream(amplified(chunk, sound.gain_db) for chunk in chunks)
            frames = read_frames(path, start, end, timeline=timeline)
            for shot in row.shots:
                scan = ShotScan(self._people, self._settings, shot.start_frame)
                for frame in frames:
                    if frame.index >= shot.start_frame:
                        scan.add(frame.image)
                    if frame.index + 1 == shot.end_frame:
                        break
                heard = voice[shot.start_frame - start : shot.end_frame - start]
                yield _store(row.video, shot, timeline.geometry.upright_wh, scan, heard, ctx, self._detector)


def _store(
    video: Video,
    shot: Shot,
    upright_wh: tuple[int, int],
    scan: ShotScan,
    voice_activity: Floats,
    ctx: Context,
    detector: str,
) -> Tracks:
    """Write what a scan found and commit it."""
    tracks, looks, signals = scan.finish()
    name = clip_id(video.video_id, shot.start_frame, shot.end_frame)
    track_rows = [
        {
            "track_id": track_id,
            "start_frame": track.start_frame,
            "face_boxes_xyxy": track.face_boxes_xyxy,
            "face_scores": track.scores,
            "face_detected": track.detected,
            "boxes_xyxy": track.boxes_xyxy,
            **vars(look),
        }
        for track_id, (track, look) in enumerate(zip(tracks, looks, strict=True))
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
        width_px=upright_wh[0],
        height_px=upright_wh[1],
        has_audio=video.has_audio,
        n_tracks=len(tracks),
        tracks=ctx.commit(tracks_path, "tracks", f"{name}.tracks"),
        signals=ctx.commit(signals_path, "tracks", f"{name}.signals"),
        detector=detector,
    )
