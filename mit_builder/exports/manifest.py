"""The manifest: addresses, times, hashes and labels, no footage and no names, so that others fetch the footage anew.

manifest.json                   how the clips were cut, and which files hold the rows
clips-00000.parquet ...         the dataset's columns but `clip`, `audio` and what the source itself will say again
                                (title, uploader, channel, captions); sha256 of source, MP4 and FLAC in their place
README.md                       dataset card
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.ledger import Ledger
from manifests.rows import Source, Video
from mit_builder.config.settings import Settings
from mit_builder.dataset.index import SCHEMA_VERSION, dataset_schema
from mit_builder.dataset.plugged import column_of, plugged_fields
from mit_builder.dataset.shard_file import ShardFiles
from mit_builder.errors import ConfigError
from mit_builder.exports.job import MEDIA, ExportedClip, Job
from mit_builder.report.card import dataset_card
from mit_builder.report.statistics import COLUMNS, summarise
from mit_builder.storage.settings_file import last_settings
from mit_builder.storage.tombstones import BESIDE_DATASET
from mit_builder.storage.workspace import Workspace

HEAD = "manifest.json"
TOLD_BY_SOURCE = ("title", "uploader", "channel_id", "captions")
"""Columns that name people or repeat their words; who rebuilds gets them from the source, if it still shows them."""
MOST_BUCKETS = 1 << 20
"""No dataset has more shards."""
HASHES = ("source_sha256", "clip_sha256", "audio_sha256")

_LOADING = """## Rebuilding it

`mit-build rebuild THIS-FOLDER --workspace NAME` fetches each source again, cuts the same clips, compares hashes and
frames, and joins these labels to them. Sources that are gone or have changed are named and left out. For sources
of the form `file:NAME` give `--files FOLDER`. The labels alone open with
`datasets.load_dataset("parquet", data_files="clips-*.parquet")`.
"""


@dataclass(frozen=True)
class Head:
    """What `manifest.json` holds.

    Attributes:
        schema_version: of the dataset.
        n_buckets: shards of the dataset.
        crf: quality that the clips were cut with.
        audio_kbps: bit rate that the clips were cut with.
        files: names of the Parquet files, in order.
        fingerprint: sha256 over them, so that a rebuild goes on with the manifest it began with.
    """

    schema_version: int
    n_buckets: int
    crf: int
    audio_kbps: int
    files: tuple[str, ...]
    fingerprint: str


def manifest_schema(plugged: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns of the manifest's Parquet files, those of other packages' stages among them."""
    schema = dataset_schema(plugged)
    kept = [field for field in schema if field.name not in (*MEDIA, *TOLD_BY_SOURCE)]
    metadata = {key: value for key, value in schema.metadata.items() if key != b"huggingface"}
    return pa.schema([*kept, *(pa.field(name, pa.string()) for name in HASHES)], metadata)


def downloads(workspace: Workspace) -> dict[str, Video]:
    """The videos that a workspace has fetched, by `video_id`."""
    entries = Ledger(workspace, "download", (Video, Source)).entries()
    rows = (row for entry in entries if entry.status == "done" for row in entry.outputs)
    return {row.video_id: row for row in rows if isinstance(row, Video)}


def write(job: Job) -> None:
    """Write the manifest of a dataset."""
    schema, sources = manifest_schema(plugged_fields(job.schema)), downloads(job.workspace)
    with ShardFiles(job.folder, "clips-{:05d}.parquet".format, schema) as writer:
        for clip in job.clips(media=True):
            video = sources.get(clip.values["video_id"])
            writer.add(_row(clip, video.media.sha256 if video else None, schema))
    settings = last_settings(job.workspace) or Settings()
    head = Head(
        SCHEMA_VERSION,
        job.index.n_buckets,
        settings.filter.crf,
        settings.filter.audio_kbps,
        tuple(writer.names),
        _fingerprint(job.folder, writer.names),
    )
    (job.folder / HEAD).write_text(json.dumps(asdict(head), indent=1) + "\n")
    stones = job.tombstones
    if stones:
        (job.folder / BESIDE_DATASET).write_bytes(stones.dump(published=True))
    card = dataset_card(
        summarise(job.rows(COLUMNS)),
        contact=settings.shards.contact,
        data_files="clips-*.parquet",
        loading=_LOADING,
        has_media=False,
    )
    (job.folder / "README.md").write_text(card)


def _row(clip: ExportedClip, source_sha256: str | None, schema: pa.Schema) -> pa.Table:
    hashes = (source_sha256, *(hashlib.sha256(clip.media(name)).hexdigest() for name in MEDIA))
    values = dict(zip(HASHES, hashes, strict=True))
    columns = [pa.array([values[f.name]], f.type) if f.name in values else column_of(clip.table, f) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def _fingerprint(folder: Path, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def read_head(folder: Path) -> Head:
    """The head of a manifest, its files compared with their digest.

    Raises:
        ConfigError: it is none, was damaged, or is of another schema version.
    """
    try:
        values: dict[str, Any] = json.loads((folder / HEAD).read_text())
        head = Head(**{**values, "files": tuple(map(str, values["files"]))})
        are_whole = all(type(n) is int for n in (head.n_buckets, head.crf, head.audio_kbps))
        if not are_whole or not (1 <= head.n_buckets <= MOST_BUCKETS and 0 <= head.crf <= 51 and head.audio_kbps > 0):
            raise ValueError("numbers that cannot be")
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} is no manifest: it has no {HEAD}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / HEAD} is damaged: get the manifest again") from error
    if head.schema_version != SCHEMA_VERSION:
        raise ConfigError(f"the manifest has schema version {head.schema_version}, this program {SCHEMA_VERSION}")
    if any(Path(name).name != name or not (folder / name).is_file() for name in head.files):
        raise ConfigError(f"files that {folder / HEAD} names are missing: get the manifest again")
    if _fingerprint(folder, list(head.files)) != head.fingerprint:
        raise ConfigError(f"the files of {folder} do not fit its {HEAD}: get the manifest again")
    return head


def read_manifest(folder: Path, head: Head, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The manifest's rows in order, one a table."""
    for name in head.files:
        with pq.ParquetFile(folder / name) as file:
            for batch in file.iter_batches(batch_size=1, columns=columns, use_threads=False):
                yield pa.Table.from_batches([batch])
