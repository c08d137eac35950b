"""Where the face box lies around the head points: the numbers of mit_builder/models/yolo/people.py, measured.

    python benchmarks/face_geometry.py VIDEO...

Every 8th frame: S3FD-like boxes of MediaPipe's face detector against points 0-6 of MediaPipe's pose, which stand in
for YOLO's. Left out are faces that scored at most 0.6 and points that are unsure or not near the box.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from mit_builder.labels.tracking import overlaps
from mit_builder.media.frames import read_frames
from mit_builder.models.base import Floats
from mit_builder.models.mediapipe.people import MediapipePeople
from mit_builder.models.mediapipe.pose import MediaPipePose

STRIDE = 8
NAMES = ("nose", "left eye", "right eye", "left ear", "right ear")
ALIKE = {
    "nose to eye": [(0, 1), (0, 2)],
    "nose to ear": [(0, 3), (0, 4)],
    "eye to eye": [(1, 2)],
    "eye to ear of its side": [(1, 3), (2, 4)],
    "eye to other ear": [(1, 4), (2, 3)],
    "ear to ear": [(3, 4)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    rows = [row for path in parser.parse_args().videos for row in measured(path)]
    faces, points = np.stack([face for face, _ in rows]), np.stack([found for _, found in rows])
    size, centre = faces[:, 2:] - faces[:, :2], (faces[:, :2] + faces[:, 2:]) / 2
    usable = (np.linalg.norm(points[:, 0, :2] - centre, axis=1) < 0.8 * size[:, 0]) & (points[:, 0, 2] > 0.5)
    faces, points, size, centre = faces[usable], points[usable], size[usable], centre[usable]
    height, places = size[:, 1], points[..., :2]
    print(f"{len(faces)} of {len(rows)} faces; width / height {np.median(size[:, 0] / height):.2f}")
    distances = {
        pair: np.linalg.norm(places[:, pair[0]] - places[:, pair[1]], axis=1) for pair in combinations(range(5), 2)
    }
    longest = {name: np.percentile([distances[p] / height for p in pairs], 90) for name, pairs in ALIKE.items()}
    estimates = [distances[pair] / longest[name] for name, pairs in ALIKE.items() for pair in pairs]
    scale = np.median(np.max(estimates, axis=0) / height)
    for name, value in longest.items():
        print(f"height / {name}: {1 / (value * scale):.2f}")
    for index, name in enumerate(NAMES):
        print(f"centre below {name} / height: {np.median((centre[:, 1] - places[:, index, 1]) / height):.3f}")
    shoulders(points, height, centre)
    agreement(faces, points)


def measured(path: Path) -> Iterator[tuple[Floats, Floats]]:
    """(4,) face box and (7, 3) points of every face of a video."""
    detector, pose = MediapipePeople(0.4), MediaPipePose()
    for frame in read_frames(path):
        if frame.index % STRIDE:
            continue
        (found,) = detector.detect([frame.image], thorough=[True])
        bodies, faces = found.boxes_xyxy[:, None], found.face_boxes_xyxy[:, None]
        if len(faces):
            (keypoints,) = pose.estimate([frame.image], bodies, faces)
            for face, score, person in zip(found.face_boxes_xyxy, found.scores, keypoints, strict=True):
                if score > 0.6 and np.isfinite(person[:7]).all():
                    yield face, person[:7]


def shoulders(points: Floats, height: Floats, centre: Floats) -> None:
    sure = (points[:, 5:7, 2] > 0.5).all(axis=1)
    apart = np.linalg.norm(points[sure, 5, :2] - points[sure, 6, :2], axis=1)
    above = points[sure, 5:7, 1].mean(axis=1) - centre[sure, 1]
    print(f"height / shoulders: {np.median(height[sure] / apart):.2f}; above them: {np.median(above / apart):.2f}")


def agreement(faces: Floats, points: Floats) -> None:
    """Overlap of the boxes that the backend makes with the detector's."""
    from mit_builder.models.yolo.people import head_boxes

    people = np.zeros((len(points), 17, 3), np.float32)
    people[:, :7] = points
    people[:, :5, 2] = 1
    ears = np.linalg.norm(points[:, 3:5, :2] - points[:, :1, :2], axis=-1)
    hidden = people.copy()
    hidden[np.arange(len(points)), 3 + ears.argmin(axis=1), 2] = 0
    for title, given in (("all points", people), ("without the far ear", hidden)):
        iou = overlaps_of_pairs(head_boxes(given), faces)
        print(f"IoU, {title}: " + ", ".join(f"{p} % {np.percentile(iou, p):.2f}" for p in (5, 25, 50)))


def overlaps_of_pairs(first: Floats, second: Floats) -> Floats:
    return np.array([overlaps(a[None], b[None])[0, 0] for a, b in zip(first, second, strict=True)])


if __name__ == "__main__":
    main()
