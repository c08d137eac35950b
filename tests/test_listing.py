"""What a workspace is asked about by the names that a person knows, and when there is nothing to ask about."""

from __future__ import annotations

import json
import os
from pathlib import Path

import obstore
import pytest
import test_cli
from test_cli import BAD, QUICK, A, Cli, E, run

from manifests.rows import clip_id, short_id
from mit_builder.cli import status
from mit_builder.driver.listing import in_known_names
from mit_builder.storage import writable
from mit_builder.storage.source_catalog import DEMO
from mit_builder.storage.workspace import Workspace

cli = test_cli.cli


def films(*places: str) -> list[str]:
    """Files of different content."""
    for place in places:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_text(place)
    return [str(Path(place).absolute()) for place in places]


def test_status_lists_sources_and_videos_with_their_state(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run(cli, A, BAD, "http://fake.test/gone?download=fail")
    out = cli("status", "-w", "ws")[1]
    rows = json.loads(cli("status", "-w", "ws", "--videos", "--json")[1])
    assert [(row["address"], row["state"], row["n_clips"]) for row in rows] == [
        (A, "downloaded", 2),
        (BAD, "2 failed", 0),
        ("http://fake.test/gone?download=fail", "failed (permanent)", 0),
    ]
    for row in rows:
        (line,) = [line for line in out.splitlines() if row["id"] in line]
        assert row["state"] in line
        assert cli("why", row["id"], "-w", "ws")[0] == 0
    assert cli("status", "-w", "ws", "--videos")[1] == "".join(f"{line}\n" for line in out.splitlines()[-3:])
    monkeypatch.setattr(status, "MOST_VIDEOS", 2)
    out = cli("status", "-w", "ws")[1]
    assert out.endswith("sources and videos by name: mit-build status --workspace ws --videos\n")
    assert rows[0]["id"] not in out


def test_videos_of_playlists_are_listed_too(cli: Cli) -> None:
    run(cli, "http://fake.test/list?list=a,b", "--stage", "download")
    rows = json.loads(cli("status", "-w", "ws", "--videos", "--json")[1])
    assert [row["state"] for row in rows] == ["playlist", "downloaded", "downloaded"]


def test_failures_name_the_source_as_it_was_given(cli: Cli) -> None:
    run(cli, A, BAD)
    assert f" {BAD}\n" in cli("status", "-w", "ws", "--failed")[1]
    (group,) = json.loads(cli("status", "-w", "ws", "--failed", "--json")[1])
    assert (group["sources"], len(group["units"])) == ([BAD], 2)


def test_a_message_names_no_file_of_ours() -> None:
    known = {"0149aabbccddeeff": "/films/talk.mp4"}
    assert in_known_names("cannot read video.mp4: no video", known) == "cannot read the file: no video"
    stored = "0149aabbccddeeff.12345678.mp4"
    for said in (stored, f"videos/{stored}"):
        assert in_known_names(f"cannot read {said}: no video", known) == "cannot read /films/talk.mp4: no video"
    assert in_known_names("cannot read 0000aabbccddeeff.12345678.mp4", known).endswith("0000aabbccddeeff.12345678.mp4")


def test_takedown_takes_the_name_of_a_file(cli: Cli) -> None:
    given = [f"http://fake.test/{name}" for name in ("one/talk.mp4", "two/talk.mp4", "two/other.mp4")]
    run(cli, *given, "--stage", "download")
    ids = [row["id"] for row in json.loads(cli("status", "-w", "ws", "--videos", "--json")[1])]
    code, out, err = cli("takedown", "talk.mp4", "-w", "ws")
    lines = err.splitlines()
    assert (code, len(lines)) == (2, 3)
    assert lines[0].endswith("2 sources fit 'talk.mp4', give the id or the address of one:")
    assert [line.split()[1] for line in lines[1:]] == given[:2]
    code, out, _ = cli("takedown", "one/talk.mp4", "-w", "ws", "--dry-run")
    assert (code, f"one/talk.mp4: source {lines[1].split()[0]}, {given[0]}\n" in out, "1 video" in out) == (
        0,
        True,
        True,
    )
    assert cli("takedown", "other.mp4", "-w", "ws")[0] == 0
    left = [row["id"] for row in json.loads(cli("status", "-w", "ws", "--videos", "--json")[1])]
    assert left == ids[:2]
    assert cli("takedown", "none.mp4", "-w", "ws")[0] == 2


def test_takedown_takes_the_path_of_one_of_several_files(cli: Cli) -> None:
    run(cli, *films("one/talk.mp4", "talk.mp4"), "--stage", "download")
    code, out, _ = cli("takedown", "./talk.mp4", "-w", "ws", "--dry-run")
    assert (code, f", {Path('talk.mp4').absolute()}\n" in out) == (0, True)


def test_the_demo_is_not_counted_among_the_users_sources(cli: Cli) -> None:
    run(cli)
    given = [f"http://fake.test/more{i}" for i in range(3)]
    assert cli("plan", "--probe", "2", "--engine", "serial", "-w", "ws", *QUICK, *given)[0] == 0
    run(cli)
    assert str(DEMO) not in cli("status", "-w", "ws", "--videos")[1]
    assert cli("plan", "--check", "-w", "ws")[1].startswith("3 of 3 sources worked on\n")


WITHOUT_RUN = [
    ("status",),
    ("status", "--failed"),
    ("status", "--videos"),
    ("why", "x"),
    ("gc",),
    ("preview", "x"),
    ("trace",),
    ("plan", "--check"),
    ("retry",),
    ("takedown", "x.mp4"),
    ("export", "-o", "out"),
    ("report",),
    ("review",),
    ("tune",),
    ("validate",),
]


@pytest.mark.parametrize("arguments", WITHOUT_RUN, ids=" ".join)
@pytest.mark.parametrize("place", ["none", "empty"])
def test_where_nothing_is_every_command_says_so_in_one_line(cli: Cli, arguments: tuple[str, ...], place: str) -> None:
    Path("empty").mkdir()
    code, out, err = cli(*arguments, *((place,) if arguments == ("validate",) else ("-w", place)))
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert place in err
    assert "Traceback" not in err
    assert "obstore" not in err
    assert list(Path("empty").iterdir()) == []
    assert not Path("none").exists()


def test_validate_says_what_to_do_where_there_is_no_dataset(cli: Cli) -> None:
    Path("empty").mkdir()
    give = "give a dataset's folder, or a workspace in which a run made one\n"
    assert cli("validate", "none")[2] == f"mit-build: no folder none: {give}"
    assert cli("validate", "empty")[2] == f"mit-build: no dataset at empty (it holds no index.json): {give}"
    run(cli, A, "--stage", "download")
    assert cli("validate", "ws")[2] == "mit-build: no dataset in ws yet: mit-build run --workspace ws --stage all\n"


@pytest.mark.parametrize("command", ["status", "tune", "why", "report", "preview", "gc", "trace", "settings", "export"])
def test_a_folder_of_videos_is_no_workspace(cli: Cli, command: str) -> None:
    Path("films").mkdir()
    Path("films/a.mp4").write_bytes(b"video")
    names = ("x",) if command in ("why", "preview") else ("--output", "out") if command == "export" else ()
    code, out, err = cli(command, *names, "-w", "films")
    assert (code, out, err) == (2, "", "mit-build: films is no workspace: give the --workspace of a run\n")
    assert [path.name for path in Path("films").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("command", ["status", "tune", "report", "preview", "retry", "trace", "review"])
def test_a_rebuilt_dataset_has_no_run_to_look_at(cli: Cli, command: str) -> None:
    Workspace("again").write("rebuilt.json", b"{}")
    names = ("x",) if command == "preview" else ()
    code, out, err = cli(command, *names, "-w", "again")
    assert (code, out) == (2, "")
    assert "was rebuilt from a manifest, there is no run to look at: mit-build validate again\n" in err


def test_a_folder_of_videos_is_no_list(cli: Cli) -> None:
    Path("films").mkdir()
    assert run(cli, "--sources", "films")[2] == "mit-build: films is a folder: give it without --sources\n"
    message = "films is a folder: give it without --sources\n"
    assert cli("submit", "--address", "http://h:1", "-w", "s3://b/w", "--sources", "films")[2].endswith(message)


def test_a_list_may_be_given_as_an_address(cli: Cli) -> None:
    Path("urls.txt").write_text(f"{A}\n{E}\n")
    assert "2 sources given" in run(cli, "urls.txt", "--stage", "download")[1]


ODD = "take #1 & Größe?a=b.mp4"


@pytest.mark.parametrize("name", [ODD, f"films/{ODD}", f"./films/{ODD}", f"../{{here}}/films/{ODD}"])
def test_a_file_is_known_by_its_whole_name_however_it_was_typed(cli: Cli, name: str) -> None:
    Path("films").mkdir()
    Path("films", ODD).write_bytes(b"one")
    Path("films", ODD.replace("1", "2")).write_bytes(b"two")
    run(cli, "films", "--stage", "download")
    videos = cli("status", "-w", "ws", "--videos")[1]
    assert ODD in videos
    assert ODD.replace("1", "2") in videos
    code, out, err = cli("why", name.format(here=Path.cwd().name), "-w", "ws")
    assert (code, err) == (0, "")
    assert f"films/{ODD}\n" in out
    assert sum(line.startswith("source ") for line in out.splitlines()) == 1


def test_files_with_the_same_bytes_are_said_to_be_one_source_and_each_name_is_known(cli: Cli) -> None:
    for name in ("kitchen.mp4", "kitchen copy.mp4"):
        Path(name).write_bytes(b"the same")
    _, out, _ = run(cli, "kitchen.mp4", "kitchen copy.mp4", "--stage", "download")
    assert "2 sources given, 1 in this workspace\nthe same bytes, so one source: kitchen.mp4, kitchen copy.mp4\n" in out
    for name in ("kitchen.mp4", "kitchen copy.mp4"):
        code, out, err = cli("why", name, "-w", "ws")
        assert (code, err) == (0, "")
        assert "source " in out
    code, out, err = cli("takedown", "kitchen copy.mp4", "-w", "ws", "--dry-run")
    assert (code, err) == (0, "")


def test_a_source_can_be_left_out_from_now_on(cli: Cli) -> None:
    for name in "ab":
        Path(f"{name}.mp4").write_bytes(name.encode())
    run(cli, "a.mp4", "b.mp4")
    code, out, _ = run(cli, "--forget", "b.mp4")
    assert code == 0
    assert f"{Path('b.mp4').absolute()} is no source here any more: its clips leave the dataset\n" in out
    assert "no sources given: going on with the 1 of this workspace\n" in out
    assert "1 source -> 1 video" in cli("status", "-w", "ws")[1]
    assert run(cli, "--forget", "c.mp4")[2].startswith("mit-build: no source 'c.mp4': ")
    assert "is the only source here" in run(cli, "--forget", "a.mp4")[2]


def test_a_person_that_a_clip_has_not_is_not_taken_down(cli: Cli) -> None:
    run(cli, A)
    clip = clip_id(short_id("content", "a"), 50, 200)
    code, out, err = cli("takedown", f"{clip}/7", "-w", "ws", "--dry-run")
    assert (code, out, err) == (2, "", f"mit-build: {clip} has no person 7: its people are 0 to 1\n")
    assert cli("takedown", f"{clip}/1", "-w", "ws", "--dry-run")[0] == 0


def test_nothing_worked_on_is_not_said_to_be_everything_done(cli: Cli) -> None:
    run(cli, A, "--stage", "download")
    assert "0 units worked on: what is pending was not asked for" in run(cli, "--stage", "download")[1]


def test_a_workspace_is_no_folder_of_videos(cli: Cli) -> None:
    run(cli, A)
    message = "mit-build: ws is a workspace, its videos are sources already: give what they came from\n"
    assert cli("run", "-w", "other", "ws")[2] == message


def test_validate_takes_a_workspace_as_the_other_commands_do(cli: Cli) -> None:
    run(cli, A, "--stage", "download")
    assert cli("validate", "-w", "ws") == cli("validate", "ws") == cli("validate", "--workspace", "ws")
    assert "no folder mit-workspace" in cli("validate")[2]


def test_a_source_in_the_place_of_a_clip_leads_to_its_clips(cli: Cli) -> None:
    Path("a.mp4").write_bytes(b"a")
    run(cli, "a.mp4")
    assert "names the clips" in cli("preview", "a.mp4", "-w", "ws")[2]


def test_what_failed_for_good_is_not_advised_to_be_run_in_the_same_way(cli: Cli) -> None:
    code, out, _ = run(cli, "http://fake.test/x?download=fail")
    assert code == 1
    advised = out.partition("try next:\n")[2].split("\n")
    assert [line.split(" ")[3] for line in advised if line][:1] == ["status"]
    assert not any(" run " in line for line in advised)


@pytest.mark.parametrize("barred", ["ws", "ws/clips", "ws/manifests/pose", "."])
def test_a_workspace_that_cannot_be_written_is_said_before_anything_is_done(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, barred: str
) -> None:
    if barred != ".":
        run(cli, A, "--stage", "download")
        Path(barred).mkdir(parents=True, exist_ok=True)
    place = Path(barred).absolute()
    allowed = os.access
    monkeypatch.setattr(writable.os, "access", lambda path, mode: path != place and allowed(path, mode))
    said = f"cannot write in {place}: change its owner or its rights, or give another --workspace\n"
    code, out, err = run(cli, A)
    assert (code, out, err) == (3, "", f"mit-build: {said}")
    code, out, _ = cli("doctor", "-w", "ws")
    assert (code, f"failed   workspace        {said}" in out) == (3, True)


def test_doctor_sees_a_bucket_that_takes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "memory://takes-nothing"
    code, out, _ = cli("doctor", "-w", place)
    assert "ok       workspace        can be written to\n" in out
    assert Workspace(place).names("") == set()

    def denied(*arguments: object, **options: object) -> None:
        raise obstore.exceptions.PermissionDeniedError("Access Denied\nwith more lines")

    monkeypatch.setattr(writable.obstore, "put", denied)
    code, out, _ = cli("doctor", "-w", place)
    assert (code, f"failed   workspace        cannot write in workspace {place}: Access Denied" in out) == (3, True)
