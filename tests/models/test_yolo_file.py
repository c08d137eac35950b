"""Files that pretend to be YOLO's weights: what is in them is never executed."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("ultralytics") is None:
    pytest.skip("YOLO needs torch and ultralytics (extra paper)", allow_module_level=True)

import tiny_yolo
import torch

from mit_builder.config.backends import ours
from mit_builder.errors import CannotContinue, StageUnavailable
from mit_builder.models.weights import store
from mit_builder.models.yolo import people
from mit_builder.models.yolo.checkpoint import read_yolo
from mit_builder.models.yolo.people import YoloPeople


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIT_BUILDER_WEIGHTS", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def evaluated(trace: Path) -> dict[str, Any]:
    """A configuration that leaves a file when ultralytics builds a network from it."""
    text = f"__import__('pathlib').Path({str(trace)!r}).touch() or torch.nn.SiLU()"
    return {**tiny_yolo.config(), "activation": text}


def touch(trace: Path) -> Call:
    return Call(Path.touch, trace)


def open_like_yolo(path: Path) -> None:
    YoloPeople(path, "yolo26n-pose", confidence=0.2, device="cpu", batch=1)


@pytest.mark.parametrize("load", [read_yolo, store.import_file, open_like_yolo])
@pytest.mark.parametrize("new_format", [True, False])
def test_calls_of_functions_are_refused(tmp_path: Path, load: Callable[[Path], Any], new_format: bool) -> None:
    model = tiny_yolo.network()
    for place in ("file", "state"):
        hostile = (
            {"model": model, "ema": None} if place == "state" else {"model": model, "ema": touch(tmp_path / "done")}
        )
        if place == "state":
            model.criterion = touch(tmp_path / "done")
        path = tmp_path / f"{place}.pt"
        torch.save(hostile, path, _use_new_zipfile_serialization=new_format)
        with pytest.raises(StageUnavailable, match=f"{path.name} are refused"):
            load(path)
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(touch(tmp_path / "done")))
    with pytest.raises(StageUnavailable, match=r"plain\.pt are refused"):
        load(plain)
    assert not (tmp_path / "done").exists()


def test_an_allowed_class_is_not_called(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import PoseModel

    trace, path = tmp_path / "done", tmp_path / "call.pt"
    torch.save({"model": Call(PoseModel, evaluated(trace))}, path)
    with pytest.raises(StageUnavailable, match=r"call\.pt are refused"):
        read_yolo(path)
    assert not trace.exists()
    with torch.serialization.safe_globals([PoseModel]):
        torch.load(path, weights_only=True)
    assert trace.exists(), "were the class itself allowed, the file would be executed"


def test_nothing_of_the_models_state_but_tensors_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, config = tmp_path / "done", tiny_yolo.config()
    monkeypatch.setattr(people, "architecture", lambda model: config)
    model = tiny_yolo.network()
    model.yaml = evaluated(trace)
    model.save, model.stride, model.forward, model.fuse = [], torch.zeros(9), "x", "y"
    model.model[-1].end2end = False
    model.model[-1].__dict__["forward"] = "z"
    path = tiny_yolo.save(tmp_path / "attributes.pt", model)
    made = YoloPeople(path, "yolo26n-pose", confidence=0.2, device="cpu", batch=1)
    assert "activation" not in made._network.yaml
    assert made._network.model[-1].end2end
    assert not trace.exists()


def test_a_model_that_contains_itself_is_refused(tmp_path: Path) -> None:
    for name in ("itself", "shared"):
        model = tiny_yolo.network()
        if name == "itself":
            model.model[0]._modules["again"] = model.model[0]
        else:
            inner = model.model[0]
            for _ in range(20):  # a million parts, if each were followed wherever it occurs
                inner = torch.nn.Sequential(inner, inner)
            model.model.add_module("holder", inner)
        path = tmp_path / f"{name}.pt"
        torch.save({"model": model}, path)
        with pytest.raises(StageUnavailable, match=r"refused: .* occurs twice"):
            read_yolo(path)


@pytest.mark.parametrize("content", [{"model": None}, {"a": torch.zeros(2)}, [1, 2], {"model": torch.zeros(3)}])
def test_files_without_a_model_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(StageUnavailable, match=r"other\.pt are refused: they hold no model"):
        read_yolo(path)


def test_tensors_are_those_of_the_model_and_halves_become_whole(tmp_path: Path) -> None:
    model = tiny_yolo.network()
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    read = read_yolo(tiny_yolo.save(tmp_path / "tiny.pt", model))
    assert read.keys() == wanted.keys()
    assert all(torch.equal(read[name], wanted[name].half()) for name in wanted if wanted[name].is_floating_point())
    network = people.load_network(tiny_yolo.config(), tmp_path / "tiny.pt")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("size", ["n", "s"])
def test_a_file_is_recognised_by_its_tensors(tmp_path: Path, folder: Path, size: str) -> None:
    name = f"yolo26{size}-pose"
    path = tiny_yolo.save(tmp_path / "renamed.bin", tiny_yolo.network(size=people.architecture(name)))
    assert store.import_file(path).name == name
    assert store.find(name) == folder / f"{name}.pt"
    assert store.missing_for(ours("people")[name]) is None
    with pytest.raises(CannotContinue, match="none of the weights"):
        store.import_file(tiny_yolo.save(tmp_path / "tiny.pt", tiny_yolo.network()))


def test_the_table_has_the_shapes_of_ultralytics_networks() -> None:
    for name in ours("people").keys() - {"mediapipe"}:
        tensors = people._tasks().PoseModel(people.architecture(name), verbose=False).state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        for other in ours("people").keys() - {"mediapipe"}:
            assert store._fits(store.entry(other), shapes) == (other == name)


def test_a_pose_file_may_hold_what_publishers_leave_in_it(tmp_path: Path) -> None:
    import numpy as np
    from ultralytics.utils import IterableSimpleNamespace

    path, model = tmp_path / "full.pt", tiny_yolo.network()
    model.args = IterableSimpleNamespace(imgsz=640)
    model.loss = model.model[-1].bias_init
    extra = {"train_metrics": {"fitness": np.float64(0.5)}, "data": Path("coco.yaml"), "names": {0, 1}}
    torch.save({**extra, "model": model}, path)
    assert len(read_yolo(path)) == len(model.state_dict())
