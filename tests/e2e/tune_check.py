"""Whether a real re-run keeps exactly the clips that `mit-build tune` foretells.

    python tests/e2e/tune_check.py FINISHED_WORKSPACE [filter.min_face_px=30 ...]

For every value the workspace is copied, `mit-build run --stage filter` goes over the copy with it (selection and
cutting, no fakes), and the clips that were cut are compared with what `tune --list-clips` said before. Values that are
not named are those of docs/TUNE.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from manifests.ledger import Ledger
from manifests.rows import Candidate, Clip
from mit_builder.storage.workspace import Workspace

VALUES = (
    *(f"filter.min_face_px={value}" for value in (24, 30, 48, 52, 80)),
    *(f"filter.min_clip_s={value}" for value in (1, 2.5, 4, 6.25, 8, 12)),
    *(f"filter.max_camera_motion_pct={value}" for value in (0.01, 0.03, 0.05, 0.3, 1, 5)),
)
"""Looser and tighter than the settings of the samples' workspace."""


@dataclass(frozen=True)
class Comparison:
    """Clips that were foretold, and those that a run made."""

    foretold: frozenset[str]
    new: frozenset[str]
    """Foretold ones that had not been kept before."""
    selected: frozenset[str]
    cut: frozenset[str]

    @property
    def agrees(self) -> bool:
        return self.foretold == self.selected == self.cut


def compare(workspace: Path, override: str, scratch: Path) -> Comparison:
    """Ask tune about one value, then let a run have it in a copy of the workspace below `scratch`."""
    name, _, value = override.partition("=")
    program = [sys.executable, "-m", "mit_builder"]
    asked = [*program, "tune", "-w", str(workspace), "--setting", name, "--values", value, "--list-clips", "--json"]
    columns = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)["settings"][name]
    told = next(column for column in columns if column["value"] == float(value))
    copy = scratch / override
    shutil.copytree(workspace, copy, ignore=shutil.ignore_patterns("report", ".lock"))
    before = set((copy / "manifests/filter.select").iterdir())
    run = [*program, "run", "-w", str(copy), "--engine", "serial", "--stage", "filter", "--set", override]
    subprocess.run(run, capture_output=True, text=True, check=True)
    assert set((copy / "manifests/filter.select").iterdir()) > before, "the run judged nothing"
    selected, cut = frozenset(_selected(copy)), frozenset(_cut(copy))
    shutil.rmtree(copy)
    return Comparison(frozenset(told["clip_ids"]), frozenset(told["new"]), selected, cut & selected)


def _selected(place: Path) -> Iterator[str]:
    """Clips that the latest verdict on each shot keeps; the ledger itself, not the program's reading of it."""
    ledger = Ledger(Workspace(place), "filter.select", (Candidate,))
    for entry in ledger.newest():
        yield from (row.clip_id for row in entry.outputs if row.verdict == "kept")


def _cut(place: Path) -> Iterator[str]:
    """Clips whose media are there."""
    ledger = Ledger(Workspace(place), "filter.cut", (Clip,))
    for entry in ledger.entries():
        yield from (row.clip_id for row in entry.outputs if (place / row.mp4.key).is_file())


def main(workspace: Path, overrides: list[str]) -> int:
    wrong = 0
    print("| setting | kept | new | selected by a run | cut by a run | equal |\n|---|---|---|---|---|---|")
    for override in overrides or VALUES:
        with tempfile.TemporaryDirectory(dir=workspace.parent) as scratch:
            found = compare(workspace, override, Path(scratch))
        counts = " | ".join(str(len(ids)) for ids in (found.foretold, found.new, found.selected, found.cut))
        print(f"| {override} | {counts} | {'yes' if found.agrees else 'NO'} |", flush=True)
        wrong += not found.agrees
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
