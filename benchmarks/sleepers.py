"""Stages that take a known time, for benchmarks/scheduling.py: the fakes of the tests, which sleep before they answer.

`SLEEP_S` in the environment says how long each stage sleeps on average, as JSON; an item sleeps half as long, as long
or half as long again, by its id.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import fakes

from manifests.ids import id_of
from manifests.rows import Source, Video
from mit_builder.stage import Context, Reject, Resources

SPREAD = (0.5, 1.0, 1.5)
"""Of the average, for a third of the items each."""


def cost_s(stage: str, unit_id: str) -> float:
    """How long a stage works on a unit."""
    mean_s: float = json.loads(os.environ["SLEEP_S"]).get(stage, 0.0)
    return mean_s * SPREAD[id_of(unit_id.partition("_")[0]) % len(SPREAD)]


class SleepDownload(fakes.FakeDownload):
    """Waits for the network: four at once."""

    resources: ClassVar[Resources] = Resources(cpus=0.25, max_workers=4)

    def limit_key(self, row: Source) -> str | None:
        return None

    def process(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        return super().process(row, ctx)


class SleepReject(SleepDownload):
    """A download that is all there is to do; it takes whole cores."""

    resources: ClassVar[Resources] = Resources(cpus=1.0)

    def process(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        raise Reject("nothing follows")


class SleepShots(fakes.FakeShots):
    """On a core."""

    resources: ClassVar[Resources] = Resources(cpus=1.0)

    def process(self, row: Any, ctx: Context) -> Iterator[Any]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        return super().process(row, ctx)


class SleepDetect(fakes.FakeDetect):
    """On a core."""

    resources: ClassVar[Resources] = Resources(cpus=1.0)

    def process(self, row: Any, ctx: Context) -> Iterator[Any]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        return super().process(row, ctx)


class SleepCut(fakes.FakeCut):
    """On a core."""

    resources: ClassVar[Resources] = Resources(cpus=1.0)

    def process(self, row: Any, ctx: Context) -> Iterator[Any]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        return super().process(row, ctx)


class SleepPose(fakes.FakePose):
    """On a core, as many as there are."""

    resources: ClassVar[Resources] = Resources(cpus=1.0)

    def process(self, row: Any, ctx: Context) -> Iterator[Any]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        return super().process(row, ctx)


class SleepGpuPose(SleepPose):
    """Half of the one GPU."""

    resources: ClassVar[Resources] = Resources(cpus=1.0, gpus=0.5, max_workers=1)


class SleepGpuSpeech(fakes.FakeSpeech):
    """The other half."""

    resources: ClassVar[Resources] = Resources(cpus=1.0, gpus=0.5, max_workers=1)

    def process(self, row: Any, ctx: Context) -> Iterator[Any]:
        time.sleep(cost_s(self.name, self.unit_id(row)))
        return super().process(row, ctx)
