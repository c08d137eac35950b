"""Whether a manifest that somebody else made is one: every id and hash, before a rebuild writes or fetches anything.

Names of files are made of a row's ids and hashes, and labels are joined to what a source gives by them, so a row whose
parts do not fit together is refused, and with it the manifest: nothing of ours writes such a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.rows import TIMELINE_FPS, clip_id, short_id
from mit_builder.dataset.index import bucket_of
from mit_builder.dataset.plugged import plugged_fields
from mit_builder.errors import ConfigError
from mit_builder.exports.manifest import HASHES, Head, manifest_schema, read_manifest
from mit_builder.storage.tombstones import clip_span

COLUMNS = (
    *("clip_id", "video_id", "source_url", "start_s", "end_s", "n_frames", "width_px", "height_px", "media_fps"),
    *("source_frame_index", *HASHES),
)
SHOWN = 3
"""Rows that a message names."""
_SHA256 = re.compile(r"[0-9a-f]{64}")

Row = dict[str, Any]


def check_manifest(folder: Path, head: Head) -> None:
    """Look at every row of a manifest whose head was read.

    Raises:
        ConfigError: names the first rows that cannot be used.
    """
    try:
        found = {name: pq.read_schema(folder / name) for name in head.files}
        other = [name for name, schema in found.items() if not schema.equals(manifest_schema(plugged_fields(schema)))]
        wrong = [] if other else list(_wrong_rows(folder, head))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"the files of {folder} cannot be read: get the manifest again") from error
    if other:
        raise ConfigError(f"{folder / other[0]} has not the columns of a manifest: get the manifest again")
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        advice = "nothing was fetched; get the manifest again"
        raise ConfigError(f"{folder} cannot be rebuilt: {'; '.join(wrong[:SHOWN])}{more}: {advice}")


def _wrong_rows(folder: Path, head: Head) -> Iterator[str]:
    seen: set[str] = set()
    videos: dict[str, tuple[str, str | None]] = {}
    last_bucket = 0
    for n, table in enumerate(read_manifest(folder, head, list(COLUMNS)), 1):
        row = table.to_pylist()[0]
        problem = _problem(row)
        if problem is None:
            source = row["source_url"], row["source_sha256"]
            bucket = bucket_of(row["video_id"], head.n_buckets)
            if row["clip_id"] in seen:
                problem = "the clip is in it twice"
            elif videos.setdefault(row["video_id"], source) != source:
                problem = "other rows of its video name another source"
            elif bucket < last_bucket:
                problem = "it is not in the order of a dataset"
            seen.add(row["clip_id"])
            last_bucket = bucket
        if problem is not None:
            yield f"row {n} ({str(row['clip_id'])[:60]!r}): {problem}"


def _problem(row: Row) -> str | None:
    """What does not fit together in a row."""
    missing = [name for name in COLUMNS if row[name] is None and name != "source_sha256"]
    if missing:
        return f"{missing[0]} is missing"
    span = clip_span(row["clip_id"])
    if span is None or clip_id(*span) != row["clip_id"] or span[1] >= span[2]:
        return "this is no clip's id"
    video_id, start, end = span
    if row["video_id"] != video_id:
        return "video_id is another one"
    if row["n_frames"] != end - start or not np.allclose(
        (row["start_s"], row["end_s"]), (start / TIMELINE_FPS, end / TIMELINE_FPS), rtol=0, atol=1e-6
    ):
        return "start_s, end_s and n_frames are not those of its id"
    unlike = [name for name in HASHES if row[name] is not None and not _SHA256.fullmatch(row[name])]
    if unlike:
        return f"{unlike[0]} is no sha256"
    is_file, sha256 = row["source_url"].startswith("file:"), row["source_sha256"]
    if is_file and sha256 is not None and short_id("content", sha256) != video_id:
        return "video_id does not follow from source_sha256"
    index = row["source_frame_index"]
    if len(index) != row["n_frames"] or None in index or min(index) < 0:
        return "source_frame_index has not a frame for each of n_frames"
    if row["media_fps"] not in (str(TIMELINE_FPS), "source") or min(row["width_px"], row["height_px"]) < 1:
        return "media_fps, width_px or height_px cannot be"
    return None
