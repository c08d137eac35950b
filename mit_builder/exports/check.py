"""Whether an export of the mit form is what CovOG's training code needs.

That code swallows every error of a sample and draws another, so a broken export shows as an endless loop. This
re-implements what it reads: file by file, in its order, with its slices.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.rows import N_KEYPOINTS
from mit_builder.console.wording import counted
from mit_builder.dataset.index import inside
from mit_builder.errors import ConfigError
from mit_builder.exports.encoder import CHANNELS, LAYERS
from mit_builder.exports.folder import read_record
from mit_builder.exports.mit import CANVAS_WH

INDICES = ("train.json", "val.json", "test.json")
FIELDS = ("image_dir", "pose_dir", "speak_info_path", "audio_embedding_path")
MAX_PROBLEMS = 50
"""More say nothing new."""
_PNG = b"\x89PNG\r\n\x1a\n"


_MATCH_SCORE = 0.4
"""Points that count in training when a pose is given to a person's box."""


@dataclass(frozen=True)
class Verdict:
    """What a check found.

    Attributes:
        problems: one line each.
        n_clips: in the indices.
        n_without_audio: clips without audio embeddings.
        matched: share of persons and frames in which CovOG's rule (most points inside `instance_bbox`) picks the pose
            that is the person's; None where that could not be looked at.
    """

    problems: tuple[str, ...]
    n_clips: int
    n_without_audio: int
    matched: float | None = None

    @property
    def summary(self) -> str:
        """One line."""
        if self.problems:
            return f"broken: {counted(len(self.problems), 'problem')} in {counted(self.n_clips, 'clip')}"
        if self.n_without_audio:
            return f"complete but for audio embeddings ({self.n_without_audio} of {counted(self.n_clips, 'clip')})"
        return f"complete: {counted(self.n_clips, 'clip')}"


def check_export(folder: Path) -> Verdict:
    """Check every sample of every index.

    Raises:
        ConfigError: the folder is no finished export of the mit form.
    """
    record = read_record(folder)
    if record.format != "mit":
        raise ConfigError(f"{folder} is an export of the form {record.format}: --check knows mit alone")
    problems: list[str] = []
    seen: set[str] = set()
    n_without_audio = 0
    matches: list[bool] = []
    for sample in _samples(folder, problems):
        name = Path(sample["image_dir"]).parent.name
        seen.add(name)
        found = [f"{name}: {problem}" for problem in _problems(folder, sample)]
        problems += found[: MAX_PROBLEMS - len(problems)]
        n_without_audio += not (folder / sample["audio_embedding_path"]).exists()
        if not found:
            matches += _matches(folder, sample)
    missing = sorted(set(record.clip_ids) - seen)
    problems += [f"{name}: in no training index" for name in missing[: max(0, MAX_PROBLEMS - len(problems))]]
    if record.audio_encoder and n_without_audio:
        problems.append(f"audio embeddings are gone from {counted(n_without_audio, 'clip')}")
    matched = float(np.mean(matches)) if matches else None
    return Verdict(tuple(problems), len(seen), n_without_audio, matched)


def _samples(folder: Path, problems: list[str]) -> Iterator[dict[str, str]]:
    for name in INDICES:
        path = folder / name
        if not path.exists():
            continue
        try:
            samples = json.loads(path.read_text())
        except ValueError:
            problems.append(f"{name}: no JSON")
            continue
        for sample in samples if isinstance(samples, list) else [None]:
            if isinstance(sample, dict) and all(isinstance(sample.get(field), str) for field in FIELDS):
                yield sample
            else:
                problems.append(f"{name}: an entry without {', '.join(FIELDS)}")


def _problems(folder: Path, sample: dict[str, str]) -> Iterator[str]:
    """What the training code would stumble over in one sample."""
    named = [sample[field] for field in FIELDS]
    if any(inside(folder, name) is None for name in (*named, sample["image_dir"].replace("frames", "pose"))):
        yield "its paths lead out of the export"
        return
    images, pose_images = (folder / sample[field] for field in ("image_dir", "pose_dir"))
    poses = folder / sample["image_dir"].replace("frames", "pose")
    if not (images.is_dir() and pose_images.is_dir() and poses.is_dir()):
        yield "frames, pose_frame or pose is missing"
        return
    names = sorted(path.name for path in images.iterdir())
    n_frames = len(names)
    if not n_frames:
        yield "no frames"
        return
    if sorted(path.name for path in pose_images.iterdir()) != names:
        yield "pose_frame does not hold just the names of frames"
    for path in sorted(images.iterdir()) + sorted(pose_images.iterdir()):
        problem = png_problem(path)
        if problem:
            yield f"{path.parent.name}/{path.name}: {problem}"
    yield from _pose_problems(poses, n_frames)
    yield from _speaker_problems(folder / sample["speak_info_path"], n_frames)
    embedding = folder / sample["audio_embedding_path"]
    if embedding.exists():
        yield from _embedding_problems(embedding, n_frames)


def png_problem(path: Path) -> str | None:
    """Why a file is no whole RGB PNG of the canvas' size; every chunk's checksum is looked at."""
    data = path.read_bytes()
    if not data.startswith(_PNG):
        return "no PNG"
    place, kinds = len(_PNG), []
    while place < len(data):
        if place + 12 > len(data):
            return "cut short"
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 8 + length
        if end + 4 > len(data):
            return "cut short"
        if zlib.crc32(data[place + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            return "damaged"
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack_from(">IIBB", data, place + 8)
            if (width, height) != CANVAS_WH or (depth, colour) != (8, 2):
                return f"{width}x{height}, not RGB of {CANVAS_WH[0]}x{CANVAS_WH[1]}"
        kinds.append(kind)
        place = end + 4
    return None if kinds and kinds[-1] == b"IEND" and b"IDAT" in kinds else "cut short"


def _pose_problems(folder: Path, n_frames: int) -> Iterator[str]:
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    if len(paths) != n_frames:
        yield f"{counted(len(paths), 'pose file')} for {counted(n_frames, 'frame')}"
    for path in paths:
        try:
            instances = json.loads(path.read_text())["instance_info"]
            shapes = {(np.shape(i["keypoints"]), np.shape(i["keypoint_scores"])) for i in instances}
            finite = all(
                np.isfinite(i["keypoints"]).all() and np.isfinite(i["keypoint_scores"]).all() for i in instances
            )
        except (ValueError, KeyError, TypeError):
            yield f"pose/{path.name}: not of Sapiens' form"
            continue
        if shapes != {((N_KEYPOINTS, 2), (N_KEYPOINTS,))} or not finite:
            yield f"pose/{path.name}: not {N_KEYPOINTS} finite points and scores for each of one person or more"


def _matches(folder: Path, sample: dict[str, str]) -> Iterator[bool]:
    """Whether, for each person and frame, the pose with most points in the person's box is that person's own."""
    speakers = json.loads((folder / sample["speak_info_path"]).read_text())
    boxes = np.array([speaker["instance_bbox"] for speaker in speakers])[:, None, None]
    for path in sorted((folder / sample["image_dir"].replace("frames", "pose")).glob("*.json")):
        instances = json.loads(path.read_text())["instance_info"]
        xy = np.array([i["keypoints"] for i in instances])
        counts = np.array([i["keypoint_scores"] for i in instances]) >= _MATCH_SCORE
        inside = ((xy >= boxes[..., :2]) & (xy <= boxes[..., 2:])).all(-1) & counts
        yield from (inside.sum(-1).argmax(-1) == np.arange(len(speakers))).tolist()


def _speaker_problems(path: Path, n_frames: int) -> Iterator[str]:
    try:
        speakers: list[dict[str, Any]] = json.loads(path.read_text())
        boxes = np.array([speaker["instance_bbox"] for speaker in speakers], float)
        scores = [np.array(speaker["speaking_score"], float) for speaker in speakers]
        clip_range = speakers[0]["clip_range"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        yield f"{path.name}: not a list of people with instance_bbox, speaking_score and, for the first, clip_range"
        return
    limits = (*CANVAS_WH, *CANVAS_WH)
    if boxes.shape != (len(speakers), 4) or not ((boxes >= 0) & (boxes <= limits)).all():
        yield f"{path.name}: instance_bbox is not within the canvas"
    elif not ((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).all():
        yield f"{path.name}: an instance_bbox is empty"
    if clip_range != [1, n_frames]:
        yield f"{path.name}: clip_range is {clip_range}, but frames, poses, audio and scores agree for [1, {n_frames}]"
    if any(s.shape != (n_frames,) or not np.isfinite(s).all() for s in scores):
        yield f"{path.name}: speaking_score is not one finite number for each of {n_frames} frames"


def _embedding_problems(path: Path, n_frames: int) -> Iterator[str]:
    """The number of values is looked at without torch, their shape with it."""
    shape = n_frames, LAYERS, CHANNELS
    try:
        with zipfile.ZipFile(path) as file:
            n_bytes = sum(part.file_size for part in file.infolist() if part.filename.endswith("/data/0"))
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError):
        yield f"{path.name}: not a file of torch.save"
        return
    if n_bytes != 4 * math.prod(shape):
        yield f"{path.name}: {counted(n_bytes, 'byte')} of values, not float32 of shape {shape}"
        return
    try:
        import torch
    except ImportError:
        return
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        yield f"{path.name}: {(str(error).splitlines() or [''])[0][:100]}"
        return
    if tuple(getattr(tensor, "shape", ())) != shape or not bool(torch.isfinite(tensor).all()):
        yield f"{path.name}: {tuple(getattr(tensor, 'shape', ()))}, not finite values of shape {shape}"
