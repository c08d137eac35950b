"""A stage: how sharp the faces of a clip are.

In: `PluginJob` after filter.cut. Out: `FaceFocus`, the column `face_focus` of the dataset. Rejects a clip in which
somebody's face is blurred: `face_out_of_focus`. The measure is the variance of the Laplacian (Pech-Pacheco et al. 2000)
of the face at one size, so that near and far faces compare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from pydantic import Field

from manifests.arrays import read_arrays
from manifests.fields import doc
from manifests.plugin_rows import PluginJob
from mit_builder.config.section import Section
from mit_builder.media.clip import read_clip
from mit_builder.models.base import Floats, Image
from mit_builder.stage import Context, Reject

SIDE_PX = 96
"""Faces are measured at this size."""


class FaceFocusSettings(Section):
    """`plugins.settings.face_focus`."""

    min_focus: float = Field(0.0, ge=0, description="somebody's face less sharp than this rejects the clip")
    every: int = Field(5, ge=1, description="every n-th frame is measured")


@dataclass(frozen=True)
class FaceFocus:
    """What the stage says of a clip."""

    min_focus: float = doc("of the person whose face is least sharp: median variance of the Laplacian")
    by_person: tuple[float, ...] = doc("the same of each person, by person_id")
    n_measured: int = doc("frames that were measured")


class MeasureFaceFocus:
    """See `mit_builder.stage.ClipStage`."""

    name: ClassVar[str] = "face_focus"
    version: ClassVar[int] = 1
    after: ClassVar[str] = "filter.cut"
    settings: ClassVar[type[Section]] = FaceFocusSettings
    emits: ClassVar[tuple[type, ...]] = (FaceFocus,)

    def __init__(self, settings: FaceFocusSettings) -> None:
        self._settings = settings

    def process(self, row: PluginJob, ctx: Context) -> Iterator[FaceFocus]:
        """Measure every n-th frame."""
        clip = row.clip
        with ctx.local(clip.people) as path:
            people = sorted(read_arrays(path), key=lambda person: person["person_id"])
        found = [list[float]() for _ in people]
        with ctx.local(clip.mp4) as path:
            for frame in read_clip(path, clip.n_frames, clip.media_frame_index):
                if frame.index % self._settings.every == 0:
                    for measured, person in zip(found, people, strict=True):
                        measured.extend(focus(frame.image, person["face_boxes_xyxy"][frame.index]))
        by_person = tuple(round(float(np.median(values)), 3) if values else 0.0 for values in found)
        if min(by_person) < self._settings.min_focus:
            raise Reject("face_out_of_focus", min_focus=min(by_person))
        yield FaceFocus(min(by_person), by_person, len(range(0, clip.n_frames, self._settings.every)))


def focus(image: Image, box: Floats) -> Iterator[float]:
    """Variance of the Laplacian of the face, if it is in the picture."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.clip(np.round(box), 0, (width, height, width, height)).astype(int)
    crop = image[top:bottom, left:right]
    if crop.size:
        grey = cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)
        yield float(cv2.Laplacian(cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA), cv2.CV_64F).var())
