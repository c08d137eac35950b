"""Deleting what tombstones bar, wherever in a workspace it lies; from the tombstones alone, as often as asked.

Whoever finishes a takedown that was killed needs no names: every id found in the workspace is hashed and compared. What
is only made out of other things (pages of a report, the funnel) is deleted as a whole and made anew by the next run.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ledger import DAMAGED
from mit_builder.dataset.index import FOLDER, Index, index_text, parse_index, stale_shards
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.dataset.shard_file import ShardFile
from mit_builder.errors import DamagedIndexError
from mit_builder.report.clips import REPORT, write_card
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.source_catalog import SOURCES_KEY, SourceCatalog
from mit_builder.storage.tombstones import BESIDE_DATASET, CLIP_ID, KEY, Tombstones
from mit_builder.storage.workspace import Workspace

_TEXT = (".json", ".jsonl", ".html", ".js", ".csv", ".txt", ".md", ".log")
_DIGEST = re.compile(r"\.[0-9a-f]{16}\.parquet$")
_DERIVED = (f"{REPORT}/", f"{DAMAGED}/", "manifests/settled/")
"""Folders of what is made anew; of the report, pictures of clips that stay are kept."""
_MADE_ANEW = ("manifests/settled/", "logs/", "report/forecast.json")
_BATCH_ROWS = 1024
_LIGHT = ("clip_id", "uploader", "channel_id")


def purge(workspace: Workspace, stones: Tombstones) -> None:
    """Delete everything that is barred; exports aside (mit_builder/removal/takedown.py).

    The caller holds the lease. Unfinished downloads and damaged parts of the ledger go as well: nobody can tell whose
    they are.
    """
    purged = _Purge(workspace, stones)
    purged.dataset()
    purged.tables()
    purged.files()
    workspace.sweep(keep_partial_s=0)


class _Purge:
    """One pass over a workspace."""

    def __init__(self, workspace: Workspace, stones: Tombstones) -> None:
        self._workspace, self._stones = workspace, stones

    def dataset(self) -> None:
        """Rewrite the shards that hold barred rows, swap the index, then delete what it no longer names."""
        if not self._workspace.exists(INDEX_KEY):
            return
        try:
            index = parse_index(self._workspace.read(INDEX_KEY).decode(errors="replace"))
        except DamagedIndexError:  # nobody can tell what the dataset is: the next run writes it anew
            self._workspace.delete([key for key in self._workspace.names(FOLDER) if not key.endswith(BESIDE_DATASET)])
            return
        shards = []
        for shard in index.shards:
            key = f"{FOLDER}/{shard.name}"
            if not self._workspace.exists(key):
                continue
            with self._workspace.local(key) as path:
                if sha256_of(path) != shard.sha256:  # nobody can tell whom it shows: the next run writes it anew
                    continue
                barred = {row["clip_id"] for row in _rows(path, _LIGHT) if self._stones.bars_row(row)}
                kept = [not self._stones.bars_name_in(name) for name in shard.media]
                media, digests = (tuple(compress(of, kept)) for of in (shard.media, shard.media_sha256))
                if not barred:
                    shards.append(shard)
                elif shard.n_clips > len(barred):
                    name, digest = self._without(path, shard.name, barred)
                    n_clips = shard.n_clips - len(barred)
                    named = replace(shard, name=name, sha256=digest, media=media, media_sha256=digests)
                    shards.append(replace(named, n_clips=n_clips))
        changed = Index(index.schema_version, index.n_buckets, tuple(shards))
        if changed != index:
            self._workspace.write(INDEX_KEY, index_text(changed).encode())
        names = [key.removeprefix(f"{FOLDER}/") for key in self._workspace.names(FOLDER)]
        self._workspace.delete([f"{FOLDER}/{name}" for name in stale_shards(changed, names)])
        self._workspace.write(f"{FOLDER}/{BESIDE_DATASET}", self._stones.dump(published=True))
        settings = last_settings(self._workspace)
        write_card(self._workspace, contact=settings.shards.contact if settings else None)

    def _without(self, path: Path, name: str, barred: set[str]) -> tuple[str, str]:
        """Write a shard without some clips; its new name and digest."""
        new = self._workspace.scratch("takedown") / "shard.parquet"
        with pq.ParquetFile(path) as old, ShardFile(new, old.schema_arrow) as file:
            for batch in old.iter_batches(batch_size=1, use_threads=False):
                if batch.column("clip_id")[0].as_py() not in barred:
                    file.add(pa.Table.from_batches([batch]))
        digest = sha256_of(new)
        place = f"{name.partition('.')[0]}.{digest[:8]}.parquet"
        self._workspace.commit(new, f"{FOLDER}/{place}")
        return place, digest

    def tables(self) -> None:
        """Rewrite every other table that names something barred: the ledger, reviews, the source book."""
        existing = self._workspace.names("")
        # A shortcut that the next run writes anew, and history that nothing reads.
        gone = {key for key in existing if key.startswith(_MADE_ANEW)}
        self._workspace.delete(sorted(gone))
        existing -= gone
        for key in sorted(existing):
            in_dataset = key.startswith(f"{FOLDER}/")
            if key.endswith(".parquet") and key.startswith("manifests/") and not in_dataset and key != SOURCES_KEY:
                self._rewrite(key, existing)
        if SOURCES_KEY in existing:
            SourceCatalog(self._workspace).save()

    def _rewrite(self, key: str, existing: set[str]) -> None:
        try:
            table = pq.read_table(io.BytesIO(self._workspace.read(key)), use_threads=False, pre_buffer=False)
        except (pa.ArrowException, OSError):
            self._workspace.delete([key])
            return
        kept: list[dict[str, Any]] = []
        changed = False
        for batch in table.to_batches(max_chunksize=_BATCH_ROWS):
            for row in batch.to_pylist():
                left = self._row(row, key, existing)
                changed = changed or left != row
                kept += [left] if left is not None else []
        if not changed:
            return
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(kept, table.schema), buffer, compression="zstd")
        data = buffer.getvalue()
        # The name of a part of the ledger ends in a digest of its bytes.
        new = _DIGEST.sub(f".{hashlib.sha256(data).hexdigest()[:16]}.parquet", key)
        self._workspace.write(new, data)
        if new != key:
            self._workspace.delete([key])

    def _row(self, row: dict[str, Any], key: str, existing: set[str]) -> dict[str, Any] | None:
        """A row without what is barred in its outputs; None where the row itself is."""
        if self._is_barred(row, key):
            return None
        left: dict[str, Any] = {}
        for name, value in row.items():
            left[name] = self._outputs(value, key) if isinstance(value, list) and name.startswith("out_") else value
            if name == "out_video" and left[name] != value:
                return None
            if name == "out_shard" and any(out["parquet"]["key"] not in existing for out in value or ()):
                return None
        return left

    def _outputs(self, outputs: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
        """Outputs that are not barred; of a sample of clips, the clips that are not."""
        kept = []
        for out in outputs:
            if isinstance(out.get("clip_ids"), list):
                clip_ids = [name for name in out["clip_ids"] if not self._stones.bars_name_in(name)]
                kept.append(out | {"clip_ids": clip_ids})
            elif not self._is_barred(out, key):
                kept.append(out)
        return kept

    def _is_barred(self, values: dict[str, Any], key: str) -> bool:
        """Whether any text in a row names something barred; of a video, the bytes of its file as well."""
        media = values.get("media")
        if isinstance(media, dict) and self._stones.bars("content", media.get("sha256")):
            return True
        if isinstance(values.get("clip_id"), str) and self._stones.bars_clip(values["clip_id"]):
            return True
        texts = (text for name, text in values.items() if not name.startswith("out_"))
        return any(self._stones.bars_name_in(text, key) for text in _strings(texts))

    def files(self) -> None:
        """Delete files that are named after something barred, and texts and pages that name it."""
        doomed = []
        for key in self._workspace.names(""):
            name = Path(key).name
            if key == INDEX_KEY or key in (KEY, f"{FOLDER}/{BESIDE_DATASET}"):
                continue
            is_derived = key.startswith(_DERIVED) and not CLIP_ID.match(name)
            if is_derived or self._stones.bars_name_in(name, key):
                doomed.append(key)
            elif name.endswith(_TEXT) and not key.startswith(f"{FOLDER}/"):
                text = self._workspace.read(key).decode(errors="replace")
                if self._stones.bars_name_in(text, key):
                    doomed.append(key)
        self._workspace.delete(sorted(doomed))


def _rows(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, columns=list(columns), use_threads=False).to_pylist()
    return rows


def _strings(values: Iterable[Any]) -> Iterable[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from _strings(value.values())
        elif isinstance(value, list):
            yield from _strings(value)
