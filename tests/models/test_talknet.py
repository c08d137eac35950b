from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from asd_clips import made_up_clip, window_by_window
from asd_parity import check_intermediates, check_scores, spec_file
from filled_weights import filled, save_filled
from speaker_shapes import TALKNET_UNUSED as UNUSED
from speaker_shapes import talknet as shapes

pytest.importorskip("torch", reason="TalkNet needs torch, which the embedded environment does not have")

import torch

from mit_builder.errors import StageUnavailable
from mit_builder.models.asd.talknet import TalkNet, TalkNetNetwork, load_network
from mit_builder.models.asd.windows import n_scored, normalise, scores_per_duration

torch.set_num_threads(1)  # as in production
SMALL_FIXTURE = Path(__file__).parent / "data" / "asd_small.npz"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_filled(tmp_path_factory.mktemp("weights") / "talknet.model", shapes())


def intermediates(network: TalkNetNetwork, video: np.ndarray, mfcc: np.ndarray) -> dict[str, np.ndarray]:
    parts, seen = network.model, {}
    with torch.inference_mode():
        frames, rows = torch.from_numpy(video), torch.from_numpy(mfcc)[None]
        frontend = parts.visualFrontend(frames)[None]
        seen["frontend"] = frontend
        seen["tcn"] = parts.visualTCN(frontend.transpose(1, 2)).transpose(1, 2)
        visual, audio = parts.visual_embedding(frontend), parts.audioEncoder(rows)
        seen |= {"visual_embed": visual, "audio_embed": audio, "av": parts.fuse(audio, visual)}
        seen |= {"cross_audio": parts.crossA2V(audio, visual), "cross_visual": parts.crossV2A(visual, audio)}
        seen["logits"] = network(frontend, rows)
        seen["stem_frame0_ch0_3"] = parts.visualFrontend.stem(normalise(frames)[:, None])[:1, :4]
    return {name: array[0].numpy() for name, array in seen.items()}


def plain_scores(network: TalkNetNetwork, video: np.ndarray, mfcc: np.ndarray) -> np.ndarray:
    def score(start: int, end: int) -> np.ndarray:
        with torch.inference_mode():
            frontend = network.model.visualFrontend(torch.from_numpy(video[start:end]))[None]
            return network(frontend, torch.from_numpy(mfcc[4 * start : 4 * end])[None])[0, :, 1].numpy()

    return window_by_window(score, len(video))


def test_fill_recipe_gives_the_listed_checksums(shared_dir: Path) -> None:
    listing = json.loads(spec_file(shared_dir, "talknet_state_dict.json").read_text())
    assert {name: tuple(tensor["shape"]) for name, tensor in listing["tensors"].items()} == shapes()
    for name, tensor in listing["tensors"].items():
        array = filled(name, tensor["shape"], listing["fill_salt"])
        assert zlib.crc32(np.ascontiguousarray(array).tobytes()) == tensor["fill_crc32"], name


def test_parity_with_talknet_parity(shared_dir: Path, tmp_path: Path) -> None:
    theirs = np.load(spec_file(shared_dir, "talknet_parity.npz"))
    path = save_filled(tmp_path / "pretrain_TalkSet.model", shapes(), salt=int(theirs["fill_salt"]))
    network, scorer = load_network(path), TalkNet(path)
    clips = sorted({key.split("/")[0] for key in theirs.files if key.endswith("/video")})
    assert clips
    for clip in clips:
        video, mfcc = theirs[f"{clip}/video"], theirs[f"{clip}/mfcc"].astype(np.float32)
        n_frames = n_scored(len(mfcc), len(video))
        check_intermediates(intermediates(network, video[:n_frames], mfcc[: 4 * n_frames]), theirs, clip)
        scores = scores_per_duration(scorer.network, torch.from_numpy(video), torch.from_numpy(mfcc))
        check_scores(scores, theirs, clip)


def test_parity_with_the_small_fixture_of_this_repository(weights: Path) -> None:
    fixture = np.load(SMALL_FIXTURE)
    video, mfcc = made_up_clip(28)
    check_intermediates(intermediates(load_network(weights), video, mfcc), fixture, "talknet")
    scores = scores_per_duration(TalkNet(weights).network, torch.from_numpy(video), torch.from_numpy(mfcc))
    check_scores(scores, fixture, "talknet")


@pytest.mark.parametrize("n_frames", [1, 3, 27, 54])
def test_shared_work_gives_the_scores_of_single_windows(weights: Path, n_frames: int) -> None:
    video, mfcc = made_up_clip(n_frames, seed=n_frames)
    ours = scores_per_duration(TalkNet(weights).network, torch.from_numpy(video), torch.from_numpy(mfcc))
    np.testing.assert_allclose(ours, plain_scores(load_network(weights), video, mfcc), rtol=0, atol=2e-5)


def test_loads_names_left_by_data_parallel_and_no_unused_tensors(weights: Path, tmp_path: Path) -> None:
    bare = {name: shape for name, shape in shapes().items() if name not in UNUSED}
    wrapped = save_filled(tmp_path / "wrapped.model", bare)
    torch.save({f"module.{name}": tensor for name, tensor in torch.load(wrapped).items()}, wrapped)
    expected = load_network(weights).state_dict()
    for name, tensor in load_network(wrapped).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = save_filled(tmp_path / "other.model", {"model.other.weight": (4, 4)})
    with pytest.raises(StageUnavailable, match="tensors missing"):
        TalkNet(path)
