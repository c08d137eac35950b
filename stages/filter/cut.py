"""`filter.cut`: `CutJob` (a kept candidate) -> `Clip` with media of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from manifests.arrays import read_arrays, write_arrays
from manifests.rows import PEOPLE, Clip, CutJob
from mit_builder.config.settings import CutSettings
from mit_builder.media.audio_tracks import sound_of
from mit_builder.media.cut import cut_clip, cut_native
from mit_builder.stage import Context, Resources


class CutClips:
    """A kept candidate gets media of its own; unit: a kept candidate."""

    name: ClassVar[str] = "filter.cut"
    version: ClassVar[int] = 2
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
            sound = sound_of(row.video, source)
            crf, audio_kbps = settings.crf, settings.audio_kbps
            cut = cut_media(source, start, end, mp4, flac, crf=crf, audio_kbps=audio_kbps, sound=sound.tracks)
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
            gain_db=sound.gain_db,
            sound=tuple(track for track in sound.tracks if track.weights),
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
