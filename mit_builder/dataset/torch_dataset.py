"""Training from a dataset's shards: `ClipDataset`, a torch dataset of short windows of clips.

    from mit_builder.dataset.torch_dataset import ClipDataset
    clips = ClipDataset("talks", split="train", n_frames=15, frame_step=2, size_hw=(384, 640))
    for epoch in range(10):
        clips.set_epoch(epoch)
        for batch in torch.utils.data.DataLoader(clips, batch_size=4, num_workers=4): ...

The only module that needs torch besides the model backends (extra `train`). Everything is drawn and decoded when it is
asked for; nothing is written beside the dataset.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import IterableDataset, get_worker_info

from manifests.rows import AUDIO_RATE_HZ, N_KEYPOINTS, SAMPLES_PER_FRAME
from mit_builder.dataset.pose_map import pose_map
from mit_builder.dataset.reader import DatasetFiles, RowReader
from mit_builder.errors import ConfigError, MediaError
from mit_builder.media.audio import read_flac
from mit_builder.media.clip import read_clip
from mit_builder.media.frames import Frame
from mit_builder.storage.tombstones import Tombstones

Sample = dict[str, Any]
Floats = npt.NDArray[np.float32]

OPEN_GROUPS = 4
"""Row groups that are mixed with one another (each at most 64 MB): memory against how well rows are shuffled."""
_PLANNED = ("clip_id", "uploader", "channel_id", "split", "n_people", "n_frames")
_PEOPLE = ("boxes_xyxy", "face_boxes_xyxy", "keypoints", "speaking_score_smoothed", "speaking")
_COLUMNS = (
    *("clip_id", "n_frames", "media_frame_index", "width_px", "height_px", "clip", "audio", "voice_activity"),
    *(f"people.list.element.{name}" for name in _PEOPLE),
)


@dataclass(frozen=True)
class _Row:
    """Where one clip lies."""

    shard: str
    group: int
    row: int
    clip_id: str
    n_frames: int


class ClipDataset(IterableDataset[Sample]):
    """Windows of a dataset's clips, one a clip and epoch, shuffled anew each epoch in a way that a seed fixes.

    A sample (P = `max_people`, F = `n_frames`, H x W = `size_hw`; people beyond the clip's are zero):

        clip_id          str
        first_frame      int, of the window, on the clip's timeline
        video            (F, 3, H, W) uint8, the picture fitted in, black around it
        pose_maps        (P, F, 3, H, W) uint8, OpenPose style, a picture a person; their maximum is the whole scene
        body_masks       (P, F, H, W) bool, inside the body's box
        face_masks       (P, F, H, W) bool, inside the face's box
        keypoints        (P, F, 133, 3) float32, x, y in pixels of `video`, score; no estimate: (NaN, NaN, 0)
        speaking_score   (P, F) float32, smoothed logits
        speaking         (P, F) bool
        is_person        (P,) bool
        voice_activity   (F,) float32
        audio            (F * frame_step * 640,) float32, 16 kHz mono, -1..1

    Args:
        dataset: folder or URI of a workspace or of a dataset.
        split: train, val or test; None for all.
        n_frames: F; shorter clips (`n_frames * frame_step` frames) are passed over.
        frame_step: every n-th frame of the 25 a second is taken.
        size_hw: H, W.
        max_people: P; clips with more people are passed over.
        n_people: only clips with so many people; None for all.
        shuffle: False gives the dataset's order and windows in the middle of clips.
        seed: of the order and the windows.
        rank: of this process, `world_size` of them share an epoch; each gets equally many samples.
        world_size: see `rank`.
        tombstones: what may not be loaded, besides what the dataset itself says.

    Raises:
        ConfigError: there is no dataset, or nothing in it fits.
    """

    def __init__(  # noqa: PLR0913 - what torch's own loaders look like to their users
        self,
        dataset: str | Path,
        *,
        split: str | None = None,
        n_frames: int = 15,
        frame_step: int = 1,
        size_hw: tuple[int, int] = (384, 640),
        max_people: int = 4,
        n_people: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        tombstones: Tombstones | None = None,
    ) -> None:
        if min(n_frames, frame_step, *size_hw, max_people, world_size) < 1 or not 0 <= rank < world_size:
            raise ConfigError(
                "n_frames, frame_step, size_hw, max_people and world_size are at least 1, rank below the last"
            )
        self._shared = torch.tensor([0, 0, 0, 1]).share_memory_()
        """Epoch, how often a place to begin was named, and that place: batches, of so many samples. Shared, so that
        workers that stay alive see them change."""
        self._named = 0
        """The place to begin that this process's last pass took."""
        self._files = DatasetFiles(dataset)
        self._n_frames, self._step, self._size_hw, self._max_people = n_frames, frame_step, size_hw, max_people
        self._shuffle, self._seed, self._rank, self._world_size = shuffle, seed, rank, world_size
        stones = self._files.tombstones() + (tombstones or Tombstones())

        def fits(row: Sample) -> bool:
            return (
                (split is None or row["split"] == split)
                and row["n_people"] <= max_people
                and (n_people is None or row["n_people"] == n_people)
                and row["n_frames"] >= n_frames * frame_step
                and not stones.bars_row(row)
            )

        try:
            self._groups = self._plan(fits)
        except FileNotFoundError as error:
            raise ConfigError(f"{dataset} is being written anew, or a shard was lost: try again") from error
        if len(self) == 0:
            raise ConfigError(f"no clip of {dataset} fits (split {split}, {n_frames * frame_step} frames or more)")
        self._done: dict[int, int] = {}
        """Samples that each worker has given in this pass."""
        self._loaded: dict[int, int] = {}
        """Those of a loaded state, until the next pass begins after them."""

    def _plan(self, fits: Callable[[Sample], bool]) -> list[list[_Row]]:
        """The fitting rows of every row group, from the small columns."""
        groups = []
        for shard in self._files.index().shards:
            with self._files.parquet(shard.name) as file:
                for group in range(file.num_row_groups):
                    rows = file.read_row_group(group, columns=list(_PLANNED), use_threads=False).to_pylist()
                    found = [
                        _Row(shard.name, group, i, row["clip_id"], row["n_frames"])
                        for i, row in enumerate(rows)
                        if fits(row)
                    ]
                    groups += [found] if found else []
        return groups

    def __len__(self) -> int:
        """Samples an epoch, of this rank."""
        return sum(map(len, self._groups)) // self._world_size

    @property
    def epoch(self) -> int:
        """Which order and windows the next pass has; passes of one epoch are equal."""
        return int(self._shared[0])

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, as with torch's DistributedSampler: its order and windows follow from it and the seed."""
        self._shared[0] = epoch
        self._done, self._loaded = {}, {}
        self.skip_batches(0, 1)

    def state_dict(self) -> dict[str, Any]:
        """How far this process has come: with `num_workers=0`, or per worker as torchdata's StatefulDataLoader asks."""
        return {"epoch": self.epoch, "done": dict(self._done), "skipped": self._shared[2:].tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next pass go on after the samples of a `state_dict`."""
        self.set_epoch(state["epoch"])
        self.skip_batches(*state["skipped"])
        self._loaded = {int(worker): int(n) for worker, n in state["done"].items()}
        self._done = dict(self._loaded)

    def skip_batches(self, n_batches: int, batch_size: int) -> None:
        """Let the next pass go on after so many batches of a plain DataLoader, which its workers gave in turn."""
        self._shared[2:] = torch.tensor([n_batches, batch_size])
        self._shared[1] += 1

    def _place_to_begin(self) -> tuple[int, int]:
        """Batches to skip and their size; each place that is named counts for one pass."""
        _, named, n_batches, batch_size = self._shared.tolist()
        is_new, self._named = named != self._named, named
        return (n_batches, batch_size) if is_new else (0, 1)

    def __iter__(self) -> Iterator[Sample]:
        info = get_worker_info()
        worker, n_workers = (info.id, info.num_workers) if info else (0, 1)
        n_batches, batch_size = self._place_to_begin()
        worker = (worker + n_batches) % n_workers  # the first to be asked goes on where the next batch is due
        done = self._loaded.get(worker, max(0, -(-(n_batches - worker) // n_workers)) * batch_size)
        self._done, self._loaded = {worker: done}, {}
        reader = RowReader(self._files, _COLUMNS, OPEN_GROUPS)
        for row in self._share(worker, n_workers)[done:]:
            try:
                values = reader.row(row.shard, row.group, row.row)
                if values["clip_id"] != row.clip_id:
                    raise MediaError(f"{row.shard} changed while it was read: make the ClipDataset anew")
                sample = self._sample(values, row)
            except FileNotFoundError as error:
                raise MediaError(f"{row.shard} or its media are gone: make the ClipDataset anew") from error
            done += 1
            self._done[worker] = done
            yield sample
        self._done = {}

    def _share(self, worker: int, n_workers: int) -> list[_Row]:
        """A worker's rows of the epoch, in order: a stretch, so that most row groups are read by one worker alone.

        No worker has more than one before it, so that their batches come in turn, as `skip_batches` counts them.
        """
        size = len(self)
        each, over = divmod(size, n_workers)
        start = self._rank * size + worker * each + min(worker, over)
        return self._order()[start : start + each + (worker < over)]

    def _order(self) -> list[_Row]:
        if not self._shuffle:
            return [row for group in self._groups for row in group]
        rng = np.random.default_rng([self._seed, self.epoch])
        groups = [self._groups[i] for i in rng.permutation(len(self._groups))]
        rows = []
        for start in range(0, len(groups), OPEN_GROUPS):
            block = [row for group in groups[start : start + OPEN_GROUPS] for row in group]
            rows += [block[i] for i in rng.permutation(len(block))]
        return rows

    def _window(self, row: _Row) -> int:
        """First frame of the clip's window in this epoch, whoever asks."""
        last = row.n_frames - self._n_frames * self._step
        if not self._shuffle:
            return last // 2
        name = int.from_bytes(row.clip_id.encode(), "big")
        return int(np.random.default_rng([self._seed, self.epoch, name]).integers(last + 1))

    def _sample(self, values: Sample, row: _Row) -> Sample:
        first = self._window(row)
        span = slice(first, first + self._n_frames * self._step)
        frames = slice(span.start, span.stop, self._step)
        height, width = self._size_hw
        scale = min(width / values["width_px"], height / values["height_px"])
        size = max(1, round(values["width_px"] * scale)), max(1, round(values["height_px"] * scale))
        offset = np.array([(width - size[0]) // 2, (height - size[1]) // 2], np.float32)
        ratio = np.array([size[0] / values["width_px"], size[1] / values["height_px"]], np.float32)
        with tempfile.TemporaryDirectory(prefix="mit-build-") as folder:
            path, flac = (self._media(values[name], Path(folder) / name) for name in ("clip", "audio"))
            frames_of = {"start_frame": span.start, "end_frame": span.stop, "max_side_px": max(size)}
            video = self._video(read_clip(path, row.n_frames, values["media_frame_index"], **frames_of), size, offset)
            samples = read_flac(flac)
        sound = samples[span.start * SAMPLES_PER_FRAME : span.stop * SAMPLES_PER_FRAME]
        return {
            "clip_id": row.clip_id,
            "first_frame": first,
            "video": torch.from_numpy(video),
            "voice_activity": torch.from_numpy(np.array(values["voice_activity"][frames], np.float32)),
            "audio": torch.from_numpy(sound.astype(np.float32) / 32768),
            **self._people(values["people"], frames, ratio, offset),
        }

    def _media(self, cell: Sample, scratch: Path) -> Path:
        path = self._files.media(cell, scratch)
        if path is None:
            raise FileNotFoundError(cell["path"])
        return path

    def _video(self, shown: Iterator[Frame], size_wh: tuple[int, int], offset: Floats) -> npt.NDArray[np.uint8]:
        """(F, 3, H, W): pictures, which come no larger than `size_wh` but may be smaller, brought to it."""
        height, width = self._size_hw
        x, y = int(offset[0]), int(offset[1])
        video = np.zeros((self._n_frames, 3, height, width), np.uint8)
        for i, frame in enumerate(shown):
            if i % self._step:
                continue
            image = frame.image
            if image.shape[1] < size_wh[0] or image.shape[0] < size_wh[1]:
                image = np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_CUBIC), np.uint8)
            image = image[: height - y, : width - x]  # rounding may give a row or column more
            video[i // self._step, :, y : y + image.shape[0], x : x + image.shape[1]] = image.transpose(2, 0, 1)
        return video

    def _people(self, people: Sequence[Sample], frames: slice, ratio: Floats, offset: Floats) -> Sample:
        height, width = self._size_hw
        shape = (self._max_people, self._n_frames)
        points = np.full((*shape, N_KEYPOINTS, 3), np.nan, np.float32)
        points[..., 2] = 0
        maps = np.zeros((*shape, 3, height, width), np.uint8)
        boxes = {name: np.zeros((*shape, 4), np.float32) for name in ("boxes_xyxy", "face_boxes_xyxy")}
        scores, speaking = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for p, person in enumerate(people):
            points[p] = person["keypoints"][frames]
            points[p, ..., :2] = points[p, ..., :2] * ratio + offset
            for name, values in boxes.items():
                values[p] = (person[name][frames].reshape(-1, 2, 2) * ratio + offset).reshape(-1, 4)
            scores[p], speaking[p] = person["speaking_score_smoothed"][frames], person["speaking"][frames]
            for f in range(self._n_frames):
                maps[p, f] = pose_map(points[p, f][None], (width, height)).transpose(2, 0, 1)
        is_person = np.arange(self._max_people) < len(people)
        return {
            "pose_maps": torch.from_numpy(maps),
            "body_masks": torch.from_numpy(box_masks(boxes["boxes_xyxy"], self._size_hw)),
            "face_masks": torch.from_numpy(box_masks(boxes["face_boxes_xyxy"], self._size_hw)),
            "keypoints": torch.from_numpy(points),
            "speaking_score": torch.from_numpy(scores),
            "speaking": torch.from_numpy(speaking),
            "is_person": torch.from_numpy(is_person),
        }


def box_masks(boxes_xyxy: Floats, size_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """(…, 4) boxes -> (…, h, w): pixels whose centre is inside."""
    x = np.arange(size_hw[1], dtype=np.float32) + 0.5
    y = np.arange(size_hw[0], dtype=np.float32) + 0.5
    x0, y0, x1, y1 = (boxes_xyxy[..., i, None] for i in range(4))
    columns, rows = (x >= x0) & (x < x1), (y >= y0) & (y < y1)
    return np.asarray(rows[..., :, None] & columns[..., None, :])


__all__ = ["AUDIO_RATE_HZ", "ClipDataset", "box_masks"]
