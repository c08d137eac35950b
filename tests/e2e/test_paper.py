"""The paper's profile from a video to a dataset, with small networks of all three models, on the CPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("ultralytics") is None:
    pytest.skip("the paper's models need torch and ultralytics (extra paper)", allow_module_level=True)

import tiny_sapiens
import tiny_yolo
import torch
from filled_weights import save_filled

from mit_builder.dataset.reader import DatasetFiles
from mit_builder.driver.progress import PlainLines
from mit_builder.driver.retry_policy import PASSES_BY_ITSELF
from mit_builder.errors import CannotContinue
from mit_builder.media.cut import cut_clip
from mit_builder.models.asd.talknet import TalkNetNetwork
from mit_builder.models.weights import store
from mit_builder.models.yolo import people
from mit_builder.pipeline_run import RunOutcome, RunRequest, run_pipeline
from mit_builder.storage.settings_file import Changes

SETTINGS = (
    "filter.min_clip_s=1",
    "filter.min_stillness=0",
    "filter.min_voice_activity=0",
    "pose.stride=5",
    "run.overlays=0",
    "shards.n_buckets=1",
)
EARS_APART = 13.2
"""In units of 32 pixels, of a picture of 640 x 384: of faces so large, few find room in a row."""


def run(place: Path, *arguments: str) -> RunOutcome:
    request = RunRequest(
        addresses=list(arguments),
        lists=[],
        workspace=str(place),
        changes=Changes.asked(None, ["profile=paper", *SETTINGS]),
        stages=["all"],
        forced=[],
        limit=None,
        retry=PASSES_BY_ITSELF,
        at_once=False,
        engine="serial",
        go_on=["run"],
    )
    outcome = run_pipeline(request, PlainLines())
    outcome.check()
    assert outcome.is_whole
    return outcome


def network_that_finds_people_everywhere() -> Any:
    """Whatever it is shown: a large person at every place of its coarsest grid."""
    network = tiny_yolo.network()
    head = network.model[-1]
    points = torch.full((17, 3), -9.0)
    points[:5] = torch.tensor([[0, 0, 3], [2, -1, 3], [-2, -1, 3], [EARS_APART / 2, 0, 3], [-EARS_APART / 2, 0, 3]])
    with torch.no_grad():
        for level in range(3):
            branches = (head.one2one_cv2[level][-1], head.one2one_cv3[level][-1], head.one2one_cv4_kpts[level])
            biases = (torch.tensor([5.0, 5, 5, 8]), torch.tensor([3.0 if level == 2 else -20]), points.flatten())
            for branch, bias in zip(branches, biases, strict=True):
                branch.weight.zero_()
                branch.bias.copy_(bias)
    return network


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(folder))
    small = tiny_yolo.config()
    monkeypatch.setattr(people, "architecture", lambda model: small)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, demo_video: Path) -> str:
    path = tmp_path_factory.mktemp("video") / "part.mp4"
    cut_clip(demo_video, 100, 130, path, path.with_suffix(".flac"), crf=16, audio_kbps=128)
    return str(path)


def put(cache: Path, name: str) -> Path:
    return cache / store.entry(name).file_name


def test_the_whole_profile_makes_a_dataset(
    cache: Path, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_yolo.save(put(cache, "yolo26x-pose"), network_that_finds_people_everywhere())
    tiny_sapiens.checkpoint(put(cache, "sapiens-2b"))
    shapes = {name: tuple(tensor.shape) for name, tensor in TalkNetNetwork().state_dict().items()}
    save_filled(put(cache, "talknet-talkset"), shapes)
    run(tmp_path / "ws", video)
    said = capsys.readouterr().out
    for line in ("people model: yolo26x-pose", "pose model: sapiens-2b", "speech model: talknet"):
        assert line in said
    (row,) = DatasetFiles(tmp_path / "ws").rows()
    assert row["detector"].startswith("ultralytics 8.")
    assert "yolo26x-pose" in row["detector"]
    assert row["pose_backend"].startswith("sapiens-2b ")
    assert row["speech_backend"].startswith("talknet-talkset ")
    assert row["label_tier"] == "model"
    assert row["n_people"] in (2, 3, 4)
    for person in row["people"]:
        assert len(person["keypoints"]) == len(person["speaking_score"]) == row["n_frames"] == 30
        assert len(person["keypoints"][0]) == 133
    assert not any(step.worked_on for step in run(tmp_path / "ws").tally.steps.values())


def test_missing_weights_are_all_named_before_anything_is_done(cache: Path, video: str, tmp_path: Path) -> None:
    with pytest.raises(CannotContinue) as caught:
        run(tmp_path / "ws", video)
    text = str(caught.value)
    assert "people model: yolo26x-pose needs: `mit-build weights fetch yolo26x-pose`" in text
    assert "pose model: sapiens-2b needs: `mit-build weights fetch sapiens-2b`" in text
    assert "speech model: talknet needs: `mit-build weights fetch talknet-talkset`" in text
    assert "mediapipe" not in text
    assert not (tmp_path / "ws" / "videos").exists()
