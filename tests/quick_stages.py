"""Stages that make true-shaped clips in milliseconds: real media with numbered frames, labels of known shape.

    http://quick.test/NAME?frames=250&shots=2&people=2&title=TEXT

Everything but the models is as in a run: the media come from the modules that make them, shards from the real stage. A
shot that is shorter than `filter.min_clip_s` is rejected, and so is one in which faces are too small for
`filter.min_face_px` (all are 40 px wide).
"""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import fakes
import numpy as np
import numpy.typing as npt
from numbered_video import HEIGHT_PX, WIDTH_PX, write_numbered

from manifests.arrays import write_arrays, write_columns
from manifests.rows import (
    N_KEYPOINTS,
    PEOPLE,
    POSES,
    SIGNALS,
    SPEECH,
    TRACK,
    VOICE,
    Artifact,
    Candidate,
    Clip,
    CutJob,
    Pose,
    Shot,
    ShotRun,
    Source,
    Speech,
    SpeechJob,
    Tracks,
    Video,
    clip_id,
    short_id,
)
from mit_builder.labels.keypoints import visible_ratios
from mit_builder.labels.speaking import is_speaking, merged_periods, periods, smooth
from mit_builder.media.cut import cut_clip
from mit_builder.pipeline import STEPS
from mit_builder.stage import Context
from stages.shards import WriteShard

FACE_PX = 40.0
TURN_FRAMES = 30
"""People speak in turn for so long."""


def told(address: str) -> dict[str, str]:
    return {"frames": "250", "shots": "1", "people": "2", "title": "", **fakes.query(address)}


def commit(ctx: Context, folder: str, name: str, schema: Any, rows: list[dict[str, Any]]) -> Artifact:
    path = ctx.tmp / "rows.parquet"
    write_arrays(path, schema, rows)
    return ctx.commit(path, folder, name)


def faces(person: int, n_frames: int) -> npt.NDArray[np.float32]:
    """(n_frames, 4): side by side, each moving by a few pixels."""
    left = 20 + 60 * person + 5 * np.sin(np.arange(n_frames) / 11)
    return np.stack([left, 4 + 0 * left, left + FACE_PX, 4 + FACE_PX + 0 * left], axis=1).astype(np.float32)


def bodies(person: int, n_frames: int) -> npt.NDArray[np.float32]:
    return faces(person, n_frames) + np.array([-8, -3, 8, 18], np.float32)


def keypoints(person: int, n_frames: int) -> npt.NDArray[np.float32]:
    """(n_frames, 133, 3): the feet are never seen, the nose in every second frame has no estimate."""
    rng = np.random.default_rng(person)
    points = np.empty((n_frames, N_KEYPOINTS, 3), np.float32)
    points[..., :2] = faces(person, n_frames)[:, None, :2] + rng.uniform(0, 50, (1, N_KEYPOINTS, 2))
    points[..., 2] = rng.uniform(0.4, 1, (n_frames, N_KEYPOINTS))
    points[:, 17:23, 2] = 0.05
    points[::2, 0] = (np.nan, np.nan, 0)
    return points


class QuickDownload(fakes.Fake):
    name: ClassVar[str] = "download"
    emits: ClassVar[tuple[type, ...]] = (Video, Source)

    def unit_id(self, row: Source) -> str:
        return row.source_id

    def process(self, row: Source, ctx: Context) -> Iterator[Video]:
        options, video_id = told(row.address), short_id(row.address)
        n_frames = int(options["frames"])
        path = ctx.tmp / "video.mp4"
        pitch = 60 + int(video_id[:2], 16)  # equal bytes would be duplicates
        # The same bytes come out whatever the process did before: sound is of whole numbers and not encoded, and there
        # are keyframes only, since libx264's search for motion branches on memory of the stack that nobody has set.
        sound = (np.arange(n_frames * 1920) * pitch % 16_000 - 8000).astype(np.int16)
        intra = {"x264-params": "keyint=1"}
        write_numbered(path, range(n_frames), Fraction(1, 25), options=intra, sound=sound)
        yield Video(
            video_id=video_id,
            source_id=row.source_id,
            source_url=row.address,
            title=options["title"],
            uploader=None,
            channel_id=None,
            upload_date=None,
            licence=None,
            access="public",
            media=ctx.commit(path, "videos", video_id),
            duration_s=n_frames / 25,
            n_frames=n_frames,
            source_fps="25",
            width_px=WIDTH_PX,
            height_px=HEIGHT_PX,
            has_audio=True,
        )


class QuickShots(fakes.Fake):
    name: ClassVar[str] = "shots"
    emits: ClassVar[tuple[type, ...]] = (Shot,)

    def unit_id(self, row: Video) -> str:
        return row.video_id

    def process(self, row: Video, ctx: Context) -> Iterator[Shot]:
        n_shots = int(told(row.source_url)["shots"])
        for i in range(n_shots):
            yield Shot(row.video_id, row.n_frames * i // n_shots, row.n_frames * (i + 1) // n_shots)


class QuickDetect(fakes.FakeDetect):
    def process(self, row: ShotRun, ctx: Context) -> Iterator[Tracks]:
        n_people = int(told(row.video.source_url)["people"])
        for shot in row.shots:
            name, n_frames = clip_id(shot.video_id, shot.start_frame, shot.end_frame), shot.end_frame - shot.start_frame
            signals = ctx.tmp / "signals.parquet"
            numbers = np.zeros(n_frames, np.float32)
            write_columns(signals, SIGNALS, {f.name: numbers.astype(f.type.to_pandas_dtype()) for f in SIGNALS})
            yield Tracks(
                video_id=shot.video_id,
                start_frame=shot.start_frame,
                end_frame=shot.end_frame,
                width_px=WIDTH_PX,
                height_px=HEIGHT_PX,
                has_audio=True,
                n_tracks=n_people,
                tracks=commit(ctx, "tracks", name, TRACK, [_track(shot, i, n_frames) for i in range(n_people)]),
                signals=ctx.commit(signals, "tracks", f"{name}.signals"),
                detector=self.backend(),
            )


def _track(shot: Shot, person: int, n_frames: int) -> dict[str, Any]:
    return {
        "track_id": person,
        "start_frame": shot.start_frame,
        "face_boxes_xyxy": faces(person, n_frames),
        "face_scores": np.ones(n_frames, np.float32),
        "face_detected": np.ones(n_frames, bool),
        "boxes_xyxy": bodies(person, n_frames),
        "stillness": 3.0,
        "similarity_beside": None,
        "similarity_above": None,
    }


class QuickSelect(fakes.FakeSelect):
    def process(self, row: Tracks, ctx: Context) -> Iterator[Candidate]:
        length_s = (row.end_frame - row.start_frame) / 25
        reason = "too_short" if length_s < self.settings.min_clip_s else None
        reason = "face_too_small" if self.settings.min_face_px > FACE_PX else reason
        yield Candidate(
            clip_id=clip_id(row.video_id, row.start_frame, row.end_frame),
            video_id=row.video_id,
            start_frame=row.start_frame,
            end_frame=row.end_frame,
            track_ids=tuple(range(row.n_tracks)),
            n_people=row.n_tracks,
            tracks=row.tracks,
            verdict="rejected" if reason else "kept",
            reason=reason,  # type: ignore[arg-type]
            min_face_px=FACE_PX,
            face_area_ratio=1.0,
            camera_motion_pct=0.02,
            voice_activity=0.8,
            stillness=3.0,
            n_bystanders=0,
            bystander_area=None,
            brightness=100.0,
            sharpness=50.0,
            detector=row.detector,
        )


class QuickCut(fakes.Fake):
    name: ClassVar[str] = "filter.cut"
    emits: ClassVar[tuple[type, ...]] = (Clip,)

    def unit_id(self, row: CutJob) -> str:
        return row.candidate.clip_id

    def media(self, row: CutJob, ctx: Context) -> tuple[Artifact, Artifact, tuple[int, ...]]:
        mp4, flac, name = ctx.tmp / "clip.mp4", ctx.tmp / "clip.flac", row.candidate.clip_id
        with ctx.local(row.video.media) as path:
            start, end = row.candidate.start_frame, row.candidate.end_frame
            cut = cut_clip(path, start, end, mp4, flac, crf=16, audio_kbps=64)
        return ctx.commit(mp4, "clips", name), ctx.commit(flac, "clips", name), cut.source_frame_index

    def process(self, row: CutJob, ctx: Context) -> Iterator[Clip]:
        found, name = row.candidate, row.candidate.clip_id
        n_frames = found.end_frame - found.start_frame
        mp4, flac, index = self.media(row, ctx)
        people = [
            {
                "person_id": i,
                "track_id": i,
                "boxes_xyxy": np.clip(bodies(i, n_frames), 0, (WIDTH_PX, HEIGHT_PX) * 2),
                "face_boxes_xyxy": faces(i, n_frames),
                "face_detected": np.ones(n_frames, bool),
            }
            for i in range(found.n_people)
        ]
        yield Clip(
            clip_id=name,
            video_id=row.video.video_id,
            start_frame=found.start_frame,
            end_frame=found.end_frame,
            n_frames=n_frames,
            width_px=WIDTH_PX,
            height_px=HEIGHT_PX,
            n_people=found.n_people,
            mp4=mp4,
            flac=flac,
            people=commit(ctx, "clips", f"{name}.people", PEOPLE, people),
            source_fps="25",
            source_frame_index=index,
            loudness_dbfs=-12.0,
        )


class QuickPose(fakes.Fake):
    name: ClassVar[str] = "pose"
    emits: ClassVar[tuple[type, ...]] = (Pose,)

    def unit_id(self, row: Clip) -> str:
        return row.clip_id

    def process(self, row: Clip, ctx: Context) -> Iterator[Pose]:
        points = [keypoints(i, row.n_frames) for i in range(row.n_people)]
        people = [{"person_id": i, "keypoints": p, **visible_ratios(p, 10_000, 10_000)} for i, p in enumerate(points)]
        for person, p in zip(people, points, strict=True):
            person.update(visible_ratios(p, row.width_px, row.height_px))
        visible = min(float(person["body_visible_ratio"]) for person in people)
        poses = commit(ctx, "poses", row.clip_id, POSES, people)
        yield Pose(row.clip_id, poses, self.backend(), 0.7, visible)


class QuickSpeech(fakes.Fake):
    name: ClassVar[str] = "speech"
    emits: ClassVar[tuple[type, ...]] = (Speech,)

    def unit_id(self, row: SpeechJob) -> str:
        return row.clip.clip_id

    def process(self, row: SpeechJob, ctx: Context) -> Iterator[Speech]:
        name, n_frames, merge = row.clip.clip_id, row.clip.n_frames, self.settings.merge_below_frames
        voice = np.full(n_frames, 0.9, np.float32)
        spoken = [self._person(i, row.clip.n_people, voice, merge) for i in range(row.clip.n_people)]
        yield Speech(
            clip_id=name,
            speech=commit(ctx, "speech", name, SPEECH, spoken),
            voice=commit(ctx, "speech", f"{name}.voice", VOICE, [{"voice_activity": value} for value in voice]),
            speech_backend=self.backend(),
            label_tier="heuristic",
            min_voice_activity=self.settings.min_voice_activity,
            merge_below_frames=merge,
        )

    def _person(self, i: int, n_people: int, voice: npt.NDArray[np.float32], merge: int) -> dict[str, Any]:
        n_frames = len(voice)
        scores = np.where(np.arange(n_frames) // TURN_FRAMES % n_people == i, 2.5, -1.5).astype(np.float32)
        smoothed = smooth(scores)
        speaking = is_speaking(smoothed, voice, self.settings.min_voice_activity)
        return {
            "person_id": i,
            "face_boxes_xyxy": faces(i, n_frames),
            "face_box_source": np.array(["pose"] * n_frames, object),
            "speaking_score": scores,
            "speaking_score_smoothed": smoothed,
            "speaking": speaking,
            "speak_periods": periods(speaking),
            "listen_periods": periods(~speaking),
            "speak_periods_merged": merged_periods(speaking, merge),
            "listen_periods_merged": merged_periods(~speaking, merge),
        }


_QUICK = {kind.name: kind for kind in vars().copy().values() if isinstance(kind, type) and issubclass(kind, fakes.Fake)}
CLASSES = {step.name: _QUICK.get(step.name, WriteShard) for step in STEPS}
"""By step; shards are written by the real stage."""


def modules() -> dict[str, types.ModuleType]:
    """What to put into `sys.modules`, so that the program finds these stages in the place of ours."""
    found: dict[str, Any] = defaultdict(lambda: types.ModuleType("quick"))
    for step in STEPS:
        module, _, name = step.stage.partition(":")
        setattr(found[module], name, CLASSES[step.name])
    return dict(found)


def command(*arguments: str) -> dict[str, Any]:
    """`mit-build ARGUMENTS` with these stages, as keywords of `subprocess`."""
    tests = Path(__file__).resolve().parent
    paths = os.pathsep.join((str(tests.parent), str(tests)))
    return {"args": [sys.executable, __file__, *arguments], "env": {**os.environ, "PYTHONPATH": paths}, "text": True}


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    return subprocess.run(**command(*arguments), capture_output=True, check=False)


def main() -> None:
    """`mit-build` with these stages: python tests/quick_stages.py run --engine serial …"""
    import mit_builder.pipeline_run
    from mit_builder.cli.main import main as program

    sys.modules.update(modules())
    mit_builder.pipeline_run.check_all = lambda *arguments: []
    program(sys.argv[1:])


if __name__ == "__main__":
    main()
