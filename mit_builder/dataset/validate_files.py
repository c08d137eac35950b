"""The part of `mit-build validate` that looks at a workspace: whether the files that ledgers name are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from manifests.schema import artifacts
from mit_builder.config.settings import Settings
from mit_builder.engine.specs import ledger_of
from mit_builder.pipeline import steps_of
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.workspace import Workspace

ELSEWHERE = ("filter.select", "shards")
"""Steps whose files are looked at elsewhere: candidates name those of filter.detect, the dataset has an index."""


def damaged_files(place: str | Path) -> Iterator[tuple[str, str]]:
    """Key of every file that is gone or damaged, with what is wrong; all are read. None where no run has worked.

    What each unit put out last is looked at.

    Raises:
        WorkspaceError: storage does not answer.
    """
    workspace = Workspace(place, create=False)
    if not workspace.names("manifests"):
        return
    settings = last_settings(workspace) or Settings()
    for step in (step for step in steps_of(settings) if step.name not in ELSEWHERE):
        ledger = ledger_of(workspace, step.name, settings)
        yield from ((part, "is damaged") for part in ledger.damaged)
        for entry in ledger.newest():
            for artifact in (a for row in entry.outputs for a in artifacts(row)):
                problem = workspace.problem(artifact)
                if problem:
                    yield artifact.key, problem
