"""WebDataset: tar files of samples for training pipelines that read them in order.

`SPLIT-000000.tar` holds for each clip `CLIP_ID.json` (all that is no array), `CLIP_ID.npz` (arrays, frames first; of
people, people before frames) and with media `CLIP_ID.mp4` and `CLIP_ID.flac`. Members have no owner and no time, so
that equal datasets give equal bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from manifests.dataset_row import Person
from manifests.fields import PERIODS
from mit_builder.exports.job import MEDIA, ExportedClip, Job

TAR_BYTES = 512 << 20
"""A tar that has grown this large is closed; WebDataset's documentation advises 100 MB to a few GB."""
_RAGGED = tuple(field.name for field in fields(Person) if field.metadata["arrow"] is PERIODS)
"""Lists of people that differ in length; they go into the JSON."""


def write(job: Job) -> None:
    """Write the tars, and `shards.json` with the clips of each."""
    writers: dict[str, _Tars] = {}
    for clip in job.clips(media=job.with_media):
        writer = writers.setdefault(clip.split, _Tars(job.folder, clip.split))
        meta, arrays = sample(clip.values)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        parts = {"json": json.dumps(meta, sort_keys=True, allow_nan=False).encode(), "npz": buffer.getvalue()}
        if job.with_media:
            parts |= {"mp4": clip.media("clip"), "flac": clip.media("audio")}
        writer.add(clip, parts)
    shards = {name: clips for writer in writers.values() for name, clips in writer.finish().items()}
    (job.folder / "shards.json").write_text(json.dumps(shards, indent=1) + "\n")
    if not job.with_media:
        job.notes.append("without --with-media the tars hold labels alone, no mp4 and no flac")


def sample(row: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """A row as JSON-ready values and as arrays; `people_NAME` is (n_people, n_frames, …)."""
    meta: dict[str, Any] = {}
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in row.items():
        if name in MEDIA or name == "people":
            continue
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            meta[name] = _plain(value)
    people = row["people"]
    meta["people"] = [
        {name: _plain(value) for name, value in person.items() if name in _RAGGED or not isinstance(value, np.ndarray)}
        for person in people
    ]
    for name, value in people[0].items() if people else ():
        if isinstance(value, np.ndarray) and name not in _RAGGED:
            stacked = np.stack([person[name] for person in people])
            arrays[f"people_{name}"] = stacked.astype(np.str_) if stacked.dtype == object else stacked
    return meta, arrays


def _plain(value: Any) -> Any:
    """The value with lists in the place of arrays, at any depth."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


class _Tars:
    """The tars of one split; one is open at a time."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._tar: tarfile.TarFile | None = None
        self._n_bytes = 0
        self._clips: dict[str, list[str]] = {}

    def add(self, clip: ExportedClip, parts: dict[str, bytes]) -> None:
        """One sample; its members stand together, as readers need them."""
        if self._tar is None or self._n_bytes >= TAR_BYTES:
            self._open()
        assert self._tar is not None
        for suffix, data in parts.items():
            member = tarfile.TarInfo(f"{clip.clip_id}.{suffix}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
            self._n_bytes += len(data)
        self._clips[list(self._clips)[-1]].append(clip.clip_id)

    def _open(self) -> None:
        self._close()
        name = f"{self._split}-{len(self._clips):06d}.tar"
        self._clips[name] = []
        self._n_bytes = 0
        self._tar = tarfile.open(self._folder / name, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed below

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()

    def finish(self) -> dict[str, list[str]]:
        """Close; clips by tar."""
        self._close()
        return self._clips
