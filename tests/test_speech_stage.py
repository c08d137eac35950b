from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import tiny_dataset

from manifests.arrays import read_arrays
from manifests.rows import Speech, SpeechJob
from manifests.schema import content_hash
from mit_builder.config import backends
from mit_builder.config.settings import SpeechSettings
from mit_builder.errors import MediaError, StageUnavailable
from mit_builder.models import silero_voice
from mit_builder.models.asd import lips
from mit_builder.models.base import SpeechInput
from stages.speech import ScoreSpeech


class FakeVoice:
    """Hears a voice up to frame 30."""

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        heard = np.zeros(len(samples) // 640, np.float32)
        heard[:30] = 1
        return heard


class FakeScorer:
    """Person 0 speaks from frame 5 on, nobody else does; looks at everything that it is given."""

    label_tier: Literal["heuristic", "model"] = "model"

    def score(self, clip: SpeechInput) -> np.ndarray:
        n_people, n_frames = clip.keypoints.shape[:2]
        for _ in range(2):
            assert sum(1 for image in clip.frames() if image.shape[2] == 3) == n_frames
        assert clip.face_boxes_xyxy.shape == (n_people, n_frames, 4)
        assert clip.voice_activity.shape == (n_frames,)
        assert clip.samples.shape == (640 * n_frames,)
        scores = np.full((n_people, n_frames), -2, np.float32)
        scores[0, 5:] = 3
        return scores


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return tiny_dataset.Builder(tmp_path_factory.mktemp("speech"))


@pytest.fixture(scope="module")
def job(builder: tiny_dataset.Builder) -> SpeechJob:
    labelled = builder.labelled(tiny_dataset.PLANS[0])
    return SpeechJob(labelled.clip, labelled.pose)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silero_voice, "SileroVoice", FakeVoice)
    monkeypatch.setattr(lips, "Lips", FakeScorer)


def run(builder: tiny_dataset.Builder, job: SpeechJob, **settings: object) -> Speech:
    stage = ScoreSpeech(SpeechSettings.model_validate({"model": "lips", **settings}))
    stage.setup()
    # An input key of its own for each combination of settings, as in a run.
    (speech,) = stage.process(job, builder.context(content_hash(sorted(settings.items()))))
    return speech


def test_labels_of_every_person_and_frame_are_stored(
    builder: tiny_dataset.Builder, job: SpeechJob, fakes: None
) -> None:
    speech = run(builder, job)
    first, second = read_arrays(builder.root / speech.speech.key)
    assert (first["person_id"], second["person_id"]) == (0, 1)
    n_frames = job.clip.n_frames
    for name in ("speaking_score", "speaking_score_smoothed", "speaking", "face_box_source", "face_boxes_xyxy"):
        assert len(first[name]) == n_frames
    np.testing.assert_array_equal(first["speaking_score"][4:7], [-2, 3, 3])
    assert first["speaking_score_smoothed"][4] == pytest.approx((4 * -2 + 2 * 3) / 6)
    assert not second["speaking"].any()
    assert second["speak_periods"].shape == (0, 2)
    assert second["listen_periods"].tolist() == [[0, n_frames]]
    assert speech.label_tier == "model"


def test_voice_gates_speaking_but_not_the_scores(builder: tiny_dataset.Builder, job: SpeechJob, fakes: None) -> None:
    speech = run(builder, job, min_voice_activity=0.25)
    first, _ = read_arrays(builder.root / speech.speech.key)
    voice = np.array([row["voice_activity"] for row in read_arrays(builder.root / speech.voice.key)], np.float32)
    assert voice.shape == (job.clip.n_frames,)
    np.testing.assert_array_equal(first["speaking"], (first["speaking_score_smoothed"] > 0) & (voice >= 0.25))
    assert (first["speaking_score_smoothed"][35:] > 0).all()
    assert first["speak_periods"].tolist() == [[5, 32]]
    assert first["listen_periods"].tolist() == [[0, 5], [32, 40]]


def test_settings_decide_gate_and_merging(builder: tiny_dataset.Builder, job: SpeechJob, fakes: None) -> None:
    speech = run(builder, job, min_voice_activity=0.0, merge_below_frames=6)
    first, _ = read_arrays(builder.root / speech.speech.key)
    assert first["speak_periods"].tolist() == [[5, 40]]
    assert first["speak_periods_merged"].tolist() == [[0, 40]]
    assert (speech.min_voice_activity, speech.merge_below_frames) == (0.0, 6)


def test_artifacts_are_named_after_the_clip(builder: tiny_dataset.Builder, job: SpeechJob, fakes: None) -> None:
    speech = run(builder, job)
    assert speech.speech.key.startswith(f"speech/{job.clip.clip_id}.")
    assert speech.voice.key.startswith(f"speech/{job.clip.clip_id}.voice.")


def test_people_are_matched_by_their_number(builder: tiny_dataset.Builder, job: SpeechJob, fakes: None) -> None:
    rows = read_arrays(builder.root / run(builder, job).speech.key)
    faces = read_arrays(builder.root / job.clip.people.key)
    for row, face in zip(rows, faces, strict=True):
        assert np.abs(row["face_boxes_xyxy"].mean(axis=0) - face["face_boxes_xyxy"].mean(axis=0)).max() < 70
        assert set(row["face_box_source"]) <= {"pose", "detector", "interpolated"}


def test_models_hear_the_clip_with_its_gain(
    builder: tiny_dataset.Builder, job: SpeechJob, fakes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[np.ndarray] = []
    monkeypatch.setattr(FakeScorer, "score", lambda self, clip: heard.append(clip.samples) or np.zeros((2, 40)))
    monkeypatch.setattr(FakeVoice, "probabilities", lambda self, samples: heard.append(samples) or np.zeros(40))
    for gain_db in (0.0, 6.0):
        run(builder, replace(job, clip=replace(job.clip, gain_db=gain_db)))
    as_it_is, as_it_is_too, louder, louder_too = (np.abs(samples.astype(int)).max() for samples in heard)
    assert as_it_is == as_it_is_too > 100
    assert louder == louder_too == pytest.approx(2 * as_it_is, rel=0.01)


def test_sound_of_another_length_is_an_error(builder: tiny_dataset.Builder, job: SpeechJob, fakes: None) -> None:
    other = builder.labelled(tiny_dataset.PLANS[1]).clip
    with pytest.raises(MediaError, match="samples for 40 frames"):
        run(builder, replace(job, clip=replace(job.clip, flac=other.flac)))


def test_auto_alone_means_lips() -> None:
    alone = backends.find("speaker", "auto")
    assert isinstance(alone.load(SpeechSettings()), lips.Lips)
    assert alone.label_of(SpeechSettings()) == lips.NAME


@pytest.mark.parametrize("model", ["lr-asd", "talknet"])
def test_missing_weights_stop_the_stage_with_the_command_that_fetches_them(
    model: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path))
    settings, backend = SpeechSettings(model=model), backends.find("speaker", model)
    assert "missing" in backend.label_of(settings)
    with pytest.raises(StageUnavailable, match=f"weights fetch {model}-talkset"):
        backend.load(settings)
