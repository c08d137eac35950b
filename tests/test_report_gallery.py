"""The data that the report's page draws from: what is in them, when they are written, and what is not read."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dataset

from manifests.arrays import read_arrays
from manifests.rows import Artifact, Correction, Labelled, Review
from mit_builder.labels.reviews import Reviews
from mit_builder.report.clip_data import encode_clip, shown
from mit_builder.report.figures import distributions
from mit_builder.report.gallery import CLIPS, GALLERY_KEY, update_gallery
from mit_builder.storage.workspace import Workspace


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return tiny_dataset.Builder(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def clips(builder: tiny_dataset.Builder) -> tuple[Labelled, ...]:
    return tuple(builder.labelled(plan) for plan in tiny_dataset.PLANS)


@pytest.fixture
def stored(builder: tiny_dataset.Builder, clips: tuple[Labelled, ...], request: pytest.FixtureRequest) -> Workspace:
    """Object storage with all labels and no media: the report must not ask for any."""
    workspace = Workspace(f"memory://{request.node.name}")
    for path in builder.root.rglob("*.parquet"):
        workspace.write(path.relative_to(builder.root).as_posix(), path.read_bytes())
    return workspace


def update(workspace: Workspace, clips: tuple[Labelled, ...]) -> list[dict[str, Any]]:
    return update_gallery(workspace, [(clip, None) for clip in clips], Reviews(workspace), n_processes=1)


def unpacked(text: str, n_words: int) -> np.ndarray:
    """Differences as they were before they were packed: (n_words,) int16."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, n_words)
    coded = planes[0].astype(np.uint16) | (planes[1].astype(np.uint16) << 8)
    return ((coded >> 1) ^ -(coded & 1).astype(np.int16)).astype(np.int16)


def test_a_clips_script_holds_its_labels_to_a_quarter_of_a_pixel(
    builder: tiny_dataset.Builder, clips: tuple[Labelled, ...]
) -> None:
    @contextmanager
    def local(artifact: Artifact) -> Iterator[Path]:
        yield builder.root / artifact.key

    row = clips[0]
    script, _ = encode_clip(shown(row), local)
    name, header, words, _ = json.loads(f"[{script.removeprefix('mitClip(').removesuffix(');' + chr(10))}]")
    assert (name, header["frames"], header["people"]) == (shown(row).name, 40, 2)
    found = unpacked(words, 2 * 40 * (4 + 4 + 266 + 1))
    people = read_arrays(builder.root / row.clip.people.key)
    boxes = found[: 2 * 40 * 4].reshape(2, 40, 4).cumsum(axis=1) / 4
    np.testing.assert_allclose(boxes, [person["boxes_xyxy"] for person in people], atol=0.126)
    points = found[2 * 40 * 8 : 2 * 40 * 274].reshape(2, 40, 133, 2).cumsum(axis=1) / 4
    poses = read_arrays(builder.root / row.pose.poses.key)
    known = np.stack([pose["keypoints"][:, 1:, :2] for pose in poses])
    np.testing.assert_allclose(points[:, :, 1:], known, atol=0.126)
    assert (points[:, :, 0] == 0).all(), "a point without any estimate"


def test_no_media_is_read_and_a_second_report_writes_nothing(stored: Workspace, clips: tuple[Labelled, ...]) -> None:
    listed = update(stored, clips)
    assert stored.names(CLIPS) == {f"{CLIPS}/{row['data']}.js" for row in listed}
    before = {key: stored.read(key) for key in stored.names("report")}
    stored.delete(sorted(stored.names("poses")))
    assert update(stored, clips) == listed
    assert {key: stored.read(key) for key in stored.names("report")} == before


def test_a_clip_that_is_gone_takes_its_data_along(stored: Workspace, clips: tuple[Labelled, ...]) -> None:
    update(stored, clips)
    (left,) = update(stored, clips[:1])
    assert stored.names(CLIPS) == {f"{CLIPS}/{left['data']}.js"}


def test_corrections_change_what_is_measured_and_keep_the_data(stored: Workspace, clips: tuple[Labelled, ...]) -> None:
    (before,) = update(stored, clips[:1])
    mute = tuple(Correction(person, 0, 40, False, 0.0, 0.0) for person in (0, 1))
    (after,) = update(stored, (replace(clips[0], corrections=mute),))
    assert before["data"] == after["data"]
    assert (after["talk"], after["silence"], after["overlap"], after["human"]) == ([0.0, 0.0], 1.0, None, 1.0)
    assert after["changed"] == round(sum(before["talk"]) * 40)
    assert update(stored, clips[:1]) == [before]


def test_a_new_address_or_title_is_listed_and_no_label_is_read_for_it(
    stored: Workspace, clips: tuple[Labelled, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    update(stored, clips)
    monkeypatch.setattr(Workspace, "artifact", None)  # whoever reads one fails
    moved = replace(clips[0], video=replace(clips[0].video, source_url="http://elsewhere.test/v", title="Another"))
    listed = update(stored, (moved, *clips[1:]))
    assert (listed[0]["url"], listed[0]["title"]) == ("http://elsewhere.test/v", "Another")
    assert b"http://elsewhere.test/v" in stored.read(GALLERY_KEY)


def test_a_damaged_list_is_made_anew(stored: Workspace, clips: tuple[Labelled, ...]) -> None:
    listed = update(stored, clips)
    text = stored.read(GALLERY_KEY)
    for damage in (text[:200], b"\xff\xfe", b"mitGallery([{}],[]);"):
        stored.write(GALLERY_KEY, damage)
        assert update(stored, clips) == listed
        assert stored.read(GALLERY_KEY) == text


def test_labels_that_were_checked_count_only_while_they_are_the_same(
    stored: Workspace, clips: tuple[Labelled, ...]
) -> None:
    clip = clips[0]
    known = {"people": clip.clip.people.sha256[:16], "labels": clip.speech.speech.sha256[:16]}
    review = Review(clip.clip.clip_id, "accept", "", (), True, **known)
    Reviews(stored).save([review])
    assert update(stored, clips)[0]["review"] == {"verdict": "accept", "reason": "", "checked": True}
    Reviews(stored).save([replace(review, labels="0" * 16)])
    assert update(stored, clips)[0]["review"] == {"verdict": "accept", "reason": "", "checked": False}


def test_distributions_of_nothing_are_empty() -> None:
    found = distributions([])
    assert found["people"] == {}
    assert not any(found["length_s"]["counts"])
    assert set(found["pose_scores"].values()) == {None}


def test_every_clip_is_counted_once(stored: Workspace, clips: tuple[Labelled, ...]) -> None:
    found = distributions(update(stored, clips))
    assert sum(found["length_s"]["counts"]) == sum(found["silence"]["counts"]) == 3
    assert sum(found["talk_share"]["counts"]) == sum(found["body_visible"]["counts"]) == 7
    assert found["people"] == {"2": 2, "3": 1}
    assert found["resolution"] == {"160x120": 3}


def test_the_benchmark_of_the_report_leaves_nothing_behind(tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "benchmarks" / "report_scale.py"
    done = subprocess.run(
        [sys.executable, str(program), "--clips", "5"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "5 clips; index.html" in done.stdout
    assert list(tmp_path.iterdir()) == []
