"""What the shots are: who sits where, before what, said when, and what the pipeline should make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demo.mouth import FPS
from demo.voice import Utterance

WIDTH_PX, HEIGHT_PX = 1280, 720


@dataclass(frozen=True)
class Seat:
    """Where a person is in the picture."""

    person: str
    scale: float
    """Picture pixels per pixel of the enlarged portrait."""
    x_px: float
    y_px: float
    """Of the portrait's upper left corner."""


@dataclass(frozen=True)
class ShotPlan:
    """One shot before anybody has said anything."""

    name: str
    keep: bool
    reason: str | None
    """Why the filter should reject it."""
    seats: tuple[Seat, ...]
    backdrop: str
    """"studio" or "landscape"."""
    wall_rgb: tuple[int, int, int] = (0, 0, 0)
    desk: bool = True
    pan_px: float = 0.0
    """How far the camera swings to the right and back."""
    lead_s: float = 0.6
    gap_s: float = 0.5
    tail_s: float = 0.6
    """Silence before, between and after the lines."""
    min_s: float = 2.0


@dataclass(frozen=True)
class Spoken:
    """A line in its shot."""

    person: str
    start_s: float
    """In the shot."""
    text: str
    utterance: Utterance


# Mona Lisa turns to her left (the picture's right), so both orders of seats are used.
PLANS = {
    plan.name: plan
    for plan in (
        ShotPlan(
            name="two_shot",
            keep=True,
            reason=None,
            seats=(Seat("A", 0.86, -20, -12), Seat("B", 1.05, 690, 58)),
            backdrop="studio",
            wall_rgb=(70, 105, 150),
            tail_s=2.4,
            min_s=6.0,
        ),
        ShotPlan(
            name="single",
            keep=False,
            reason="too_few_people",
            seats=(Seat("B", 1.25, 320, -16),),
            backdrop="studio",
            wall_rgb=(135, 88, 95),
            lead_s=0.4,
            tail_s=0.5,
        ),
        ShotPlan(
            name="empty",
            keep=False,
            reason="too_few_people",
            seats=(),
            backdrop="landscape",
            desk=False,
            min_s=2.4,
        ),
        ShotPlan(
            name="two_shot_pan",
            keep=False,
            reason="camera_motion",
            seats=(Seat("B", 1.05, 100, 96), Seat("A", 0.86, 690, -12)),
            backdrop="studio",
            wall_rgb=(95, 120, 105),
            desk=False,
            pan_px=200.0,
            min_s=6.0,
        ),
        ShotPlan(
            name="two_shot_swapped",
            keep=True,
            reason=None,
            seats=(Seat("B", 1.05, 20, 58), Seat("A", 0.86, 600, -12)),
            backdrop="studio",
            wall_rgb=(110, 112, 84),
            lead_s=0.7,
            tail_s=1.6,
            min_s=6.0,
        ),
    )
}

# Neutral on purpose: nothing a sitter said or might have meant.
LINES: dict[str, tuple[tuple[str, str], ...]] = {
    "two_shot": (
        ("A", "Good evening, and welcome. This picture is a test, and the two voices come from a machine."),
        ("B", "Good evening. First one of us speaks, then the other, and then we are both quiet."),
    ),
    "single": (("B", "In this shot there is only one person."),),
    "two_shot_pan": (
        ("B", "Now the camera moves from side to side."),
        ("A", "So this shot is left out as well."),
    ),
    "two_shot_swapped": (
        ("A", "Here we have changed places. One, two, three, four, five."),
        ("B", "Six, seven, eight. A boat, a map, an open door, and a long way home."),
    ),
}


def read_lines(text: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Lines of a script: a shot's name in brackets, then `A: …` and `B: …` in the order of speaking.

    Raises:
        ValueError: an unknown shot, a line outside a shot or a speaker who is not in it.
    """
    script: dict[str, list[tuple[str, str]]] = {}
    shot = ""
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            shot = line[1:-1]
            if shot not in PLANS:
                raise ValueError(f"line {number}: no shot {shot!r}; there are {', '.join(PLANS)}")
            script[shot] = []
            continue
        person, colon, words = (part.strip() for part in line.partition(":"))
        if not colon or not shot or person not in {seat.person for seat in PLANS[shot].seats}:
            raise ValueError(f"line {number}: expected `<person>: <words>` of somebody in the shot {shot!r}")
        script[shot].append((person, words))
    return {name: tuple(lines) for name, lines in script.items()}


def schedule(
    plan: ShotPlan, lines: Sequence[tuple[str, str]], utterances: Mapping[tuple[str, str], Utterance]
) -> tuple[tuple[Spoken, ...], int]:
    """When each line starts, and how many frames the shot has."""
    spoken = []
    now_s = plan.lead_s
    for person, text in lines:
        utterance = utterances[person, text]
        spoken.append(Spoken(person, now_s, text, utterance))
        now_s += utterance.duration_s + plan.gap_s
    end_s = now_s - plan.gap_s + plan.tail_s if spoken else 0.0
    return tuple(spoken), round(max(end_s, plan.min_s) * FPS)


def pan_offset_px(plan: ShotPlan, frame: int, period_s: float = 3.0) -> float:
    """How far the camera looks to the right at a frame."""
    return plan.pan_px * 0.5 * (1 - float(np.cos(2 * np.pi * frame / (period_s * FPS))))
