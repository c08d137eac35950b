"""Which clips each shard of the dataset should hold, and which shards no longer hold them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from manifests.rows import Labelled
from mit_builder.config import Settings
from mit_builder.duplicates import Duplicates
from mit_builder.pipeline import Unit, left_out
from mit_builder.publish import Publisher

PUBLISH_S = 60.0
"""A shard is written again at most this often while downloads go on."""


class Buckets:
    """The clips of a walk by shard.

    Attributes:
        labelled: by shard and clip_id, every clip that has gone through speech.
        changed: shards whose clips are no longer those that were last looked at.
        live: units by shard that are queued, running or left to another run.
    """

    def __init__(self, settings: Settings, publisher: Publisher, duplicates: Duplicates) -> None:
        self._settings = settings
        self._duplicates = duplicates
        self.publisher = publisher
        self.labelled: dict[int, dict[str, Labelled]] = defaultdict(dict)
        self.changed: set[int] = set()
        self.live: Counter[int] = Counter()
        self._written_at_s: dict[int, float] = {}

    def take(self, row: Labelled) -> int:
        """Take in a clip; its shard."""
        bucket = self.publisher.bucket(row.video.video_id)
        self.labelled[bucket][row.clip.clip_id] = row
        return bucket

    def count_live(self, unit: Unit, change: int) -> None:
        """A unit is due, or no longer."""
        if unit.trail.video is not None and unit.step != "shards":
            self.live[self.publisher.bucket(unit.trail.video.video_id)] += change

    def is_due(self, bucket: int, now_s: float, *, growing: bool) -> bool:
        """Whether a shard may be written now: nothing will be added to it soon."""
        recent = now_s - self._written_at_s.get(bucket, -PUBLISH_S) < PUBLISH_S
        return not (self.live[bucket] or (growing and recent))

    def written(self, bucket: int, now_s: float) -> None:
        """A shard is on its way."""
        self._written_at_s[bucket] = now_s

    def current(self, clips: Mapping[str, Labelled]) -> Iterator[Labelled]:
        """Clips in order, each with the row that stands for its video; none of videos that lost their place."""
        for _, row in sorted(clips.items()):
            video = self._duplicates.current(row.video)
            if video is not None:
                yield replace(row, video=video)

    def kept(self, clips: Mapping[str, Labelled]) -> Iterator[Labelled]:
        """Those among the current clips that go into the dataset."""
        return (row for row in self.current(clips) if left_out(self._settings, row.pose) is None)

    def rows(self, bucket: int) -> tuple[Labelled, ...]:
        """What a shard should hold of the clips that were walked over."""
        return tuple(self.kept(self.labelled.get(bucket, {})))

    def filled(self) -> set[int]:
        """Shards with any clip that was walked over."""
        return {bucket for bucket, clips in self.labelled.items() if any(True for _ in self.kept(clips))}

    def every(self) -> list[Labelled]:
        """Every clip that was walked over and goes into the dataset."""
        return [row for clips in self.labelled.values() for row in self.kept(clips)]

    def left_out(self) -> Counter[str]:
        """Clips that do not go into the dataset, by reason."""
        current = (row for clips in self.labelled.values() for row in self.current(clips))
        reasons = (left_out(self._settings, row.pose) for row in current)
        return Counter(reason for reason in reasons if reason)
