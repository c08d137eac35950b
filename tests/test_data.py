from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dataset
from object_storage import ENVIRONMENT, S3Server, free_port

torch = pytest.importorskip("torch", reason="ClipDataset is a torch dataset")

from mit_builder.dataset.pose_map import pose_map  # noqa: E402
from mit_builder.dataset.reader import DatasetFiles  # noqa: E402
from mit_builder.dataset.torch_dataset import ClipDataset, box_masks  # noqa: E402
from mit_builder.errors import ConfigError, MediaError, WorkspaceError  # noqa: E402
from mit_builder.media.audio import read_flac  # noqa: E402
from mit_builder.storage.tombstones import KEY, Tombstone, Tombstones, digest  # noqa: E402
from mit_builder.storage.workspace import Workspace  # noqa: E402

SIZE_HW = (60, 100)
SMALL: dict[str, Any] = {"n_frames": 6, "frame_step": 2, "size_hw": SIZE_HW}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.build(tmp_path_factory.mktemp("loaded")).root


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips in five shards of one row each or more."""
    builder = tiny_dataset.Builder(tmp_path_factory.mktemp("many"))
    plans = [tiny_dataset.ClipPlan(n % 4, 2 * n, 2 * n + 20, 2) for n in range(12)]
    clips = [builder.labelled(plan) for plan in plans]
    shards = [builder.shard(tuple(clips[n::4]), bucket=n) for n in range(4)]
    builder.publish(*shards)
    return builder.root


def ids(dataset: ClipDataset) -> list[str]:
    return [sample["clip_id"] for sample in dataset]


def test_a_sample_holds_the_values_of_the_parquet(root: Path, tmp_path: Path) -> None:
    rows = {row["clip_id"]: row for row in DatasetFiles(root).rows()}
    dataset = ClipDataset(root, **SMALL)
    assert len(dataset) == len(rows) == 3
    for sample in dataset:
        row, first = rows[sample["clip_id"]], sample["first_frame"]
        frames = slice(first, first + 12, 2)
        n_people = row["n_people"]
        assert sample["is_person"].tolist() == [p < n_people for p in range(4)]
        np.testing.assert_array_equal(sample["voice_activity"], row["voice_activity"][frames])
        (tmp_path / "audio.flac").write_bytes(row["audio"]["bytes"])
        sound = read_flac(tmp_path / "audio.flac")[first * 640 : (first + 12) * 640]
        np.testing.assert_array_equal(sample["audio"], sound.astype(np.float32) / 32768)
        for p, person in enumerate(row["people"]):
            np.testing.assert_array_equal(sample["speaking_score"][p], person["speaking_score_smoothed"][frames])
            np.testing.assert_array_equal(sample["speaking"][p], person["speaking"][frames])
            expected = person["keypoints"][frames].copy()
            expected[..., :2] = expected[..., :2] * 0.5 + (10, 0)  # 160x120 into 100x60
            np.testing.assert_allclose(sample["keypoints"][p], expected, rtol=1e-6)
            drawn = pose_map(expected[3][None], (100, 60))
            np.testing.assert_array_equal(sample["pose_maps"][p, 3].permute(1, 2, 0), drawn)
            assert drawn.any()
            box = np.round(person["face_boxes_xyxy"][frames][2] * 0.5 + (10, 0, 10, 0)).astype(int)
            mask = sample["face_masks"][p, 2].numpy()
            ys, xs = np.nonzero(mask)
            assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - box).max() <= 1
            assert sample["body_masks"][p, 2].numpy()[mask].all()
        assert not sample["pose_maps"][n_people:].any()
        assert not sample["body_masks"][n_people:].any()


def test_the_video_shows_the_frames_of_the_window(root: Path) -> None:
    """The block of the source is at 10 + frame; the clip's name says where it begins."""
    for sample in ClipDataset(root, **SMALL):
        begins = int(sample["clip_id"].split("_")[1].split("to")[0]) + sample["first_frame"]
        for i in range(6):
            ys, xs = np.nonzero(sample["video"][i, 0].numpy() > 180)
            assert abs(xs.min() - (10 + (10 + begins + 2 * i) / 2)) <= 1.5
            assert abs(ys.min() - 20) <= 1.5
        assert not sample["video"][:, :, :, :9].any(), "black beside a picture that is narrower"


@pytest.mark.parametrize("size_hw", [(240, 320), (240, 500), (333, 320)])
def test_a_clip_smaller_than_the_window_is_shown_as_large_as_its_labels(root: Path, size_hw: tuple[int, int]) -> None:
    """The block of the source is 30 x 30 pixels at 10 + frame, 40 of 160 x 120; the picture is twice as large."""
    left, top = (size_hw[1] - 320) // 2, (size_hw[0] - 240) // 2
    for sample in ClipDataset(root, n_frames=6, size_hw=size_hw):
        begins = int(sample["clip_id"].split("_")[1].split("to")[0]) + sample["first_frame"]
        ys, xs = np.nonzero(sample["video"][0, 0].numpy() > 180)
        block = (xs.min() - left, xs.max() + 1 - left, ys.min() - top, ys.max() + 1 - top)
        expected = (2 * (10 + begins), 2 * (40 + begins), 80, 140)
        assert np.abs(np.subtract(block, expected)).max() <= 3
        lit = np.argwhere(sample["video"][0].numpy().max(axis=0) > 40)
        assert lit.min(axis=0).tolist() == [top, left]
        assert (lit.max(axis=0) + 1).tolist() == [top + 240, left + 320]


def test_orders_follow_from_seed_and_epoch(many: Path) -> None:
    dataset = ClipDataset(many, **SMALL)
    first = ids(dataset)
    assert ids(dataset) == first
    dataset.set_epoch(1)
    second = ids(dataset)
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 12
    assert first != second
    assert ids(ClipDataset(many, **SMALL)) == first
    assert ids(ClipDataset(many, seed=1, **SMALL)) != first
    dataset.set_epoch(0)
    assert ids(dataset) == first
    plain = ClipDataset(many, shuffle=False, **SMALL)
    assert ids(plain) == ids(plain) == [row["clip_id"] for row in DatasetFiles(many).rows()]


def test_windows_do_not_depend_on_who_reads(many: Path) -> None:
    whole = {s["clip_id"]: s["first_frame"] for s in ClipDataset(many, **SMALL)}
    halves = [ClipDataset(many, rank=rank, world_size=2, **SMALL) for rank in (0, 1)]
    assert {s["clip_id"]: s["first_frame"] for half in halves for s in half} == whole
    assert len(set(whole.values())) > 1


@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_ranks_and_workers_share_an_epoch_without_overlap(many: Path, world_size: int, n_workers: int) -> None:
    shares = []
    for rank in range(world_size):
        dataset = ClipDataset(many, rank=rank, world_size=world_size, **SMALL)
        context = {"multiprocessing_context": "fork"} if n_workers else {}
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=n_workers, **context)
        shares.append([sample["clip_id"] for sample in loader])
    assert {len(share) for share in shares} == {12 // world_size}
    everything = [name for share in shares for name in share]
    assert len(set(everything)) == len(everything) == 12 // world_size * world_size


def test_it_goes_on_where_a_state_was_taken(many: Path) -> None:
    dataset = ClipDataset(many, **SMALL)
    whole = ids(dataset)
    dataset.set_epoch(0)
    running = iter(dataset)
    seen = [next(running)["clip_id"] for _ in range(5)]
    state = dataset.state_dict()
    other = ClipDataset(many, **SMALL)
    other.load_state_dict(state)
    assert seen + ids(other) == whole
    assert ids(other) == whole, "the next pass is whole again"


def test_workers_that_stay_alive_see_the_epoch(many: Path) -> None:
    dataset = ClipDataset(many, **SMALL)
    options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "fork"}
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, **options)
    orders = []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        orders.append([sample["clip_id"] for sample in loader])
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 5 worker")
@pytest.mark.parametrize(
    ("n_workers", "n_whole", "n_batches"),
    [(2, 6, 0), (2, 6, 1), (2, 6, 3), (2, 6, 4), (5, 7, 5), (5, 7, 6)],  # of five, the last batches come from two
)
def test_it_goes_on_after_batches_of_a_plain_loader(many: Path, n_workers: int, n_whole: int, n_batches: int) -> None:
    def loader(dataset: ClipDataset) -> Any:
        workers = {"num_workers": n_workers, "multiprocessing_context": "fork"}
        return torch.utils.data.DataLoader(dataset, batch_size=2, **workers)

    whole = [batch["clip_id"] for batch in loader(ClipDataset(many, **SMALL))]
    assert len(whole) == n_whole
    dataset = ClipDataset(many, **SMALL)
    dataset.skip_batches(n_batches, batch_size=2)
    assert [batch["clip_id"] for batch in loader(dataset)] == whole[n_batches:]


def test_a_state_taken_after_skipped_batches_goes_on_where_it_was_taken(many: Path) -> None:
    dataset = ClipDataset(many, **SMALL)
    whole = ids(dataset)
    dataset.skip_batches(2, batch_size=2)
    running = iter(dataset)
    assert next(running)["clip_id"] == whole[4]
    other = ClipDataset(many, **SMALL)
    other.load_state_dict(dataset.state_dict())
    again = ClipDataset(many, **SMALL)
    again.load_state_dict(other.state_dict())
    assert ids(again) == whole[5:]


@pytest.mark.parametrize("n_workers", [0, 1])
def test_after_a_pass_that_was_broken_off_the_next_one_is_whole(many: Path, n_workers: int) -> None:
    """Workers that stay alive have read ahead, and must not take what was thrown away for given."""
    context = {"multiprocessing_context": "fork", "persistent_workers": True} if n_workers else {}
    dataset = ClipDataset(many, **SMALL)
    whole = ids(dataset)
    loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=n_workers, **context)
    for sample in loader:
        assert sample["clip_id"] == whole[0]
        break
    assert [sample["clip_id"] for sample in loader] == whole
    for _ in loader:
        break
    dataset.skip_batches(3, batch_size=1)
    assert [sample["clip_id"] for sample in loader] == whole[3:]
    for _ in loader:
        break
    dataset.set_epoch(1)
    assert sorted(sample["clip_id"] for sample in loader) == sorted(whole)


def test_batches_collate_whatever_the_number_of_people(root: Path) -> None:
    (batch,) = torch.utils.data.DataLoader(ClipDataset(root, **SMALL), batch_size=3)
    assert batch["video"].shape == (3, 6, 3, *SIZE_HW)
    assert batch["pose_maps"].shape == (3, 4, 6, 3, *SIZE_HW)
    assert batch["audio"].shape == (3, 12 * 640)
    assert sorted(batch["is_person"].sum(1).tolist()) == [2, 2, 3]


def test_what_was_taken_down_is_not_loaded(root: Path, tmp_path: Path) -> None:
    rows = list(DatasetFiles(root).rows())
    stones = Tombstones([Tombstone("video", digest("video", rows[-1]["video_id"]))])
    assert sorted(ids(ClipDataset(root, tombstones=stones, **SMALL))) == sorted(r["clip_id"] for r in rows[:-1])
    copy = tiny_dataset.build(tmp_path / "w").root
    (copy / "manifests").mkdir(exist_ok=True)
    for place in (copy / "manifests", copy / "dataset"):
        (place / "tombstones.json").write_bytes(stones.dump())
        assert rows[-1]["clip_id"] not in ids(ClipDataset(copy, **SMALL))
        (place / "tombstones.json").unlink()
    assert rows[-1]["clip_id"] in ids(ClipDataset(copy, **SMALL))


@pytest.mark.parametrize("embed_media", [True, False])
def test_it_reads_from_object_storage(tmp_path: Path, s3: S3Server, embed_media: bool) -> None:
    local = tiny_dataset.build(tmp_path / "w", embed_media=embed_media).root
    uri = f"{s3.bucket(f'loader-{embed_media}'.lower())}/w"
    for path in sorted((local / "dataset").rglob("*")):
        if path.is_file():
            Workspace(uri).write(path.relative_to(local).as_posix(), path.read_bytes())
    for place in (uri, f"{uri}/dataset"):
        for one, two in zip(ClipDataset(local, **SMALL), ClipDataset(place, **SMALL), strict=True):
            assert one["clip_id"] == two["clip_id"]
            assert torch.equal(one["video"], two["video"])
            assert torch.equal(one["audio"], two["audio"])
            assert torch.equal(one["pose_maps"], two["pose_maps"])
    loader = torch.utils.data.DataLoader(ClipDataset(uri, **SMALL), num_workers=1, multiprocessing_context="spawn")
    assert len(list(loader)) == 3
    gone = next(DatasetFiles(local).rows())["video_id"]
    Workspace(uri).write(KEY, Tombstones([Tombstone("video", digest("video", gone))]).dump())
    for place in (uri, f"{uri}/dataset", f"{uri}/dataset?endpoint={s3.endpoint}"):
        assert not any(name.startswith(gone) for name in ids(ClipDataset(place, **SMALL)))


@pytest.fixture
def remote(root: Path) -> str:
    """The dataset in storage of this process."""
    uri = "memory://loaded"
    for path in sorted((root / "dataset").rglob("*")):
        if path.is_file():
            Workspace(uri).write(path.relative_to(root).as_posix(), path.read_bytes())
    return uri


def test_storage_has_one_client_a_process(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    opened = Workspace.__init__

    def counted(self: Workspace, uri: str, **options: bool) -> None:
        made.append(uri)
        opened(self, uri, **options)

    monkeypatch.setattr(Workspace, "__init__", counted)
    assert len(ids(ClipDataset(remote, **SMALL))) == 3
    assert made == [remote]


def test_a_fork_that_storage_would_not_survive_is_one_line(remote: str) -> None:
    loader = torch.utils.data.DataLoader(
        ClipDataset(remote, **SMALL), num_workers=1, multiprocessing_context="fork", timeout=20
    )
    with pytest.raises(ConfigError, match="cannot be read after a fork"):
        list(loader)


def test_storage_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WorkspaceError, match="cannot reach workspace s3://nowhere"):
        ClipDataset(f"s3://nowhere/w?endpoint=http://127.0.0.1:{free_port()}")


def test_a_takedown_in_a_workspace_on_storage_holds_before_its_dataset_is_written_anew(root: Path) -> None:
    uri = "memory://taken-down"
    (first, *others) = list(DatasetFiles(root).rows())
    for path in sorted((root / "dataset").iterdir()):
        Workspace(uri).write(f"dataset/{path.name}", path.read_bytes())
    video = [row["clip_id"] for row in others if row["video_id"] != first["video_id"]]
    stones = Tombstones([Tombstone("video", digest("video", first["video_id"]))])
    Workspace(uri).write("manifests/tombstones.json", stones.dump())
    assert ids(ClipDataset(uri, **SMALL)) == video


def test_a_shard_that_went_while_it_was_read_is_one_line(root: Path, tmp_path: Path) -> None:
    copy = tiny_dataset.build(tmp_path / "w").root
    dataset = ClipDataset(copy, **SMALL)
    for path in (copy / "dataset").glob("*.parquet"):
        path.unlink()
    with pytest.raises(MediaError, match="make the ClipDataset anew"):
        ids(dataset)
    with pytest.raises(ConfigError, match="a shard was lost"):
        ClipDataset(copy, **SMALL)


def test_media_outside_of_the_dataset_is_not_loaded(tmp_path: Path) -> None:
    root = tiny_dataset.build(tmp_path, embed_media=False).root
    tiny_dataset.point_clips_at(root, "../outside.mp4")
    (clip, *_) = (root / "dataset" / "clips").glob("*.mp4")
    clip.rename(root / "outside.mp4")
    with pytest.raises(MediaError, match="leads out of the dataset"):
        list(ClipDataset(root, **SMALL))


def test_what_does_not_fit_is_passed_over_and_nothing_is_an_error(root: Path) -> None:
    assert len(ClipDataset(root, n_people=3, **SMALL)) == 1
    assert len(ClipDataset(root, n_frames=40, size_hw=SIZE_HW)) == 1
    for options in ({"n_frames": 41}, {"split": "nowhere"}, {"n_people": 4}):
        with pytest.raises(ConfigError, match="no clip"):
            ClipDataset(root, **options)
    with pytest.raises(ConfigError, match="at least 1"):
        ClipDataset(root, rank=1)
    with pytest.raises(ConfigError, match="no dataset"):
        ClipDataset(root / "videos")
    with pytest.raises(ConfigError, match="no dataset"):
        ClipDataset("memory://nothing-here")


def test_masks_hold_pixels_whose_centre_is_inside() -> None:
    mask = box_masks(np.array([[1, 2, 3, 4], [0.6, 0, 1.5, 1]], np.float32), (5, 6))
    assert mask.shape == (2, 5, 6)
    assert np.argwhere(mask[0]).tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert np.argwhere(mask[1]).tolist() == []
