"""A plugin of pytest that runs the contract tests on one backend.

    pytest -p mit_builder.contract.plugin --mit-backend package.module:Class

A backend that a package announces, or one of ours, goes by its protocol and name: `--mit-backend pose.mediapipe`. The
pictures and the sound are those of the bundled demo. Needs pytest (`pip install 'mit-builder[contract]'`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import manifests
from manifests.rows import N_KEYPOINTS, SAMPLES_PER_FRAME
from mit_builder.config import backends, plugins
from mit_builder.config.backends import METHODS, ROLES, Role
from mit_builder.config.settings import DetectSettings, PoseSettings, SpeechSettings
from mit_builder.errors import ConfigError
from mit_builder.labels.keypoints import CHIN, FACE, INNER_LIP_LOWER, INNER_LIP_UPPER, NOSE_BRIDGE
from mit_builder.media.audio import read_samples
from mit_builder.media.frames import read_frames
from mit_builder.models.base import Floats, Image, SpeechInput

N_FRAMES, N_HEARD = 6, 250
"""Frames of the demo that a pose estimator and a voice detector are given."""
DEMO = Path(manifests.__file__).with_name("demo") / "demo.mp4"
OPTION = "--mit-backend"


@dataclass(frozen=True)
class Subject:
    """A backend to be tested.

    Attributes:
        name: in the names of tests.
        role: its protocol.
        load: makes it.
        knows_people: whether it was trained, so that it finds people where they are; not so with made-up weights.
        picture: two people that it finds; None for a frame of the demo.
    """

    name: str
    role: Role
    load: Callable[[], Any]
    knows_people: bool = True
    picture: Image | None = None


SUBJECTS = pytest.StashKey[list[Subject]]()


class Scene(NamedTuple):
    """Two people side by side: Mona Lisa at the left, Grace Hopper at the right."""

    frames: list[Image]
    boxes_xyxy: Floats
    face_boxes_xyxy: Floats


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--mit-backend`."""
    parser.addoption(OPTION, action="append", help="a backend to test: PACKAGE.MODULE:CLASS, or PROTOCOL.NAME")


def pytest_configure(config: pytest.Config) -> None:
    """Run the tests of the backends' protocols where no other tests are asked for."""
    try:
        subjects = [subject_of(text) for text in config.getoption(OPTION) or ()]
    except ConfigError as error:
        raise pytest.UsageError(f"{OPTION}: {error}") from error
    config.stash[SUBJECTS] = subjects
    if subjects and config.args_source is not pytest.Config.ArgsSource.ARGS:
        roles = dict.fromkeys(subject.role for subject in subjects)
        config.args[:] = [str(Path(__file__).with_name(f"test_{role}.py")) for role in roles]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs with each backend of its protocol."""
    subjects = metafunc.config.stash[SUBJECTS]
    parametrize(metafunc, subjects)


def parametrize(metafunc: pytest.Metafunc, subjects: Sequence[Subject]) -> None:
    """Run a test that takes a `subject` with those of its module's protocol."""
    role = getattr(metafunc.module, "ROLE", None)
    if "subject" in metafunc.fixturenames and role is not None:
        chosen = [subject for subject in subjects if subject.role == role]
        metafunc.parametrize("subject", chosen, ids=[subject.name for subject in chosen], scope="module")


def subject_of(text: str) -> Subject:
    """The backend of `package.module:Class`, of the one protocol that it has the methods of, or of `PROTOCOL.NAME`.

    Raises:
        ConfigError: there is none, or it has the methods of no protocol.
    """
    if not plugins.is_path(text):
        role, _, name = text.partition(".")
        if role not in ROLES:
            raise ConfigError(plugins.unknown("protocol", role, ROLES, "PACKAGE.MODULE:CLASS"))
        return _subject(role, name)
    kind = plugins.attribute(text)
    for role, methods in METHODS.items():
        if all(callable(getattr(kind, method, None)) for method in methods):
            return _subject(role, text)
    said = "; ".join(f"{role}: {', '.join(methods)}" for role, methods in METHODS.items())
    raise ConfigError(f"{text} has the methods of no protocol ({said})")


def _subject(role: Role, name: str) -> Subject:
    backends.check_name(role, name)
    found, settings = backends.find(role, name), settings_of(role, name)
    return Subject(f"{role}-{name.rpartition(':')[2]}", role, lambda: found.load(settings))


def settings_of(role: Role, name: str) -> DetectSettings | PoseSettings | SpeechSettings:
    """The section with this backend and defaults."""
    if role == "people":
        return DetectSettings(detector=name)
    if role == "pose":
        return PoseSettings(model=name)
    return SpeechSettings(model=name) if role == "speaker" else SpeechSettings(voice_detector=name)


@pytest.fixture(scope="module")
def backend(subject: Subject) -> Iterator[Any]:
    """The backend, loaded once for all tests of its protocol."""
    made = subject.load()
    yield made
    if "close" in METHODS[subject.role]:
        made.close()


@pytest.fixture(scope="module")
def picture(subject: Subject) -> Image:
    """(h, w, 3) RGB with two people."""
    return next(read_frames(DEMO)).image if subject.picture is None else subject.picture


@pytest.fixture(scope="module")
def scene() -> Scene:
    """The first frames of the demo, with boxes of its two people."""
    frames = [frame.image for frame in read_frames(DEMO, 0, N_FRAMES)]
    faces = np.array([(200, 106, 400, 362), (866, 150, 1067, 407)], np.float32)
    bodies = np.array([(0, 0, 740, 720), (524, 24, 1280, 720)], np.float32)
    return Scene(frames, *(np.repeat(boxes[:, None], N_FRAMES, axis=1) for boxes in (bodies, faces)))


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.int16]:
    """(n_samples,) mono at 16 kHz: ten seconds of the demo."""
    return read_samples(DEMO, 0, N_HEARD)


def mouths(*openings: npt.NDArray[np.float64]) -> SpeechInput:
    """What a speaker model is given of people whose lips open so far, in heights of the face; noise to see and hear."""
    n_frames, places = len(openings[0]), 30 * np.arange(len(openings), dtype=np.float32)
    rng = np.random.default_rng(5)
    images = rng.integers(0, 255, (n_frames, 90, 160, 3), np.uint8)
    return SpeechInput(
        frames=lambda: iter(images),
        samples=rng.integers(-9000, 9000, SAMPLES_PER_FRAME * n_frames, np.int16),
        voice_activity=np.ones(n_frames, np.float32),
        keypoints=np.stack([mouth(opening) for opening in openings]),
        face_boxes_xyxy=np.stack(
            [np.tile(np.array((40 + x, 10, 90 + x, 70), np.float32), (n_frames, 1)) for x in places]
        ),
    )


def mouth(opening: npt.NDArray[np.float64], score: float = 1.0) -> Floats:
    """(n_frames,) lip opening -> (n_frames, 133, 3): keypoints of a face 100 px high."""
    keypoints = np.full((len(opening), N_KEYPOINTS, 3), np.nan, np.float32)
    keypoints[..., 2] = 0
    keypoints[:, FACE] = (200, 200, score)
    keypoints[:, NOSE_BRIDGE, 1] = 150
    keypoints[:, CHIN, 1] = 250
    keypoints[:, INNER_LIP_UPPER, 1] = 220
    keypoints[:, INNER_LIP_LOWER, 1] = 220 + 100 * opening[:, None]
    return keypoints


def closed(n_frames: int) -> npt.NDArray[np.float64]:
    """A closed mouth with the jitter of tracked points."""
    return 0.02 + np.random.default_rng(1).normal(0, 0.002, n_frames)


def talking(n_frames: int) -> npt.NDArray[np.float64]:
    """Four syllables a second."""
    return np.asarray(closed(n_frames) + 0.06 * (1 + np.sin(2 * np.pi * 4 * np.arange(n_frames) / 25)))
