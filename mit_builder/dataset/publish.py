"""Publishing the dataset while a run goes on: shards first, then the index in one write, then what is stale goes.

A run of weeks writes a shard many times. Of the files before the ones that the index names, those just replaced stay,
so that whoever has read the index still finds them.
"""

from __future__ import annotations

from collections.abc import Iterable

from manifests.rows import Artifact, Shard
from mit_builder.dataset import FOLDER, INDEX_NAME, Index, parse_index, publish_index, stale_shards
from mit_builder.workspace import Workspace

INDEX_KEY = f"{FOLDER}/{INDEX_NAME}"


class Publisher:
    """Keeps `dataset/index.json` at what the runner has settled.

    Attributes:
        n_buckets: shards the dataset may have; of the published index, else as configured.
        has_written: whether another dataset was published.
    """

    def __init__(self, workspace: Workspace, n_buckets: int) -> None:
        self._workspace = workspace
        self.has_written = False
        self._there: set[str] | None = None
        self._replaced: dict[int, Shard] = {}
        """By bucket the shard before the one of today."""
        old = self._read()
        self.n_buckets = old.n_buckets if old else n_buckets
        self._shards: dict[int, Shard] = {}
        for s in old.shards if old else ():
            media = tuple(Artifact(f"{FOLDER}/{name}", "", 0) for name in s.media)
            self._shards[s.bucket] = Shard(s.bucket, Artifact(f"{FOLDER}/{s.name}", s.sha256, 0), media, s.n_clips)

    def _read(self) -> Index | None:
        try:
            text = self._workspace.read(INDEX_KEY)
        except FileNotFoundError:
            return None
        return parse_index(text.decode(errors="replace"))

    def bucket(self, video_id: str) -> int:
        """The shard that holds a video's clips; `video_id` is a hash in hex already."""
        return int(video_id[:8], 16) % self.n_buckets

    def key(self, bucket: int) -> str | None:
        """The file of a shard; None where the dataset has none, or it is gone."""
        shard = self._shards.get(bucket)
        if self._there is None:
            self._there = self._workspace.names(FOLDER)
        return shard.parquet.key if shard is not None and shard.parquet.key in self._there else None

    def take(self, rows: Iterable[object], *, write: bool) -> list[str]:
        """Take the shards among a unit's output into the dataset; the files that went for it."""
        return [key for row in rows if isinstance(row, Shard) for key in self._replace(row, write=write)]

    def _replace(self, shard: Shard, *, write: bool) -> list[str]:
        known = self._shards.get(shard.bucket)
        if self._there is not None:
            self._there.add(shard.parquet.key)
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
            self._there.difference_update(gone)
        return gone

    def finish(self, buckets: set[int] | None) -> None:
        """Make the index final: only these buckets stay (None: all); then remove files that it does not name."""
        wanted = {b: s for b, s in self._shards.items() if buckets is None or b in buckets}
        if wanted != self._shards or self._read() is None:
            self._shards = wanted
            self._write()
        index = self._read()
        assert index is not None
        names = [key.removeprefix(f"{FOLDER}/") for key in self._workspace.names(FOLDER)]
        self._workspace.delete([f"{FOLDER}/{name}" for name in stale_shards(index, names)])

    def n_in(self, bucket: int) -> int:
        """Clips in a shard of the dataset."""
        return self._shards[bucket].n_clips if bucket in self._shards else 0

    @property
    def n_clips(self) -> int:
        """Clips in the dataset."""
        return sum(s.n_clips for s in self._shards.values())

    def _write(self) -> None:
        self.has_written = True
        self._workspace.write(INDEX_KEY, publish_index(self._shards.values(), self.n_buckets).encode())


def _files(shard: Shard | None) -> set[str]:
    return set() if shard is None else {shard.parquet.key, *(artifact.key for artifact in shard.media)}
