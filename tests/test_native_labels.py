"""Clips that keep the source's frames, from the cut to the dataset: every reader sees the timeline's frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_dataset
from numbered_video import number_in, numbered_image
from promised import promised

from manifests.arrays import write_arrays
from manifests.rows import N_KEYPOINTS, TRACK, Artifact, Clip, CutJob, Labelled, SpeechJob, Video
from mit_builder.config.settings import CutSettings, PoseSettings, SpeechSettings
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.dataset.validate import validate
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.media.timeline import read_timeline
from mit_builder.media.write import write_timed_video
from mit_builder.models import silero_voice
from mit_builder.models.asd import lips
from mit_builder.models.base import SpeechInput
from mit_builder.models.mediapipe import pose
from mit_builder.report.view import open_view, view_of_row
from mit_builder.storage.workspace import Workspace
from stages.filter.cut import CutClips
from stages.pose import EstimatePose
from stages.speech import ScoreSpeech

PLAN = tiny_dataset.ClipPlan(video=0, start_frame=4, end_frame=44, n_people=2)
N_FRAMES = PLAN.end_frame - PLAN.start_frame
CLOCK_HZ = 60
TICKS = [*range(0, 60, 6), *range(60, 130)]
"""A second at 10 frames a second, then 60. The clip begins 0.04 s before its first frame is due, so that its timeline
is not what the clip's times alone would make of it."""


class NativeBuilder(tiny_dataset.Builder):
    """Clips cut by the stage itself, with the source's frames; each frame of the source shows its number."""

    def _video(self, plan: tiny_dataset.ClipPlan) -> Video:
        video = super()._video(plan)
        path = self.root / video.media.key
        sound = tiny_dataset.write_tone(self._scratch / "tone.wav", (TICKS[-1] + 1) / CLOCK_HZ)
        size = {"width_px": tiny_dataset.WIDTH_PX, "height_px": tiny_dataset.HEIGHT_PX}
        frames = ((tick, numbered(n)) for n, tick in enumerate(TICKS))
        write_timed_video(path, frames, ticks_per_s=CLOCK_HZ, **size, audio=sound, crf=10)
        return replace(video, captions=None, media=promised(path))

    def _clip(self, plan: tiny_dataset.ClipPlan, video: Video, name: str) -> Clip:
        made = super()._clip(plan, video, name)
        stage = CutClips(CutSettings(media_fps="source"))
        candidate = tiny_dataset._candidate(plan, video, name)
        tracks = self._tracks(plan)
        job = CutJob(video, replace(candidate, tracks=tracks, track_ids=tuple(range(plan.n_people))))
        (clip,) = stage.process(job, self.context("feedfacefeedface"))
        return replace(clip, people=made.people)

    def _tracks(self, plan: tiny_dataset.ClipPlan) -> Artifact:
        path = self._scratch / "tracks.parquet"
        boxes = np.tile(np.array([10, 10, 50, 50], np.float32), (plan.end_frame, 1))
        scores = np.ones(plan.end_frame, np.float32)
        row = {"start_frame": 0, "face_boxes_xyxy": boxes, "face_scores": scores, "face_detected": scores > 0}
        row |= {"boxes_xyxy": boxes, "stillness": 1.0, "similarity_beside": None, "similarity_above": None}
        rows = [{**row, "track_id": i} for i in range(plan.n_people)]
        write_arrays(path, TRACK, rows)
        return self.context().commit(path, "tracks", "numbered")


def numbered(n: int) -> np.ndarray[Any, Any]:
    picture = np.zeros((tiny_dataset.HEIGHT_PX, tiny_dataset.WIDTH_PX, 3), np.uint8)
    height = round(64 * tiny_dataset.WIDTH_PX / 240)
    picture[:height] = cv2.resize(numbered_image(n), (tiny_dataset.WIDTH_PX, height), interpolation=cv2.INTER_AREA)
    return picture


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return NativeBuilder(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def labelled(builder: tiny_dataset.Builder) -> Labelled:
    made = builder.labelled(PLAN)
    builder.publish(builder.shard((made,)))
    return made


@pytest.fixture(scope="module")
def expected(builder: tiny_dataset.Builder, labelled: Labelled) -> list[int]:
    shown = read_timeline(builder.root / labelled.video.media.key).source_frame_index
    return [int(rank) for rank in shown[PLAN.start_frame : PLAN.end_frame]]


def test_the_clip_keeps_more_frames_than_its_timeline_has(labelled: Labelled, expected: list[int]) -> None:
    clip = labelled.clip
    assert (clip.media_fps, clip.n_frames) == ("source", N_FRAMES)
    assert list(clip.source_frame_index) == expected
    assert list(clip.media_frame_index) == [rank - expected[0] for rank in expected]
    assert clip.media_frame_index[-1] > N_FRAMES


def test_pose_is_estimated_in_the_timelines_frames(
    builder: tiny_dataset.Builder, labelled: Labelled, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Reader:
        def estimate(self, frames: Iterable[np.ndarray], boxes: np.ndarray, faces: np.ndarray) -> Iterator[np.ndarray]:
            for image in frames:
                seen.append(number_in(image))
                yield np.ones((len(boxes), N_KEYPOINTS, 3), np.float32)

    monkeypatch.setattr(pose, "MediaPipePose", Reader)
    stage = EstimatePose(PoseSettings())
    stage.setup()
    list(stage.process(labelled.clip, builder.context()))
    assert seen == expected


def test_speech_is_scored_in_the_timelines_frames(
    builder: tiny_dataset.Builder, labelled: Labelled, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Reader:
        label_tier = "model"

        def score(self, clip: SpeechInput) -> np.ndarray:
            seen.extend(number_in(image) for image in clip.frames())
            return np.zeros((PLAN.n_people, N_FRAMES), np.float32)

    class Voice:
        def probabilities(self, samples: np.ndarray) -> np.ndarray:
            return np.ones(len(samples) // 640, np.float32)

    monkeypatch.setattr(lips, "Lips", Reader)
    monkeypatch.setattr(silero_voice, "SileroVoice", Voice)
    stage = ScoreSpeech(SpeechSettings(model="lips"))
    stage.setup()
    list(stage.process(SpeechJob(labelled.clip, labelled.pose), builder.context()))
    assert seen == expected


def test_pictures_are_drawn_from_the_timelines_frames(
    builder: tiny_dataset.Builder, labelled: Labelled, expected: list[int], tmp_path: Path
) -> None:
    with open_view(labelled, builder.context().local) as view:
        assert [number_in(frame.image) for frame in view.frames()] == expected
    (row,) = DatasetFiles(builder.root).rows()
    view = view_of_row(row, DatasetFiles(builder.root), tmp_path)
    assert [number_in(frame.image) for frame in view.frames()] == expected


def test_exports_and_training_see_the_timelines_frames(
    builder: tiny_dataset.Builder, labelled: Labelled, expected: list[int], tmp_path: Path
) -> None:
    make_export(Workspace(builder.root), ExportRequest("coco-wholebody", tmp_path / "coco", with_media=True))
    pictures = sorted((tmp_path / "coco").rglob("*.jpg"))
    assert [number_in(cv2.imread(str(picture))) for picture in pictures] == expected
    torch_data = pytest.importorskip(
        "mit_builder.dataset.torch_dataset", reason="torch is not installed", exc_type=ImportError
    )
    size_hw = (tiny_dataset.HEIGHT_PX, tiny_dataset.WIDTH_PX)
    (sample,) = torch_data.ClipDataset(builder.root, split=None, n_frames=20, frame_step=1, size_hw=size_hw)
    seen = [number_in(image.transpose(1, 2, 0)) for image in sample["video"].numpy()]
    assert seen == expected[sample["first_frame"] :][:20]


def test_the_row_says_which_frame_of_the_media_each_label_belongs_to(
    builder: tiny_dataset.Builder, labelled: Labelled, expected: list[int]
) -> None:
    (row,) = DatasetFiles(builder.root).rows()
    assert (row["fps"], row["media_fps"], row["n_frames"]) == (25, "source", N_FRAMES)
    assert row["media_frame_index"].tolist() == list(labelled.clip.media_frame_index)
    assert row["source_frame_index"].tolist() == expected


def test_the_dataset_is_valid(builder: tiny_dataset.Builder, labelled: Labelled) -> None:
    assert [str(problem) for problem in validate(builder.root)] == []


def one_late(row: dict[str, Any]) -> None:
    index = row["media_frame_index"]
    row["media_frame_index"] = [index[0], *index[:-2], index[-1]]


def one_short(row: dict[str, Any]) -> None:
    row["media_frame_index"] = [min(place, row["media_frame_index"][-1] - 1) for place in row["media_frame_index"]]


def steady(row: dict[str, Any]) -> None:
    row["media_fps"] = "25"


def unheard(row: dict[str, Any]) -> None:
    row["media_fps"] = "50"


def falling(row: dict[str, Any]) -> None:
    row["media_frame_index"][5] = 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_late, "clip shows another frame than the nearest in"),
        (one_short, "media_frame_index goes from 0 to 50, must from 0 to 51, the clip's last frame"),
        (steady, "clip runs at"),
        (steady, "media_frame_index must be 0..39 at 25 frames a second"),
        (unheard, "media_fps is '50', must be one of 25, source"),
        (falling, "media_frame_index must be 40 frame numbers that never fall"),
    ],
)
def test_an_index_that_is_wrong_is_noticed(
    builder: tiny_dataset.Builder,
    labelled: Labelled,
    damage: Callable[[dict[str, Any]], None],
    message: str,
    tmp_path: Path,
) -> None:
    source = next((builder.root / "dataset").glob("*.parquet"))
    table = pq.read_table(source)
    (row,) = table.to_pylist()
    damage(row)
    for file in (builder.root / "dataset").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pq.write_table(table.from_pylist([row], schema=table.schema), tmp_path / source.name)
    found = [str(problem) for problem in validate(tmp_path)]
    assert any(message in line for line in found), found
