from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from manifests.ledger import Entry
from manifests.rows import Artifact, Candidate, Shot, Video
from mit_builder.config import settings
from mit_builder.config.settings import SelectSettings, Settings
from mit_builder.driver.counts import N_BORDERLINE, RunCounts, margin, misses
from mit_builder.driver.progress import funnel, nearest_miss

SELECT = SelectSettings()
FILE = Artifact("k", "s", 1)
VIDEO = Video("v", "s", "u", None, None, None, None, None, "public", FILE, 60.0, 1500, "25", 64, 48, True)


def candidate(reason: str | None = None, *, n_frames: int = 250, **measured: Any) -> Candidate:
    plain = Candidate(
        clip_id="v_0",
        video_id="v",
        start_frame=0,
        end_frame=n_frames,
        track_ids=(0, 1),
        n_people=2,
        tracks=FILE,
        verdict="rejected" if reason else "kept",
        reason=None,
        min_face_px=100.0,
        face_area_ratio=0.9,
        camera_motion_pct=0.0,
        voice_activity=0.5,
        stillness=1.0,
        n_bystanders=0,
        bystander_area=None,
        brightness=None,
        sharpness=None,
        detector="d",
    )
    return replace(plain, reason=reason, **measured)  # type: ignore[arg-type]


def done(*outputs: Any) -> Entry:
    return Entry("u", "k", "done", outputs, duration_s=2.0, cpu_s=1.0)


def settled(**entries: Entry) -> RunCounts:
    tally = RunCounts()
    for step, entry in entries.items():
        tally.settle(step, entry, SELECT)
    return tally


def test_units_are_counted_by_status_reason_and_class() -> None:
    tally = RunCounts()
    for entry in (
        done(),
        Entry("u", "k", "rejected", reason="too_long"),
        Entry("u", "k", "rejected", reason="too_long"),
        Entry("u", "k", "failed", failure_class="auth"),
    ):
        tally.settle("download", entry, SELECT)
    tally.steps["pose"].pending = 3
    assert tally.steps["download"].as_dict() == {
        "done": 1,
        "rejected": {"too_long": 2},
        "failed": {"auth": 1},
        "pending": 0,
        "worked_on": 0,
        "duration_s": 0.0,
        "cpu_s": 0.0,
    }
    assert (tally.failed, tally.pending) == (1, 3)


def test_the_funnel_counts_videos_shots_candidates_and_seconds() -> None:
    outputs = (candidate(), candidate("too_short", n_frames=50), candidate("too_short", n_frames=100))
    tally = settled(download=done(VIDEO), shots=done(Shot("v", 0, 500), Shot("v", 500, 1500)), select=done(*outputs))
    assert (tally.n_videos, tally.video_s, tally.n_shots, tally.shot_s) == (1, 60.0, 2, 60.0)
    assert tally.candidates == Counter(kept=1, too_short=2)
    assert dict(tally.candidate_s) == {"kept": 10.0, "too_short": 6.0}
    assert tally.kept_s == 10.0


def test_the_funnel_says_how_many_clips_are_left_out_of_the_dataset_and_why() -> None:
    tally = RunCounts()
    tally.left_out = Counter(body_not_visible=3)
    assert "       3 clips left out of the dataset: body_not_visible" in funnel(tally)


def test_rows_of_a_unit_that_is_no_longer_done_do_not_count() -> None:
    duplicate = Entry("u", "k", "rejected", (VIDEO,), reason="duplicate")
    assert settled(download=duplicate).n_videos == 0


def test_a_video_that_turns_out_to_be_a_duplicate_is_taken_back() -> None:
    tally = settled(download=done(VIDEO))
    tally.demote(VIDEO)
    assert (tally.n_videos, tally.video_s, tally.steps["download"].done) == (0, 0.0, 0)
    assert tally.steps["download"].rejected == Counter(duplicate=1)


def test_work_is_counted_apart_from_what_was_found_done() -> None:
    tally = settled(pose=done())
    assert tally.steps["pose"].worked_on == 0
    tally.worked_on("pose", done())
    assert (tally.steps["pose"].worked_on, tally.steps["pose"].duration_s, tally.steps["pose"].cpu_s) == (1, 2.0, 1.0)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (candidate("face_too_small", min_face_px=52.0), ("face_too_small", "min_face_px", 52.0)),
        (candidate("face_too_small", min_face_px=51.0), None),
        (candidate("face_too_small", min_face_px=None), None),
        (candidate("face_sizes_differ", face_area_ratio=0.41), ("face_sizes_differ", "min_face_area_ratio", 0.41)),
        (candidate("too_short", n_frames=105), ("too_short", "min_clip_s", 4.2)),
        (candidate("too_short", n_frames=95), None),
        (candidate("no_speech", voice_activity=0.09), ("no_speech", "min_voice_activity", 0.09)),
        (candidate("camera_motion", camera_motion_pct=0.17), ("camera_motion", "max_camera_motion_pct", 0.17)),
        (candidate("camera_motion", camera_motion_pct=0.19), None),
        (candidate("bystander", bystander_area=0.55), ("bystander", "max_bystander_area", 0.55)),
        (candidate("too_few_people"), None),
        (candidate("no_audio"), None),
        (candidate(), None),
    ],
    ids=lambda value: value.reason if isinstance(value, Candidate) else "",
)
def test_a_near_miss_is_within_a_fifth_of_the_threshold(
    row: Candidate, expected: tuple[str, str, float] | None
) -> None:
    missed = margin(row, SELECT)
    near = missed and missed.is_near and (missed.reason, missed.setting, missed.value)
    assert (near or None) == expected


@pytest.mark.parametrize(
    ("rows", "setting"),
    [
        ([candidate("face_too_small", min_face_px=v) for v in (60.0, 55.5, 30.0)], "min_face_px"),
        ([candidate("camera_motion", camera_motion_pct=v) for v in (0.16, 0.17)], "max_camera_motion_pct"),
        ([candidate("too_short", n_frames=n) for n in (110, 120)], "min_clip_s"),
    ],
)
def test_the_setting_that_is_proposed_lets_the_near_misses_in(rows: list[Candidate], setting: str) -> None:
    (line,) = nearest_miss(settled(select=done(*rows)), Settings())
    proposed = line.rpartition(" --set ")[2]
    assert proposed.startswith(f"filter.{setting}=")
    limit = getattr(settings.load(None, [proposed]).filter, setting)
    missed = [margin(row, SELECT) for row in rows]
    values = [miss.value for miss in missed if miss and miss.is_near]
    assert line.startswith(f"{len(values)} candidates missed {setting}=")
    assert all(value >= limit if setting.startswith("min") else value <= limit for value in values)


def test_what_fails_several_tests_is_proposed_with_all_their_settings() -> None:
    """Moving the threshold of the first test alone would not let these in."""
    both = [candidate("face_too_small", min_face_px=value, n_frames=110) for value in (60.0, 55.5)]
    (line,) = nearest_miss(settled(select=done(*both)), Settings())
    assert line.startswith("2 candidates missed min_face_px=64 (55.5 to 60) and min_clip_s=5 (4.4) by < 20%; ")
    assert line.endswith("tune --set filter.min_face_px=55.2 --set filter.min_clip_s=4.38")
    select = settings.load(None, ["filter.min_face_px=55.2", "filter.min_clip_s=4.38"]).filter
    assert not any(miss.fails for row in both for miss in misses(row, select))


@pytest.mark.parametrize("other", [{"bystander_area": 9.0}, {"n_frames": 50}, {"voice_activity": None}], ids=str)
def test_what_fails_another_test_widely_is_no_near_miss(other: dict[str, Any]) -> None:
    rows = [candidate("face_too_small", min_face_px=60.0, **other)] * 3
    (line,) = nearest_miss(settled(select=done(*rows, candidate("face_too_small", min_face_px=61.0))), Settings())
    assert line.startswith("1 candidate missed min_face_px=64 (61) by")
    assert nearest_miss(settled(select=done(*rows)), Settings()) == []


def test_every_test_that_fails_is_told_with_its_value() -> None:
    row = candidate("face_too_small", min_face_px=60.0, bystander_area=9.0)
    assert list(map(str, misses(row, SELECT))) == [
        "face_too_small (60 < min_face_px 64)",
        f"bystander (9 > max_bystander_area {SELECT.max_bystander_area:g})",
    ]


def test_without_near_misses_nothing_is_proposed() -> None:
    assert nearest_miss(settled(select=done(candidate())), Settings()) == []


def test_the_funnel_is_told_in_lines() -> None:
    tally = settled(download=done(VIDEO), select=done(candidate(), candidate("too_short", n_frames=50)))
    tally.n_sources = 2
    tally.settle("download", Entry("u", "k", "failed", failure_class="auth"), SELECT)
    tally.steps["pose"].pending = 1
    tally.unavailable["pose"] = "no weights"
    first, *rest = funnel(tally)
    assert first.startswith("2 sources -> 1 video (1.0 min) -> 0 shots -> 2 candidates -> 1 kept (0.2 min)")
    assert [line.strip() for line in rest] == [
        "1 candidate too_short (0.0 min)",
        "1 download failed (auth): mit-build status --failed lists them",
        "1 pose pending: no weights",
    ]


def test_the_result_is_ready_for_json() -> None:
    tally = settled(download=done(VIDEO), select=done(candidate("too_short", n_frames=50)))
    tally.unmended = 3
    values = tally.as_dict()
    assert values["damaged_files"] == 3
    assert values["videos"] == 1
    assert values["candidates"] == {"too_short": 1}
    assert values["candidate_s"] == {"too_short": 2.0}
    assert set(values["stages"]) == {"download", "select"}


def test_every_rejected_candidate_with_a_measurement_has_its_share_of_the_threshold() -> None:
    rows = (candidate("face_too_small", min_face_px=32.0), candidate("camera_motion", camera_motion_pct=0.3))
    tally = settled(**{"filter.select": done(*rows, candidate("no_audio"), candidate())})
    assert tally.margins == {
        ("face_too_small", "min_face_px"): [0.5],
        ("camera_motion", "max_camera_motion_pct"): [2.0],
    }


def test_the_rejects_nearest_to_their_threshold_are_kept() -> None:
    sizes = [float(px) for px in range(1, 2 * N_BORDERLINE)]
    outputs = [candidate("face_too_small", min_face_px=px * 64 / 2 / N_BORDERLINE) for px in sizes]
    tally = settled(**{"filter.select": done(*outputs)})
    kept = sorted(row.min_face_px or 0 for _, _, row in tally.borderline["face_too_small"])
    assert kept == sorted(row.min_face_px or 0 for row in outputs)[-N_BORDERLINE:]
