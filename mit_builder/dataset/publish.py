"""Publishing the dataset while a run goes on: shards first, then the index in one write, then what is stale goes.

A run of weeks writes a shard many times. Of the files before the ones that the index names, those just replaced stay,
so that whoever has read the index still finds them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable

from manifests.rows import Artifact, Shard
from mit_builder.console.wording import counted
from mit_builder.dataset.index import FOLDER, INDEX_NAME, Index, bucket_of, parse_index, publish_index, stale_shards
from mit_builder.errors import DamagedIndexError
from mit_builder.storage.tombstones import Tombstones, check_unchanged
from mit_builder.storage.workspace import Workspace

INDEX_KEY = f"{FOLDER}/{INDEX_NAME}"
_N_BUCKETS = re.compile(r"-of-(\d+)\.")


class Publisher:
    """Keeps `dataset/index.json` at what the runner has settled.

    Args:
        n_buckets: shards of a dataset that has no index yet.
        written: gives the shards that were written last; asked where the index is damaged.
        tell: takes a line about that.

    Attributes:
        n_buckets: shards the dataset may have; of the published index, else as configured.
        has_written: whether another dataset was published.
    """

    def __init__(
        self,
        workspace: Workspace,
        n_buckets: int,
        *,
        written: Callable[[], Iterable[Shard]] = tuple,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._workspace, self._tombstones = workspace, Tombstones.of(workspace)
        self.has_written = False
        self._there: dict[str, tuple[int, float]] | None = None
        """Size and time of every file in the dataset's folder."""
        self._replaced: dict[int, Shard] = {}
        """By bucket the shard before the one of today."""
        self.n_buckets = n_buckets
        self._shards: dict[int, Shard] = {}
        try:
            text = workspace.read(INDEX_KEY).decode(errors="replace")
            self._take_up(parse_index(text))
        except FileNotFoundError:
            return
        except DamagedIndexError:
            tell(f"{INDEX_KEY} is damaged: it is written anew from what the ledger knows")
            self._recover(written())

    def _take_up(self, index: Index) -> None:
        counts = {found[1] for s in index.shards if (found := _N_BUCKETS.search(s.name))}
        if counts - {f"{index.n_buckets:05d}"}:
            raise DamagedIndexError(
                f"{INDEX_NAME} counts {counted(index.n_buckets, 'shard')}, its files have other names"
            )
        self.n_buckets = index.n_buckets
        for s in index.shards:
            digests = s.media_sha256 or ("",) * len(s.media)
            media = tuple(Artifact(f"{FOLDER}/{n}", digest, 0) for n, digest in zip(s.media, digests, strict=False))
            self._shards[s.bucket] = Shard(s.bucket, Artifact(f"{FOLDER}/{s.name}", s.sha256, 0), media, s.n_clips)

    def _recover(self, written: Iterable[Shard]) -> None:
        """Go on with the shards that were written last, as far as they are there."""
        for shard in written:
            found = _N_BUCKETS.search(shard.parquet.key)
            if found and self._is_there(shard.parquet.key):
                self.n_buckets = int(found[1])
                self._shards[shard.bucket] = shard

    def bucket(self, video_id: str) -> int:
        """The shard that holds a video's clips."""
        return bucket_of(video_id, self.n_buckets)

    def key(self, bucket: int) -> str | None:
        """The file of a shard; None where the dataset has none, or it is gone."""
        shard = self._shards.get(bucket)
        return shard.parquet.key if shard is not None and self._is_there(shard.parquet.key) else None

    def expects(self, key: str) -> bool:
        """Whether a file should be there: not what later shards have replaced, which was deleted with them."""
        named = (artifact.key for shard in self._shards.values() for artifact in (shard.parquet, *shard.media))
        return not key.startswith(f"{FOLDER}/") or key in named

    def _is_there(self, key: str) -> bool:
        if self._there is None:
            self._there = self._workspace.states(FOLDER)
        return key in self._there

    def is_as_written(self, bucket: int, key: str, n_bytes: int, ended_s: float) -> bool:
        """Whether a shard's file is this one and looks as it did when its unit ended (storage/damaged_files.py)."""
        if self.key(bucket) != key or self._there is None:
            return False
        size, time_s = self._there[key]
        return size == n_bytes and (self._workspace.root is None or time_s <= ended_s)

    @property
    def digest(self) -> str:
        """Digest of the index that names the shards as they are now."""
        return hashlib.sha256(self._text().encode()).hexdigest()[:16]

    def take(self, rows: Iterable[object], *, write: bool) -> list[str]:
        """Take the shards among a unit's output into the dataset; the files that went for it."""
        return [key for row in rows if isinstance(row, Shard) for key in self._replace(row, write=write)]

    def _replace(self, shard: Shard, *, write: bool) -> list[str]:
        known = self._shards.get(shard.bucket)
        if self._there is not None:
            self._there[shard.parquet.key] = shard.parquet.n_bytes, 0.0
        self._shards[shard.bucket] = shard
        if not write or (known is not None and known.parquet.key == shard.parquet.key):
            return []
        self._write()
        return self._forget(shard, known)

    def _forget(self, shard: Shard, known: Shard | None) -> list[str]:
        before = self._replaced.pop(shard.bucket, None)
        if known is not None:
            self._replaced[shard.bucket] = known
        gone = sorted(_files(before) - _files(known) - _files(shard))
        self._workspace.delete(gone)
        if self._there is not None:
            for key in gone:
                self._there.pop(key, None)
        return gone

    def finish(self, buckets: set[int] | None) -> None:
        """Make the index final: only these buckets stay (None: all); then remove files that it does not name."""
        wanted = {b: s for b, s in self._shards.items() if buckets is None or b in buckets}
        self._shards = wanted
        text = self._text()
        if self._stored() != text:
            self._write()
        index = parse_index(text)
        names = [key.removeprefix(f"{FOLDER}/") for key in self._workspace.names(FOLDER)]
        self._workspace.delete([f"{FOLDER}/{name}" for name in stale_shards(index, names)])

    def n_in(self, bucket: int) -> int:
        """Clips in a shard of the dataset."""
        return self._shards[bucket].n_clips if bucket in self._shards else 0

    @property
    def n_clips(self) -> int:
        """Clips in the dataset."""
        return sum(s.n_clips for s in self._shards.values())

    def _stored(self) -> str | None:
        try:
            return self._workspace.read(INDEX_KEY).decode(errors="replace")
        except FileNotFoundError:
            return None

    def _text(self) -> str:
        return publish_index(self._shards.values(), self.n_buckets)

    def _write(self) -> None:
        check_unchanged(self._workspace, self._tombstones)
        self.has_written = True
        self._workspace.write(INDEX_KEY, self._text().encode())


def _files(shard: Shard | None) -> set[str]:
    return set() if shard is None else {shard.parquet.key, *(artifact.key for artifact in shard.media)}
