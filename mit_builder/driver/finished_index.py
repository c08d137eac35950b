"""The index of finished sources: those of which nothing is due. A run skips them without looking at their units.

To look at a unit takes about 0.4 ms (measured on fakes) and memory; ten million clips are fifty million units. So the
end of a run writes a row for every finished source: what it adds to the run's counts, the files that were made of it,
and a digest of its clips. The next run with the same plan (settings, versions, backends, and what people decided) joins
these rows with its list of sources and looks at the units of the others alone. Rows are a shortcut, and count only

- while every part of the ledger that was there when they were written is still there with the same bytes (a part whose
  file has changed since is read and its digest compared);
- while the files that they name are there and look as they did (see mit_builder/storage/damaged_files.py; where
  there are more than a million, while the folders have not changed);
- for a video that several sources have, only when just these are asked for, all together, and no source that is not
  skipped has it;
- until a unit of the source is worked on again (forced, or a failure that is retried): that is written here before the
  ledger learns what came of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from manifests.ids import id_of
from manifests.rows import Source
from mit_builder.driver.counts import Count, RunCounts
from mit_builder.driver.finished_store import FILES, NUMBERS, Head, Row, Store
from mit_builder.storage.source_catalog import SourceList
from mit_builder.storage.workspace import FOLDERS, Workspace

FROM_SOURCES = 1000
"""Runs over fewer sources skip none: to look at all of them takes seconds."""
CHECK_BELOW = 1_000_000
"""Files that are looked at one by one: 25 us each in a local listing. More are taken to be as they were while their
folders have not changed; on storage whose folders have no time, always. `mit-build run --verify` looks at all."""
ARTIFACT_FOLDERS = tuple(folder for folder in FOLDERS if folder != "dataset")

Array = np.ndarray[Any, Any]


class FinishedIndex:
    """The finished sources of a workspace, and which of them this run skips.

    Args:
        plan: hash of all that the keys of units depend on besides their rows.
        ledgers: folders of the ledgers.
        index: digest of the dataset's index.

    Attributes:
        chosen: (n,) bool, the rows whose sources this run skips.
    """

    def __init__(self, workspace: Workspace, plan: str, ledgers: Collection[str], index: str = "") -> None:
        self._workspace = workspace
        self.plan = id_of(plan)
        self._store = Store(workspace, ledgers)
        self.trusted = frozenset(self._store.head.parts)
        """Parts of ledgers that were seen whole and have not changed since."""
        is_same = self._store.head.plan == self.plan and self._store.head.index == index
        self.published = dict(self._store.head.buckets) if is_same else {}
        """Shards that are as they were when they were published, as far as the rows know."""
        every = {name: self._store.column(name).to_numpy() for name in NUMBERS}
        self._next_seq = int(every["seq"].max(initial=-1)) + 1
        self._known = np.unique(every["source"][~every["gone"]])
        self._added: set[int] = set()
        self._touched: set[int] = set()
        self._has_all_files = self._store.head.plan == self.plan and self._store.head.folders == self._folder_times()
        """Whether no row that counts names a file that is gone."""
        live = _live(every, self.plan)
        self._columns = {name: column[live] for name, column in every.items()}
        """The rows that count, column by column. Merging parts of the store moves rows in it; their `seq` stays."""
        self._can_skip = np.zeros(len(live), bool)
        self.chosen = np.zeros(len(live), bool)
        self._sorted: dict[str, tuple[Array, Array]] = {}
        self._waiting: dict[str, Row] = {}
        """By source the row that is to be written next."""
        self.n_listed = 0

    def choose(self, sources: SourceList, avoid: Collection[str]) -> SourceList:
        """Choose the sources to skip, and return the others.

        Args:
            sources: all sources of the run.
            avoid: classes of failures that are due again.
        """
        ids, missing = sources.ids(), self._without_files()
        self._has_all_files = not (missing & ~np.isin(self._columns["source"], ids)).any()
        self._can_skip = ~self._failed_of(avoid) & ~missing
        self.chosen = self._can_skip & np.isin(self._columns["source"], ids)
        incomplete = self._incomplete_groups(np.flatnonzero(self.chosen & (self._columns["video"] != 0)))
        self.chosen[incomplete] = self._can_skip[incomplete] = False
        self.n_listed = int(self.chosen.sum())
        return sources.where(~np.isin(ids, self._columns["source"][self.chosen]))

    def _incomplete_groups(self, rows: Array) -> Array:
        """The rows whose video had other sources as well, not all of which are in `rows`."""
        incomplete = np.zeros(len(rows), bool)
        for name in ("keeper", "video", "media"):
            _, group, n = np.unique(self._columns[name][rows], return_inverse=True, return_counts=True)
            incomplete |= n[group] != self._columns["n_group"][rows]
        found: Array = rows[incomplete]
        return found

    def _failed_of(self, classes: Collection[str]) -> Array:
        failed, seqs = self._store.column("failed"), self._store.column("seq").to_numpy()
        bad = np.zeros(len(seqs), bool)
        for name in classes:
            bad |= pc.match_substring(failed, name).to_numpy()
        return np.isin(self._columns["seq"], seqs[bad])

    def _without_files(self) -> Array:
        """Rows that name a file that is gone, has another size, or was written to after its unit had ended."""
        missing = np.zeros(len(self._can_skip), bool)
        has_times = self._workspace.root is not None
        are_many = self._store.n_files > CHECK_BELOW
        if not len(missing) or (are_many and (self._has_all_files or not has_times)):
            return missing
        found = {key: state for f in ARTIFACT_FOLDERS for key, state in self._workspace.states(f"{f}/").items()}
        names = pa.array(found, pa.string())
        sizes, times_s = np.array([*found.values(), (-1, 0.0)]).T  # the last stands for what is not there
        lost: list[Array] = []
        for table in self._store.artifacts():
            column, n_bytes, ended_s = (table[name].combine_chunks() for name in FILES.names[1:])
            at = pc.index_in(column.flatten(), value_set=names).fill_null(len(found)).to_numpy()
            wrong = sizes[at] != n_bytes.flatten().to_numpy()
            if has_times:
                wrong |= times_s[at] > ended_s.flatten().to_numpy()
            rows = pc.list_parent_indices(column).filter(pa.array(wrong))
            lost.append(table["seq"].take(pc.unique(rows)).to_numpy())
        return np.isin(self._columns["seq"], np.concatenate(lost)) if lost else missing

    def _folder_times(self) -> dict[str, int | None]:
        return {folder: self._workspace.folder_time_ns(folder) for folder in ARTIFACT_FOLDERS}

    def arrives(self, source_id: str) -> int | None:
        """Skip a source that a playlist holds, if it is finished: the shard with its clips, -1 for none.

        None where its units have to be looked at.
        """
        for row in self._rows("source", id_of(source_id)):
            if self.chosen[row] or (
                self._can_skip[row] and self._columns["n_group"][row] == 1 and not self._is_shared(row)
            ):
                self.chosen[row] = True
                return int(self._columns["bucket"][row])
        return None

    def _is_shared(self, row: int) -> bool:
        """Whether a skipped source has the same video."""
        video, media = int(self._columns["video"][row]), int(self._columns["media"][row])
        return video != 0 and any(self.chosen[r] for r in self._with_video(video, media))

    def _with_video(self, video: int, media: int) -> list[int]:
        return [*self._rows("video", video), *self._rows("media", media)]

    def same_video(self, video_id: str, sha256: str) -> list[Source]:
        """Stop skipping the sources that have this video, and return them: a source that is not skipped has it too."""
        rows = self._with_video(id_of(video_id), id_of(sha256))
        self._can_skip[rows] = False
        return self._recall([row for row in rows if self.chosen[row]])

    def in_bucket(self, bucket: int) -> list[Source]:
        """Stop skipping the sources with clips in this shard, and return them."""
        return self._recall([row for row in self._rows("bucket", bucket) if self.chosen[row]])

    def _recall(self, rows: Sequence[int]) -> list[Source]:
        keepers = {int(self._columns["keeper"][row]) for row in rows} - {0}
        whole = {r for keeper in keepers for r in self._rows("keeper", keeper) if self.chosen[r]} | set(rows)
        self.chosen[list(whole)] = self._can_skip[list(whole)] = False
        return self._sources(sorted(whole))

    def _sources(self, rows: list[int]) -> list[Source]:
        found = self._store.some(["source_id", "address", "kind"], self._columns["seq"][rows])
        return [Source(**row) for table in found for row in table.to_pylist()]

    def _rows(self, name: str, value: int) -> list[int]:
        if name not in self._sorted:
            order = np.argsort(self._columns[name], kind="stable")
            self._sorted[name] = order, self._columns[name][order]
        order, values = self._sorted[name]
        wanted = values.dtype.type(value)
        low, high = np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")
        found: list[int] = order[low:high].tolist()
        return found

    def has_part_in(self, bucket: int) -> bool:
        """Whether a skipped source has clips in a shard."""
        return any(self.chosen[row] for row in self._rows("bucket", bucket))

    def total(self, bucket: int) -> int:
        """Sum of the digests of the clips that skipped sources have in a shard."""
        return (
            sum(int(self._columns["digest"][row]) for row in self._rows("bucket", bucket) if self.chosen[row]) % 2**64
        )

    def totals(self) -> dict[int, int]:
        """`total` of every shard with any such clip."""
        mine = self.chosen & (self._columns["bucket"] >= 0)
        buckets, place = np.unique(self._columns["bucket"][mine], return_inverse=True)
        sums = np.zeros(len(buckets), np.uint64)
        np.add.at(sums, place, self._columns["digest"][mine])
        return dict(zip(buckets.tolist(), sums.tolist(), strict=True))

    def add_to(self, tally: RunCounts) -> None:
        """Add the counts of the skipped sources."""
        for table in self._store.some(["counts"], self._columns["seq"][self.chosen]):
            for count in _summed(table["counts"]):
                tally.add(count)

    def touch(self, source_id: str) -> None:
        """Mark the row of a source as gone: one of its units is worked on again."""
        number = id_of(source_id)
        at = int(np.searchsorted(self._known, np.uint64(number)))
        written = at < len(self._known) and int(self._known[at]) == number
        if (written or number in self._added) and number not in self._touched:
            self._touched.add(number)
            self._waiting[source_id] = Row(Source(source_id, "", "url"), gone=True)

    def add(self, row: Row) -> None:
        """Keep the row of a finished source until the next `write`."""
        self._waiting[row.source.source_id] = row
        self._added.add(id_of(row.source.source_id))
        self._touched.discard(id_of(row.source.source_id))

    @property
    def n_waiting(self) -> int:
        """Rows not yet written."""
        return len(self._waiting)

    def write_gone(self) -> None:
        """Write which rows count no more. Called before the ledger learns what came of the units."""
        gone = [row for row in self._waiting.values() if row.gone]
        if gone:
            self._waiting = {name: row for name, row in self._waiting.items() if not row.gone}
            self._put(gone)

    def _put(self, rows: list[Row]) -> None:
        self._store.write(rows, self.plan, self._next_seq)
        self._next_seq += len(rows)

    def write(self, index: str, *, at_rest: bool) -> None:
        """Write the new rows, and the state of ledgers, folders and shards under which they count.

        Args:
            index: digest of the dataset's index.
            at_rest: nothing is being worked on, so that folders change no more.
        """
        rows, self._waiting = self._waiting, {}
        if rows:
            self._put(list(rows.values()))
        folders = self._folder_times() if at_rest and self._has_all_files else {}
        self._store.settle(Head(self.plan, {}, folders, dict(self.published), index))

    def merged(self, old: list[str], new: list[str]) -> None:
        """Parts of a ledger were merged into new ones and are about to be deleted."""
        head = self._store.head
        if head.parts.keys() & set(old):
            stamps = self._store.stamps()
            parts = {k: s for k, s in head.parts.items() if k not in old} | {k: stamps[k] for k in new}
            self._store.write_head(replace(head, parts=parts))


def _live(every: dict[str, Array], plan: int) -> Array:
    """Indices of the rows that count: the last of their source under this plan, and none later says it is gone."""
    mine = np.flatnonzero((every["plan"] == plan) | every["gone"])
    order = mine[np.lexsort((every["seq"][mine], every["source"][mine]))]
    sources = every["source"][order]
    last = order[np.append(sources[1:] != sources[:-1], True)] if len(order) else order
    return np.sort(last[~every["gone"][last]])


def _summed(counts: pa.ChunkedArray) -> list[Count]:
    flat = counts.combine_chunks().flatten()
    if not len(flat):
        return []
    table = pa.Table.from_arrays(flat.flatten(), names=[f.name for f in flat.type])
    summed = table.group_by("what").aggregate([("n", "sum"), ("seconds", "sum"), ("low", "min"), ("high", "max")])
    return [
        Count(row["what"], row["n_sum"], row["seconds_sum"], row["low_min"], row["high_max"])
        for row in summed.to_pylist()
    ]
