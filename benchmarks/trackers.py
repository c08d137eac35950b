"""Our tracker beside ultralytics' on the same face detections, as a Markdown table.

    python benchmarks/trackers.py detect FACES.npz VIDEO:PEOPLE...     (needs mediapipe)
    python benchmarks/trackers.py compare FACES.npz                    (needs ultralytics, lap and scipy)

VIDEO is a single shot in which PEOPLE people stay where they are, e.g. interview.mp4:2. Faces are searched in every
second frame, as filter.detect does by default, but no lost face is searched again, since that depends on the tracker.
A person's true faces are the detections nearest to one of PEOPLE places (k-means of the centres). Counted are tracks of
at least 12 frames, as below that filter.select counts nobody: how many there are, how often one goes over from one
person to another, and the share of (person, look) pairs that some track covers, gaps inside a track included.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mit_builder.config.settings import DetectSettings
from mit_builder.labels.tracking import Tracker, areas
from stages.filter.selection import CLEAR_FRAMES
from stages.filter.shot_scan import MIN_FACE_PX

SETTINGS = DetectSettings()
STRIDE = SETTINGS.detect_stride
Look = tuple[np.ndarray, np.ndarray]
"""Faces (n, 4) and scores (n,) of one frame that was searched."""


class Track(NamedTuple):
    """Looks at which a track has a detection, and which detection of the look it is."""

    looks: list[int]
    faces: list[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["detect", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("videos", nargs="*")
    options = parser.parse_args()
    if options.step == "compare":
        compare(options.file)
        return
    arrays: dict[str, Any] = {}
    for text in options.videos:
        path, _, n_people = text.rpartition(":")
        rows = np.concatenate([np.empty((0, 6)), *detected(Path(path))])
        arrays[f"{Path(path).stem}:{n_people}"] = rows
    np.savez(options.file, **arrays)


def detected(path: Path) -> Iterator[np.ndarray]:
    """(n, 6) of every look: its number, face, score."""
    from mit_builder.media.frames import read_frames
    from mit_builder.models.mediapipe.people import MediapipePeople

    detector = MediapipePeople(SETTINGS.face_confidence)
    for frame in read_frames(path):
        if frame.index % STRIDE == 0:
            (found,) = detector.detect([frame.image], thorough=[frame.index % SETTINGS.tile_stride == 0])
            large = areas(found.face_boxes_xyxy) >= MIN_FACE_PX**2
            number = np.full((large.sum(), 1), frame.index // STRIDE)
            yield np.concatenate([number, found.face_boxes_xyxy[large], found.scores[large, None]], axis=1)


def compare(file: Path) -> None:
    print("| clip | people | tracker | tracks | switches | covered |")
    print("|---|---|---|---|---|---|")
    totals: dict[str, np.ndarray] = {}
    for name, rows in np.load(file).items():
        clip, _, n_people = name.partition(":")
        looks = [
            (rows[rows[:, 0] == i, 1:5].astype(np.float32), rows[rows[:, 0] == i, 5].astype(np.float32))
            for i in range(int(rows[:, 0].max()) + 1)
        ]
        people = places(looks, int(n_people))
        for title, follow in TRACKERS.items():
            tracks = [track for track in follow(looks) if (track.looks[-1] - track.looks[0]) * STRIDE >= CLEAR_FRAMES]
            counted = count(tracks, people, int(n_people))
            totals[title] = totals.get(title, np.zeros(4)) + np.array([int(n_people), *counted])
            print(f"| {clip} | {n_people} | {title} | {counted[0]} | {counted[1]} | {counted[2]:.3f} |")
    for title, (n_people, n_tracks, n_switches, covered) in totals.items():
        n_clips = len(np.load(file).files)
        print(f"| all | {n_people:.0f} | {title} | {n_tracks:.0f} | {n_switches:.0f} | {covered / n_clips:.3f} |")


def places(looks: list[Look], n_people: int) -> list[np.ndarray]:
    """Who each detection is, (n,) a look."""
    centres = np.concatenate([(faces[:, :2] + faces[:, 2:]) / 2 for faces, _ in looks]).astype(np.float32)
    cv2.setRNGSeed(0)
    _, labels, _ = cv2.kmeans(centres, n_people, None, (3, 100, 0.1), 20, cv2.KMEANS_PP_CENTERS)
    return np.split(labels[:, 0], np.cumsum([len(faces) for faces, _ in looks])[:-1])


def count(tracks: list[Track], people: list[np.ndarray], n_people: int) -> tuple[int, int, float]:
    """Tracks, changes of person within a track, share of (person, look) that is covered."""
    covered, n_switches = np.zeros((n_people, len(people)), bool), 0
    for track in tracks:
        who = [int(people[look][face]) for look, face in zip(track.looks, track.faces, strict=True)]
        n_switches += sum(a != b for a, b in pairwise(who))
        for (start, end), person in zip(pairwise([*track.looks, track.looks[-1] + 1]), who, strict=True):
            covered[person, start:end] = True
    return len(tracks), n_switches, float(covered.mean())


def ours(looks: list[Look], min_iou: float = SETTINGS.track_iou) -> list[Track]:
    tracker = Tracker(min_iou=min_iou, max_gap_frames=SETTINGS.max_gap_frames)
    index: dict[tuple[int, bytes], int] = {}
    for look, (faces, scores) in enumerate(looks):
        tracker.add(look * STRIDE, faces, scores, faces)
        index |= {(look, face.tobytes()): i for i, face in enumerate(faces)}
    made = []
    for track in tracker.finish(end_frame=len(looks) * STRIDE, hold_frames=STRIDE, min_detections=1):
        offsets = np.flatnonzero(track.detected)
        at = [(track.start_frame + offset) // STRIDE for offset in offsets.tolist()]
        boxes = track.face_boxes_xyxy[offsets]
        made.append(Track(at, [index[look, box.tobytes()] for look, box in zip(at, boxes, strict=True)]))
    return made


def theirs(kind: str, buffer: int | None) -> Callable[[list[Look]], list[Track]]:
    """A tracker of ultralytics with its defaults, or one that gives up after as long a gap as ours."""

    def follow(looks: list[Look]) -> list[Track]:
        from mit_builder.models.yolo import people as yolo

        yolo._tasks()  # imports ultralytics offline
        from ultralytics import trackers
        from ultralytics.engine.results import Boxes
        from ultralytics.utils import ROOT, YAML, IterableSimpleNamespace

        options = YAML.load(ROOT / f"cfg/trackers/{kind.lower()}.yaml") | {"gmc_method": "none"}
        if buffer is not None:
            options["track_buffer"] = buffer
        tracker = {"ByteTrack": trackers.BYTETracker, "BoTSORT": trackers.BOTSORT}[kind](
            IterableSimpleNamespace(**options)
        )
        made: dict[int, Track] = {}
        for look, (faces, scores) in enumerate(looks):
            rows = np.concatenate([faces, scores[:, None], np.zeros((len(faces), 1), np.float32)], axis=1)
            for row in tracker.update(Boxes(rows, (1080, 1920)), np.zeros((8, 8, 3), np.uint8)):
                track = made.setdefault(int(row[4]), Track([], []))
                track.looks.append(look)
                track.faces.append(int(row[7]))
        return list(made.values())

    return follow


GAP_LOOKS = SETTINGS.max_gap_frames // STRIDE
TRACKERS: dict[str, Callable[[list[Look]], list[Track]]] = {
    f"ours, IoU {SETTINGS.track_iou}": ours,
    "ours, IoU 0.3": partial(ours, min_iou=0.3),
    "ByteTrack": theirs("ByteTrack", None),
    f"ByteTrack, buffer {GAP_LOOKS}": theirs("ByteTrack", GAP_LOOKS),
    "BoT-SORT": theirs("BoTSORT", None),
    f"BoT-SORT, buffer {GAP_LOOKS}": theirs("BoTSORT", GAP_LOOKS),
}


if __name__ == "__main__":
    main()
