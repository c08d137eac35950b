"""COCO-WholeBody: one JSON a split, an image for each frame and an annotation for each person in it.

Fields as in COCO-WholeBody v1.0 (Jin et al. 2020): `keypoints` (17), `foot_kpts` (6), `face_kpts` (68), `lefthand_kpts`
and `righthand_kpts` (21 each) as x, y, v with v = 2 from a score of 0.3 on, 1 below, 0 (and 0, 0) without an estimate.
Beyond the form: `keypoint_scores` (133), `person_id`, `speaking`, `speaking_score`; images name `clip_id` and `frame`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt

from mit_builder.errors import MediaError
from mit_builder.exports.job import ExportedClip, Job
from mit_builder.labels.keypoints import BODY, FACE, FEET, KEYPOINT_NAMES, LEFT_HAND, RIGHT_HAND, SEEN_SCORE, SKELETON
from mit_builder.media.clip import read_clip

Floats = npt.NDArray[np.float32]

_GROUPS = {
    "keypoints": BODY,
    "foot_kpts": FEET,
    "face_kpts": FACE,
    "lefthand_kpts": LEFT_HAND,
    "righthand_kpts": RIGHT_HAND,
}
_JPEG_QUALITY = 95


def write(job: Job) -> None:
    """Write `annotations/coco_wholebody_SPLIT.json`, and with media `images/CLIP/FRAME.jpg`."""
    with ExitStack() as stack:
        splits: dict[str, _Split] = {}
        for clip in job.clips(media=job.with_media):
            if clip.split not in splits:
                splits[clip.split] = stack.enter_context(_Split(job.folder / "annotations", clip.split))
            splits[clip.split].add(clip)
            if job.with_media:
                _write_images(clip, job.folder / "images" / clip.clip_id)
        for split in splits.values():
            split.finish()
    if not job.with_media:
        job.notes.append("without --with-media the images that the annotations name are left out")


class _Split:
    """One JSON file; images and annotations gather in files of their own, so that memory does not grow."""

    def __init__(self, folder: Path, split: str) -> None:
        folder.mkdir(exist_ok=True)
        self._path = folder / f"coco_wholebody_{split}.json"
        self._n_images = self._n_annotations = 0
        self._stack = ExitStack()
        self._images = self._scratch(folder)
        self._annotations = self._scratch(folder)

    def _scratch(self, folder: Path) -> IO[str]:
        return self._stack.enter_context(tempfile.TemporaryFile("w+", dir=folder))

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def add(self, clip: ExportedClip) -> None:
        """Images and annotations of one clip; ids count from 1."""
        row = clip.values
        for frame in range(row["n_frames"]):
            self._n_images += 1
            image = {
                "id": self._n_images,
                "file_name": f"{row['clip_id']}/{frame:06d}.jpg",
                "width": row["width_px"],
                "height": row["height_px"],
                "clip_id": row["clip_id"],
                "frame": frame,
            }
            _put(self._images, image, first=self._n_images == 1)
            for person in row["people"]:
                self._n_annotations += 1
                values = {"id": self._n_annotations, "image_id": self._n_images, **_annotation(person, frame)}
                _put(self._annotations, values, first=self._n_annotations == 1)

    def finish(self) -> None:
        """Join the parts."""
        links = [[a + 1, b + 1] for a, b in SKELETON if max(a, b) < BODY.stop]
        names = list(KEYPOINT_NAMES[BODY])
        category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": names, "skeleton": links}
        with self._path.open("w") as file:
            file.write('{"info": {"description": "COCO-WholeBody labels by mit-builder"}, "licenses": [],\n')
            file.write(f'"categories": [{json.dumps(category)}],\n"images": [\n')
            _copy(self._images, file)
            file.write('],\n"annotations": [\n')
            _copy(self._annotations, file)
            file.write("]}\n")


def _put(file: IO[str], values: dict[str, Any], *, first: bool) -> None:
    file.write(("" if first else ",\n") + json.dumps(values, allow_nan=False))


def _copy(source: IO[str], target: IO[str]) -> None:
    source.seek(0)
    while text := source.read(1 << 20):
        target.write(text)


def _annotation(person: dict[str, Any], frame: int) -> dict[str, Any]:
    points: Floats = person["keypoints"][frame]
    x0, y0, x1, y1 = (float(v) for v in person["boxes_xyxy"][frame])
    triples = _with_visibility(points)
    values: dict[str, Any] = {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "num_keypoints": int((triples[BODY, 2] > 0).sum()),
        "keypoint_scores": [float(v) for v in points[:, 2]],
        "person_id": int(person["person_id"]),
        "speaking": bool(person["speaking"][frame]),
        "speaking_score": float(person["speaking_score_smoothed"][frame]),
    }
    for name, group in _GROUPS.items():
        values[name] = [int(v) if i % 3 == 2 else float(v) for i, v in enumerate(triples[group].reshape(-1))]
    parts = {"face": FACE, "lefthand": LEFT_HAND, "righthand": RIGHT_HAND, "foot": FEET}
    for name, group in parts.items():
        seen = triples[group][triples[group, 2] > 0]
        values[f"{name}_valid"] = bool(len(seen))
        if name != "foot":
            values[f"{name}_box"] = _hull_xywh(seen)
    return values


def _with_visibility(points: Floats) -> npt.NDArray[np.float64]:
    """(133, 3) x, y, v of (133, 3) x, y, score."""
    is_known = np.isfinite(points[:, :2]).all(axis=1)
    seen = np.where(points[:, 2] >= SEEN_SCORE, 2, 1)
    return np.where(is_known[:, None], np.column_stack([points[:, :2].astype(np.float64), seen]), 0.0)


def _hull_xywh(points: npt.NDArray[np.float64]) -> list[float]:
    if not len(points):
        return [0.0, 0.0, 0.0, 0.0]
    (x0, y0), (x1, y1) = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    return [float(x0), float(y0), float(x1 - x0), float(y1 - y0)]


def _write_images(clip: ExportedClip, folder: Path) -> None:
    folder.mkdir(parents=True)
    for frame, image in enumerate(clip_frames(clip)):
        path = folder / f"{frame:06d}.jpg"
        if not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise MediaError(f"{clip.clip_id}: cannot write {path.name}")


def clip_frames(clip: ExportedClip) -> Iterator[npt.NDArray[np.uint8]]:
    """(h, w, 3) RGB of every frame of a clip's timeline.

    Raises:
        MediaError: it does not hold the frames that the row says.
    """
    n_frames, index = (clip.table[name][0].as_py() for name in ("n_frames", "media_frame_index"))
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(clip.media("clip"))
        file.flush()
        yield from (frame.image for frame in read_clip(Path(file.name), n_frames, index))
