"""The report's page in a real browser, from a disk: what it shows, plays and lets one do."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from browser import browser, console_of, until  # noqa: F401 - a fixture
from numbered_video import write_numbered
from quick_stages import program

HOSTILE = '<b onload="window.hacked=1">bold</b><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
SOURCES = (
    f"http://quick.test/a?frames=300&shots=2&title={HOSTILE}",
    f"http://quick.test/b?frames=125&people=3&long={'x' * 400}",
    "http://quick.test/c?frames=80",
)
"""Two clips of 150 frames with two people, one of 125 with three, and 80 frames that are too short."""
SETTINGS = ("filter.min_clip_s=4", "filter.min_face_px=30", "run.overlays=0", "download.host_interval_s=0")

NUMBER = """(video) => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth; canvas.height = video.videoHeight;
    const pen = canvas.getContext("2d");
    pen.drawImage(video, 0, 0);
    let number = 0;
    for (let bit = 0; bit < 10; bit++) number |= (pen.getImageData(24 * bit + 12, 16, 1, 1).data[0] > 128) << bit;
    return number;
}"""
"""The number that a frame of the numbered video shows."""
BOTH = f"""() => {{
    const video = document.querySelector(".screen video");
    return [({NUMBER})(video), Number(document.querySelector(".strips").getAttribute("aria-valuenow"))];
}}"""


@dataclass(frozen=True)
class Made:
    place: Path
    url: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = tmp_path_factory.mktemp("page") / "workspace"
    options = [part for setting in SETTINGS for part in ("--set", setting)]
    done = program("run", "--engine", "serial", "--workspace", str(place), *options, *SOURCES)
    assert done.returncode == 0, done.stdout + done.stderr
    return Made(place, (place / "report" / "index.html").as_uri())


@pytest.fixture
def page(browser: Any, made: Made) -> Iterator[Any]:  # noqa: F811
    """The page, which must not complain."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    opened = context.new_page()
    said = console_of(opened)
    opened.goto(made.url)
    yield opened
    context.close()
    assert said == []


def open_clip(page: Any, n: int = 0) -> Any:
    page.click("#tab-gallery")
    page.locator(".clip .show").nth(n).click()
    page.wait_for_selector(".head", state="attached")
    until(page, "document.querySelector('.screen video').readyState >= 2")
    return page.locator(".screen video")


def settled(page: Any, frame: int) -> None:
    now = "document.querySelector('.strips').getAttribute('aria-valuenow')"
    until(page, f"!document.querySelector('.screen video').seeking && {now} === '{frame}'")
    page.wait_for_timeout(60)


def test_the_overview_states_what_the_run_did(page: Any) -> None:
    words = page.inner_text("#overview")
    for said in ("too_short", "min_clip_s", "TalkVid", "18.3 %", "13.7 %", "Identities", "nothing reviewed"):
        assert said in words
    assert page.locator("#overview figure svg").count() >= 9
    rows = page.locator("#overview table").first.locator("tbody tr").all_inner_texts()
    assert [row.split("\t")[:2] for row in rows][-1] == ["in the dataset", "3"]


def test_nothing_is_fetched_from_elsewhere(browser: Any, made: Made) -> None:  # noqa: F811
    opened = browser.new_page()
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(made.url)
    open_clip(opened)
    opened.click("#tab-rejects")
    opened.wait_for_selector("#reject-cards .clip")
    opened.close()
    beside = made.place.as_uri()
    assert [url for url in asked if not url.startswith((beside, "data:", "blob:"))] == []


def test_a_hostile_title_is_text(page: Any) -> None:
    open_clip(page)
    titles = page.locator(".clip .about b").all_inner_texts()
    assert HOSTILE in titles
    assert page.locator(".facts h3").inner_text() == HOSTILE
    assert page.locator("main b[onload], main img[onerror]").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_playhead_is_where_the_video_is_while_it_plays(page: Any) -> None:
    video = open_clip(page)
    page.keyboard.press("Space")
    pairs = []
    for _ in range(12):
        page.wait_for_timeout(170)
        pairs.append(page.evaluate(BOTH))
    assert not video.evaluate("v => v.paused")
    shown = [a for a, _ in pairs]
    assert shown[-1] > shown[0] + 20, "the video did not play"
    assert max(abs(a - b) for a, b in pairs) <= 2, pairs


@pytest.mark.parametrize("frame", [0, 1, 37, 75, 110, 149])
def test_a_click_on_the_strip_shows_that_frame(page: Any, frame: int) -> None:
    open_clip(page)
    box = page.locator(".strips").bounding_box()
    page.mouse.click(box["x"] + (frame + 0.5) / 150 * box["width"], box["y"] + 30)
    settled(page, frame)
    assert page.evaluate(BOTH) == [frame, frame]
    head = page.locator(".head").bounding_box()
    assert abs(head["x"] + head["width"] / 2 - box["x"] - (frame + 0.5) / 150 * box["width"]) < 2


def test_the_playhead_is_where_the_video_is_after_seeks_while_playing(page: Any) -> None:
    open_clip(page)
    page.keyboard.press("Space")
    box = page.locator(".strips").bounding_box()
    for share in (0.7, 0.1, 0.5):
        page.mouse.click(box["x"] + share * box["width"], box["y"] + 30)
        page.wait_for_timeout(250)
        shown, head = page.evaluate(BOTH)
        assert abs(shown - head) <= 2
        assert 0 <= shown - share * 150 < 40


@pytest.mark.parametrize("end", ["outside", "cancelled"])
def test_a_drag_over_the_strip_ends_where_the_pointer_is_let_go(page: Any, end: str) -> None:
    open_clip(page)
    box = page.locator(".strips").bounding_box()
    y = box["y"] + 30

    def at(frame: int) -> float:
        return float(box["x"] + (frame + 0.5) / 150 * box["width"])

    page.mouse.move(at(40), y)
    page.mouse.down()
    page.mouse.move(at(60), y)
    settled(page, 60)
    if end == "outside":
        page.mouse.move(at(80), box["y"] + box["height"] + 300)
        settled(page, 80)  # it follows the pointer also beside the strip
        page.mouse.up()
    else:
        page.evaluate("""() => {
            const strips = document.querySelector(".strips");
            strips.releasePointerCapture(1);
        }""")
        page.mouse.move(at(81), y)
    shown = int(page.get_attribute(".strips", "aria-valuenow"))
    page.mouse.move(at(20), y)
    page.mouse.move(at(30), y)
    page.wait_for_timeout(100)
    settled(page, shown)
    page.mouse.up()
    page.mouse.click(at(10), y)
    settled(page, 10)


def test_a_drag_that_began_elsewhere_moves_nothing(page: Any) -> None:
    open_clip(page)
    box, facts = page.locator(".strips").bounding_box(), page.locator(".facts p").first.bounding_box()
    page.mouse.move(facts["x"] + 5, facts["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 30)
    page.wait_for_timeout(100)
    settled(page, 0)
    page.mouse.up()


@pytest.mark.parametrize("place", ["#/gallery/100%", "#/%E0%A4%A/x", "#/nowhere/a/b", "#/gallery/\"]'<"])
def test_an_address_that_names_nothing_opens_the_page(browser: Any, made: Made, place: str) -> None:  # noqa: F811
    opened = browser.new_page()
    said = console_of(opened)
    opened.goto(made.url + place)
    open_clip(opened)
    opened.close()
    assert said == []


def test_signs_that_mean_something_in_addresses_mean_themselves(
    browser: Any,  # noqa: F811
    made: Made,
    tmp_path: Path,
) -> None:
    place = Path(shutil.copytree(made.place, tmp_path / "100% #1?"))
    gallery = place / "report" / "gallery.js"
    rows, samples = json.loads(f"[{gallery.read_text().removeprefix('mitGallery(').removesuffix(');' + chr(10))}]")
    odd = """a%20b #c?d'e"f&amp;.mp4"""
    (place / rows[0]["media"]).rename(place / "clips" / odd)
    address = f'http://quick.test/a%2Fb?q=%23&t="{"x" * 400}"#part'
    rows[0] |= {"media": f"clips/{odd}", "url": address, "title": odd}
    gallery.write_text(f"mitGallery({json.dumps(rows)},{json.dumps(samples)});\n")
    opened = browser.new_page()
    said = console_of(opened)
    opened.goto(f"{(place / 'report' / 'index.html').as_uri()}#/gallery/{rows[0]['id']}")
    until(opened, "document.querySelector('.screen video')?.readyState >= 2")
    assert opened.locator(".facts h3").inner_text() == odd
    link = opened.locator(".facts a")
    assert (link.inner_text(), link.get_attribute("href")) == (address, address)
    opened.close()
    assert said == []


def test_a_long_address_is_not_cut(made: Made) -> None:
    assert "x" * 400 in (made.place / "report" / "gallery.js").read_text()


def test_keys_step_frames_switch_overlays_and_turn_to_other_clips(page: Any) -> None:
    open_clip(page)
    for key, frame in (("ArrowRight", 1), ("ArrowRight", 2), ("Shift+ArrowRight", 27), ("ArrowLeft", 26), ("End", 149)):
        page.keyboard.press(key)
        settled(page, frame)
    for key, name in (("b", "boxes"), ("s", "skeletons")):
        page.keyboard.press(key)
        assert page.get_attribute(f'[data-does="{name}"]', "aria-pressed") == "false"
    first = page.get_attribute(".clip.open", "data-clip")
    page.keyboard.press("n")
    until(page, f"document.querySelector('.clip.open').dataset.clip !== '{first}'")
    page.keyboard.press("p")
    until(page, f"document.querySelector('.clip.open').dataset.clip === '{first}'")
    page.keyboard.press("Escape")
    assert page.locator(".clip.open").count() == 0
    assert page.evaluate("document.activeElement.closest('.clip').dataset.clip") == first


@pytest.mark.parametrize("fps", [12, 60])
def test_keys_step_through_the_labels_whatever_the_rate_of_the_media(
    browser: Any,  # noqa: F811
    made: Made,
    tmp_path: Path,
    fps: int,
) -> None:
    place = Path(shutil.copytree(made.place, tmp_path / "workspace"))
    for clip in (place / "clips").glob("*.mp4"):
        write_numbered(clip, range(6 * fps), Fraction(1, fps))
    opened = browser.new_page()
    opened.goto((place / "report" / "index.html").as_uri())
    open_clip(opened)
    for frame in range(1, 14):
        opened.keyboard.press("ArrowRight")
        settled(opened, frame)
        shown, head = opened.evaluate(BOTH)
        assert abs(shown / fps - head / 25) <= 1 / 25 + 1 / fps
    opened.close()


def colours(page: Any) -> dict[str, int]:
    """Opaque pixels of the overlay, by what they show."""
    found: dict[str, int] = page.evaluate("""() => {
        const canvas = document.querySelector(".screen canvas");
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        const near = (i, r, g, b) => Math.abs(data[i] - r) + Math.abs(data[i + 1] - g) + Math.abs(data[i + 2] - b) < 12;
        const count = { speaks: 0, listens: 0, person0: 0, any: 0 };
        for (let i = 0; i < data.length; i += 4) {
            if (data[i + 3] < 250) continue;
            count.any++;
            if (near(i, 40, 220, 90)) count.speaks++;
            if (near(i, 201, 205, 210)) count.listens++;
            if (near(i, 255, 160, 40)) count.person0++;
        }
        return count;
    }""")
    return found


def test_boxes_are_coloured_by_who_speaks_and_skeletons_switch(page: Any) -> None:
    open_clip(page)
    page.keyboard.press("ArrowRight")
    settled(page, 1)
    both = colours(page)
    assert both["speaks"] > 100
    assert both["listens"] > 100
    assert both["person0"] > 50
    page.keyboard.press("s")
    assert colours(page)["person0"] == 0
    page.keyboard.press("b")
    assert colours(page)["any"] == 0


def test_tabs_work_by_keyboard_and_say_which_is_open(page: Any) -> None:
    page.focus("#tab-overview")
    for name in ("gallery", "rejects", "costs", "overview"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert page.get_attribute(f"#tab-{name}", "aria-selected") == "true"
        assert page.is_visible(f"#{name}")
        assert page.locator('[role="tabpanel"]:not([hidden])').count() == 1


def test_the_gallery_is_searched_and_ordered(page: Any) -> None:
    page.click("#tab-gallery")
    page.wait_for_selector("#cards .clip")
    page.fill("#find", "quick.test/b")
    assert page.inner_text("#found") == "1 of 3 clips"
    page.fill("#find", "")
    page.select_option("#people", "3")
    assert page.locator("#cards .clip").count() == 1


def test_rejects_show_their_measurement_and_a_picture(page: Any) -> None:
    page.click("#tab-rejects")
    page.wait_for_selector("#reject-cards .clip")
    assert "min_clip_s is 4" in page.inner_text("#reject-cards")
    until(page, "[...document.querySelectorAll('#reject-cards img')].some((i) => i.naturalWidth > 0)")


def test_a_rejected_candidate_plays_its_stretch_of_the_video(page: Any) -> None:
    page.click("#tab-rejects")
    page.click("#reject-cards .play")
    video = page.locator("#reject-cards video")
    until(page, "document.querySelector('#reject-cards video').currentTime > 0.2")
    assert video.evaluate("v => v.paused") is False
    assert re.search(r"/videos/.+\.mp4#t=0,3\.2$", video.evaluate("v => v.currentSrc"))
    page.click("#tab-gallery")
    assert video.evaluate("v => v.paused") is True


def test_a_candidate_that_the_browser_cannot_play_says_what_draws_it(
    browser: Any,  # noqa: F811
    made: Made,
    tmp_path: Path,
) -> None:
    place = Path(shutil.copytree(made.place, tmp_path / "my talks"))
    assert program("report", "--workspace", str(place)).returncode == 0
    for video in (place / "videos").iterdir():
        video.write_bytes(b"a codec of the future")
    opened = browser.new_page()
    opened.goto(f"{(place / 'report' / 'index.html').as_uri()}#/rejects")
    opened.click("#reject-cards .play")
    words = opened.inner_text("#reject-cards .problem")
    assert re.search(r"mit-build preview --workspace 'my talks' \w+_000000to000080,", words)
    opened.close()


def test_the_overview_shows_clips_and_a_click_opens_one(page: Any) -> None:
    pictures = page.locator("#overview .looks img")
    assert pictures.count() == 3
    until(page, "[...document.querySelectorAll('#overview .looks img')].every((i) => i.naturalWidth === 480)")
    second = page.locator("#overview .looks a").nth(1)
    clip_id = second.get_attribute("href").rpartition("/")[2]
    second.click()
    until(page, f"document.querySelector('.clip.open')?.dataset.clip === '{clip_id}'")
    page.go_back()
    until(page, "!document.getElementById('overview').hidden")


def test_the_page_follows_its_address(page: Any) -> None:
    open_clip(page)
    ids = page.locator("#cards .clip").evaluate_all("cards => cards.map((card) => card.dataset.clip)")
    page.fill("#find", ids[0])
    page.evaluate(f"location.hash = '#/gallery/{ids[2]}'")  # which the search does not show
    until(page, f"document.querySelector('.clip.open')?.dataset.clip === '{ids[2]}'")
    page.evaluate("location.hash = '#/rejects'")
    until(page, "!document.getElementById('rejects').hidden")


@pytest.mark.parametrize("width_px", [390, 1200])
def test_no_part_is_wider_than_the_screen(browser: Any, made: Made, width_px: int) -> None:  # noqa: F811
    opened = browser.new_page(viewport={"width": width_px, "height": 844})
    opened.goto(made.url)
    for name in ("overview", "gallery", "rejects", "costs"):
        opened.click(f"#tab-{name}")
        opened.wait_for_timeout(100)
        assert opened.evaluate("document.documentElement.scrollWidth") <= width_px, name
    opened.close()


def test_dark_is_the_systems_choice_and_the_button_overrules_it(browser: Any, made: Made) -> None:  # noqa: F811
    context = browser.new_context(color_scheme="dark")
    opened = context.new_page()
    opened.goto(made.url)
    back = "getComputedStyle(document.body).backgroundColor"
    dark = opened.evaluate(back)
    opened.click("#theme")
    light = opened.evaluate(back)
    assert sum(map(int, dark[4:-1].split(","))) < 100 < sum(map(int, light[4:-1].split(",")))
    opened.reload()
    assert opened.evaluate(back) == light
    context.close()


def test_only_what_is_new_is_written(made: Made) -> None:
    def state() -> dict[str, int]:
        report = made.place / "report"
        return {str(path.relative_to(report)): path.stat().st_mtime_ns for path in report.rglob("*") if path.is_file()}

    before = state()
    done = program("report", "--workspace", str(made.place))
    assert done.returncode == 0, done.stderr
    assert state() == before
    data = sorted((made.place / "report" / "data").iterdir())
    data[0].unlink()
    assert program("report", "--workspace", str(made.place)).returncode == 0
    after = state()
    assert {name for name in after if after[name] != before[name]} == {f"data/{data[0].name}"}
    listed = (made.place / "report" / "gallery.js").read_text().removeprefix("mitGallery(").removesuffix(");\n")
    assert [row["data"] for row in json.loads(f"[{listed}]")[0]] == [path.stem for path in data]
