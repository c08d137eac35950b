"""How LR-ASD's scores change when faces are framed from the pose's points instead of by the face detector.

    python benchmarks/face_boxes.py WEIGHTS WORKSPACE [WORKSPACE=TRUTH.json …] [--times TIMES.json]

Workspaces and truths as for benchmarks/choose.py, weights as `mit-build weights fetch lr-asd-talkset` brings them. For
every clip: mean absolute difference of the smoothed scores (log-odds) and their correlation; share of person-frames
labelled the same; who-speaks and balanced accuracy with the detector's boxes / with the pose's, gated by voice.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from known_speech import KnownClip, agreement, known_clips

from manifests.arrays import read_arrays
from manifests.rows import Labelled
from mit_builder.config.settings import SpeechSettings
from mit_builder.driver.snapshot import Snapshot
from mit_builder.labels.face_boxes import speech_face_boxes
from mit_builder.labels.speaking import is_speaking, smooth
from mit_builder.media.audio import read_flac
from mit_builder.media.clip import read_clip
from mit_builder.media.level import amplified
from mit_builder.models.asd.lr_asd import LrAsd
from mit_builder.models.base import SpeechInput
from mit_builder.storage.workspace import Workspace


def inputs(workspace: Path, row: Labelled, known: KnownClip) -> tuple[SpeechInput, SpeechInput]:
    """The clip with the detector's boxes, and with those of the speech stage."""
    detected = sorted(read_arrays(workspace / row.clip.people.key), key=lambda person: person["person_id"])
    posed = sorted(read_arrays(workspace / row.pose.poses.key), key=lambda person: person["person_id"])
    given = SpeechInput(
        frames=lambda: (
            frame.image
            for frame in read_clip(workspace / row.clip.mp4.key, row.clip.n_frames, row.clip.media_frame_index)
        ),
        samples=amplified(read_flac(workspace / row.clip.flac.key), row.clip.gain_db),
        voice_activity=known.voice,
        keypoints=np.stack([person["keypoints"] for person in posed]),
        face_boxes_xyxy=np.stack([person["face_boxes_xyxy"] for person in detected]),
    )
    boxes = [
        speech_face_boxes(pose["keypoints"], face["face_boxes_xyxy"], face["face_detected"])[0]
        for pose, face in zip(posed, detected, strict=True)
    ]
    return given, replace(given, face_boxes_xyxy=np.stack(boxes))


def compare(model: LrAsd, workspace: Path, row: Labelled, known: KnownClip) -> list[float]:
    """The numbers of a table row."""
    gate = SpeechSettings().min_voice_activity
    scores = [smooth(model.score(given)) for given in inputs(workspace, row, known)]
    flags = [is_speaking(score, known.voice, gate) for score in scores]
    agreed = [agreement(known, score, flag) for score, flag in zip(scores, flags, strict=True)]
    return [
        float(np.abs(scores[0] - scores[1]).mean()),
        float(np.corrcoef(scores[0].ravel(), scores[1].ravel())[0, 1]),
        float((flags[0] == flags[1]).mean()),
        *(result.who_speaks for result in agreed),
        *(result.balanced_accuracy for result in agreed),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("workspaces", nargs="+", metavar="WORKSPACE[=TRUTH.json]")
    parser.add_argument("--times", type=Path, help="published speaking times")
    options = parser.parse_args()
    model = LrAsd(options.weights)
    print("| clip | half | mean difference | correlation | same label | who speaks | balanced accuracy |")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, list[list[float]]] = {}
    for given in options.workspaces:
        place, _, truth = given.partition("=")
        rows = {row.clip.clip_id: row for row in Snapshot.of(Workspace(place)).clips.kept()}
        for known in known_clips(Path(place), Path(truth) if truth else None, options.times):
            numbers = compare(model, Path(place), rows[known.clip_id], known)
            found.setdefault(known.half, []).append(numbers)
            print(f"| {known.name} | {known.half} | {_cells(numbers)} |", flush=True)
    for half, every in sorted(found.items()):
        print(f"| mean of {len(every)} clips | {half} | {_cells(list(np.nanmean(every, axis=0)))} |")


def _cells(numbers: list[float]) -> str:
    text = [f"{number:.3f}" for number in numbers]
    return f"{text[0]} | {text[1]} | {text[2]} | {text[3]} / {text[4]} | {text[5]} / {text[6]}"


if __name__ == "__main__":
    main()
