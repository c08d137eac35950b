from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_dataset

from mit_builder.dataset.index import INDEX_NAME
from mit_builder.dataset.reader import DatasetFiles
from mit_builder.dataset.validate import validate
from mit_builder.errors import ConfigError
from mit_builder.media import timeline

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dataset.build(tmp_path_factory.mktemp("sound")).root


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound / "dataset", tmp_path / "dataset"))


def shard_path(folder: Path, number: int = 0) -> Path:
    return folder / DatasetFiles(folder).index().shards[number].name


def sign(folder: Path) -> None:
    """Make the index agree with the files, so that only the damage inside them is left to find."""
    index = json.loads((folder / INDEX_NAME).read_text())
    for shard in index["shards"]:
        data = (folder / shard["name"]).read_bytes()
        shard["sha256"] = hashlib.sha256(data).hexdigest()
        shard["n_clips"] = pq.read_metadata(folder / shard["name"]).num_rows
    (folder / INDEX_NAME).write_text(json.dumps(index))


def rewrite(folder: Path, change: Callable[[Rows], None]) -> None:
    path = shard_path(folder)
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    sign(folder)


def messages(folder: Path) -> list[str]:
    return [str(problem) for problem in validate(folder)]


def test_a_sound_dataset_has_no_problem_given_as_folder_or_as_workspace(sound: Path) -> None:
    assert messages(sound) == []
    assert messages(sound / "dataset") == []


@pytest.mark.parametrize("media_fps", ["25", "source"])
def test_the_pictures_of_a_clip_are_not_searched_for_fields(
    media_fps: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(rows: Rows) -> None:
        for row in rows:
            row["media_fps"] = media_fps

    rewrite(folder, change)
    monkeypatch.setattr(timeline, "measure_fields", None)
    assert messages(folder) == []


def test_media_beside_the_dataset_is_found(tmp_path: Path) -> None:
    builder = tiny_dataset.build(tmp_path, embed_media=False)
    assert messages(builder.root) == []
    next((builder.root / "dataset" / "clips").glob("*.flac")).unlink()
    found = messages(builder.root)
    assert any("media file clips/" in message and "is missing" in message for message in found)
    assert any("audio has neither bytes nor a file" in message for message in found)


def shorten_boxes(row: dict[str, Any]) -> None:
    row["people"][0]["boxes_xyxy"].pop()


def turn_box(row: dict[str, Any]) -> None:
    x0, y0, x1, y1 = row["people"][0]["boxes_xyxy"][3]
    row["people"][0]["boxes_xyxy"][3] = [x1, y0, x0, y1]


def move_box_out(row: dict[str, Any]) -> None:
    row["people"][1]["boxes_xyxy"][7] = [100.0, 10.0, 190.0, 60.0]


def unset_face_box(row: dict[str, Any]) -> None:
    row["people"][1]["face_boxes_xyxy"][2][0] = float("nan")


def renumber(row: dict[str, Any]) -> None:
    row["people"][1]["person_id"] = 2


def swap_people(row: dict[str, Any]) -> None:
    left, right = row["people"]
    left["person_id"], right["person_id"] = 1, 0
    row["people"] = [right, left]


def lose_person(row: dict[str, Any]) -> None:
    row["people"].pop()


def half_keypoint(row: dict[str, Any]) -> None:
    row["people"][0]["keypoints"][4][17] = [float("nan"), 20.0, 0.5]


def loud_keypoint(row: dict[str, Any]) -> None:
    row["people"][0]["keypoints"][4][17][2] = 1.5


def null_speaking(row: dict[str, Any]) -> None:
    row["people"][0]["speaking"][4] = None


def wrong_visibility(row: dict[str, Any]) -> None:
    row["people"][0]["body_visible_ratio"] = 0.5


def wrong_legs(row: dict[str, Any]) -> None:
    row["people"][0]["legs_visible_ratio"] = 0.25


def too_strict(row: dict[str, Any]) -> None:
    row["min_body_visible"] = 0.95


def unsmooth(row: dict[str, Any]) -> None:
    row["people"][0]["speaking_score_smoothed"][6] += 0.1


def flip_speaking(row: dict[str, Any]) -> None:
    row["people"][0]["speaking"][12] = not row["people"][0]["speaking"][12]


def raise_threshold(row: dict[str, Any]) -> None:
    row["min_voice_activity"] = 0.95


def shift_period(row: dict[str, Any]) -> None:
    row["people"][0]["speak_periods"][0][1] += 1


def gap_in_merged(row: dict[str, Any]) -> None:
    row["people"][1]["listen_periods_merged"].pop()


def more_overlap(row: dict[str, Any]) -> None:
    row["overlap_ratio"] += 0.01


def more_turns(row: dict[str, Any]) -> None:
    row["n_turns"] += 1


def more_talk(row: dict[str, Any]) -> None:
    row["people"][0]["talk_share"] += 0.1


def fall_back(row: dict[str, Any]) -> None:
    row["source_frame_index"][5] = 0


def shift_start(row: dict[str, Any]) -> None:
    row["start_s"] += 0.04


def forget_backend(row: dict[str, Any]) -> None:
    row["pose_backend"] = ""


def forget_size(row: dict[str, Any]) -> None:
    row["width_px"] = None


def state_other_size(row: dict[str, Any]) -> None:
    row["height_px"] += 2


def cut_mp4_off(row: dict[str, Any]) -> None:
    row["clip"]["bytes"] = row["clip"]["bytes"][:3000]


def lose_audio(row: dict[str, Any]) -> None:
    row["audio"]["bytes"] = None


def unknown_tier(row: dict[str, Any]) -> None:
    row["label_tier"] = "guess"


def claim_human(row: dict[str, Any]) -> None:
    row["label_tier"] = "human"


def overlapping_periods(row: dict[str, Any]) -> None:
    row["people"][0]["human_periods"] = [[3, 8], [6, 10]]


def late_human_period(row: dict[str, Any]) -> None:
    row["people"][0]["human_periods"] = [[30, 400]]


def lose_voice(row: dict[str, Any]) -> None:
    row["voice_activity"].pop()


def turn_caption(row: dict[str, Any]) -> None:
    row["captions"][0].update(start_s=0.9, end_s=0.2)


def late_caption(row: dict[str, Any]) -> None:
    row["captions"][1]["end_s"] = 1.7


def swap_captions(row: dict[str, Any]) -> None:
    row["captions"].reverse()


def wordless_caption(row: dict[str, Any]) -> None:
    row["captions"][0]["text"] = ""


def hostile_caption(row: dict[str, Any]) -> None:
    row["captions"][0]["text"] = "a\x1b[31mb"


def long_caption(row: dict[str, Any]) -> None:
    row["captions"][0]["text"] = "x" * 501


def caption_of_no_language(row: dict[str, Any]) -> None:
    row["captions"][1]["language"] = ""


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shorten_boxes, "person 0: boxes_xyxy has shape (39, 4), must be (40, 4)"),
        (claim_human, "label_tier is human, human_periods say otherwise"),
        (overlapping_periods, "person 0: human_periods are [[3, 8], [6, 10]]: not intervals of the clip"),
        (late_human_period, "person 0: human_periods are [[30, 400]]: not intervals of the clip"),
        (turn_box, "person 0: boxes_xyxy is empty or turned around in frame 3"),
        (move_box_out, "person 1: boxes_xyxy leaves the picture in frame 7"),
        (unset_face_box, "person 1: face_boxes_xyxy is not finite in frame 2"),
        (renumber, "person ids are [0, 2], must be 0..1"),
        (swap_people, "people are not numbered from left to right"),
        (lose_person, "n_people is 2, but the people listed are 1"),
        (half_keypoint, "person 0: a keypoint in frame 4 is neither a point nor (NaN, NaN, 0)"),
        (loud_keypoint, "person 0: a keypoint score is outside 0..1 in frame 4"),
        (null_speaking, "person 0: speaking holds nulls"),
        (wrong_legs, "person 0: legs_visible_ratio is 0.2500, its keypoints say 1.0000"),
        (too_strict, "person 1: body_visible_ratio is 0.9412, below min_body_visible"),
        (wrong_visibility, "person 0: body_visible_ratio is 0.5000, its keypoints say 0.9412"),
        (unsmooth, "speaking_score_smoothed is not the mean of i-3..i+2 of speaking_score in frame 6"),
        (flip_speaking, "speaking disagrees with the smoothed score and voice_activity in frame 12"),
        (raise_threshold, "speaking disagrees with the smoothed score and voice_activity in frame 0"),
        (shift_period, "speak_periods are [["),
        (shift_period, "speak and listen periods do not partition the clip's 40 frames"),
        (gap_in_merged, "speak and listen periods_merged do not partition the clip's 40 frames"),
        (more_overlap, "overlap_ratio is"),
        (more_turns, "n_turns is 4, speaking says 3"),
        (more_talk, "talk_share is"),
        (fall_back, "source_frame_index must be 40 frame numbers that never fall"),
        (shift_start, "does not match video_id and start_s..end_s"),
        (forget_backend, "pose_backend is empty"),
        (forget_size, "null where a value must be: width_px"),
        (state_other_size, "clip's picture is 160x120, the row says 160x122"),
        (cut_mp4_off, "clip cannot be decoded"),
        (lose_audio, "audio has neither bytes nor a file"),
        (unknown_tier, "label_tier is 'guess'"),
        (turn_caption, "caption 0 lasts from 0.9 to 0.2 s, outside the clip"),
        (late_caption, "caption 1 lasts from 1.2 to 1.7 s, outside the clip"),
        (swap_captions, "captions are not in order of time"),
        (wordless_caption, "caption 0 is not one line of 1 to 500 characters"),
        (hostile_caption, "caption 0 is not one line of 1 to 500 characters"),
        (long_caption, "caption 0 is not one line of 1 to 500 characters"),
        (caption_of_no_language, "caption 1 has no language"),
        (lose_voice, "voice_activity has 39 values for 40 frames"),
    ],
)
def test_a_damaged_row_is_named_with_what_is_wrong(
    folder: Path, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    clip_ids: list[str] = []

    def change(rows: Rows) -> None:
        damage(rows[0])
        clip_ids.append(rows[0]["clip_id"])

    rewrite(folder, change)
    found = messages(folder)
    assert any(message in line for line in found), found
    assert all(line.startswith(clip_ids[0]) for line in found), found


def test_a_shard_that_no_reader_can_decode_is_noticed(folder: Path) -> None:
    def change(rows: Rows) -> None:
        rows[0]["people"][0]["keypoints"][4] = None

    rewrite(folder, change)
    name = shard_path(folder).name
    # pyarrow 26 reads such lists and leaves the check to us, earlier ones refuse them.
    wordings = ("Expected all lists to be of size", "15561 values where 15960 are expected")
    found = messages(folder)
    assert any(line.startswith(f"{name}: cannot be read: {wording}") for line in found for wording in wordings), found


def test_media_of_another_clip_is_noticed(folder: Path) -> None:
    def change(rows: Rows) -> None:
        for column in ("clip", "audio"):
            rows[0][column], rows[1][column] = rows[1][column], rows[0][column]

    rewrite(folder, change)
    found = messages(folder)
    assert any("clip is 32 frames on the timeline, must be 40" in line for line in found), found
    assert any("audio has 20,480 samples, must be 25,600" in line for line in found), found


def test_a_video_in_two_splits_is_noticed(folder: Path) -> None:
    def change(rows: Rows) -> None:
        rows[1]["split"] = "val" if rows[0]["split"] != "val" else "test"

    rewrite(folder, change)
    assert any("another clip of its video is in" in line for line in messages(folder))


def test_a_clip_that_occurs_twice_is_noticed(folder: Path) -> None:
    rewrite(folder, lambda rows: rows.append(rows[1]))
    assert any("and again in" in line for line in messages(folder))


def test_rows_out_of_order_are_noticed(folder: Path) -> None:
    rewrite(folder, lambda rows: rows.reverse())
    assert any("rows are not ordered by clip_id" in line for line in messages(folder))


def test_a_column_of_another_type_is_noticed(folder: Path) -> None:
    path = shard_path(folder)
    table = pq.read_table(path)
    column = table.schema.get_field_index("n_turns")
    pq.write_table(table.set_column(column, "n_turns", table["n_turns"].cast(pa.int64())), path)
    sign(folder)
    assert messages(folder) == [f"{path.name}: column n_turns is int64, must be int32"]


def test_lost_file_metadata_is_noticed(folder: Path) -> None:
    path = shard_path(folder)
    pq.write_table(pq.read_table(path).replace_schema_metadata({"fps": "25"}), path)
    sign(folder)
    found = messages(folder)
    assert any("file metadata 'huggingface' is missing or differs" in line for line in found), found
    assert not any("'fps'" in line for line in found)


def test_a_changed_file_is_noticed(folder: Path) -> None:
    path = shard_path(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert any(line.startswith(f"{path.name}: sha256 differs") for line in messages(folder))


def test_a_truncated_file_is_noticed_and_the_others_are_still_checked(folder: Path) -> None:
    path, other = shard_path(folder), shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[:-200])
    other.unlink()
    found = messages(folder)
    assert any(line.startswith(f"{path.name}: cannot be read") for line in found), found
    assert f"{other.name}: is named by the index but missing" in found


def test_a_shard_that_the_index_does_not_name_is_noticed(folder: Path) -> None:
    shutil.copy(shard_path(folder), folder / "shard-00002-of-00004.deadbeef.parquet")
    assert messages(folder) == [
        "shard-00002-of-00004.deadbeef.parquet: lies in the dataset's folder but the index does not name it"
    ]


def test_a_wrong_row_count_in_the_index_is_noticed(folder: Path) -> None:
    index = json.loads((folder / INDEX_NAME).read_text())
    index["shards"][0]["n_clips"] = 7
    (folder / INDEX_NAME).write_text(json.dumps(index))
    assert any("has 2 rows, the index says 7" in line for line in messages(folder))


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no dataset"):
        validate(tmp_path)
