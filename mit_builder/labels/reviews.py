"""Verdicts of reviewers, kept in a ledger of their own, `manifests/reviews`; the latest verdict on a clip counts."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from dataclasses import replace

from manifests.ids import new_run_id
from manifests.ledger import Entry, Ledger
from manifests.rows import Labelled, Review, Sample
from manifests.schema import content_hash
from mit_builder.labels.corrections import fitting
from mit_builder.storage.workspace import Workspace

STAGE = "reviews"
REJECTED = "rejected_by_reviewer"
"""Why a clip is not in the dataset."""


class Reviews:
    """The verdicts and samples of a workspace, as they are when this is made, and what is added here.

    Attributes:
        lines: what a run should say: corrections that were dropped, parts that are damaged.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._ledger = Ledger(workspace, STAGE, (Review, Sample))
        self._run_id = new_run_id()
        self.lines = [f"{part} is damaged: verdicts that only it held do not count" for part in self._ledger.damaged]
        rows = [row for entry in self._ledger.newest() for row in entry.outputs]
        self._reviews = {row.clip_id: row for row in rows if isinstance(row, Review)}
        self._samples = [row for row in rows if isinstance(row, Sample)]
        self._parts = workspace.names(self._ledger.folder)

    def current(self) -> Reviews:
        """These, or new ones where another program has given verdicts or drawn samples since."""
        return self if self._workspace.names(self._ledger.folder) == self._parts else Reviews(self._workspace)

    def find(self, clip_id: str) -> Review | None:
        """The latest verdict on a clip."""
        return self._reviews.get(clip_id)

    def all(self) -> list[Review]:
        """The latest verdict on each clip that has one."""
        return list(self._reviews.values())

    @property
    def samples(self) -> list[Sample]:
        """Samples in the order in which they were drawn."""
        return self._samples

    def left_out(self, clip_id: str) -> str | None:
        """Why a clip does not belong into the dataset; None where no reviewer has rejected it."""
        review = self.find(clip_id)
        return REJECTED if review is not None and review.verdict == "reject" else None

    def correct(self, row: Labelled) -> Labelled:
        """The clip with the corrections that hold for it as it is now."""
        review = self.find(row.clip.clip_id)
        if review is None or not review.corrections:
            return row
        kept, dropped = fitting(review, row.clip, self._workspace.artifact)
        self.lines += [line for line in dropped if line not in self.lines]
        return replace(row, corrections=kept)

    def save(self, reviews: Iterable[Review]) -> None:
        """Keep verdicts; they count from now on."""
        reviews = list(reviews)
        self._append([(review.clip_id, review) for review in reviews])
        self._reviews.update({review.clip_id: review for review in reviews})

    def draw(self, clip_ids: Iterable[str], n: int, seed: int) -> Sample:
        """A random sample in random order, kept; the same clips, size and seed give the same sample."""
        known = sorted(clip_ids)
        chosen = random.Random(seed).sample(known, min(n, len(known)))
        sample = Sample(f"seed {seed}, {len(chosen)} of {len(known)}", seed, len(known), tuple(chosen))
        if sample not in self._samples:
            self._append([(f"sample {content_hash(sample)[:16]}", sample)])
            self._samples.append(sample)
        return sample

    def _append(self, rows: list[tuple[str, Review | Sample]]) -> None:
        now_s = time.time()
        # Numbers by the clock: of two programs that review one workspace, what was said later counts.
        self._ledger.next_seq = max(self._ledger.next_seq, int(now_s * 1000))
        entries = [Entry(name, content_hash(row, now_s), "done", (row,), started_at_s=now_s) for name, row in rows]
        self._ledger.append(entries, run_id=self._run_id)
        self._ledger.compact(self._run_id)
        self._parts = self._workspace.names(self._ledger.folder)
