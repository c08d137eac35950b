"""Making an export: which form, what may leave, where it goes, and what the workspace remembers of it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mit_builder.console.wording import counted, counted_in_column
from mit_builder.errors import ConfigError
from mit_builder.exports.encoder import load_encoder
from mit_builder.exports.folder import Record, check_place, replacing, write_record
from mit_builder.exports.job import Job
from mit_builder.storage.tombstones import check_unchanged
from mit_builder.storage.workspace import Workspace

FORMATS = {
    "manifest": "mit_builder.exports.manifest",
    "mit": "mit_builder.exports.mit",
    "webdataset": "mit_builder.exports.webdataset",
    "coco-wholebody": "mit_builder.exports.coco",
    "hf": "mit_builder.exports.hub",
}
"""Module of each form; its `write(job)` fills the job's folder."""
KNOWN = "manifests/exports"
"""Folder of a workspace that names the exports made from it, so that a takedown reaches them."""


class NothingToExport(ConfigError):
    """No clip of the dataset may leave."""


@dataclass(frozen=True)
class ExportRequest:
    """What the user asked for; see `mit-build export --help`."""

    format: str
    output: Path
    with_media: bool
    audio_encoder: str | None = None
    only: Collection[str] | None = None


def make_export(workspace: Workspace, request: ExportRequest) -> list[str]:
    """Write one export; lines that say what went into it and what did not.

    Raises:
        ConfigError: the form is not known, or its place is taken.
        NothingToExport: there is no clip that may leave; what lies at the place stays.
        MediaError: a clip's media is missing or cannot be read.
    """
    if request.format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, not {request.format!r}")
    if request.format == "mit" and not request.with_media:
        raise ConfigError("--format mit is made of frames: add --with-media (read what you may pass on first)")
    if request.format == "manifest" and request.with_media:
        raise ConfigError("--format manifest holds no footage: leave out --with-media, or choose another form")
    output = Path(os.path.abspath(request.output.expanduser()))
    if workspace.root is not None and output.resolve().is_relative_to(workspace.root):
        raise ConfigError(f"{output} lies in the workspace, whose files are its own: give another --output")
    check_place(output, request.format)
    encoder = load_encoder(request.audio_encoder) if request.audio_encoder else None
    remember(workspace, output)  # first: what a killed export leaves must be found as well
    with replacing(output, request.format) as folder:
        job = Job(workspace, folder, request.with_media, encoder, request.only)
        if not job.plan.clip_ids:
            withheld, why = job.plan.n_withheld, "the dataset is empty"
            if withheld:
                why = f"its footage was fetched with a login ({counted(withheld, 'clip')})"
            raise NothingToExport(f"nothing to export: {why}")
        importlib.import_module(FORMATS[request.format]).write(job)
        named = Path(request.audio_encoder).name if request.audio_encoder else None  # no path of this machine
        record = Record(request.format, request.with_media, job.plan.clip_ids, audio_encoder=named)
        write_record(folder, record)
        check_unchanged(workspace, job.tombstones)
    return [f"{counted(len(job.plan.clip_ids), 'clip')}, {job.plan.hours:.3f} hours: {output}", *_said(job)]


def _said(job: Job) -> list[str]:
    plan, lines = job.plan, list(job.notes)
    if plan.n_withheld:
        lines.append(
            f"{counted(plan.n_withheld, 'clip')} left out: the footage was fetched with a login and is not passed on"
        )
    if job.with_media:
        lines.append("footage is in it; it stays under the terms of its sources, as they state them:")
        lines += [
            f"  {counted_in_column(n, 'clip')} {hours:8.3f} h  {name}" for name, (n, hours) in plan.licences.items()
        ]
    return lines


def remember(workspace: Workspace, output: Path) -> None:
    """Note in the workspace where an export lies."""
    text = json.dumps({"path": str(output)}) + "\n"
    workspace.write(f"{KNOWN}/{_name(output)}.json", text.encode())


def forget(workspace: Workspace, output: Path) -> None:
    """The inverse of `remember`."""
    workspace.delete([f"{KNOWN}/{_name(output)}.json"])


def known_exports(workspace: Workspace) -> list[Path]:
    """The folders into which this workspace was exported; they may be gone by now."""
    keys = sorted(key for key in workspace.names(KNOWN) if key.endswith(".json"))
    return [Path(json.loads(workspace.read(key))["path"]) for key in keys]


def _name(output: Path) -> str:
    return hashlib.sha256(str(output).encode()).hexdigest()[:16]
