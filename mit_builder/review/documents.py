"""Verdicts as JSON, as the report's page sends or exports them; checked before anything of them is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from manifests.rows import Correction, Review
from manifests.schema import to_dict
from mit_builder.console.wording import counted
from mit_builder.errors import ConfigError
from mit_builder.storage.tombstones import clip_span

FORMAT = "mit-builder-reviews"
MAX_BYTES = 64 << 20
"""A larger file is no export of a report."""

_Frame = Annotated[int, Field(ge=0, le=10_000_000)]
_Pixel = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class CorrectionDocument(_Document):
    """See `manifests.rows.Correction`."""

    person_id: Annotated[int, Field(ge=0, le=1000)]
    start_frame: _Frame
    end_frame: _Frame
    speaking: bool
    face_x_px: _Pixel
    face_y_px: _Pixel

    @model_validator(mode="after")
    def _has_frames(self) -> CorrectionDocument:
        if self.start_frame >= self.end_frame:
            raise ValueError("start_frame must be before end_frame")
        return self


class ReviewDocument(_Document):
    """See `manifests.rows.Review`."""

    clip_id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}_\d{6,}to\d{6,}$")]
    verdict: Literal["accept", "reject"] | None
    reason: Annotated[str, Field(max_length=500)]
    corrections: Annotated[list[CorrectionDocument], Field(max_length=10_000)]
    labels_checked: bool
    people: _Digest
    labels: _Digest

    @model_validator(mode="after")
    def _corrects_its_frames(self) -> ReviewDocument:
        span = clip_span(self.clip_id)
        n_frames = span[2] - span[1] if span else 0
        if any(correction.end_frame > n_frames for correction in self.corrections):
            raise ValueError(f"a correction goes beyond the clip, which has {counted(n_frames, 'frame')}")
        return self

    def row(self) -> Review:
        """The verdict as the ledger keeps it."""
        values = self.model_dump()
        values["corrections"] = tuple(Correction(**correction) for correction in values["corrections"])
        return Review(**{**values, "reason": " ".join(self.reason.split())})


class ChangeDocument(_Document):
    """What the page sends."""

    review: ReviewDocument
    instead_of: dict[str, Any] | None


class ExportDocument(_Document):
    """What the page exports."""

    format: Literal["mit-builder-reviews"]
    version: Literal[1]
    reviews: list[ReviewDocument]


def parse_change(text: bytes) -> tuple[Review, dict[str, Any] | None]:
    """A verdict that the page sends, and the document of the one that it knew as the latest.

    Raises:
        ConfigError: it is no verdict; the message is one line.
    """
    try:
        sent = ChangeDocument.model_validate_json(text)
        return sent.review.row(), sent.instead_of
    except ValidationError as error:
        raise ConfigError(f"this is no verdict: {_first(error)}") from error


def read_export(path: Path) -> list[Review]:
    """The verdicts of an exported file; of two on one clip the later one.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong: then nothing of it is taken.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than any export of a report")
        export = ExportDocument.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(f"{path} is no export of verdicts from a report: {_first(error)}") from error
    return list({review.clip_id: review.row() for review in export.reviews}.values())


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    return " ".join(f"{where}: {problem['msg']}".split())[:300]


def document(review: Review) -> dict[str, Any]:
    """A verdict as the page takes it, with the values that were kept."""
    return to_dict(review) | {"corrections": [to_dict(correction) for correction in review.corrections]}
