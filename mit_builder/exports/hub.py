"""A folder ready for the Hugging Face Hub: dataset card, Parquet a split, Video and Audio columns, small row groups."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa

from mit_builder.dataset.plugged import column_of
from mit_builder.dataset.shard_file import ShardFiles
from mit_builder.exports.job import MEDIA, ExportedClip, Job
from mit_builder.report.card import dataset_card
from mit_builder.report.statistics import COLUMNS, summarise
from mit_builder.storage.settings_file import last_settings

_LOADING = """## Reading it

```python
from datasets import load_dataset
rows = load_dataset("FOLDER-OR-REPOSITORY", split="{split}")  # splits here: {splits}
pairs = rows.filter(lambda n: n == 2, input_columns="n_people")
```

{media}
Splits are by channel or uploader, else by video, so that no host is in two of them. Boxes and keypoints are in pixels
of the clip. `captions` are what the source shows, not a checked transcript.
"""


def write(job: Job) -> None:
    """Write `data/SPLIT-00000.parquet` and README.md."""
    schema = _schema(job.schema, with_media=job.with_media)
    with ExitStack() as stack:
        splits: dict[str, ShardFiles] = {}
        for clip in job.clips(media=job.with_media):
            if clip.split not in splits:
                name = f"{clip.split}-{{:05d}}.parquet".format
                splits[clip.split] = stack.enter_context(ShardFiles(job.folder / "data", name, schema))
            splits[clip.split].add(_embedded(clip, schema, with_media=job.with_media))
    settings = last_settings(job.workspace)
    media = "`clip` is a Video and `audio` an Audio column." if job.with_media else "Footage is not in this copy."
    data_files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in sorted(splits)]
    card = dataset_card(
        summarise(job.rows(COLUMNS)),
        contact=settings.shards.contact if settings else None,
        data_files=data_files,
        loading=_LOADING.format(media=media, split=min(splits), splits=", ".join(sorted(splits))),
        has_media=job.with_media,
    )
    (job.folder / "README.md").write_text(card)
    if not job.with_media:
        job.notes.append("without --with-media the columns `clip` and `audio` are left out")


def _schema(schema: pa.Schema, *, with_media: bool) -> pa.Schema:
    if with_media:
        return schema
    metadata = {key: value for key, value in schema.metadata.items() if key != b"huggingface"}
    return pa.schema([field for field in schema if field.name not in MEDIA], metadata)


def _embedded(clip: ExportedClip, schema: pa.Schema, *, with_media: bool) -> pa.Table:
    """The clip's row with its media inside: a path alone means nothing in another folder."""
    table = clip.table
    for name in MEDIA if with_media else ():
        cell = table[name][0].as_py()
        if cell["bytes"] is None:
            values = pa.array([{"bytes": clip.media(name), "path": Path(cell["path"]).name}], schema.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), schema.field(name), values)
    return pa.Table.from_arrays([column_of(table, field).cast(field.type) for field in schema], schema=schema)
