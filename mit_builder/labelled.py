"""The clips that have gone through all steps before shards, and which of them belong into the dataset."""

from __future__ import annotations

import pickle
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace

from manifests.rows import Labelled
from mit_builder.config import Settings
from mit_builder.duplicates import Duplicates
from mit_builder.pipeline import left_out
from mit_builder.review.store import Reviews


class LabelledClips:
    """Clips by bucket; those of duplicates are passed over, as no other video's."""

    def __init__(self, settings: Settings, duplicates: Duplicates, reviews: Reviews) -> None:
        self._settings = settings
        self._duplicates = duplicates
        self._reviews = reviews
        self._clips: dict[int, dict[tuple[str, str], bytes]] = defaultdict(dict)
        """By bucket, name and digest of the video's file: other bytes under its id have clips of the same names.

        Packed, as a run keeps all it has made until its end: 1.3 KB a clip of 5 s in the place of 9 (measured).
        """

    def add(self, bucket: int, row: Labelled) -> None:
        """Take a clip in, with the corrections that hold for it."""
        packed = zlib.compress(pickle.dumps(self._reviews.correct(row), pickle.HIGHEST_PROTOCOL), 1)
        self._clips[bucket][row.clip.clip_id, row.video.media.sha256] = packed

    def all(self, bucket: int | None = None) -> Iterator[tuple[Labelled, str | None]]:
        """Clips of a bucket (None: of all), each with why it is left out of the dataset, if it is."""
        for clips in self._clips.values() if bucket is None else [self._clips.get(bucket, {})]:
            yield from self._judged(packed for _, packed in sorted(clips.items()))

    def some(self, bucket: int, clip_ids: Iterable[str], sha256: str) -> Iterator[tuple[Labelled, str | None]]:
        """The same of some clips of a bucket, that were made of the file with this digest."""
        yield from self._judged(self._clips[bucket][clip_id, sha256] for clip_id in sorted(clip_ids))

    def _judged(self, clips: Iterable[bytes]) -> Iterator[tuple[Labelled, str | None]]:
        for packed in clips:
            row: Labelled = pickle.loads(zlib.decompress(packed))
            video = self._duplicates.current(row.video)
            if video is not None:
                yield replace(row, video=video), self._left_out(row)

    def _left_out(self, row: Labelled) -> str | None:
        return left_out(self._settings, row.pose) or self._reviews.left_out(row.clip.clip_id)

    def kept(self, bucket: int | None = None) -> list[Labelled]:
        """The clips that belong into the dataset."""
        return [row for row, reason in self.all(bucket) if reason is None]

    def filled(self) -> set[int]:
        """Buckets with clips that belong into the dataset."""
        return {bucket for bucket in self._clips if self.kept(bucket)}

    def reasons(self) -> Counter[str]:
        """How many clips are left out, by reason."""
        return Counter(reason for _, reason in self.all() if reason is not None)
