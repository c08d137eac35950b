"""The rows of stages of other packages: what they are given, and how what they say is handed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from manifests.fields import doc
from manifests.rows import Clip, Pose, Speech


@dataclass(frozen=True)
class PluginJob:
    """Input of a stage of another package: a clip, and what the steps before it have made of it."""

    clip: Clip = doc("the clip")
    pose: Pose | None = doc("its keypoints; none where the stage stands before pose")
    speech: Speech | None = doc("its labels; none where the stage stands before speech")


@dataclass(frozen=True)
class PluginRow:
    """What a stage of another package says of a clip: a column of the dataset."""

    stage: str = doc("name of the stage, and of the column")
    made_by: str = doc("its package and version")
    row: Any = doc("a row of the stage's own class", arrow=pa.null())
