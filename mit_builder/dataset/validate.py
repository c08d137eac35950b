"""Checks that a published dataset keeps its promises, for `mit-build validate DIR`.

Everything is computed again from what the dataset itself holds: no settings, no model. Of a workspace the files that it
was made from are read as well (mit_builder/dataset/validate_files.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.dataset_row import DatasetRow, Person
from manifests.rows import N_KEYPOINTS, TIMELINE_FPS, clip_id
from manifests.signatures import is_signed
from mit_builder.console.wording import counted
from mit_builder.dataset.index import IndexedShard, dataset_schema, stale_shards
from mit_builder.dataset.plugged import plugged_fields
from mit_builder.dataset.reader import DatasetFiles, read_rows
from mit_builder.dataset.validate_files import damaged_files
from mit_builder.dataset.validate_media import media_problems
from mit_builder.labels.corrections import human_mask, label_tier
from mit_builder.labels.keypoints import visible_ratios
from mit_builder.labels.speaking import interaction_labels, is_speaking, merged_periods, periods, runs, smooth
from mit_builder.media.captions import MAX_CHARACTERS
from mit_builder.storage.scratch import sha256_of

BOX_TOLERANCE_PX = 1.0
"""How far a body's box may leave the picture: boxes are float32 and clips are padded to even sides."""
FACE_OUTSIDE = 0.5
"""Share of its own side by which a face's box may leave the picture: heads are cut by the picture's edge."""
SCORE_TOLERANCE = 1e-4
"""Difference allowed between a stored float32 score and its recomputation, relative and absolute."""
CAPTION_TOLERANCE_S = 0.001
"""Times of captions are rounded to milliseconds."""

Row = dict[str, Any]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: a clip_id or a file name.
        what: one line.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def validate(place: str | Path) -> list[Problem]:
    """Everything that is wrong with a dataset, given its folder or its workspace; empty means sound.

    Of a workspace, also the files that are gone or damaged.

    Args:
        place: a path, or a URI of object storage.

    Raises:
        ConfigError: there is no dataset, or its index cannot be read.
        WorkspaceError: storage does not answer.
    """
    dataset = DatasetFiles(place)
    files = [Problem(key, what) for key, what in damaged_files(place)]
    return [*files, *_problems(dataset)]


def _problems(files: DatasetFiles) -> Iterator[Problem]:
    index, names = files.index(), files.names()
    for name in stale_shards(index, names):
        yield Problem(name, "lies in the dataset's folder but the index does not name it")
    seen: dict[str, str] = {}
    split_of_video: dict[str, str] = {}
    for shard in index.shards:
        if shard.name not in names:
            yield Problem(shard.name, "is named by the index but missing")
            continue
        for name in set(shard.media).difference(names):
            yield Problem(shard.name, f"media file {name} is missing")
        for name, sha256 in zip(shard.media, shard.media_sha256, strict=False):
            yield from _media_file(name, sha256, files) if name in names else ()
        with files.local(shard.name) as path:
            yield from _file(path, shard)
            for row in _rows(path, shard):
                if isinstance(row, Problem):
                    yield row
                    continue
                yield from (Problem(row["clip_id"], what) for what in _row(row, files))
                if row["clip_id"] in seen:
                    yield Problem(row["clip_id"], f"is in {seen[row['clip_id']]} and again in {shard.name}")
                seen[row["clip_id"]] = shard.name
                split = split_of_video.setdefault(row["video_id"], row["split"])
                if split != row["split"]:
                    yield Problem(row["clip_id"], f"split is {row['split']}, another clip of its video is in {split}")


def _media_file(name: str, sha256: str, files: DatasetFiles) -> Iterator[Problem]:
    with files.local(name) as path:
        if sha256_of(path) != sha256:
            yield Problem(name, "sha256 differs from the index: the file was changed or cut off")


def _file(path: Path, shard: IndexedShard) -> Iterator[Problem]:
    if sha256_of(path) != shard.sha256:
        yield Problem(shard.name, "sha256 differs from the index: the file was changed or cut off")
    try:
        with pq.ParquetFile(path) as file:
            schema, n_rows = file.schema_arrow, file.metadata.num_rows
        ids = [row["clip_id"] for row in read_rows(path, ["clip_id"])] if "clip_id" in schema.names else []
    except (OSError, ValueError):  # Arrow's errors about data are ValueErrors
        return  # reading the rows says why
    if n_rows != shard.n_clips:
        yield Problem(shard.name, f"has {counted(n_rows, 'row')}, the index says {shard.n_clips}")
    if ids != sorted(ids):
        yield Problem(shard.name, "rows are not ordered by clip_id")
    yield from (Problem(shard.name, what) for what in _schema(schema))


def _schema(found: pa.Schema) -> Iterator[str]:
    expected = dataset_schema(plugged_fields(found))
    if found.names != expected.names:
        missing = [name for name in expected.names if name not in found.names]
        extra = [name for name in found.names if name not in expected.names]
        yield f"columns differ: missing {missing}, unknown {extra}, or in another order"
    for field in expected:
        if field.name in found.names and found.field(field.name).type != field.type:
            yield f"column {field.name} is {found.field(field.name).type}, must be {field.type}"
    metadata = found.metadata or {}
    for key, value in (expected.metadata or {}).items():
        if key not in metadata or json.loads(metadata[key]) != json.loads(value):
            yield f"file metadata {key.decode()!r} is missing or differs: other tools cannot read the columns rightly"


def _rows(path: Path, shard: IndexedShard) -> Iterator[Row | Problem]:
    """Rows of a shard; none where its columns have other types (`_file` has said so)."""
    try:
        with pq.ParquetFile(path) as file:
            expected = dataset_schema(plugged_fields(file.schema_arrow))
            types_fit = file.schema_arrow.names == expected.names and file.schema_arrow.types == expected.types
        if types_fit:
            yield from read_rows(path)
    except (OSError, ValueError) as error:
        yield Problem(shard.name, f"cannot be read: {str(error).splitlines()[0]}")


def _row(row: Row, files: DatasetFiles) -> Iterator[str]:
    missing = _nulls(DatasetRow, row) + [what for person in row["people"] for what in _nulls(Person, person)]
    if missing:
        yield f"null where a value must be: {', '.join(missing)}"
        return
    yield from _identity(row)
    misshapen = [what for person in row["people"] for what in _shapes(row, person)]
    if len(row["voice_activity"]) != row["n_frames"]:
        misshapen.append(
            f"voice_activity has {counted(len(row['voice_activity']), 'value')} for {row['n_frames']} frames"
        )
    yield from misshapen
    if not row["people"]:
        yield "nobody is listed in people"
    elif not misshapen:
        yield from _people(row)
        for person in row["people"]:
            checks = (_boxes(row, person), _keypoints(row, person), _speech(row, person), _periods(row, person))
            yield from (f"person {person['person_id']}: {what}" for check in checks for what in check)
        yield from _interaction(row)
    yield from _captions(row)
    yield from media_problems(row, files)


def _nulls(kind: type, values: Row) -> list[str]:
    required = [field.name for field in fields(kind) if not str(field.type).endswith("| None")]
    return [name for name in required if values[name] is None]


def _identity(row: Row) -> Iterator[str]:
    n_frames = row["n_frames"]
    start, end = (round(row[name] * TIMELINE_FPS) for name in ("start_s", "end_s"))
    if row["clip_id"] != clip_id(row["video_id"], start, end):
        yield f"does not match video_id and start_s..end_s, which say {clip_id(row['video_id'], start, end)}"
    if end - start != n_frames:
        yield f"start_s..end_s are {end - start} frames, n_frames is {n_frames}"
    if row["fps"] != TIMELINE_FPS:
        yield f"fps is {row['fps']}, must be {TIMELINE_FPS}"
    for name in ("source_frame_index", "media_frame_index"):
        index = np.asarray(row[name])
        if len(index) != n_frames or (np.diff(index) < 0).any() or (index < 0).any():
            yield f"{name} must be {n_frames} frame numbers that never fall"
    allowed = {
        "split": ("train", "val", "test"),
        "access": ("public", "authenticated"),
        "media_fps": ("25", "source"),
        "label_tier": ("heuristic", "model", "human"),
    }
    for name, values in allowed.items():
        if row[name] not in values:
            yield f"{name} is {row[name]!r}, must be one of {', '.join(values)}"
    for name in ("source_url", "source_fps", "detector", "pose_backend", "speech_backend", "mit_builder_version"):
        if not row[name]:
            yield f"{name} is empty: provenance must be stated"
    if is_signed(row["source_url"] or ""):
        yield "source_url holds a signature or a login"


def _shapes(row: Row, person: Row) -> Iterator[str]:
    n_frames = row["n_frames"]
    expected = {
        "boxes_xyxy": ((n_frames, 4), "f"),
        "face_boxes_xyxy": ((n_frames, 4), "f"),
        "face_box_source": ((n_frames,), "O"),
        "keypoints": ((n_frames, N_KEYPOINTS, 3), "f"),
        "speaking_score": ((n_frames,), "f"),
        "speaking_score_smoothed": ((n_frames,), "f"),
        "speaking": ((n_frames,), "b"),
    }
    for name, (shape, kind) in expected.items():
        found = person[name]
        if found.shape != shape:
            yield f"person {person['person_id']}: {name} has shape {found.shape}, must be {shape}"
        elif found.dtype.kind != kind:
            yield f"person {person['person_id']}: {name} holds nulls"


def _people(row: Row) -> Iterator[str]:
    ids = [person["person_id"] for person in row["people"]]
    if ids != list(range(len(ids))):
        yield f"person ids are {ids}, must be 0..{len(ids) - 1}"
    if row["n_people"] != len(ids):
        yield f"n_people is {row['n_people']}, but the people listed are {len(ids)}"
    first = np.array([person["face_boxes_xyxy"][0] for person in row["people"]])
    centre_x, width = (first[:, 0] + first[:, 2]) / 2, first[:, 2] - first[:, 0]
    # The order was fixed on the detector's boxes; the speech model's may lie half a face beside them.
    if (np.diff(centre_x) < -np.maximum(width[1:], width[:-1]) / 2).any():
        yield f"people are not numbered from left to right: faces at x = {np.round(centre_x).tolist()}"


def _boxes(row: Row, person: Row) -> Iterator[str]:
    picture = np.array([row["width_px"], row["height_px"]])
    for name, share in (("boxes_xyxy", 0.0), ("face_boxes_xyxy", FACE_OUTSIDE)):
        boxes = np.asarray(person[name])
        if not np.isfinite(boxes).all():
            yield f"{name} is not finite in frame {_first(~np.isfinite(boxes).all(axis=1))}"
            continue
        low, high = boxes[:, :2], boxes[:, 2:]
        if (high <= low).any():
            yield f"{name} is empty or turned around in frame {_first((high <= low).any(axis=1))}"
        slack = BOX_TOLERANCE_PX + share * np.abs(high - low)
        outside = ((low < -slack) | (high > picture + slack)).any(axis=1)
        if outside.any():
            yield f"{name} leaves the picture in frame {_first(outside)}: {boxes[_first(outside)].tolist()}"
    unknown = set(person["face_box_source"]) - {"pose", "detector", "interpolated"}
    if unknown:
        yield f"face_box_source {sorted(map(str, unknown))} is unknown"


def _first(wrong: Array) -> int:
    return int(np.flatnonzero(wrong)[0])


def _keypoints(row: Row, person: Row) -> Iterator[str]:
    keypoints = np.asarray(person["keypoints"])
    xy, score = keypoints[..., :2], keypoints[..., 2]
    if not ((score >= 0) & (score <= 1)).all():
        yield f"a keypoint score is outside 0..1 in frame {_first(~((score >= 0) & (score <= 1)).all(axis=1))}"
    wrong = (~np.isfinite(xy)).any(axis=2) & ~(np.isnan(xy).all(axis=2) & (score == 0))
    if wrong.any():
        yield f"a keypoint in frame {_first(wrong.any(axis=1))} is neither a point nor (NaN, NaN, 0)"
    for name, visible in visible_ratios(keypoints, row["width_px"], row["height_px"]).items():
        if not np.isclose(visible, person[name], atol=SCORE_TOLERANCE):
            yield f"{name} is {person[name]:.4f}, its keypoints say {visible:.4f}"
    if person["body_visible_ratio"] < row["min_body_visible"] - SCORE_TOLERANCE:
        yield f"body_visible_ratio is {person['body_visible_ratio']:.4f}, below min_body_visible"


def _speech(row: Row, person: Row) -> Iterator[str]:
    raw, smoothed = np.asarray(person["speaking_score"]), np.asarray(person["speaking_score_smoothed"])
    if not (np.isfinite(raw).all() and np.isfinite(smoothed).all()):
        yield "a speaking score is not finite"
        return
    wrong = ~np.isclose(smooth(raw), smoothed, rtol=SCORE_TOLERANCE, atol=SCORE_TOLERANCE)
    if wrong.any():
        yield f"speaking_score_smoothed is not the mean of i-3..i+2 of speaking_score in frame {_first(wrong)}"
    speaking = np.asarray(person["speaking"], bool)
    human = human_mask(person)
    if not np.array_equal(runs(human), person["human_periods"]):
        yield f"human_periods are {person['human_periods'].tolist()}: not intervals of the clip in order and apart"
    wrong = (speaking != is_speaking(smoothed, row["voice_activity"], row["min_voice_activity"])) & ~human
    if wrong.any():
        yield f"speaking disagrees with the smoothed score and voice_activity in frame {_first(wrong)}"
    if not np.isclose(person["talk_share"], speaking.mean(), atol=SCORE_TOLERANCE):
        yield f"talk_share is {person['talk_share']:.4f}, speaking says {speaking.mean():.4f}"


def _periods(row: Row, person: Row) -> Iterator[str]:
    speaking, human, limit = np.asarray(person["speaking"], bool), human_mask(person), row["merge_below_frames"]
    expected = {
        "speak_periods": periods(speaking, human),
        "listen_periods": periods(~speaking, human),
        "speak_periods_merged": merged_periods(speaking, limit, human),
        "listen_periods_merged": merged_periods(~speaking, limit, human),
    }
    for name, intervals in expected.items():
        if not np.array_equal(person[name], intervals):
            yield f"{name} are {person[name].tolist()}, speaking says {intervals.tolist()}"
    for suffix in ("", "_merged"):
        both = np.concatenate([person[f"{kind}_periods{suffix}"] for kind in ("speak", "listen")])
        starts, ends = both[np.argsort(both[:, 0], kind="stable")].T
        if [0, *ends] != [*starts, row["n_frames"]] or (ends <= starts).any():
            yield f"speak and listen periods{suffix} do not partition the clip's {row['n_frames']} frames"


def _interaction(row: Row) -> Iterator[str]:
    if (label_tier(row["people"], row["n_frames"], "") == "human") != (row["label_tier"] == "human"):
        yield f"label_tier is {row['label_tier']}, human_periods say otherwise"
    speaking = np.stack([np.asarray(person["speaking"], bool) for person in row["people"]])
    labels = interaction_labels(speaking, np.stack([human_mask(person) for person in row["people"]]))
    for name in ("n_turns", "overlap_ratio", "silence_ratio"):
        stored, computed = row[name], getattr(labels, name)
        equal = stored is computed if stored is None or computed is None else np.isclose(stored, computed)
        if not equal:
            yield f"{name} is {stored}, speaking says {computed}"


def _captions(row: Row) -> Iterator[str]:
    starts = [caption["start_s"] for caption in row["captions"]]
    if starts != sorted(starts):
        yield "captions are not in order of time"
    for n, caption in enumerate(row["captions"]):
        start_s, end_s, text = (caption[name] for name in ("start_s", "end_s", "text"))
        if not 0 <= start_s < end_s <= row["n_frames"] / TIMELINE_FPS + CAPTION_TOLERANCE_S:
            yield f"caption {n} lasts from {start_s} to {end_s} s, outside the clip"
        if not text or text != text.strip() or not text.isprintable() or len(text) > MAX_CHARACTERS:
            yield f"caption {n} is not one line of 1 to {MAX_CHARACTERS} characters"
        if not caption["language"]:
            yield f"caption {n} has no language"
