"""The layout of the MIT dataset and of CovOG's training code (Zhu et al., github.com/Zeyu-Zhu, baseline_train).

    train.json val.json test.json        training indices: one object a clip, paths relative to the export's folder
    clips/<clip_id>/
      video.mp4 audio.flac               the clip as it is in the dataset
      frames/output_0001.png ...         every frame, fitted into 1920x1080, black around it
      pose_frame/output_0001.png ...     pose maps of all people on the same canvas
      pose/output_0001.json ...          keypoints in canvas pixels, the form of Sapiens' demo
      speaker_info.json, speaker_info_merged.json, speaker_info_with_instance_bbox.json
      meta.json                          where it came from
      audio_embeding.pt                  (n_frames, 12, 768), where an encoder was given

Names are spelt as the training code spells them. `clip_range` is always [1, n_frames]: the code slices frames by it but
indexes audio, poses and scores from 0. A point without an estimate is (0, 0) with score 0, as JSON has no NaN.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
import numpy.typing as npt

from mit_builder.console import hints
from mit_builder.dataset.pose_map import pose_map
from mit_builder.errors import ConfigError, MediaError
from mit_builder.exports.coco import clip_frames
from mit_builder.exports.encoder import AudioEncoder, embed
from mit_builder.exports.job import ExportedClip, Job
from mit_builder.media.audio import read_flac

CANVAS_WH = (1920, 1080)
"""The training code builds its masks on a canvas of this size."""
EMBEDDING = "audio_embeding.pt"
SPEAKERS = "speaker_info_with_instance_bbox.json"
_PNG_COMPRESSION = 1

Floats = npt.NDArray[np.float32]
Boxes = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """How a clip's picture lies on the canvas.

    Attributes:
        size_wh: of the picture on the canvas.
        scale_xy: canvas pixels for one of the clip's.
        offset_xy: of the picture's top left corner.
    """

    size_wh: tuple[int, int]
    scale_xy: tuple[float, float]
    offset_xy: tuple[int, int]

    @classmethod
    def of(cls, width_px: int, height_px: int) -> Fit:
        """The placing that makes the picture as large as fits, in the middle."""
        scale = min(CANVAS_WH[0] / width_px, CANVAS_WH[1] / height_px)
        width, height = round(width_px * scale), round(height_px * scale)
        offset = (CANVAS_WH[0] - width) // 2, (CANVAS_WH[1] - height) // 2
        return cls((width, height), (width / width_px, height / height_px), offset)

    def points(self, xy: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(…, 2) pixels of the clip -> of the canvas."""
        return np.asarray(xy.astype(np.float64) * self.scale_xy + self.offset_xy)

    def boxes(self, xyxy: npt.NDArray[Any]) -> Boxes:
        """(…, 4) boxes of the clip -> of the canvas."""
        return self.points(xyxy.reshape(*xyxy.shape[:-1], 2, 2)).reshape(xyxy.shape)

    def image(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """(h, w, 3) of the clip -> (1080, 1920, 3)."""
        canvas = np.zeros((CANVAS_WH[1], CANVAS_WH[0], 3), np.uint8)
        (x, y), (width, height) = self.offset_xy, self.size_wh
        grows = width > image.shape[1]
        how = cv2.INTER_CUBIC if grows else cv2.INTER_AREA
        canvas[y : y + height, x : x + width] = cv2.resize(image, self.size_wh, interpolation=how)
        return canvas


def write(job: Job) -> None:
    """Write the clips and the indices of the splits.

    Raises:
        ConfigError: the output's path holds the word "frames", which the training code replaces.
    """
    if "frames" in job.folder.as_posix():
        raise ConfigError('choose an --output whose path does not hold "frames": CovOG replaces that word in paths')
    indices: dict[str, list[dict[str, str]]] = {}
    for clip in job.clips(media=True):
        folder = job.folder / "clips" / clip.clip_id
        folder.mkdir(parents=True)
        _write_clip(clip, folder, job.encoder)
        place = f"clips/{clip.clip_id}"
        sample = {
            "image_dir": f"{place}/frames",
            "pose_dir": f"{place}/pose_frame",
            "speak_info_path": f"{place}/{SPEAKERS}",
            "audio_embedding_path": f"{place}/{EMBEDDING}",
        }
        indices.setdefault(clip.split, []).append(sample)
    for split, samples in indices.items():
        (job.folder / f"{split}.json").write_text(json.dumps(samples, indent=1) + "\n")
    if job.encoder is None:
        job.notes.append(f"complete but for {EMBEDDING}: --audio-encoder makes it (docs/EXPORT.md)")


def remove(folder: Path, clip_ids: Collection[str]) -> None:
    """Take clips out of an export: first out of the indices, then their folders; what is gone already is no error."""
    places = {f"clips/{name}/frames" for name in clip_ids}
    for path in (folder / f"{split}.json" for split in ("train", "val", "test")):
        if path.exists():
            samples = [sample for sample in json.loads(path.read_text()) if sample["image_dir"] not in places]
            new = path.with_suffix(".new")
            new.write_text(json.dumps(samples, indent=1) + "\n")
            new.replace(path)
    for name in clip_ids:
        if (folder / "clips" / name).exists():
            shutil.rmtree(folder / "clips" / name)


def _write_clip(clip: ExportedClip, folder: Path, encoder: AudioEncoder | None) -> None:
    row = clip.values
    fit = Fit.of(row["width_px"], row["height_px"])
    (folder / "video.mp4").write_bytes(clip.media("clip"))
    (folder / "audio.flac").write_bytes(clip.media("audio"))
    points = np.stack([person["keypoints"] for person in row["people"]])
    on_canvas = np.concatenate([fit.points(points[..., :2]), points[..., 2:]], axis=-1).astype(np.float32)
    digits = max(4, len(str(row["n_frames"])))
    for name in ("frames", "pose_frame", "pose"):
        (folder / name).mkdir()
    for frame, image in enumerate(clip_frames(clip)):
        name = f"output_{frame + 1:0{digits}d}"
        _write_png(folder / "frames" / f"{name}.png", fit.image(image))
        _write_png(folder / "pose_frame" / f"{name}.png", pose_map(on_canvas[:, frame], CANVAS_WH))
        (folder / "pose" / f"{name}.json").write_text(json.dumps(_instances(on_canvas[:, frame]), allow_nan=False))
    _write_speakers(row, fit, folder)
    (folder / "meta.json").write_text(json.dumps(_meta(row), indent=1) + "\n")
    if encoder is not None:
        _write_embedding(encoder, clip, folder / EMBEDDING)


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    if not cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, _PNG_COMPRESSION]):
        raise MediaError(f"cannot write {path}")


def _instances(points: Floats) -> dict[str, Any]:
    """(n_people, 133, 3) of one frame in the form of Sapiens' demo."""
    known = np.isfinite(points[..., :2]).all(axis=-1)
    xy = np.where(known[..., None], points[..., :2], 0)
    scores = np.where(known, points[..., 2], 0)
    return {
        "instance_info": [
            {"keypoints": p.tolist(), "keypoint_scores": s.tolist()} for p, s in zip(xy, scores, strict=True)
        ]
    }


def _write_speakers(row: dict[str, Any], fit: Fit, folder: Path) -> None:
    people = row["people"]
    boxes = instance_boxes(fit.boxes(np.stack([person["boxes_xyxy"] for person in people])))
    for merged in ("", "_merged"):
        speakers = [_speaker(person, fit, merged) for person in people]
        (folder / f"speaker_info{merged}.json").write_text(json.dumps(speakers, allow_nan=False))
        if not merged:
            for speaker, box in zip(speakers, boxes, strict=True):
                speaker |= {"instance_bbox": box.tolist(), "clip_range": [1, row["n_frames"]]}
            (folder / SPEAKERS).write_text(json.dumps(speakers, allow_nan=False))


def _speaker(person: dict[str, Any], fit: Fit, merged: str) -> dict[str, Any]:
    speak, listen = person[f"speak_periods{merged}"].tolist(), person[f"listen_periods{merged}"].tolist()
    return {
        "face_track": fit.boxes(person["face_boxes_xyxy"]).tolist(),
        "speak": speak,
        "listen": listen,
        "period_num": len(speak) + len(listen),
        "speaking_score": person["speaking_score_smoothed"].tolist(),
    }


def instance_boxes(boxes: Boxes) -> Boxes:
    """One box a person for the whole clip: the hull of the body's boxes, neighbours parted in the middle of an overlap.

    Args:
        boxes: (n_people, n_frames, 4) in canvas pixels.

    Returns:
        (n_people, 4) within the canvas. Boxes of people who stay in their places do not overlap sideways.
    """
    hulls = np.concatenate([boxes[..., :2].min(axis=1), boxes[..., 2:].max(axis=1)], axis=-1)
    hulls = np.clip(hulls, 0, (*CANVAS_WH, *CANVAS_WH))
    middles = (boxes[..., 0] + boxes[..., 2]).mean(axis=1) / 2
    order = np.argsort(middles, kind="stable")
    for left, right in pairwise(order):
        if hulls[left, 2] > hulls[right, 0]:
            border = np.clip((hulls[left, 2] + hulls[right, 0]) / 2, middles[left], middles[right])
            hulls[left, 2] = hulls[right, 0] = border
    return np.asarray(np.round(hulls, 2), np.float64)


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": urlsplit(row["source_url"]).hostname or "file",
        "video": row["video_id"],
        "period": [row["start_s"], row["end_s"]],
        "num_speaker": row["n_people"],
        "url": row["source_url"],
        "licence": row["licence"],
        "label_tier": row["label_tier"],
        "pose_backend": row["pose_backend"],
        "speech_backend": row["speech_backend"],
    }


def _write_embedding(encoder: AudioEncoder, clip: ExportedClip, path: Path) -> None:
    try:
        import torch
    except ImportError as error:
        raise ConfigError(f"--audio-encoder needs torch: {hints.pip('torch')}") from error
    with tempfile.NamedTemporaryFile(suffix=".flac") as file:
        file.write(clip.media("audio"))
        file.flush()
        samples = read_flac(Path(file.name))
    torch.save(torch.from_numpy(embed(encoder, samples, clip.values["n_frames"])), path)
