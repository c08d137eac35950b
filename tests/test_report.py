from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest
import tiny_dataset
import yaml

from manifests.rows import Correction
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.errors import CannotContinue, MediaError
from mit_builder.media.frames import read_frames
from mit_builder.media.probe import probe
from mit_builder.report.card import dataset_card
from mit_builder.report.clips import report_clips
from mit_builder.report.contact_sheet import WIDTH_PX, contact_sheet, write_contact_sheet
from mit_builder.report.drawing import (
    GUTTER_PX,
    LISTENS,
    PERSON_STRIP_PX,
    SPEAKS,
    draw_people,
    person_colour,
    score_panel,
)
from mit_builder.report.overlay import write_overlay
from mit_builder.report.statistics import COLUMNS, summarise
from mit_builder.report.view import ClipView, open_view, view_of_row
from mit_builder.storage.workspace import Workspace


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return tiny_dataset.build(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def view(builder: tiny_dataset.Builder, tmp_path_factory: pytest.TempPathFactory) -> ClipView:
    row = next(DatasetFiles(builder.root).rows())
    return view_of_row(row, DatasetFiles(builder.root), tmp_path_factory.mktemp("media"))


def blank(view: ClipView) -> np.ndarray:
    return np.zeros((tiny_dataset.HEIGHT_PX, tiny_dataset.WIDTH_PX, 3), np.uint8)


def test_a_view_is_the_same_from_artifacts_and_from_the_dataset(builder: tiny_dataset.Builder, view: ClipView) -> None:
    labelled = builder.labelled(tiny_dataset.PLANS[0])
    with open_view(labelled, builder.context().local) as other:
        assert other.mp4.read_bytes() == view.mp4.read_bytes()
        assert other.flac.read_bytes() == view.flac.read_bytes()
        for field in dataclasses.fields(ClipView):
            if field.name not in ("mp4", "flac"):
                np.testing.assert_array_equal(getattr(other, field.name), getattr(view, field.name))


def test_pictures_show_who_speaks_as_a_reviewer_corrected_it(builder: tiny_dataset.Builder, tmp_path: Path) -> None:
    labelled = builder.labelled(tiny_dataset.PLANS[0])
    with open_view(labelled, builder.context().local) as view:
        said = view.speaking.copy()
    opposite = tuple(
        Correction(person, frame, frame + 1, not said[person, frame], 0, 0)
        for person in range(2)
        for frame in range(said.shape[1])
    )
    reviewed = dataclasses.replace(labelled, corrections=opposite)
    with open_view(reviewed, builder.context().local) as view:
        np.testing.assert_array_equal(view.speaking, ~said)
        assert view.label_tier == "human"
    workspace = Workspace(builder.root)
    before = set(report_clips(workspace, [labelled], n_overlays=1, n_processes=1))
    after = set(report_clips(workspace, [reviewed], n_overlays=1, n_processes=1))
    assert len(after) == 2
    assert not before & after, "pictures are drawn anew when a verdict changes"
    assert workspace.names("report") == after


def test_boxes_are_green_exactly_while_their_person_speaks(view: ClipView) -> None:
    assert {(True, False), (False, True), (False, False)} <= set(map(tuple, view.speaking.T.tolist()))
    hidden = dataclasses.replace(view, keypoints=np.full_like(view.keypoints, np.nan))
    for frame in range(0, view.n_frames, 3):
        image = blank(view)
        draw_people(image, hidden, frame, zoom=1.0)
        for person in range(view.n_people):
            expected = SPEAKS if view.speaking[person, frame] else LISTENS
            x0, _, _, y1 = view.boxes_xyxy[person, frame].round().astype(int)
            assert tuple(image[y1, x0 + 1]) == expected
            x0, _, x1, y1 = view.face_boxes_xyxy[person, frame].round().astype(int)
            assert tuple(image[y1, (x0 + x1) // 2]) == expected


def test_points_without_an_estimate_or_with_a_low_score_are_not_drawn(view: ClipView) -> None:
    low = view.keypoints.copy()
    low[..., 2] = 0.1
    none = np.full_like(view.keypoints, np.nan)
    pictures = []
    for keypoints in (low, none, view.keypoints):
        pictures.append(blank(view))
        draw_people(pictures[-1], dataclasses.replace(view, keypoints=keypoints), 5, zoom=1.0)
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[1] != pictures[2]).any()


@pytest.mark.parametrize("start", [5, 91, 112])
def test_left_and_right_points_are_joined_where_they_lie(view: ClipView, start: int) -> None:
    """Of the shoulder's and elbow's, the left and the right hand's points only two are seen: one line between them."""
    a, b = (start, start + 2) if start == 5 else (start, start + 1)
    hidden = np.full_like(view.keypoints, np.nan)
    hidden[1, 3, a], hidden[1, 3, b] = (20, 100, 0.9), (60, 100, 0.9)
    pictures = [blank(view), blank(view)]
    for picture, keypoints in zip(pictures, (hidden, np.full_like(hidden, np.nan)), strict=True):
        draw_people(picture, dataclasses.replace(view, keypoints=keypoints), 3, zoom=1.0)
    drawn = (pictures[0] != pictures[1]).any(axis=2)
    assert drawn[100, 20:61].all()
    assert abs(np.subtract(pictures[0][100, 40], person_colour(1), dtype=int)).max() < 40
    assert not drawn[:, :16].any()
    assert not drawn[:, 65:].any()


def test_points_far_outside_the_picture_do_no_harm(view: ClipView) -> None:
    far = np.full_like(view.keypoints, 1e12)
    far[..., 2] = 1
    draw_people(blank(view), dataclasses.replace(view, keypoints=far), 0, zoom=1.0)


def test_strips_are_green_exactly_where_their_person_speaks(view: ClipView) -> None:
    panel = score_panel(view, 1000)
    green = tuple(c // 2 for c in SPEAKS)
    for person in range(view.n_people):
        strip = panel.image[person * (PERSON_STRIP_PX + 4) : person * (PERSON_STRIP_PX + 4) + PERSON_STRIP_PX]
        shown = [(strip[:, panel.x_of(frame + 0.5)] == green).all(axis=1).any() for frame in range(view.n_frames)]
        assert shown == view.speaking[person].tolist()


def test_a_strip_spans_the_whole_clip(view: ClipView) -> None:
    panel = score_panel(view, 1000)
    assert panel.x_of(0) == GUTTER_PX
    assert GUTTER_PX < panel.x_of(view.n_frames) < 1000


def test_a_contact_sheet_is_a_png_with_frames_above_strips(view: ClipView, tmp_path: Path) -> None:
    sheet = contact_sheet(view)
    assert sheet.shape[1:] == (WIDTH_PX, 3)
    assert sheet.shape[0] > 2 * 0.75 * WIDTH_PX / 4
    write_contact_sheet(view, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_a_contact_sheet_of_a_truncated_clip_is_refused(view: ClipView) -> None:
    longer = {
        field.name: np.concatenate([getattr(view, field.name)] * 2, axis=axis)
        for field, axis in zip(dataclasses.fields(ClipView)[5:-1], (1, 1, 1, 1, 1, 0), strict=True)
    }
    with pytest.raises(MediaError, match="40 frames in place of 80"):
        contact_sheet(dataclasses.replace(view, **longer, media_frame_index=range(80)))


def test_an_overlay_has_every_frame_and_sound_and_its_playhead_moves(view: ClipView, tmp_path: Path) -> None:
    path = tmp_path / "overlay.mp4"
    write_overlay(view, path)
    info = probe(path)
    assert info.has_audio
    frames = [frame.image for frame in read_frames(path)]
    assert len(frames) == view.n_frames
    panel = score_panel(view, info.width_px)
    between = frames[0].shape[0] - panel.image.shape[0] + PERSON_STRIP_PX + 1
    heads = [int(frame[between, GUTTER_PX:].sum(axis=1).argmax()) + GUTTER_PX for frame in frames]
    wanted = [panel.x_of(i + 0.5) for i in range(view.n_frames)]
    assert np.abs(np.subtract(heads, wanted)).max() <= 3


@pytest.mark.parametrize(
    ("instead", "message"),
    [(fakes.die, "a process that draws pictures died"), (fakes.find_no_room, "cannot draw pictures: No space left")],
)
def test_a_process_that_cannot_draw_stops_the_run_with_what_to_do(
    builder: tiny_dataset.Builder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    instead: Callable[[object], None],
    message: str,
) -> None:
    monkeypatch.setattr("mit_builder.report.clips._draw", instead)
    rows = [builder.labelled(tiny_dataset.PLANS[0])]
    with pytest.raises(CannotContinue, match=f"^{message}.*; to draw what is missing: mit-build run"):
        report_clips(Workspace(tmp_path), rows, n_overlays=0, n_processes=1)


def test_statistics_count_clips_people_and_time(builder: tiny_dataset.Builder) -> None:
    found = summarise(DatasetFiles(builder.root).rows(COLUMNS))
    rows = list(DatasetFiles(builder.root).rows())
    assert (found["n_clips"], found["n_videos"]) == (3, 2)
    assert found["hours"] == pytest.approx((40 + 32 + 35) / 25 / 3600, abs=1e-6)
    assert found["clips_by_n_people"] == {"2": 2, "3": 1}
    assert found["clips_by_licence"] == {"CC0": 3}
    assert found["clips_by_label_tier"] == {"heuristic": 3}
    assert found["clips_by_caption_language"] == {"de": 1, "en": 2}
    assert sum(n for counts in found["clips_by_split_and_n_people"].values() for n in counts.values()) == 3
    shares = [person["talk_share"] for row in rows for person in row["people"]]
    assert found["talk_share"]["max"] == pytest.approx(max(shares), abs=1e-4)
    assert found["talk_share"]["mean"] == pytest.approx(np.mean(shares), abs=1e-4)
    assert found["clip_s"]["median"] == 1.4
    assert json.loads(json.dumps(found)) == found


def test_statistics_read_no_media_and_no_arrays_over_frames() -> None:
    assert not {"clip", "audio", "people", "voice_activity", "source_frame_index"} & set(COLUMNS)


def test_statistics_and_card_of_an_empty_dataset_are_complete() -> None:
    found = summarise([])
    assert found["n_clips"] == 0
    assert found["talk_share"] is None
    assert "0 clips" in dataset_card(found)


def test_the_card_has_front_matter_and_states_what_it_must(builder: tiny_dataset.Builder) -> None:
    card = dataset_card(summarise(DatasetFiles(builder.root).rows(COLUMNS)), contact="data@example.org")
    _, front, body = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == "other"
    assert matter["size_categories"] == ["n<1K"]
    (config,) = matter["configs"]
    assert sorted((builder.root / "dataset").glob(config["data_files"])) == sorted(
        (builder.root / "dataset").glob("*.parquet")
    )
    for phrase in ("biometric", "Intended", "Forbidden", "impersonating", "Retention", "data@example.org"):
        assert phrase in body
    assert "Sapiens v1 weights are non-commercial" in body.replace("\n", " ")
    assert "AGPL" in body
    assert "| CC0 | 3 |" in body
    assert "| Language of captions | Clips |\n|---|---|\n| de | 1 |\n| en | 2 |" in body
    assert ", 3 people | 1 |" in body


def test_text_from_outside_means_nothing_in_the_card(builder: tiny_dataset.Builder) -> None:
    row = dict(next(DatasetFiles(builder.root).rows()))
    row["licence"] = "free\n# Heading | cell <script>alert(1)</script> [x](http://evil)"
    row["captions"] = [{"language": row["licence"]}]
    card = dataset_card(summarise([row]))
    assert "<script>" not in card
    assert "\n# Heading" not in card
    assert "[x](http" not in card
