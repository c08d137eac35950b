"""The clips of a dataset in Python: rows that are read when they are asked for, and their video and sound.

    import mit_builder as mb
    clips = mb.open_dataset("talks")
    clips[0].people[1].speaking     # (n_frames,) bool
    clips[0].video.frames(0, 25)    # (25, height, width, 3) uint8

Columns are those of docs/SCHEMA.md.
"""

from __future__ import annotations

import base64
import html
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mit_builder.console import hints
from mit_builder.console.wording import counted
from mit_builder.dataset.index import dataset_schema
from mit_builder.dataset.reader import DatasetFiles, RowReader
from mit_builder.errors import ConfigError, MediaError
from mit_builder.media.audio import read_flac
from mit_builder.media.clip import read_clip

MEDIA = ("clip", "audio")
"""Columns that may hold footage; read by themselves."""
NAMED = ("clip_id", "uploader", "channel_id")
"""Columns that say whether a clip was taken down."""
OPEN_GROUPS = 2
"""Row groups whose labels are kept in memory."""
MAX_SHOWN_BYTES = 20_000_000
"""Of a video that a notebook shows: it is stored in the notebook."""


class Record(Mapping[str, Any]):
    """Values by name, as keys and as attributes: `record["talk_share"]` is `record.talk_share`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"no {name!r}: there are {', '.join(self._values)}")
        return self._values[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={_short(self[name])}' for name in self)})"


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<{'x'.join(map(str, value.shape))} {value.dtype}>"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


class ClipVideo:
    """The video of one clip; nothing is read before it is asked for.

    Attributes:
        n_frames: frames of the clip's timeline, 25 a second, which labels lie on.
    """

    def __init__(self, files: DatasetFiles, row: Record, cells: Mapping[str, dict[str, Any]]) -> None:
        self._files, self._row, self._cells = files, row, cells
        self.n_frames: int = row.n_frames

    def read(self) -> bytes:
        """The MP4: H.264 and AAC.

        Raises:
            MediaError: it is gone.
            WorkspaceError: storage does not answer.
        """
        with tempfile.TemporaryDirectory(prefix="mit-build-") as folder:
            return self._file("clip", Path(folder)).read_bytes()

    def frames(self, start_frame: int = 0, end_frame: int | None = None) -> npt.NDArray[np.uint8]:
        """(end_frame - start_frame, height, width, 3) RGB: frame k of the timeline is what label k is about.

        Args:
            start_frame: first frame.
            end_frame: frame after the last; None for the clip's end.

        Raises:
            ConfigError: there are no such frames.
            MediaError: the video is gone or damaged.
            WorkspaceError: storage does not answer.
        """
        end = self.n_frames if end_frame is None else end_frame
        if not 0 <= start_frame < end <= self.n_frames:
            raise ConfigError(f"frames {start_frame} to {end} of a clip with {self.n_frames}: give 0 <= start < end")
        index = self._row.media_frame_index
        with tempfile.TemporaryDirectory(prefix="mit-build-") as folder:
            path = self._file("clip", Path(folder))
            shown = read_clip(path, self.n_frames, index, start_frame=start_frame, end_frame=end)
            return np.stack([frame.image for frame in shown])

    def sound(self) -> npt.NDArray[np.int16]:
        """(n_frames * 640,) samples of 16 kHz mono, as the models heard it before `gain_db`.

        Raises:
            MediaError: the sound is gone or damaged.
            WorkspaceError: storage does not answer.
        """
        with tempfile.TemporaryDirectory(prefix="mit-build-") as folder:
            return read_flac(self._file("audio", Path(folder)))

    def _file(self, column: str, folder: Path) -> Path:
        path = self._files.media(self._cells[column], folder / column)
        if path is None:
            raise MediaError(f"the {column} of {self._row.clip_id} is gone: open the dataset again")
        return path

    def _repr_html_(self) -> str:
        return shown_video(self.read(), f"{self._row.clip_id}.mp4")


def shown_video(mp4: bytes, name: str) -> str:
    """HTML in which a notebook shows a video; of a large one its name alone."""
    if len(mp4) > MAX_SHOWN_BYTES:
        return f"<code>{html.escape(name)}</code> ({len(mp4) / 1e6:.0f} MB, too large to be shown here)"
    data = base64.b64encode(mp4).decode()
    return f'<video controls style="max-width: 640px" src="data:video/mp4;base64,{data}"></video>'


class ClipRow(Record):
    """One clip: every column of the dataset but its footage, see docs/SCHEMA.md.

    Attributes:
        people: a `Record` a person, from left to right in the first frame.
        video: the clip's video and sound.
    """

    def __init__(
        self, values: Mapping[str, Any], files: DatasetFiles, media: RowReader, at: tuple[str, int, int]
    ) -> None:
        super().__init__({**values, "people": tuple(map(Record, values["people"]))})
        self._files, self._media, self._at = files, media, at

    @cached_property
    def video(self) -> ClipVideo:
        """The clip's video and sound."""
        return ClipVideo(self._files, self, self._media.row(*self._at))

    def _repr_html_(self) -> str:
        said = [f"{self.clip_id}: {self.n_frames / self.fps:.1f} s of {self.title or self.source_url}"]
        said += [f"person {person.person_id} speaks {100 * person.talk_share:.0f} %" for person in self.people]
        lines = "<br>".join(map(html.escape, said))
        return f"<div>{lines}</div>{self.video._repr_html_()}"


class _Group(NamedTuple):
    """Rows of a row group that may be read."""

    shard: str
    group: int
    rows: npt.NDArray[np.int64]


class Dataset(Sequence[ClipRow]):
    """The clips of a dataset, in the order of its index; those that were taken down are not among them.

    Args:
        place: a dataset or a workspace, as a folder or a URI.

    Attributes:
        columns: names of the dataset's columns.

    Raises:
        ConfigError: there is no dataset.
        WorkspaceError: storage does not answer.
    """

    def __init__(self, place: str | Path) -> None:
        self._files, self._uri = DatasetFiles(place), str(place)
        try:
            shards = self._files.index().shards
            self._groups = [group for shard in shards for group in self._groups_of(shard.name)]
            self.columns = self._columns_of(shards[0].name) if shards else ()
        except FileNotFoundError as error:
            raise ConfigError(f"{place} is being written anew, or a shard was lost: open it again") from error
        self._ends = list(accumulate(len(group.rows) for group in self._groups))
        self._labels = RowReader(self._files, self._without_footage(), OPEN_GROUPS)
        self._media = RowReader(self._files, MEDIA, 1)

    def _columns_of(self, shard: str) -> tuple[str, ...]:
        with self._files.parquet(shard) as file:
            return tuple(file.schema_arrow.names)

    def _groups_of(self, shard: str) -> Iterator[_Group]:
        stones = self._files.tombstones()
        with self._files.parquet(shard) as file:
            for group in range(file.num_row_groups):
                rows = np.arange(file.metadata.row_group(group).num_rows)
                if stones:
                    named = file.read_row_group(group, columns=list(NAMED), use_threads=False).to_pylist()
                    rows = np.array([i for i, row in enumerate(named) if not stones.bars_row(row)], np.int64)
                yield _Group(shard, group, rows)

    def _without_footage(self) -> list[str]:
        return [name for name in self.columns if name not in MEDIA]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> ClipRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClipRow]: ...
    def __getitem__(self, index: int | slice) -> ClipRow | list[ClipRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]  # raises IndexError, counts from the end
        number = bisect_right(self._ends, i)
        group = self._groups[number]
        first = self._ends[number] - len(group.rows)
        at = group.shard, group.group, int(group.rows[i - first])
        try:
            return ClipRow(self._labels.row(*at), self._files, self._media, at)
        except FileNotFoundError as error:
            raise MediaError(f"{group.shard} is gone: open the dataset again") from error

    def video(self, index: int) -> ClipVideo:
        """The video and sound of a clip.

        Raises:
            IndexError: there are fewer clips.
        """
        return self[index].video

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """A `pandas.DataFrame` with a line a clip; `people` is a list of dicts.

        Args:
            columns: names; None for all but the footage.

        Raises:
            ConfigError: there is no such column, or pandas is not installed.
            MediaError: a shard is gone.
        """
        wanted = self._without_footage() if columns is None else list(columns)
        unknown = [name for name in wanted if name not in self.columns]
        if unknown and self.columns:
            raise ConfigError(f"no column {unknown[0]!r}: there are {', '.join(self.columns)}")
        if find_spec("pandas") is None:
            raise ConfigError(f"to_pandas needs pandas: {hints.pip('pandas')}")
        tables = []
        for shard, group, rows in self._groups:
            try:
                with self._files.parquet(shard) as file:
                    tables.append(file.read_row_group(group, columns=wanted, use_threads=False).take(rows))
            except FileNotFoundError as error:
                raise MediaError(f"{shard} is gone: open the dataset again") from error
        empty = dataset_schema().empty_table().select([n for n in wanted if n in dataset_schema().names])
        return (pa.concat_tables(tables) if tables else empty).to_pandas()

    def __repr__(self) -> str:
        return f"Dataset({self._uri!r}, {counted(len(self), 'clip')})"
