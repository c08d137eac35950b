"""Settings: a YAML file and `--set section.key=value` on top of documented defaults.

Every field's description is what `mit-build init` writes as its comment. A field marked `key=False` steers how work is
done and cannot change what comes out; all others are part of the input key of the stages that read them, those marked
`where set` (which came later, and must not cause everything to be fetched again) only where they have a value.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pydantic
import yaml
from pydantic import Field

from mit_builder.config import backends
from mit_builder.config import ytdlp_options as raw_options
from mit_builder.config.backends import PeopleModel, PoseModel, SpeakerModel, VoiceModel
from mit_builder.config.section import ONLY_WHERE_SET, Section, how
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import ConfigError, UnknownName

Precision = Literal["fp32", "bf16", "fp16"]


_VOICE = "who hears voices, PACKAGE.MODULE:CLASS or an installed backend; null: silero"


DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d+)?)$"
"""What a setting may name: the GPU where there is one, or what torch calls a device."""
_DEVICE = "where networks run: auto (a GPU where there is one), cpu, cuda or cuda:N"

UNREADABLE = (yaml.YAMLError, ValueError, OverflowError, RecursionError)
"""What reading YAML raises: besides its own errors, for dates that there are not, and for brackets thousands deep."""
LONGEST = 200
"""Characters of anybody's text that a message repeats."""

LANGUAGE_PATTERN = r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*$"
"""Codes of ISO 639, with or without a region."""
BROWSER_PATTERN = (
    r"^(brave|chrome|chromium|edge|firefox|opera|safari|vivaldi|whale)"
    r"(\+(basictext|gnomekeyring|kwallet|kwallet5|kwallet6))?(:[^:]+)?(::.+)?$"
)
"""Browsers and keyrings that yt-dlp can read (2026.8)."""


class DownloadSettings(Section):
    """Settings of download."""

    secrets: ClassVar[frozenset[str]] = frozenset(("proxy",))
    secret_files: ClassVar[frozenset[str]] = frozenset(("cookies_file",))
    volatile: ClassVar[frozenset[str]] = frozenset(("cookies_from_browser",))

    format: str = Field(
        "bv*[height<=1080][protocol^=http]+ba[protocol^=http]/b[protocol^=http]"
        "/bv*[height<=1080][protocol=m3u8_native]+ba[protocol=m3u8_native]"
        "/b[height<=?1080][protocol=m3u8_native]/b[protocol=m3u8_native]",
        description="yt-dlp format selector for sites; by default HLS only where there is nothing else",
    )
    max_duration_s: float = Field(4 * 3600, gt=0, le=48 * 3600, description="longer videos are rejected: too_long")
    max_file_gb: float = Field(8.0, gt=0, description="larger files are rejected: too_large")
    max_frame_megapixels: float = Field(
        67.2, gt=0, le=67.2, description="larger pictures are rejected: too_large (8K: 33.2)"
    )
    audio_language: str | None = Field(
        None,
        description="language to be heard where there are several, e.g. en; null: the original, else the default one",
        pattern=LANGUAGE_PATTERN,
        json_schema_extra={"key": "where set"},
    )
    speech_level_dbfs: float | None = Field(
        None,
        ge=-40,
        le=-10,
        description="level to which speech is brought for the models; null: -23 (EBU R 128; docs/SOUND.md)",
        json_schema_extra={"key": "where set"},
    )
    captions: list[str] = Field(
        ["all"],
        description="all: what people wrote, in any language; en: what people wrote in it, else what a machine did",
        max_length=20,
    )
    cookies_file: str | None = how(None, "Netscape cookie file for sites; makes rows access: authenticated")
    cookies_from_browser: str | None = how(
        None,
        "cookies of a browser on this machine, BROWSER[+KEYRING][:PROFILE][::CONTAINER]; access: authenticated",
        pattern=BROWSER_PATTERN,
    )
    ytdlp_options: dict[str, Any] = Field(
        {}, description="more options of yt-dlp's API, from an allow-list (mit_builder/config/ytdlp_options.py)"
    )
    proxy: str | None = how(None, "proxy URL for sites and http(s)")
    rate_limit_kbps: int | None = how(None, "download rate limit in kilobytes a second")
    timeout_s: float = how(30.0, "socket time-out", gt=0)
    time_limit_s: float = how(3 * 3600, "longest time for one download", gt=0, le=3.5 * 3600)
    min_free_gb: float = how(1.0, "a download stops when its disk has less", ge=0)
    allow_private_addresses: bool = how(False, "fetch from this machine and private networks too")
    per_host: int = how(2, "downloads at once from one host", ge=1)
    host_interval_s: float = how(1.0, "least time between two downloads that start at one host", ge=0)
    host_failures: int = how(5, "a host that fails so often in a row is left alone for a while", ge=1)
    host_rest_s: float = how(30.0, "for how long at first; doubled each time", ge=0)
    host_rests: int = how(6, "after so many rests without an answer a host is left to the next run", ge=0)
    refresh_s: float = how(86400.0, "playlists and channels last looked at so long ago are looked at again", ge=0)
    host_refusals: int = how(3, "a host that asks for a login so often in a row is left to the next run", ge=1)

    @pydantic.field_validator("ytdlp_options")
    @classmethod
    def _only_allowed(cls, values: dict[str, Any]) -> dict[str, Any]:
        return raw_options.checked(values)


class ShotsSettings(Section):
    """Settings of shots."""

    detector: Literal["adaptive", "content", "hash", "threshold"] = Field(
        "adaptive", description="PySceneDetect detector, run on the 25 fps timeline"
    )
    threshold: float | None = Field(None, description="the detector's threshold; null = PySceneDetect's default")
    min_shot_frames: int = Field(12, ge=1, description="shorter shots are not looked at (MIT scripts: 12)")


class DetectSettings(Section):
    """Settings of filter.detect."""

    detector: PeopleModel = Field("auto", description=f"who finds people; {backends.choice('people')}")
    voice_detector: VoiceModel | None = Field(None, description=_VOICE, json_schema_extra=ONLY_WHERE_SET)
    detect_stride: int = Field(2, ge=1, le=12, description="faces are searched in every n-th frame")
    tile_stride: int = Field(6, ge=1, description="four overlapping tiles are searched in every n-th frame")
    face_confidence: float = Field(0.4, ge=0, le=1, description="mediapipe's threshold for a face (specs: 0.4)")
    person_confidence: float = Field(0.25, ge=0, le=1, description="YOLO's threshold for a person (ultralytics: 0.25)")
    track_iou: float = Field(0.5, gt=0, le=1, description="overlap that continues a track (MIT scripts: 0.5)")
    max_gap_frames: int = Field(12, ge=0, description="longest gap inside a track (MIT scripts: 12)")
    device: str = how("auto", _DEVICE, pattern=DEVICE_PATTERN)
    detect_batch: int = how(16, "frames that YOLO searches at once on a GPU", ge=1)
    run_s: float = how(600.0, "shots of about this length are decoded together", gt=0)


class SelectSettings(Section):
    """Settings of filter.select: moved without decoding anything again."""

    min_people: int = Field(2, ge=1, description="fewer qualifying people: too_few_people")
    max_people: int = Field(4, ge=1, description="more: too_many_people")
    min_face_px: float = Field(64.0, ge=0, description="root of each person's mean face area (MIT scripts: 64)")
    min_face_area_ratio: float = Field(0.5, ge=0, le=1, description="smallest/largest mean face (MIT scripts: 0.5)")
    max_camera_motion_pct: float = Field(0.15, ge=0, description="median background motion, % of width a frame")
    min_clip_s: float = Field(5.0, gt=0, description="shorter: too_short (MIT scripts: 125 frames)")
    max_clip_s: float = Field(30.0, gt=0, description="longer ones are split in silences")
    min_voice_activity: float = Field(0.1, ge=0, le=1, description="share of frames with speech: no_speech")
    voice_threshold: float = Field(0.25, ge=0, le=1, description="speech probability of a frame with speech")
    min_stillness: float = Field(
        0.5,
        ge=0,
        description="a face that moves less by itself in 0.5 s, % of its size: still_picture (docs/VALIDATION.md)",
    )
    max_view_similarity: float = Field(
        0.8, ge=0, le=1, description="a face found so well in the picture's other half is one person in 3D, seen twice"
    )
    max_bystander_area: float = Field(0.5, ge=0, description="bystander's face / smallest person's: bystander")


class CutSettings(Section):
    """Settings of filter.cut."""

    crf: int = Field(16, ge=0, le=51, description="H.264 quality of the clips")
    audio_kbps: int = Field(192, ge=32, description="AAC bit rate of the clips")
    media_fps: Literal[25, "source"] = Field(
        25, description="frames a second of the clips; source: the source's own, labels stay on the 25 fps timeline"
    )


class FilterSettings(DetectSettings, SelectSettings, CutSettings):
    """Settings of the three filter steps."""


class PoseSettings(Section):
    """Settings of pose."""

    model: PoseModel = Field("auto", description=backends.choice("pose"))
    stride: int = Field(1, ge=1, le=5, description="pose in every n-th frame, linear in between")
    precision: Precision = Field("fp32", description="number format of Sapiens' products")
    flip_test: bool = Field(False, description="Sapiens: average with the mirrored picture; takes twice as long")
    torchscript: bool = Field(False, description="Sapiens: run the TorchScript program, not our network (fp32)")
    device: str = how("auto", _DEVICE, pattern=DEVICE_PATTERN)
    batch: int = how(16, "Sapiens: crops that a GPU is given together; on the CPU it is always one", ge=1)
    compile: bool = how(False, "Sapiens: compile the network for the GPU, which takes minutes at the start")


class SpeechSettings(Section):
    """Settings of speech."""

    model: SpeakerModel = Field("auto", description=backends.choice("speaker"))
    voice_detector: VoiceModel | None = Field(None, description=_VOICE, json_schema_extra=ONLY_WHERE_SET)
    precision: Precision = Field("fp32", description="number format of the network's products")
    device: str = how("auto", _DEVICE, pattern=DEVICE_PATTERN)
    min_voice_activity: float = Field(
        0.1,
        ge=0,
        le=1,
        description="voice activity below which nobody counts as speaking (chosen: docs/VALIDATION.md)",
    )
    merge_below_frames: int = Field(25, ge=0, description="shorter periods are merged (MIT scripts: 25)")


class ShardsSettings(Section):
    """Settings of shards."""

    n_buckets: int = Field(16, ge=1, description="shards of a new dataset; fixed at its first write")
    embed_media: bool = Field(True, description="MP4 and FLAC inside the Parquet; false: paths only")
    val_share: float = Field(0.05, ge=0, le=1, description="share of uploaders in the val split")
    test_share: float = Field(0.05, ge=0, le=1, description="share of uploaders in the test split")
    min_body_visible: float = Field(
        0.0, ge=0, le=1, description="clips in which somebody's body_visible_ratio is lower are left out"
    )
    contact: str | None = how(None, "who answers requests of the people shown; stands in the dataset card")


class PluginSettings(Section):
    """Stages of other packages."""

    stages: list[str] = Field([], description="names of installed ones, or PACKAGE.MODULE:CLASS (docs/PLUGINS.md)")
    settings: dict[str, dict[str, Any]] = Field({}, description="what they read, by the name of the stage")

    @pydantic.field_validator("stages", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [name for name in value.split(",") if name] if isinstance(value, str) else value


class RunSettings(Section):
    """How a run goes on; nothing here changes what comes out."""

    cpus: int | None = how(None, "cores to use; null = all, of a cluster those of all its nodes", ge=1)
    ray_address: str | None = how(
        None,
        "a Ray cluster to join, HOST:PORT or auto; null: RAY_ADDRESS in the environment, else its own Ray",
    )
    max_attempts: int = how(3, "attempts in one run at what may pass: network, disk, memory", ge=1)
    retry_base_s: float = how(2.0, "wait before the second attempt, with jitter; doubled each time", ge=0)
    retry_max_s: float = how(300.0, "longest wait before another attempt, also of the next run", ge=0)
    max_crashes: int = how(3, "a unit whose worker dies this often is poison", ge=1)
    log: Literal["off", "stderr", "workspace"] = how(
        "off", "a line of JSON for every unit, with its id: off, stderr, or workspace (logs/RUN/*.jsonl)"
    )
    gpus: int | None = how(None, "GPUs to plan with on a cluster that grows on demand; null: those it has", ge=0)
    drain_s: float | None = how(
        None, "at SIGTERM running units may end for so long; null: what Ray's job service grants, else 0", ge=0
    )
    overlays: int = how(10, "overlay videos made at the end of a run", ge=0)
    min_free_gb: float = how(2.0, "stop when the workspace's disk has less", ge=0)
    scratch_gb: float = how(50.0, "a remote workspace's files on a machine's own disk (TMPDIR) take at most this", ge=1)


class Settings(Section):
    """All settings of a run."""

    profile: Literal["auto", "embedded", "paper"] = Field(
        "auto", description="models that auto means; auto: paper where torch can use a GPU, else embedded"
    )
    download: DownloadSettings = DownloadSettings()
    shots: ShotsSettings = ShotsSettings()
    filter: FilterSettings = FilterSettings()
    pose: PoseSettings = PoseSettings()
    speech: SpeechSettings = SpeechSettings()
    shards: ShardsSettings = ShardsSettings()
    plugins: PluginSettings = PluginSettings()
    run: RunSettings = RunSettings()


ORIGIN = "origin"
"""What a workspace's settings file says besides of where its values came from: no setting."""


def load(path: Path | None = None, overrides: Iterable[str] = (), *, base: Settings | None = None) -> Settings:
    """Settings from `base`, what a YAML file names in its place, and `section.key=value` overrides, read as YAML.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value does not fit.
    """
    return parse(merged(base.model_dump() if base else {}, read(path) if path else {}, overrides))


def read(path: Path) -> dict[str, Any]:
    """What a settings file names.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        loaded = yaml.safe_load(path.read_text())
    except (OSError, *UNREADABLE) as error:
        why = error.strerror if isinstance(error, OSError) else _line(error)
        raise ConfigError(f"cannot read settings file {path}: {why}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"settings file {path} must hold sections like 'filter:', see {hints.say(Hint.SETTINGS)}")
    # A section whose lines are all commented out reads as null.
    return {key: value for key, value in (loaded or {}).items() if value is not None and key != ORIGIN}


def merged(values: dict[str, Any], named: dict[str, Any], overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Values by section with others put into their place, and overrides on top; nothing is judged yet.

    Raises:
        ConfigError: an override cannot be read.
    """
    found = dict(values)
    for name, value in named.items():
        both = isinstance(value, dict) and isinstance(found.get(name), dict)
        found[name] = {**found[name], **value} if both else value
    found = copy.deepcopy(found)
    for override in overrides:
        _apply(found, override)
    return found


def parse(values: dict[str, Any]) -> Settings:
    """Validated settings.

    Raises:
        ConfigError: names the first wrong key and what is allowed.
    """
    try:
        return Settings.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = _line(".".join(str(part) for part in first["loc"]))
        if first["type"] in ("extra_forbidden", "invalid_key"):
            raise ConfigError(f"unknown setting {where}{_did_you_mean(where)}") from error
        if isinstance(known := first.get("ctx", {}).get("error"), UnknownName):
            raise ConfigError(f"setting {where}: {known}") from error
        raise ConfigError(f"setting {where}: {_line(first['msg'])} (got {_line(repr(first['input']))})") from error


def names() -> Iterator[str]:
    """Every setting as `--set` takes it: "section.key", or "profile"."""
    for section, field in Settings.model_fields.items():
        keys = getattr(field.annotation, "model_fields", None)
        yield from (section,) if keys is None else (f"{section}.{key}" for key in keys)


def _did_you_mean(wrong: str) -> str:
    """The setting that was meant: of the same name in another section, of a similar name, or a section."""
    key = wrong.rpartition(".")[2]
    whole = {name: name for name in (*names(), *Settings.model_fields)}
    by_key = {name.rpartition(".")[2]: name for name in names()}
    likely = [name for name in names() if name.rpartition(".")[2] == key]
    for known, text, cutoff in ((whole, wrong, 0.8), (by_key, key, 0.7)):
        likely = likely or [known[near] for near in difflib.get_close_matches(text, known, n=1, cutoff=cutoff)]
    return f": did you mean {' or '.join(likely)}?" if likely else f"; all: {hints.say(Hint.SETTINGS)}"


def _line(text: object) -> str:
    """What somebody wrote, or what a library says of it, as part of one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    said = _line(repr(override))
    if not equals or not name:
        raise ConfigError(f"--set {said} must look like filter.min_face_px=48")
    try:
        value = yaml.safe_load(text)
    except UNREADABLE as error:
        raise ConfigError(f"--set {said}: the value is not readable") from error
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {said}: {_line(section)} is not a section")
    values[key] = value
