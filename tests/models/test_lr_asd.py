from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from asd_clips import made_up_clip, window_by_window
from asd_parity import check_intermediates, check_scores, real_weights, spec_file
from filled_weights import save_filled
from speaker_shapes import LR_ASD_HEAD as HEAD
from speaker_shapes import lr_asd as shapes

pytest.importorskip("torch", reason="LR-ASD needs torch, which the embedded environment does not have")

import torch

from mit_builder.errors import StageUnavailable
from mit_builder.models.asd import lr_asd
from mit_builder.models.asd.lr_asd import LrAsd, LrAsdNetwork, load_network
from mit_builder.models.asd.windows import n_scored, scores_per_duration
from mit_builder.models.base import SpeechInput

torch.set_num_threads(1)  # as in production
SMALL_FIXTURE = Path(__file__).parent / "data" / "asd_small.npz"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the real names and made-up values."""
    return save_filled(tmp_path_factory.mktemp("weights") / "lr_asd.model", shapes())


def intermediates(network: LrAsdNetwork, video: np.ndarray, mfcc: np.ndarray) -> dict[str, np.ndarray]:
    """All arrays of one pass over a whole clip."""
    parts, seen = network.model, {}
    with torch.inference_mode():
        visual = parts.visualEncoder(torch.from_numpy(video)[None])
        audio = parts.audioEncoder(torch.from_numpy(mfcc)[None])
        fused = parts.fusion(audio, visual)
        seen["gru_forward"] = parts.detector.gru_forward(fused)[0]
        seen["gru_backward"] = parts.detector.gru_backward(fused.flip(1))[0].flip(1)
        seen |= {"visual_embed": visual, "audio_embed": audio, "fusion": fused, "detector": parts.detector(fused)}
        seen["logits"] = network(visual, torch.from_numpy(mfcc)[None])
    return {name: array[0].numpy() for name, array in seen.items()}


def plain_scores(network: LrAsdNetwork, video: np.ndarray, mfcc: np.ndarray) -> np.ndarray:
    def score(start: int, end: int) -> np.ndarray:
        with torch.inference_mode():
            visual = network.model.visualEncoder(torch.from_numpy(video[start:end])[None])
            return network(visual, torch.from_numpy(mfcc[4 * start : 4 * end])[None])[0, :, 1].numpy()

    return window_by_window(score, len(video))


@pytest.mark.parametrize("kind", ["finetuning_TalkSet", "pretrain_AVA"])
def test_parity_with_lr_asd_parity_and_real_weights(shared_dir: Path, kind: str) -> None:
    theirs = np.load(spec_file(shared_dir, "lr_asd_parity.npz"))
    inputs = np.load(spec_file(shared_dir, "talknet_parity.npz"))
    path = real_weights(shared_dir, f"{kind}.model")
    network, scorer = load_network(path), LrAsd(path)
    clips = sorted({key.split("/")[1] for key in theirs.files if key.startswith(kind + "/")})
    assert clips
    for clip in clips:
        source = theirs if f"{clip}/video" in theirs else inputs
        video, mfcc = source[f"{clip}/video"], source[f"{clip}/mfcc"].astype(np.float32)
        n_frames = n_scored(len(mfcc), len(video))
        ours = intermediates(network, video[:n_frames], mfcc[: 4 * n_frames])
        check_intermediates(ours, theirs, f"{kind}/{clip}")
        scores = scores_per_duration(scorer.network, torch.from_numpy(video), torch.from_numpy(mfcc))
        check_scores(scores, theirs, f"{kind}/{clip}")
        np.testing.assert_array_equal(scorer.score_block(video, mfcc.astype(np.float64)), scores.mean(axis=0))


def test_parity_with_the_small_fixture_of_this_repository(weights: Path) -> None:
    fixture = np.load(SMALL_FIXTURE)
    video, mfcc = made_up_clip(28)
    check_intermediates(intermediates(load_network(weights), video, mfcc), fixture, "lr_asd")
    scores = scores_per_duration(LrAsd(weights).network, torch.from_numpy(video), torch.from_numpy(mfcc))
    check_scores(scores, fixture, "lr_asd")


@pytest.mark.parametrize("n_frames", [1, 2, 9, 25, 26, 34, 43, 51])
def test_shared_work_gives_the_scores_of_single_windows(weights: Path, n_frames: int) -> None:
    video, mfcc = made_up_clip(n_frames, seed=n_frames)
    ours = scores_per_duration(LrAsd(weights).network, torch.from_numpy(video), torch.from_numpy(mfcc))
    np.testing.assert_allclose(ours, plain_scores(load_network(weights), video, mfcc), rtol=0, atol=2e-5)


@pytest.mark.parametrize("n_frames", [76, 84])
def test_shared_work_in_chunks_gives_the_same_scores(
    weights: Path, n_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, mfcc = (torch.from_numpy(array) for array in made_up_clip(n_frames))
    network = LrAsd(weights).network
    whole = scores_per_duration(network, video, mfcc)
    monkeypatch.setattr(lr_asd, "CHUNK_FRAMES", 25)
    np.testing.assert_allclose(scores_per_duration(network, video, mfcc), whole, rtol=0, atol=1e-5)


def made_up_input(n_people: int, n_frames: int) -> SpeechInput:
    rng = np.random.default_rng(n_frames)
    images = rng.integers(0, 256, (n_frames, 90, 200, 3), dtype=np.uint8)
    boxes = np.stack([np.tile(np.float32([10 + 60 * i, 20, 50 + 60 * i, 65]), (n_frames, 1)) for i in range(n_people)])
    return SpeechInput(
        frames=lambda: iter(images),
        samples=rng.integers(-9000, 9000, 640 * n_frames).astype(np.int16),
        voice_activity=np.ones(n_frames, np.float32),
        keypoints=np.zeros((n_people, n_frames, 133, 3), np.float32),
        face_boxes_xyxy=boxes,
    )


@pytest.mark.parametrize(("n_people", "n_frames"), [(1, 1), (2, 6), (3, 31)])
def test_every_frame_of_every_person_gets_a_score(weights: Path, n_people: int, n_frames: int) -> None:
    scorer = LrAsd(weights)
    clip = made_up_input(n_people, n_frames)
    scores = scorer.score(clip)
    assert scores.shape == (n_people, n_frames)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert scorer.label_tier == "model"
    np.testing.assert_array_equal(LrAsd(weights).score(clip), scores)


def test_a_person_is_scored_as_if_alone(weights: Path) -> None:
    clip = made_up_input(3, 30)
    alone = SpeechInput(clip.frames, clip.samples, clip.voice_activity, clip.keypoints[1:2], clip.face_boxes_xyxy[1:2])
    scorer = LrAsd(weights)
    np.testing.assert_array_equal(scorer.score(alone)[0], scorer.score(clip)[1])


def test_loads_names_left_by_data_parallel_and_no_training_head(weights: Path, tmp_path: Path) -> None:
    bare = {name: shape for name, shape in shapes().items() if name not in HEAD}
    expected = load_network(weights).state_dict()
    wrapped = save_filled(tmp_path / "wrapped.model", bare)
    torch.save({f"module.{name}": tensor for name, tensor in torch.load(wrapped).items()}, wrapped)
    for name, tensor in load_network(wrapped).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.fusion.bn.bias": None}, "1 tensors missing, first model.fusion.bn.bias"),
        ({"model.other.weight": (3,)}, "1 tensors unknown, first model.other.weight"),
        ({"lossAV.FC.bias": (3,)}, "1 tensors of another shape, first lossAV.FC.bias"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    changed = {name: shape for name, shape in (shapes() | change).items() if shape is not None}
    with pytest.raises(StageUnavailable, match=message):
        LrAsd(save_filled(tmp_path / "other.model", changed))


def test_device_that_does_not_exist_is_named(weights: Path) -> None:
    with pytest.raises(StageUnavailable, match="device 'nonsense'"):
        LrAsd(weights, device="nonsense")


def test_half_precision_stays_close(weights: Path) -> None:
    clip = made_up_input(1, 26)
    exact, rough = LrAsd(weights).score(clip), LrAsd(weights, precision="bf16").score(clip)
    assert 0 < np.abs(rough - exact).max() < 0.1
