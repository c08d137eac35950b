"""The clips that have gone through all steps before shards, and which of them belong into the dataset."""

from __future__ import annotations

import pickle
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from manifests.rows import Labelled
from mit_builder.config.settings import Settings
from mit_builder.driver.duplicates import Duplicates
from mit_builder.labels.reviews import Reviews
from mit_builder.pipeline import left_out


class _Packer:
    """Rows as bytes: a run keeps what all its clips are made of until its end.

    The first row is the dictionary of the others: a third less than without (1.5 KB for a clip of 15 s). Pickled, as no
    byte of it leaves this object; JSON and `from_dict` take thirteen times as long to read (0.7 ms a row).
    """

    def __init__(self) -> None:
        self._alike = b""

    def pack(self, row: Labelled) -> bytes:
        plain = pickle.dumps(row, pickle.HIGHEST_PROTOCOL)
        self._alike = self._alike or plain
        packer = zlib.compressobj(zdict=self._alike)
        return packer.compress(plain) + packer.flush()

    def unpack(self, packed: bytes) -> Labelled:
        row: Labelled = pickle.loads(zlib.decompressobj(zdict=self._alike).decompress(packed))
        return row


class LabelledClips:
    """Clips by bucket; those of duplicates are passed over, as no other video's."""

    def __init__(self, settings: Settings, duplicates: Duplicates, reviews: Reviews) -> None:
        self._settings = settings
        self._duplicates = duplicates
        self._reviews = reviews
        self._clips: dict[int, dict[tuple[str, str], bytes]] = defaultdict(dict)
        """By bucket, name and digest of the video's file: other bytes under its id have clips of the same names."""
        self._packer = _Packer()

    def add(self, bucket: int, row: Labelled) -> None:
        """Take a clip in, with the corrections that hold for it."""
        self._clips[bucket][row.clip.clip_id, row.video.media.sha256] = self._packer.pack(self._reviews.correct(row))

    def all(self, bucket: int | None = None) -> Iterator[tuple[Labelled, str | None]]:
        """Clips of a bucket (None: of all), each with why it is left out of the dataset, if it is."""
        for clips in self._clips.values() if bucket is None else [self._clips.get(bucket, {})]:
            yield from self._judged(packed for _, packed in sorted(clips.items()))

    def some(self, bucket: int, clip_ids: Iterable[str], sha256: str) -> Iterator[tuple[Labelled, str | None]]:
        """The same of some clips of a bucket, that were made of the file with this digest."""
        yield from self._judged(self._clips[bucket][clip_id, sha256] for clip_id in sorted(clip_ids))

    def _judged(self, clips: Iterable[bytes]) -> Iterator[tuple[Labelled, str | None]]:
        for packed in clips:
            row = self._packer.unpack(packed)
            video = self._duplicates.current(row.video)
            if video is not None:
                yield replace(row, video=video), self._left_out(row)

    def _left_out(self, row: Labelled) -> str | None:
        return left_out(self._settings, row.pose) or self._reviews.left_out(row.clip.clip_id)

    def kept(self, bucket: int | None = None) -> list[Labelled]:
        """The clips that belong into the dataset."""
        return [row for row, reason in self.all(bucket) if reason is None]

    def outcome(self) -> tuple[set[int], Counter[str]]:
        """Buckets with clips that belong into the dataset, and how many clips are left out, by reason."""
        filled, reasons = set(), Counter[str]()
        for bucket in self._clips:
            for _, reason in self.all(bucket):
                if reason is None:
                    filled.add(bucket)
                else:
                    reasons[reason] += 1
        return filled, reasons
