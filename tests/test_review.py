"""Verdicts: kept, carried over to clips made again, checked when they come in, and what follows from a sample."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dataset

from manifests.arrays import write_arrays
from manifests.rows import PEOPLE, Clip, Correction, Labelled, Review
from mit_builder.cli.main import main
from mit_builder.errors import ConfigError, WorkspaceError
from mit_builder.labels.corrections import corrected, fitting, label_tier, with_corrections
from mit_builder.labels.reviews import Reviews
from mit_builder.labels.speaking import periods
from mit_builder.report.figures import quality
from mit_builder.report.intervals import clustered, wilson
from mit_builder.review.documents import document, parse_change, read_export
from mit_builder.review.server import Site, make_server
from mit_builder.storage.tombstones import Tombstone, Tombstones, digest
from mit_builder.storage.workspace import Workspace


def change(instead_of: dict[str, Any] | None = None, **values: Any) -> bytes:
    """What the page sends to say `REVIEW`, with other values."""
    return json.dumps({"review": document(REVIEW) | values, "instead_of": instead_of}).encode()


NAME = "0123456789abcdef_000000to000040"
OTHER = "0123456789abcdef_000044to000076"
SPEAKS = Correction(1, 5, 15, True, 20.0, 30.0)
REVIEW = Review(NAME, "accept", "", (SPEAKS,), True, "0" * 16, "1" * 16)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> tiny_dataset.Builder:
    return tiny_dataset.Builder(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def labelled(builder: tiny_dataset.Builder) -> Labelled:
    return builder.labelled(tiny_dataset.PLANS[0])


def test_the_later_correction_wins_and_scores_stay() -> None:
    speaking = np.zeros((2, 40), bool)
    labels, human = corrected(speaking, (SPEAKS, replace(SPEAKS, start_frame=10, end_frame=20, speaking=False)))
    assert np.flatnonzero(labels[1]).tolist() == list(range(5, 10))
    assert np.flatnonzero(human[1]).tolist() == list(range(5, 20))
    assert not labels[0].any()
    assert not speaking.any(), "the model's labels stay as they are"


def test_everything_that_follows_from_speaking_follows_from_corrections() -> None:
    people = [{"speaking": np.zeros(40, bool), "speaking_score": np.ones(40, np.float32)} for _ in range(2)]
    first, second = with_corrections(people, (SPEAKS,), 3)
    assert first["human_periods"].tolist() == []
    assert second["human_periods"].tolist() == [[5, 15]]
    assert second["speak_periods"].tolist() == periods(second["speaking"]).tolist() == [[5, 15]]
    assert second["listen_periods"].tolist() == [[0, 5], [15, 40]]
    assert (second["speaking_score"] == 1).all()
    assert label_tier([first, second], 40, "model") == "model"
    whole = with_corrections(people, [replace(SPEAKS, person_id=i, start_frame=0, end_frame=40) for i in (0, 1)], 3)
    assert label_tier(whole, 40, "model") == "human"


@pytest.mark.parametrize("n_frames", [1, 2, 24])
@pytest.mark.parametrize("speaks", [True, False])
def test_a_correction_shorter_than_the_filters_stays_in_the_periods(n_frames: int, speaks: bool) -> None:
    people = [{"speaking": np.full(100, not speaks)} for _ in range(2)]
    span = [40, 40 + n_frames]
    _, person = with_corrections(people, [replace(SPEAKS, start_frame=40, end_frame=span[1], speaking=speaks)], 25)
    set_, rest = ("speak", "listen") if speaks else ("listen", "speak")
    for suffix in ("", "_merged"):
        assert person[f"{set_}_periods{suffix}"].tolist() == [span]
        assert person[f"{rest}_periods{suffix}"].tolist() == [[0, 40], [span[1], 100]]


def centre(builder: tiny_dataset.Builder, clip: Clip, person: int, frame: int) -> tuple[float, float]:
    x0, y0, x1, y1 = tiny_dataset.face_boxes(tiny_dataset.PLANS[0], person)[frame].tolist()
    return (x0 + x1) / 2, (y0 + y1) / 2


def test_corrections_follow_their_person_when_people_are_found_anew(
    builder: tiny_dataset.Builder, labelled: Labelled
) -> None:
    x, y = centre(builder, labelled.clip, 0, 10)
    review = replace(REVIEW, corrections=(Correction(1, 5, 15, True, x, y),))
    kept, dropped = fitting(review, labelled.clip, builder.context().local)
    assert [c.person_id for c in kept] == [0]
    assert dropped == []
    same = replace(review, people=labelled.clip.people.sha256[:16])
    assert fitting(same, labelled.clip, builder.context().local)[0] == same.corrections


@pytest.mark.parametrize(
    ("correction", "why"),
    [
        (Correction(0, 5, 41, True, 20.0, 30.0), "the clip has 40 frames"),
        (Correction(0, 5, 15, True, 155.0, 115.0), "no face is where that person's was"),
    ],
)
def test_a_correction_that_no_longer_fits_is_dropped_with_a_line(
    builder: tiny_dataset.Builder, labelled: Labelled, correction: Correction, why: str
) -> None:
    kept, dropped = fitting(replace(REVIEW, corrections=(correction,)), labelled.clip, builder.context().local)
    assert kept == ()
    (line,) = dropped
    assert line.startswith(labelled.clip.clip_id)
    assert why in line


def test_a_person_that_is_gone_takes_its_corrections_along(builder: tiny_dataset.Builder, labelled: Labelled) -> None:
    review = replace(REVIEW, people=labelled.clip.people.sha256[:16], corrections=(replace(SPEAKS, person_id=2),))
    assert fitting(review, labelled.clip, builder.context().local) == (
        (),
        [f"{labelled.clip.clip_id}: a correction of frames 5..15 of person 2 is dropped: the clip has 2 people"],
    )


def test_of_verdicts_on_a_clip_the_latest_counts_also_of_two_programs() -> None:
    workspace = Workspace("memory://verdicts")
    first, second = Reviews(workspace), Reviews(workspace)
    first.save([REVIEW])
    for reason in ("late", "loud", "dark"):
        second.save([replace(REVIEW, verdict="reject", reason=reason)])
    seen = Reviews(workspace)
    assert seen.find(NAME) == replace(REVIEW, verdict="reject", reason="dark")
    assert seen.left_out(NAME) == "rejected_by_reviewer"
    first.save([REVIEW])
    assert Reviews(workspace).find(NAME) == REVIEW
    assert Reviews(workspace).left_out(NAME) is None


def test_many_verdicts_stay_in_few_parts() -> None:
    workspace = Workspace("memory://many")
    reviews = Reviews(workspace)
    for n in range(230):
        reviews.save([replace(REVIEW, reason=str(n))])
    assert len(workspace.names("manifests/reviews")) < 210
    found = Reviews(workspace).find(NAME)
    assert found is not None
    assert found.reason == "229"


def test_a_damaged_part_is_named_and_the_others_count() -> None:
    workspace = Workspace("memory://damaged")
    Reviews(workspace).save([REVIEW])
    Reviews(workspace).save([replace(REVIEW, clip_id=OTHER)])
    workspace.write(sorted(workspace.names("manifests/reviews"))[0], b"nothing")
    seen = Reviews(workspace)
    assert len(seen.all()) == 1
    assert ["is damaged" in line for line in seen.lines] == [True]


def test_a_sample_is_random_and_the_same_for_the_same_seed() -> None:
    workspace = Workspace("memory://sample")
    names = [f"{i:016x}_000000to000040" for i in range(100)]
    drawn = Reviews(workspace).draw(reversed(names), 20, 3)
    again = Reviews(workspace)
    assert again.draw(names, 20, 3) == drawn
    assert again.samples == [drawn]
    assert len(set(drawn.clip_ids)) == 20
    assert list(drawn.clip_ids) != sorted(drawn.clip_ids)
    assert again.draw(names, 20, 4).clip_ids != drawn.clip_ids
    assert again.draw(names, 200, 3).n_population == len(again.draw(names, 200, 3).clip_ids) == 100


def test_wilsons_interval_is_that_of_the_textbooks() -> None:
    # statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson") and (0, 10)
    found = wilson(8, 10)
    assert (found.low, found.high) == (pytest.approx(0.49016247), pytest.approx(0.94331784))
    none = wilson(0, 10)
    assert (none.share, none.low, none.high) == (0, 0, pytest.approx(0.27753279))


def test_labels_of_one_clip_count_as_less_than_as_many_from_different_clips() -> None:
    alike, apart = clustered([90] * 10, [100] * 10), clustered([100] * 9 + [0], [100] * 10)
    assert alike.share == apart.share == 0.9
    assert (apart.low, apart.high) == pytest.approx((wilson(9, 10).low, wilson(9, 10).high), abs=0.02)
    independent = wilson(900, 1000)
    mixed = clustered([92, 88, 90, 91, 89, 90, 90, 91, 89, 90], [100] * 10)
    assert independent.high - independent.low <= mixed.high - mixed.low + 1e-9
    assert mixed.high - mixed.low < apart.high - apart.low


def test_clustered_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Clips whose accuracies differ (beta distribution, mean 0.8), 40 of them, 500 draws."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(500):
        right = rng.binomial(200, rng.beta(8, 2, 40))
        found = clustered(right.tolist(), [200] * 40)
        held += found.low <= 0.8 <= found.high
    assert 0.92 <= held / 500 <= 0.98


def clip(name: str, verdict: str | None, *, checked: bool, changed: int = 0) -> dict[str, Any]:
    review = {"verdict": verdict, "reason": "", "checked": checked}
    return {"id": name, "frames": 100, "people": 2, "changed": changed, "review": review}


def test_quality_counts_what_was_drawn_and_judged() -> None:
    names = [f"{i:016x}_000000to000100" for i in range(5)]
    sample = Reviews(Workspace("memory://quality")).draw(names, 4, 1)
    drawn = sample.clip_ids
    clips = [
        clip(drawn[0], "accept", checked=True, changed=20),
        clip(drawn[1], "reject", checked=False),
        clip(drawn[2], None, checked=True),
        {**clip(drawn[3], None, checked=False), "review": None},
        clip(next(n for n in names if n not in drawn), "reject", checked=True, changed=200),
    ]
    (found,) = quality(clips, [sample])
    assert (found["judged"], found["accepted"], found["checked"], found["labels"]) == (2, 1, 2, 400)
    assert found["precision"] == vars(wilson(1, 2))
    assert found["accuracy"]["share"] == pytest.approx(0.95)
    assert quality([{**c, "review": None} for c in clips], [sample]) == []


def test_documents_come_back_as_they_were() -> None:
    assert parse_change(change()) == (REVIEW, None)
    assert parse_change(change(instead_of=document(REVIEW))) == (REVIEW, document(REVIEW))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"clip_id": "../../etc/passwd"}, "clip_id"),
        ({"verdict": "maybe"}, "verdict"),
        ({"extra": 1}, "extra"),
        ({"people": "g" * 16}, "people"),
        ({"corrections": [{**document(REVIEW)["corrections"][0], "start_frame": 15}]}, "start_frame must be before"),
        ({"corrections": [{**document(REVIEW)["corrections"][0], "end_frame": 41}]}, "beyond the clip, which has 40"),
        ({"corrections": [{**document(REVIEW)["corrections"][0], "face_x_px": float("nan")}]}, "face_x_px"),
    ],
)
def test_a_wrong_document_is_refused_in_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as raised:
        parse_change(change(**wrong))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", [b"", b"[]", b'{"format": "other"}', b"\xff", b"[" * 100_000])
def test_a_file_that_is_no_export_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "verdicts.json"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="is no export") as raised:
        read_export(path)
    assert "\n" not in str(raised.value)


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, says in (
        (["review", "-w", str(tmp_path / "none")], "no workspace at"),
        (["review", "-w", str(tmp_path)], "nothing was run in"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert says in capsys.readouterr().err


@contextlib.contextmanager
def serving(site: Site) -> Iterator[int]:
    with make_server(site) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield site.port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    workspace = Workspace(tmp_path)
    workspace.write("report/index.html", b'<html lang="en">page</html>')
    workspace.write("clips/a.mp4", bytes(range(200)))
    workspace.write("manifests/secret.parquet", b"no")
    workspace.write("mit-build.yaml", b"no")
    return Site(workspace, Reviews(workspace), {NAME: 2})


def ask(site: Site, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, Any]:
    with serving(site) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        named = {name.replace("_", "-"): value.format(port=port) for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        found = answer.status, answer.read(), answer.headers
        connection.close()
        return found


OWN = {"Origin": "http://127.0.0.1:{port}", "Content_Type": "application/json"}


def test_the_server_hands_out_the_report_and_videos_by_range(site: Site) -> None:
    status, body, _ = ask(site, "GET", f"/{site.token}/report/index.html")
    assert (status, body) == (200, b'<html data-served="yes" lang="en">page</html>')
    for wanted, expected, said in (
        ("bytes=10-19", bytes(range(10, 20)), "bytes 10-19/200"),
        ("bytes=190-", bytes(range(190, 200)), "bytes 190-199/200"),
        ("bytes=-5", bytes(range(195, 200)), "bytes 195-199/200"),
        ("bytes=190-999", bytes(range(190, 200)), "bytes 190-199/200"),
    ):
        status, body, headers = ask(site, "GET", f"/{site.token}/clips/a.mp4", Range=wanted)
        assert (status, body, headers["Content-Range"]) == (206, expected, said)
    for wanted in ("bytes=200-", "bytes=9-3", "bytes=-", "lines=1-2"):
        assert ask(site, "GET", f"/{site.token}/clips/a.mp4", Range=wanted)[0] == 416
    status, body, headers = ask(site, "HEAD", f"/{site.token}/clips/a.mp4")
    assert (status, body, headers["Content-Length"]) == (200, b"", "200")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/wrong/report/index.html", {}),
        ("/report/index.html", {}),
        ("/", {}),
        ("/{token}/report/index.html", {"Host": "evil.example"}),
        ("/{token}/report/index.html", {"Host": "evil.example:{port}"}),
    ],
)
def test_without_the_token_or_by_another_name_nothing_is_handed_out(
    site: Site, path: str, headers: dict[str, str]
) -> None:
    assert ask(site, "GET", path.format(token=site.token), **headers)[0] == 403


@pytest.mark.parametrize(
    "path",
    ["manifests/secret.parquet", "mit-build.yaml", "report/../mit-build.yaml", "report/%2e%2e/mit-build.yaml",
     "clips/../../etc/x.mp4", "report/none.js", "report", ""],
)  # fmt: skip
def test_nothing_but_the_report_is_handed_out(site: Site, path: str) -> None:
    assert ask(site, "GET", f"/{site.token}/{path}")[0] == 404


@pytest.mark.parametrize("leads_to", ["outside", "manifests", "mit-build.yaml", "report/loop.mp4"])
def test_links_out_of_the_served_folders_are_not_followed(site: Site, tmp_path: Path, leads_to: str) -> None:
    root = site.workspace.root
    assert root is not None
    (tmp_path.parent / "outside").mkdir(exist_ok=True)
    (tmp_path.parent / "outside" / "a.mp4").write_bytes(b"private")
    (root / "manifests" / "a.mp4").write_bytes(b"private")
    target = tmp_path.parent / "outside" if leads_to == "outside" else root / leads_to
    (root / "report" / "folder").symlink_to(target)
    (root / "report" / "loop.mp4").symlink_to(target if target.is_file() else target / "a.mp4")
    (root / "clips" / "other.mp4").symlink_to(root / "clips" / "a.mp4")
    for path in ("report/folder/a.mp4", "report/loop.mp4"):
        assert ask(site, "GET", f"/{site.token}/{path}")[0] == 404
    assert ask(site, "GET", f"/{site.token}/clips/other.mp4")[0] == 200


def post(site: Site, body: bytes) -> tuple[int, dict[str, Any]]:
    status, answer, _ = ask(site, "POST", f"/{site.token}/reviews.json", body, **OWN)
    assert answer.count(b"\n") == 1
    return status, json.loads(answer)


def test_a_verdict_from_the_page_is_kept(site: Site) -> None:
    assert post(site, change()) == (200, {"saved": document(REVIEW)})
    assert Reviews(site.workspace).find(NAME) == REVIEW
    status, found, _ = ask(site, "GET", f"/{site.token}/reviews.json")
    assert (status, json.loads(found)) == (200, {"reviews": [document(REVIEW)], "sample": None})


def test_what_was_kept_before_is_handed_back_as_it_was(site: Site) -> None:
    """Also what is no longer taken, as a correction beyond the clip: else nobody could judge anything."""
    old = replace(REVIEW, corrections=(replace(SPEAKS, end_frame=900, face_x_px=0.1 + 0.2),))
    site.reviews.save([old])
    found = json.loads(ask(site, "GET", f"/{site.token}/reviews.json")[1])["reviews"]
    assert found == [document(old)]
    assert post(site, change(instead_of=found[0]))[0] == 200


def test_a_verdict_given_in_another_tab_is_not_overwritten(site: Site) -> None:
    assert post(site, change())[0] == 200
    status, answer = post(site, change(verdict="reject", reason="dark"))
    assert (status, answer["kept"]) == (409, document(REVIEW))
    assert "judged elsewhere" in answer["problem"]
    assert site.reviews.find(NAME) == REVIEW
    assert post(site, change(instead_of=answer["kept"], verdict="reject"))[0] == 200
    status, answer = post(site, change(instead_of=document(REVIEW)))
    assert (status, answer["kept"]["verdict"]) == (409, "reject")


def test_a_verdict_given_in_another_program_is_not_overwritten(site: Site) -> None:
    other = Reviews(site.workspace)
    assert post(site, change())[0] == 200
    other.save([replace(REVIEW, verdict="reject")])
    assert json.loads(ask(site, "GET", f"/{site.token}/reviews.json")[1])["reviews"][0]["verdict"] == "reject"
    other.save([replace(REVIEW, verdict=None)])
    status, answer = post(site, change(instead_of=document(REVIEW)))
    assert (status, answer["kept"]["verdict"]) == (409, None)


def test_a_disk_that_is_full_is_said_and_nothing_counts_as_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise WorkspaceError("cannot write part in workspace: No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Workspace, "write", full)
        status, answer = post(site, change())
    assert (status, answer) == (507, {"problem": "cannot write part in workspace: No space left on device"})
    assert json.loads(ask(site, "GET", f"/{site.token}/reviews.json")[1])["reviews"] == []
    assert post(site, change())[0] == 200
    assert Reviews(site.workspace).find(NAME) == REVIEW


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{", "this is no verdict"),
        (b"\xff", "this is no verdict"),
        (b"[]", "this is no verdict"),
        (change(corrections=[{**document(REVIEW)["corrections"][0], "person_id": 2}]), "the clip has 2 people"),
        (change(corrections=[{**document(REVIEW)["corrections"][0], "end_frame": 41}]), "which has 40 frames"),
    ],
)
def test_a_verdict_that_cannot_be_is_refused(site: Site, body: bytes, says: str) -> None:
    status, answer = post(site, body)
    assert status == 400
    assert says in answer["problem"]
    assert site.reviews.all() == []


def test_a_clip_that_was_taken_down_meanwhile_is_not_judged(site: Site) -> None:
    stones = Tombstones([Tombstone("video", digest("video", NAME[:16]))])
    site.workspace.write("manifests/tombstones.json", stones.dump())
    assert post(site, change()) == (400, {"problem": f"there is no clip {NAME} here"})
    assert site.workspace.names("manifests/reviews") == set()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example", "Content_Type": "application/json"}, 403),
        ({"Content_Type": "application/json"}, 403),
        ({"Origin": "null", "Content_Type": "application/json"}, 403),
        ({**OWN, "Content_Type": "text/plain"}, 403),
        ({**OWN, "Host": "evil.example:{port}"}, 403),
        ({**OWN, "Content_Length": "99999999999"}, 413),
        ({**OWN, "Content_Length": "-1"}, 413),
    ],
)
def test_a_verdict_from_elsewhere_is_refused(site: Site, headers: dict[str, str], status: int) -> None:
    found, answer, _ = ask(site, "POST", f"/{site.token}/reviews.json", change(), **headers)
    assert found == status
    assert set(json.loads(answer)) == {"problem"}
    assert Reviews(site.workspace).all() == []


def test_a_verdict_on_no_clip_of_here_is_refused(site: Site) -> None:
    assert post(site, change(clip_id=OTHER)) == (400, {"problem": f"there is no clip {OTHER} here"})


def test_a_port_that_is_taken_is_one_line(site: Site) -> None:
    with serving(site) as port, pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"):
        make_server(site, port)


def test_people_written_in_another_order_are_matched_by_place(tmp_path: Path, labelled: Labelled) -> None:
    """A clip made again with its people the other way round: the correction goes to the same face."""
    plan = tiny_dataset.PLANS[0]
    path = tmp_path / "people.parquet"
    rows = [
        {
            "person_id": 1 - i,
            "track_id": i,
            "boxes_xyxy": tiny_dataset.face_boxes(plan, i),
            "face_boxes_xyxy": tiny_dataset.face_boxes(plan, i),
            "face_detected": np.ones(40, bool),
        }
        for i in (0, 1)
    ]
    write_arrays(path, PEOPLE, rows)
    x0, y0, x1, y1 = tiny_dataset.face_boxes(plan, 1)[10].tolist()
    review = replace(REVIEW, corrections=(Correction(1, 5, 15, True, (x0 + x1) / 2, (y0 + y1) / 2),))
    kept, _ = fitting(review, labelled.clip, lambda artifact: contextlib.nullcontext(path))
    assert [correction.person_id for correction in kept] == [0]
