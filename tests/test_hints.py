from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_type_hints

import fakes
import pytest
import quick_stages
import test_cli
from test_cli import Cli

import mit_builder.pipeline_run
from manifests.ledger import Entry
from mit_builder.cli import main as commands
from mit_builder.cli import plan
from mit_builder.cli.main import app
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.dataset.index import Index, parse_index
from mit_builder.dataset.publish import INDEX_KEY
from mit_builder.driver.runner import Runner
from mit_builder.engine import ray_jobs
from mit_builder.models.weights import store
from mit_builder.report import figures
from mit_builder.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="doctor fails without mediapipe, rightly"
)
PLACE = "my films"
"""Of the finished workspace; needs quotes."""
cli = test_cli.cli
"""The program with fake stages in an empty folder."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with three clips that the defaults would not keep, and a file that failed for good."""
    folder = tmp_path_factory.mktemp("hints")
    (folder / "broken.mp4").write_bytes(b"no video")
    settings = ("filter.min_face_px=30", "run.overlays=0", "download.host_interval_s=0", "shards.n_buckets=2")
    options = [word for setting in settings for word in ("--set", setting)]
    addresses = ["http://quick.test/a?frames=300&shots=2", "http://quick.test/b"]
    place = str(folder / PLACE)
    done = quick_stages.program("run", "--engine", "serial", "--workspace", place, *options, *addresses)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def finished(
    cli: Cli, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """The program beside such a workspace, with stages that make true clips; what goes out to the net is faked."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for name, module in quick_stages.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(mit_builder.pipeline_run, "_report", REPORT)
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", interrupted)
    monkeypatch.setattr(store, "fetch", lambda file, progress=None: Path("there"))
    monkeypatch.setattr(store, "import_file", lambda path, **options: store.entry("lr-asd-talkset"))
    monkeypatch.setattr(ray_jobs, "Jobs", Jobs)
    return cli


REPORT = mit_builder.pipeline_run._report


def interrupted(server: object) -> None:
    raise KeyboardInterrupt


class Jobs:
    """A cluster whose jobs have ended."""

    def __init__(self, address: str) -> None:
        self.address = address

    def submit(self, command: str, folder: Path, **options: Any) -> str:
        return "job-1"

    def wait_until_begun(self, job_id: str, pending_s: float) -> None:
        """At once."""

    def follow(self, job_id: str, say: Callable[[str], None]) -> None:
        """Nothing is said."""

    def wait(self, job_id: str, timeout_s: float | None = None) -> str:
        return "SUCCEEDED"

    def exit_code(self, job_id: str) -> int | None:
        return 0

    def stop(self, job_id: str) -> bool:
        return True


def clips(folder: Path) -> set[str]:
    """The published clips."""
    import pyarrow.parquet as pq

    workspace = Workspace(folder / PLACE)
    index: Index = parse_index(workspace.read(INDEX_KEY).decode())
    names: set[str] = set()
    for shard in index.shards:
        names |= set(pq.read_table(folder / PLACE / "dataset" / shard.name, columns=["clip_id"])["clip_id"].to_pylist())
    return names


@needs_mediapipe
def test_every_hint_works_when_pasted_and_no_clip_leaves_the_dataset(
    finished: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = clips(tmp_path)
    assert len(before) == 3
    for name in ("COOKIES.txt", "FILE"):
        Path(name).write_text("# Netscape HTTP Cookie File\n")
    finished("init", "mine.yaml")
    values = {
        "setting": "filter.min_face_px=36",
        "path": "mine.yaml",
        "failure_class": "permanent",
        "name": next(iter(before)),
        "clip_id": next(iter(before)),
        "address": "http://head:8265",
        "job_id": "job-1",
    }
    others: dict[Hint, dict[str, str]] = {
        Hint.WITH_COOKIES: {"path": "COOKIES.txt"},
        Hint.WEIGHTS_FETCH: {"name": "lr-asd-talkset"},
        Hint.WEIGHTS_IMPORT: {"path": "FILE"},
        Hint.WEIGHTS_TRUST: {"path": "FILE"},
        Hint.FORGET: {"name": "http://quick.test/gone"},
    }
    run(finished, f"mit-build run -w {shlex.quote(PLACE)} --stage download {others[Hint.FORGET]['name']}")
    for hint in sorted(Hint, key=lambda hint: hint is Hint.FRESH):
        hints.begin(PLACE)
        command = hints.say(hint, **values) if hint not in others else hints.say(hint, **{**values, **others[hint]})
        run(finished, command)
        # What gives up a damaged file of settings gives up what it kept; nothing else does.
        assert clips(tmp_path) >= before or hint is Hint.FRESH, command


def run(program: Cli, command: str) -> str:
    """Paste a command; what it says. Ray would take seconds to start."""
    words = shlex.split(command)
    assert words[0] == "mit-build"
    can_be_serial = words[1] in ("run", "retry", "plan") and "--engine" not in words and "--check" not in words
    code, out, err = program(*words[1:], *(("--engine", "serial") if can_be_serial else ()))
    assert code == 0, command + out + err
    return out + err


@needs_mediapipe
def test_what_commands_print_at_their_end_can_be_pasted_one_after_another(
    finished: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, said = clips(tmp_path), list[str]()
    monkeypatch.setattr(hints, "_command", lambda words, make=hints._command: said.append(make(words)) or said[-1])
    place = ("--workspace", PLACE)
    for first in (
        ("run", *place, "--engine", "serial"),
        ("run", *place, "--engine", "serial", "--limit", "5", "--stage", "filter"),
        ("retry", *place, "--engine", "serial", "--class", "poison,permanent", "--set", "pose.device=cpu"),
        ("plan", *place, "--engine", "serial", "--probe", "2"),
        ("tune", *place, "--set", "filter.min_face_px=20", "--set", "filter.min_clip_s=4"),
        ("tune", *place, "--apply", "filter.min_face_px=21"),
        ("settings", *place),
        ("status", *place),
        ("review", *place, "--sample", "2"),
    ):
        said.clear()
        assert finished(*first)[0] == 0
        commands = list(dict.fromkeys(said))
        assert commands or first[0] in ("status",), first
        for command in commands:
            assert f"--workspace '{PLACE}'" in command or command.startswith(f"mit-build validate '{PLACE}'")
            run(finished, command)
            assert clips(tmp_path) >= before, command


def test_the_story_of_small_faces(finished: Cli, tmp_path: Path) -> None:
    """Found in use: a run with `--set filter.min_face_px=36` had six clips, the next without it one."""
    before = clips(tmp_path)
    for command in ("run", "run --stage shards", "retry --class permanent"):
        run(finished, f"mit-build {command} --workspace '{PLACE}'")
        assert clips(tmp_path) == before
    out = run(finished, f"mit-build run --workspace '{PLACE}' --unset filter.min_face_px")
    assert "filter.min_face_px 30.0 -> 64.0; 3 of 3 clips leave the dataset, no model runs again\n" in out
    assert clips(tmp_path) == set()
    advised = f"mit-build tune --workspace '{PLACE}' --set filter.min_face_px=30"
    (taken,) = re.findall(r"^to take them over: (.*)$", run(finished, advised), re.MULTILINE)
    run(finished, taken)
    assert clips(tmp_path) == before


def test_failures_are_advised_with_their_class_and_the_workspace(cli: Cli) -> None:
    for kind in ("fail", "auth", "transient", "resource"):
        test_cli.run(cli, f"http://fake.test/{kind}?pose={kind}", "--set", "run.max_attempts=1")
    _, out, _ = cli("status", "-w", "ws", "--failed")
    for kind in ("transient", "resource", "permanent"):
        assert f"mit-build retry --workspace ws --class {kind}\n" in out
    assert "mit-build retry --workspace ws --class auth --set download.cookies_file=COOKIES.txt\n" in out
    why = out.splitlines()[-1].removeprefix("what happened to one: ")
    assert "mit-build retry --workspace ws --class" in cli(*shlex.split(why)[1:])[1]


def test_a_stored_message_is_shown_as_a_command_for_where_one_stands(tmp_path: Path) -> None:
    fetch, retry = hints.keep(Hint.WEIGHTS_FETCH, name="a b"), hints.keep(Hint.RETRY, failure_class="auth")
    message = f"missing: {fetch}, then {retry}"
    assert message == "missing: `mit-build weights fetch 'a b'`, then `mit-build retry --class auth`"
    hints.begin("my films")
    shown = "missing: mit-build weights fetch 'a b', then mit-build retry --workspace 'my films' --class auth"
    assert hints.shown(message) == hints.shown(shown) == shown
    hints.begin()
    assert hints.shown("nothing: `mit-build status`") == "nothing: mit-build status"
    assert hints.shown("`ls`") == "`ls`"


def test_what_goes_on_is_the_command_that_was_given(tmp_path: Path) -> None:
    hints.begin("s3://bucket/talks")
    assert hints.say(Hint.AGAIN) == "mit-build run --workspace s3://bucket/talks"
    hints.go_on(["retry", "--class", "poison"])
    assert hints.say(Hint.AGAIN) == "mit-build retry --workspace s3://bucket/talks --class poison"
    assert hints.shown(hints.keep(Hint.AGAIN)) == hints.say(Hint.AGAIN)


@pytest.mark.parametrize(
    ("called", "original", "said"),
    [
        ("bin/mit-build", [], "bin/mit-build"),
        ("my bin/mit-build", [], "'my bin/mit-build'"),
        ("ON PATH", [], "mit-build"),
        (
            "/lib/mit_builder/__main__.py",
            [".venv/bin/python", "-m", "mit_builder"],
            ".venv/bin/python -m mit_builder",
        ),
        ("/lib/mit_builder/__main__.py", ["python3", "-m", "mit_builder"], "python3 -m mit_builder"),
        ("/usr/bin/pytest", ["python"], "mit-build"),
    ],
)
def test_the_program_is_named_as_it_was_called(
    called: str, original: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("bin", "my bin", "path"):
        Path(folder).mkdir()
        Path(folder, "mit-build").write_text("#!/bin/sh\n")
        Path(folder, "mit-build").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "path/mit-build") if called == "ON PATH" else called])
    monkeypatch.setattr(sys, "orig_argv", original)
    assert hints.program() == said


def sources() -> Iterator[Path]:
    for package in ("mit_builder", "stages", "manifests"):
        yield from sorted((ROOT / package).rglob("*.py"))


def texts(path: Path) -> Iterator[str]:
    """Strings of a module but for docstrings."""
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value


def test_every_command_that_is_advised_is_a_hint_and_every_hint_is_used() -> None:
    import typer.main

    commands = "|".join(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    command = re.compile(rf"mit-build ({commands}|--debug)\b|\brun again\b")
    allowed = {"main.py": "Start with: mit-build run", "options.py": "see mit-build init", "manifest.py": "THIS-FOLDER"}
    allowed |= {"export.py": "Folder made by mit-build export"}
    used = set[str]()
    for path in sources():
        for text in texts(path):
            assert not command.search(text) or allowed.get(path.name, "\0") in text, f"{path.name}: {text}"
        used |= set(re.findall(r"\bHint\.([A-Z_]+)", path.read_text()))
    assert used == {hint.name for hint in Hint}
    for path in itertools.chain.from_iterable((ROOT / "mit_builder").rglob(f"*.{kind}") for kind in ("js", "html")):
        assert not command.search(path.read_text()), path.name


def test_a_page_names_the_workspace_alone() -> None:
    assert hints.on_page("/a/b/my films", Hint.REVIEW) == "mit-build review --workspace 'my films' --sample 50"
    assert hints.on_page("s3://b/t", Hint.FAILED) == "mit-build status --workspace s3://b/t --failed"


@pytest.mark.parametrize(
    "text",
    [
        "the site said `mit-build it's broken`",
        '`mit-build why "a`',
        "`mit-build status; ls`",
        "`mit-build  `",
        "`mit-build rm -rf /`",
        "`mit-build status",
        "` and `mit-build `` `",
    ],
)
def test_texts_of_others_that_look_like_a_stored_command_stay_as_they_are(text: str) -> None:
    hints.begin("talks")
    assert hints.shown(text) == hints.shown_on_page("/a/talks", text) == text


def test_a_stored_message_on_a_page_names_the_workspace_where_the_command_takes_one() -> None:
    hints.begin("elsewhere")
    kept = f"{hints.keep(Hint.WEIGHTS_FETCH, name='a b')}, then {hints.keep(Hint.RETRY, failure_class='auth')}"
    shown = "mit-build weights fetch 'a b', then mit-build retry --workspace 'my films' --class auth"
    assert hints.shown_on_page("/a/my films", kept) == shown


def test_the_report_makes_a_command_whole_before_it_cuts_a_long_message() -> None:
    kept = hints.keep(Hint.WEIGHTS_FETCH, name="lr-asd-talkset")
    whole = "mit-build weights fetch lr-asd-talkset"
    message = "x" * (299 - len(whole)) + " " + kept
    runner = SimpleNamespace(
        workspace=SimpleNamespace(uri="/a/talks"),
        failures=[("speech", Entry("u", "k", "failed", failure_class="permanent", message=message))] * 2,
    )
    (failure,) = figures._failures(cast(Runner, runner))
    assert failure["message"].endswith(f"x {whole}")
    assert failure["count"] == 2


def test_what_goes_on_after_an_interruption_has_the_options_that_say_how(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: fakes.FakePose, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fakes.FakePose, "obey", interrupted)
    _, _, err = test_cli.run(cli, test_cli.A, "--verify", "--retry-failed", "--limit", "1")
    advised = "mit-build run --workspace ws --engine serial --limit 1 --verify --retry-failed"
    assert err == f"mit-build: interrupted; to go on: {advised}\n"


def test_what_validate_advises_is_for_the_workspace_that_it_looked_at(cli: Cli) -> None:
    test_cli.run(cli, test_cli.A)
    for name in Path("ws/clips").iterdir():
        name.unlink()
    code, out, _ = cli("validate", "ws")
    assert code == 1
    assert out.endswith("made again by: mit-build run --workspace ws --verify\n")
    Path("ws/rebuilt.json").write_text("{}")
    code, out, _ = cli("validate", "ws")
    assert code == 1
    assert "made again by" not in out, "no run makes anything of a rebuilt dataset"
    Path("ws/dataset/index.json").write_text("{")
    code, _, err = cli("validate", "ws")
    assert code == 2
    assert "mit-build run --workspace ws --stage all writes it anew" in err


def test_options_that_run_and_plan_share_are_the_same() -> None:
    run_takes, plan_takes = (get_type_hints(command, include_extras=True) for command in (commands.run, plan.plan))
    shared = run_takes.keys() & plan_takes.keys() - {"return"}
    assert shared >= {"addresses", "sources", "workspace", "overrides", "as_json"}
    assert {name: run_takes[name] for name in shared} == {name: plan_takes[name] for name in shared}


def test_what_is_to_be_installed_goes_where_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
        (folder / "pip").touch(0o755)
    monkeypatch.setattr(sys, "executable", str(ours / "python"))
    monkeypatch.setattr(sys, "orig_argv", ["mit-build"])
    monkeypatch.setenv("PATH", str(ours))
    assert hints.pip("torch") == "pip install torch"
    monkeypatch.setenv("PATH", f"{other}:{ours}")
    assert hints.pip("mit-builder[cluster]") == f"{ours}/python -m pip install 'mit-builder[cluster]'"
