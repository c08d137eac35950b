"""Which shards of the dataset no longer hold the clips that they should, and when they may be written."""

from __future__ import annotations

import math
from collections import Counter

from manifests.rows import Labelled
from mit_builder.dataset.publish import Publisher
from mit_builder.driver.labelled_clips import LabelledClips
from mit_builder.pipeline import Unit

PUBLISH_S = 60.0
"""A shard is written, or looked at in vain, at most this often while downloads go on."""
PUBLISH_SHARE = 0.1
"""Share of one worker's time that writing shards anew may take while downloads go on."""


class Buckets:
    """The shards of a walk.

    Attributes:
        publisher: knows which shard a video belongs to, and what is published.
        clips: every clip that has gone through speech.
        changed: shards whose clips are no longer those that were last looked at.
        live: units by shard that are queued, running or left to another run.
    """

    def __init__(self, publisher: Publisher, clips: LabelledClips) -> None:
        self.publisher = publisher
        self.clips = clips
        self.changed: set[int] = set()
        self.live: Counter[int] = Counter()
        self._seen_at_s: dict[int, float] = {}
        self._took_s: dict[int, float] = {}

    def take(self, row: Labelled) -> int:
        """Take in a clip; its shard."""
        bucket = self.publisher.bucket(row.video.video_id)
        self.clips.add(bucket, row)
        return bucket

    def count_live(self, unit: Unit, change: int) -> None:
        """A unit is due, or no longer."""
        if unit.video is not None:
            self.live[self.publisher.bucket(unit.video.video_id)] += change

    def is_due(self, bucket: int, now_s: float, *, growing: bool) -> bool:
        """Whether a shard may be written now: nothing will be added to it soon."""
        pause_s = max(PUBLISH_S, self._took_s.get(bucket, 0.0) * self.publisher.n_buckets / PUBLISH_SHARE)
        recent = now_s - self._seen_at_s.get(bucket, -math.inf) < pause_s
        return not (self.live[bucket] or (growing and recent))

    def wait(self, bucket: int, now_s: float) -> None:
        """A shard is on its way, or still lacks clips that are published."""
        self._seen_at_s[bucket] = now_s

    def written(self, bucket: int, took_s: float) -> None:
        """A shard was written in this time: the longer it takes, the less often."""
        self._took_s[bucket] = took_s

    def rows(self, bucket: int) -> tuple[Labelled, ...]:
        """What a shard should hold of the clips that were walked over."""
        return tuple(self.clips.kept(bucket))
