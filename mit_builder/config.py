"""Settings: a YAML file and `--set section.key=value` on top of documented defaults.

Every field's description is what `mit-build init` writes as its comment. A field marked `key=False` steers how work is
done and cannot change what comes out; all others are part of the input key of the stages that read them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field

from mit_builder.errors import ConfigError


def how(default: Any, description: str, **kwargs: Any) -> Any:
    """A field that changes how work is done, never what comes out."""
    return Field(default, description=description, json_schema_extra={"key": False}, **kwargs)


class Section(BaseModel):
    """Base of all settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def key_values(self) -> dict[str, Any]:
        """The values that belong into an input key."""
        values = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            if isinstance(extra, dict) and extra.get("key") is False:
                del values[name]
        return values


class DownloadSettings(Section):
    """Settings of download."""

    format: str = Field(
        "bv*[height<=1080][protocol^=http]+ba[protocol^=http]/b[protocol^=http]",
        description="yt-dlp format selector for sites",
    )
    max_duration_s: float = Field(4 * 3600, gt=0, description="longer videos are rejected: too_long")
    max_file_gb: float = Field(8.0, gt=0, description="larger files are rejected: too_large")
    cookies_file: str | None = how(None, "Netscape cookie file for sites; makes rows access: authenticated")
    proxy: str | None = how(None, "proxy URL for sites and http(s)")
    rate_limit_kbps: int | None = how(None, "download rate limit in kilobytes a second")
    timeout_s: float = how(30.0, "socket time-out", gt=0)
    per_host: int = how(2, "downloads at once from one host", ge=1)


class ShotsSettings(Section):
    """Settings of shots."""

    detector: Literal["adaptive", "content", "hash", "threshold"] = Field(
        "adaptive", description="PySceneDetect detector, run on the 25 fps timeline"
    )
    threshold: float | None = Field(None, description="the detector's threshold; null = PySceneDetect's default")
    min_shot_frames: int = Field(12, ge=1, description="shorter shots are not looked at (MIT scripts: 12)")


class DetectSettings(Section):
    """Settings of filter.detect."""

    detect_stride: int = Field(2, ge=1, le=12, description="faces are searched in every n-th frame")
    tile_stride: int = Field(6, ge=1, description="four overlapping tiles are searched in every n-th frame")
    face_confidence: float = Field(0.4, ge=0, le=1, description="face detector's threshold (specs: 0.4)")
    track_iou: float = Field(0.5, gt=0, le=1, description="overlap that continues a track (MIT scripts: 0.5)")
    max_gap_frames: int = Field(12, ge=0, description="longest gap inside a track (MIT scripts: 12)")
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
    min_stillness: float = Field(0.25, ge=0, description="less change in a face (grey levels a frame): still_picture")
    max_bystander_area: float = Field(0.5, ge=0, description="bystander's face / smallest person's: bystander")


class CutSettings(Section):
    """Settings of filter.cut."""

    crf: int = Field(16, ge=0, le=51, description="H.264 quality of the clips")
    audio_kbps: int = Field(192, ge=32, description="AAC bit rate of the clips")


class FilterSettings(DetectSettings, SelectSettings, CutSettings):
    """Settings of the three filter steps."""


class PoseSettings(Section):
    """Settings of pose."""

    stride: int = Field(1, ge=1, le=5, description="pose in every n-th frame, linear in between")


class SpeechSettings(Section):
    """Settings of speech."""

    model: Literal["auto", "lips", "lr-asd", "talknet"] = Field("auto", description="auto: what the profile prefers")
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
    contact: str | None = how(None, "who answers requests of the people shown; stands in the dataset card")


class RunSettings(Section):
    """How a run goes on; nothing here changes what comes out."""

    cpus: int | None = how(None, "cores to use; null = all", ge=1)
    max_crashes: int = how(3, "a unit whose worker dies this often is poison", ge=1)
    overlays: int = how(10, "overlay videos made at the end of a run", ge=0)
    min_free_gb: float = how(2.0, "stop when the workspace's disk has less", ge=0)


class Settings(Section):
    """All settings of a run."""

    profile: Literal["auto", "embedded"] = Field("auto", description="model backends")
    download: DownloadSettings = DownloadSettings()
    shots: ShotsSettings = ShotsSettings()
    filter: FilterSettings = FilterSettings()
    pose: PoseSettings = PoseSettings()
    speech: SpeechSettings = SpeechSettings()
    shards: ShardsSettings = ShardsSettings()
    run: RunSettings = RunSettings()


def load(path: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a YAML file (or none) and `section.key=value` overrides; values are read as YAML.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or a value does not fit.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            loaded = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"cannot read settings file {path}: {' '.join(str(error).split())}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"settings file {path} must hold sections like 'filter:', see mit-build init")
        # A section whose lines are all commented out reads as null.
        values = {key: value for key, value in (loaded or {}).items() if value is not None}
    for override in overrides:
        _apply(values, override)
    return parse(values)


def parse(values: dict[str, Any]) -> Settings:
    """Validated settings.

    Raises:
        ConfigError: names the first wrong key and what is allowed.
    """
    try:
        return Settings.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"unknown setting {where}; mit-build init lists all settings") from error
        raise ConfigError(f"setting {where}: {first['msg']} (got {first['input']!r})") from error


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"--set {override!r} must look like filter.min_face_px=48")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not readable") from error
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section} is not a section")
    values[key] = value
