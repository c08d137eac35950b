"""From a key pressed in the review page to the Parquet, in a real browser, and through runs that follow."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

import quick_stages
from browser import browser, console_of, until  # noqa: F401 - a fixture
from quick_stages import program

from mit_builder.dataset.reader import DatasetFiles
from mit_builder.dataset.validate import validate
from mit_builder.exports.make import ExportRequest, make_export
from mit_builder.labels.corrections import human_mask
from mit_builder.labels.reviews import Reviews
from mit_builder.labels.speaking import interaction_labels, is_speaking
from mit_builder.storage.workspace import Workspace

SOURCES = tuple(f"http://quick.test/{name}?frames=300&shots=2" for name in "abc")
"""Six clips of 150 frames; people speak in turn, 30 frames each."""
SETTINGS = ("filter.min_face_px=30", "run.overlays=0", "download.host_interval_s=0")


def run(place: Path, *arguments: str) -> str:
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    done = program("run", "--engine", "serial", "--workspace", str(place), *options, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("review") / "workspace"
    run(workspace, *SOURCES)
    return workspace


@pytest.fixture
def own(place: Path, tmp_path: Path) -> Path:
    """The workspace for a test alone, whose verdicts others do not see."""
    return Path(shutil.copytree(place, tmp_path / "workspace"))


@contextmanager
def served(place: Path, *arguments: str) -> Iterator[str]:
    """Address of the review server while it runs; it must end by itself when interrupted."""
    command = quick_stages.command("review", "--workspace", str(place), *arguments)
    server = subprocess.Popen(**command, stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().removeprefix("review at ").strip()
        server.terminate()
        assert server.wait(20) == 0
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def go_to(page: Any, frame: int) -> None:
    box = page.locator(".strips").bounding_box()
    page.mouse.click(box["x"] + (frame + 0.5) / 150 * box["width"], box["y"] + 2)
    now = "document.querySelector('.strips').getAttribute('aria-valuenow')"
    until(page, f"!document.querySelector('.screen video').seeking && {now} === '{frame}'")


def open_clip(page: Any, clip_id: str) -> None:
    page.locator(f'.clip[data-clip="{clip_id}"] .show').click()
    page.wait_for_selector(".head", state="attached")
    until(page, "document.querySelector('.screen video').readyState >= 2")


def saved(page: Any) -> None:
    until(page, "document.querySelector('.said').textContent === 'saved'", within_s=20)


def rows(place: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in DatasetFiles(place).rows()}


def shards(place: Path) -> dict[int, str]:
    return {shard.bucket: shard.sha256 for shard in DatasetFiles(place).index().shards}


def check_correction(row: dict[str, Any]) -> None:
    person = row["people"][1]
    assert person["human_periods"].tolist() == [[35, 100]]
    assert person["speaking"][35:100].all()
    model = is_speaking(person["speaking_score_smoothed"], row["voice_activity"], row["min_voice_activity"])
    outside = np.r_[0:35, 100:150]
    assert np.array_equal(person["speaking"][outside], model[outside])
    assert [35, 100] in person["speak_periods"].tolist() or person["speaking"][34] or person["speaking"][100]
    human = np.stack([human_mask(p) for p in row["people"]])
    labels = interaction_labels(np.stack([p["speaking"] for p in row["people"]]), human)
    assert (row["n_turns"], row["overlap_ratio"]) == (labels.n_turns, pytest.approx(labels.overlap_ratio))
    assert row["people"][0]["human_periods"].tolist() == []


def check_exports(place: Path, folder: Path, row: dict[str, Any]) -> None:
    """COCO's annotations and webdataset's arrays say of the corrected clip what the Parquet says."""
    for form in ("coco-wholebody", "webdataset"):
        make_export(Workspace(place), ExportRequest(form, folder / form, False, None))
    split = json.loads((folder / "coco-wholebody" / "annotations" / f"coco_wholebody_{row['split']}.json").read_text())
    frames = {image["id"]: image["frame"] for image in split["images"] if image["clip_id"] == row["clip_id"]}
    said = {
        (annotation["person_id"], frames[annotation["image_id"]]): annotation["speaking"]
        for annotation in split["annotations"]
        if annotation["image_id"] in frames
    }
    assert all(said[1, frame] == row["people"][1]["speaking"][frame] for frame in frames.values())
    assert len(said) == 2 * 150
    for path in (folder / "webdataset").glob("*.tar"):
        with tarfile.open(path) as tar:
            if f"{row['clip_id']}.npz" in tar.getnames():
                arrays = np.load(io.BytesIO(tar.extractfile(f"{row['clip_id']}.npz").read()))  # type: ignore[union-attr]
                assert np.array_equal(arrays["people_speaking"][1], row["people"][1]["speaking"])
                meta = json.load(tar.extractfile(f"{row['clip_id']}.json"))  # type: ignore[arg-type]
                assert meta["people"][1]["human_periods"] == [[35, 100]]
                return
    raise AssertionError("the corrected clip is in no tar")


def test_verdicts_reach_parquet_and_exports_and_survive_runs(
    browser: Any,  # noqa: F811
    place: Path,
    tmp_path: Path,
) -> None:
    before, shards_before = rows(place), shards(place)
    names = sorted(before)
    by_video = {name.partition("_")[0] for name in names}
    corrected, rejected = names[0], next(n for n in names if n.partition("_")[0] != names[0].partition("_")[0])
    assert len(by_video) == 3
    with served(place) as address:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        said = console_of(page)
        page.goto(address)
        open_clip(page, corrected)
        go_to(page, 35)
        for key in ("1", "["):
            page.keyboard.press(key)
        go_to(page, 99)
        for key in ("]", "t", "l", "a"):
            page.keyboard.press(key)
        saved(page)
        assert page.locator(".corrections li").all_inner_texts() == ["P1 speaks in frames 35 to 100 ×"]
        page.keyboard.press("Escape")
        open_clip(page, rejected)
        page.fill(".review input", "no <b>conversation</b>")
        page.keyboard.press("Tab")
        page.click('[data-does="reject"]')
        saved(page)
        assert page.locator(".clip .mark").all_inner_texts().count("rejected") == 1
        page.reload()
        page.wait_for_selector(".clip .mark.reject")
        page.close()
        assert said == []
    assert rows(place).keys() == before.keys(), "verdicts wait for a run"

    output = run(place)
    assert "1 clip left out of the dataset: rejected_by_reviewer" in output
    after = rows(place)
    assert after.keys() == before.keys() - {rejected}
    check_correction(after[corrected])
    check_exports(place, tmp_path, after[corrected])
    assert validate(place) == []
    assert {row["label_tier"] for row in after.values()} == {"heuristic"}
    touched = {int(name[:8], 16) % 16 for name in (corrected, rejected)}
    shards_after = shards(place)
    assert {b for b in shards_before if shards_after.get(b) != shards_before[b]} == touched

    assert "0 units worked on" in run(place)
    assert shards(place) == shards_after
    run(place, "--force-stage", "filter.cut", "--set", "speech.min_voice_activity=0.95")
    mute = rows(place)
    check_correction(mute[corrected])
    assert mute[corrected]["people"][0]["talk_share"] == 0
    assert validate(place) == []
    assert rejected not in mute


def test_verdicts_are_made_in_the_static_page_exported_and_taken_in(browser: Any, place: Path, tmp_path: Path) -> None:  # noqa: F811
    name = sorted(rows(place))[-1]
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    said = console_of(page)
    page.goto((place / "report" / "index.html").as_uri())
    page.click("#tab-gallery")
    page.click("#reviewing")
    open_clip(page, name)
    strip = page.locator(".strips canvas").first
    width = strip.evaluate("canvas => canvas.getBoundingClientRect().width")
    page.keyboard.down("Shift")
    strip.hover(position={"x": width * 10.5 / 150, "y": 10})  # waits until nothing moves any more
    page.mouse.down()
    strip.hover(position={"x": width * 20.5 / 150, "y": 10})
    page.mouse.up()
    page.keyboard.up("Shift")
    page.keyboard.press("q")
    page.reload()
    page.click("#reviewing")
    with page.expect_download() as download:
        page.click("#export")
    export = tmp_path / "verdicts.json"
    download.value.save_as(export)
    context.close()
    assert said == []
    (review,) = json.loads(export.read_text())["reviews"]
    (correction,) = review["corrections"]
    assert (correction["person_id"], correction["start_frame"], correction["speaking"]) == (0, 10, False)
    assert correction["end_frame"] == 21

    done = program("review", "--workspace", str(place), "--import", str(export))
    assert (done.returncode, done.stdout.splitlines()[0][:18]) == (0, "1 verdict taken in")
    run(place)
    person = rows(place)[name]["people"][0]
    assert person["human_periods"].tolist() == [[10, 21]]
    assert not person["speaking"][10:21].any()


def test_two_tabs_of_the_server_do_not_overwrite_each_other(browser: Any, own: Path) -> None:  # noqa: F811
    name = sorted(rows(own))[0]
    with served(own) as address:
        first, second = (browser.new_page(viewport={"width": 1200, "height": 1000}) for _ in range(2))
        for page in (first, second):
            page.set_default_timeout(6000)
            page.goto(address)
            open_clip(page, name)
        first.fill(".review input", "dark")
        first.keyboard.press("Tab")
        first.click('[data-does="reject"]')
        saved(first)
        second.click('[data-does="accept"]')
        until(
            second,
            "document.querySelector('.said').textContent.startsWith('not saved: this clip was judged')",
            within_s=20,
        )
        assert second.get_attribute('[data-does="reject"]', "aria-pressed") == "true"
        assert second.input_value(".review input") == "dark"
        second.click('[data-does="accept"]')
        saved(second)
        first.close()
        second.close()
    found = Reviews(Workspace(own)).find(name)
    assert found is not None
    assert found.verdict == "accept"


def test_what_the_server_refuses_is_said_also_when_the_clip_is_closed(browser: Any, own: Path) -> None:  # noqa: F811
    name = sorted(rows(own))[0]
    with served(own) as address:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(6000)
        page.goto(address)
        open_clip(page, name)
        answer = {"status": 507, "json": {"problem": "cannot write: No space left on device"}}
        page.route("**/reviews.json", lambda route: route.fulfill(**answer))
        page.click('[data-does="reject"]')
        until(
            page,
            "document.querySelector('.said').textContent === 'not saved: cannot write: No space left on device'",
            within_s=20,
        )
        assert "not saved" in page.inner_text(f'.clip[data-clip="{name}"] .mark')
        page.unroute("**/reviews.json")
        held: list[Any] = []
        page.route("**/reviews.json", lambda route: held.insert(0, route))
        page.click('[data-does="accept"]')
        page.keyboard.press("Escape")
        end = time.monotonic() + 20
        while not held and time.monotonic() < end:
            page.wait_for_timeout(20)
        held[0].fulfill(status=403, body="no")
        until(page, "document.querySelector('#gallery > .problem') !== null", within_s=20)
        assert "not saved: the review server answers 403" in page.inner_text("#gallery > .problem")
        page.unroute("**/reviews.json")
        open_clip(page, name)
        page.click('[data-does="checked"]')
        saved(page)
        assert "not saved" not in page.inner_text(f'.clip[data-clip="{name}"] .mark')
        page.close()


def test_two_tabs_of_the_static_page_keep_each_others_verdicts(browser: Any, place: Path) -> None:  # noqa: F811
    names = sorted(rows(place))[:2]
    context = browser.new_context(accept_downloads=True, viewport={"width": 1200, "height": 1000})
    pages = [context.new_page() for _ in names]
    for page in pages:
        page.set_default_timeout(6000)
        page.goto((place / "report" / "index.html").as_uri())
        page.click("#tab-gallery")
        page.click("#reviewing")
    for page, name in zip(pages, names, strict=True):
        open_clip(page, name)
        page.keyboard.press("a")
    with pages[1].expect_download() as download:
        pages[1].click("#export")
    kept = json.loads(Path(download.value.path()).read_text())["reviews"]
    assert sorted(review["clip_id"] for review in kept) == names
    context.close()


def test_a_sample_is_shown_in_its_order_and_the_report_states_what_came_of_it(browser: Any, place: Path) -> None:  # noqa: F811
    with served(place, "--sample", "4", "--seed", "7") as address:
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(6000)
        page.goto(address)
        page.wait_for_selector(".clip")
        order = [card.get_attribute("data-clip") for card in page.locator(".clip").all()]
        assert len(order) == 4
        for n, clip_id in enumerate(order[:3]):
            open_clip(page, clip_id)
            page.keyboard.press("l")
            page.keyboard.press("r" if n == 2 else "a")
            saved(page)
            page.keyboard.press("Escape")
        page.close()
    with served(place, "--sample", "4", "--seed", "7") as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(".clip")
        assert [card.get_attribute("data-clip") for card in page.locator(".clip").all()] == order
        page.close()
    run(place)
    page = browser.new_page()
    page.goto((place / "report" / "index.html").as_uri())
    words = page.inner_text("#overview")
    page.close()
    assert "3 of 4" in words
    assert "rejected_by_reviewer\t1\t0.0017" in words.replace("\t\t", "\t"), words
    assert "66.7 %\t20.8 % to 93.9 %" in words, words
    assert "nothing reviewed" not in words
