"""Artifacts of files that a test has written by itself."""

from __future__ import annotations

from pathlib import Path

from manifests.rows import Artifact
from mit_builder.storage.scratch import sha256_of


def promised(path: Path) -> Artifact:
    """A file in a folder of a workspace as a row would name it."""
    return Artifact(f"{path.parent.name}/{path.name}", sha256_of(path), path.stat().st_size)
