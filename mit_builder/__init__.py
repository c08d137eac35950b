"""The machine that turns a list of videos into a labelled multi-human talking dataset.

    import mit_builder as mb
    result = mb.run(["a.mp4", "urls.txt"], workspace="talks", progress=True)
    clips = mb.open_dataset("talks")

What the names stand for is in mit_builder/api.py and docs/PYTHON.md. Importing this imports no model and no Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mit_builder.version import __version__

if TYPE_CHECKING:
    from mit_builder.api import Preview, RunResult, Status, export, open_dataset, preview, run, status
    from mit_builder.dataset.clips import ClipRow, ClipVideo, Dataset
    from mit_builder.dataset.torch_dataset import ClipDataset
    from mit_builder.errors import (
        CannotContinue,
        ConfigError,
        LeaseLost,
        MediaError,
        MitBuilderError,
        StageUnavailable,
        WorkspaceError,
    )

__all__ = [
    "CannotContinue",
    "ClipDataset",
    "ClipRow",
    "ClipVideo",
    "ConfigError",
    "Dataset",
    "LeaseLost",
    "MediaError",
    "MitBuilderError",
    "Preview",
    "RunResult",
    "StageUnavailable",
    "Status",
    "WorkspaceError",
    "__version__",
    "export",
    "open_dataset",
    "preview",
    "run",
    "status",
]
_ELSEWHERE = {
    "ClipDataset": "dataset.torch_dataset",
    "ClipRow": "dataset.clips",
    "ClipVideo": "dataset.clips",
    "Dataset": "dataset.clips",
    **dict.fromkeys(
        (
            *("CannotContinue", "ConfigError", "LeaseLost", "MediaError", "MitBuilderError"),
            *("StageUnavailable", "WorkspaceError"),
        ),
        "errors",
    ),
}
"""Modules of the names that are not in `api`."""


def __getattr__(name: str) -> Any:
    """A public name, from its module: imported when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
