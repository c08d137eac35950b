"""The filter on real and generated footage, from the command; skipped where the samples are not there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip("mediapipe", reason="the embedded backends are not installed")

from manifests.rows import Candidate
from mit_builder.driver.snapshot import Snapshot
from mit_builder.storage.workspace import Workspace

pytestmark = pytest.mark.timeout(1500)

FILTER = ("--stage", "download", "--stage", "shots", "--stage", "filter")
PEOPLE = {
    "g_anytalker_2-real-en": 2,
    "g_anytalker_2-kitchen-real-en": 2,
    "g_anytalker_2-detective-en": 2,
    "g_anytalker_3-photo-en": 3,
    "g_anytalker_4-en": 4,
    "g_anytalker_interact_11_gt": 2,
}
"""People in the generated clips that hold one steady shot."""


def run(place: Path, *arguments: str) -> dict[str, list[Candidate]]:
    """Filter; candidates by the video's title."""
    program = [sys.executable, "-m", "mit_builder", "run", "--json", "--workspace", str(place), *FILTER]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "end"
    lanes = Snapshot.of(Workspace(place)).lanes
    videos = {v.video_id: v.title or "" for e in lanes["download"].ledger.entries() for v in e.outputs}
    found: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in (row for entry in lanes["filter.select"].ledger.newest() for row in entry.outputs):
        found[videos[candidate.video_id]].append(candidate)
    return found


def kept(candidates: list[Candidate]) -> list[int]:
    return [c.n_people for c in candidates if c.verdict == "kept"]


def of(found: dict[str, list[Candidate]], start: str) -> list[Candidate]:
    return next(candidates for title, candidates in found.items() if title.startswith(start))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("samples") / "workspace"


@pytest.fixture(scope="module")
def usual(place: Path, shared_dir: Path) -> dict[str, list[Candidate]]:
    return run(place, *(str(shared_dir / "samples" / folder) for folder in ("real", "generated", "other")))


@pytest.fixture(scope="module")
def smaller_faces(place: Path, usual: dict[str, list[Candidate]]) -> dict[str, list[Candidate]]:
    assert usual
    return run(place, "--set", "filter.min_face_px=36")


def test_small_faces_are_rejected_with_their_size(usual: dict[str, list[Candidate]]) -> None:
    assert kept(of(usual, "r03")) == [2]
    for name in ("r02", "r07"):
        assert kept(of(usual, name)) == []
        sizes = [c.min_face_px for c in of(usual, name) if c.reason == "face_too_small"]
        assert sizes
        assert all(size is not None and 36 < size < 64 for size in sizes)


def test_with_a_lower_limit_the_same_people_give_two_person_clips(smaller_faces: dict[str, list[Candidate]]) -> None:
    for name in ("r02", "r03", "r07"):
        assert kept(of(smaller_faces, name))
        assert set(kept(of(smaller_faces, name))) == {2}


def test_a_shaky_camera_is_rejected(
    usual: dict[str, list[Candidate]], smaller_faces: dict[str, list[Candidate]]
) -> None:
    for found in (usual, smaller_faces):
        assert kept(of(found, "r05")) == []
        assert "camera_motion" in {c.reason for c in of(found, "r05")}


def test_footage_without_a_conversation_gives_no_clip(usual: dict[str, list[Candidate]]) -> None:
    for name in ("o01", "o02", "r11", "g_mocha"):
        assert kept(of(usual, name)) == []


@pytest.mark.parametrize(("name", "n_people"), PEOPLE.items(), ids=PEOPLE)
def test_every_steady_generated_clip_has_its_people(
    usual: dict[str, list[Candidate]], name: str, n_people: int
) -> None:
    assert kept(of(usual, name)) == [n_people]
