"""`mit-build preview` of clips that are in the dataset, of those that are not, and of candidates without a clip."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from quick_stages import program

from manifests.rows import Review
from mit_builder.labels.reviews import Reviews
from mit_builder.storage.workspace import Workspace

SETTINGS = ("filter.min_clip_s=4", "filter.min_face_px=30", "run.overlays=0", "download.host_interval_s=0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a clip of 100 frames and a candidate of 80, which is too short."""
    place = tmp_path_factory.mktemp("preview") / "talks"
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    addresses = ("http://quick.test/a?frames=100", "http://quick.test/c?frames=80")
    done = program("run", "--engine", "serial", "--workspace", str(place), *options, *addresses)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def ids(place: Path) -> tuple[str, str]:
    """The clip, and the candidate."""
    clip = next((place / "clips").glob("*.mp4")).name.partition(".")[0]
    other = next((place / "report" / "rejects").glob("*.jpg")).name.partition(".")[0]
    return clip, other


def preview(place: Path, name: str) -> tuple[int, list[str], str]:
    done = program("preview", "--workspace", str(place), name)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_rejected_candidate_is_drawn_from_its_video(made: Path) -> None:
    _, name = ids(made)
    code, (said, mp4, png), err = preview(made, name)
    assert (code, said, err) == (0, f"{name}: rejected by the filter: too_short", "")
    with av.open(mp4) as container:
        assert sum(1 for _ in container.decode(video=0)) == 80
        container.seek(0)
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    assert np.abs(sound).max() > 0.1  # the video's tone
    sheet = cv2.imread(png)[..., ::-1]
    assert sheet.shape[1] == 1920
    for colour in ((255, 160, 40), (70, 190, 255)):  # the two people's boxes
        assert (np.abs(sheet.astype(int) - colour).sum(axis=-1) < 12).sum() > 1000


def test_a_clip_that_a_reviewer_rejected_is_drawn_and_told(made: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(made, tmp_path / "talks"))
    name, _ = ids(place)
    Reviews(Workspace(place)).save([Review(name, "reject", "", (), labels_checked=False, people="", labels="")])
    code, (said, mp4, png), _ = preview(place, name)
    assert (code, said) == (0, f"{name}: left out of the dataset: rejected_by_reviewer")
    assert Path(mp4).is_file()
    assert Path(png).is_file()


def test_what_cannot_be_drawn_says_what_to_do(made: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(made, tmp_path / "talks"))
    clip, name = ids(place)
    code, _, err = preview(place, "none")
    assert (code, err) == (
        2,
        f"mit-build: no clip or candidate none; of 1 clip with labels the first: {clip} "
        f"(mit-build status --workspace {place} --videos shows what there is)\n",
    )
    (video,) = (place / "videos").glob(f"{name.partition('_')[0]}*")
    video.unlink()
    code, _, err = preview(place, name)
    advice = f"mit-build run --workspace {place} --verify makes it again"
    assert (code, err) == (2, f"mit-build: videos/{video.name} is gone: {advice}\n")


def test_a_report_does_without_the_pictures_of_damaged_files(made: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(made, tmp_path / "talks"))
    shutil.rmtree(place / "report")
    for path in (*(place / "videos").iterdir(), *(place / "clips").glob("*.mp4")):
        data, state = bytearray(path.read_bytes()), path.stat()
        data[len(data) // 2] ^= 255
        path.write_bytes(data)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    done = program("report", "--workspace", str(place))
    assert (done.returncode, done.stderr) == (0, "")
    assert list(place.glob("report/*/*.jpg")) == []
