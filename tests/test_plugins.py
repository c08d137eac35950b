"""Backends and stages of other packages, shown with the one in examples/plugin."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import plugin_site
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import quick_stages

import mit_builder.pipeline_run
from mit_builder.cli.main import main
from mit_builder.config import backends, plugins
from mit_builder.config import settings as config
from mit_builder.dataset.plugged import plugged_fields
from mit_builder.errors import ConfigError
from mit_builder.pipeline import STEPS, steps_of
from mit_builder.pipeline_run import steps_named

A = "http://quick.test/a?frames=300&shots=2"
FOCUS = ("--set", "plugins.stages=face_focus")


class Cli(Protocol):
    """Exit code, standard output and standard error of `mit-build ARGUMENTS`."""

    def __call__(self, *arguments: str) -> tuple[int, str, str]: ...


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example package, installed for this test."""
    made = plugin_site.install_example(tmp_path / "site")
    monkeypatch.syspath_prepend(str(made))
    looked_again()
    yield made
    monkeypatch.undo()
    looked_again()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("mit_example", "mine")]:
        del sys.modules[name]


def looked_again() -> None:
    """As a new process would see what is installed."""
    importlib.invalidate_caches()
    plugins._announced.cache_clear()


@pytest.fixture
def cli(tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The program in an empty folder, with quick stages in the place of ours."""
    for name, module in quick_stages.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(mit_builder.pipeline_run, "check_all", lambda *arguments: [])
    monkeypatch.setattr(mit_builder.pipeline_run, "report_clips", lambda *arguments, **options: [])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return call


def run(cli: Cli, *arguments: str) -> str:
    """What a run said that went well."""
    quick = ("download.host_interval_s=0", "run.overlays=0", "shards.n_buckets=1", "filter.min_face_px=30")
    given = [word for setting in quick for word in ("--set", setting)]
    code, out, err = cli("run", "-w", "ws", "--engine", "serial", *given, *arguments)
    assert (code, err) == (0, "")
    return out


def column(folder: str = "ws/dataset") -> list[Any]:
    (file,) = Path(folder).glob("*.parquet")
    return pq.read_table(file, columns=["face_focus"])["face_focus"].to_pylist()


def units(name: str) -> int:
    """Attempts at units of a step, over all runs."""
    return sum(pq.read_metadata(part).num_rows for part in Path(f"ws/manifests/{name}").glob("part-*.parquet"))


def test_a_stage_adds_its_column_and_what_it_did_is_not_done_again(cli: Cli, site: Path) -> None:
    plain = run(cli, A)
    assert "2 clips in the dataset" in plain
    (file,) = Path("ws/dataset").glob("*.parquet")
    before = file.read_bytes()
    run(cli, *FOCUS)
    first, second = column()
    assert set(first) == {"min_focus", "by_person", "n_measured", "made_by"}
    assert first["made_by"] == second["made_by"] == "mit-example 1.0.0"
    assert (len(first["by_person"]), first["n_measured"]) == (2, 30)
    assert "0 units worked on" in run(cli)
    assert (units("face_focus"), units("pose")) == (2, 2)
    assert cli("validate", "ws")[:2] == (0, "valid\n")
    assert "is gone" not in run(cli, "--unset", "plugins.stages"), "its own doing is no damage"
    (file,) = Path("ws/dataset").glob("*.parquet")
    assert file.read_bytes() == before, "without it the dataset is what it was, byte for byte"


def test_another_version_of_the_package_does_its_units_again_and_no_others(cli: Cli, site: Path) -> None:
    run(cli, A, *FOCUS)
    plugin_site.install_example(site, "1.0.1")
    looked_again()
    assert "3 units worked on" in run(cli), "two of the stage, and the shard"
    assert {row["made_by"] for row in column()} == {"mit-example 1.0.1"}
    assert units("pose") == 2


def test_a_clip_that_it_rejects_is_told_of_everywhere(cli: Cli) -> None:
    run(cli, A, *FOCUS)
    least = min(row["min_focus"] for row in column())
    most = max(row["min_focus"] for row in column())
    said = run(cli, "--set", f"plugins.settings.face_focus.min_focus={(least + most) / 2}")
    assert "no clip leaves the dataset before face_focus judges them" in said
    assert "2 face_focus and what follows" in said
    assert "add CPU workers" not in said
    assert "1 face_focus rejected: face_out_of_focus" in said
    assert [row["min_focus"] for row in column()] == [most]
    assert "1 face_focus rejected: face_out_of_focus" in cli("status", "-w", "ws")[1]
    video = json.loads(cli("status", "-w", "ws", "--json")[1])
    assert video["stages"]["face_focus"]["rejected"] == {"face_out_of_focus": 1}
    assert "rejected: face_out_of_focus" in cli("why", "-w", "ws", A)[1]
    page = Path("ws/report/index.html").read_text()
    assert '<td>face_focus</td><th scope="row">face_out_of_focus</th>' in page
    assert "pluginTable" in page
    assert '"plugged":{"face_focus":{"min_focus":' in Path("ws/report/gallery.js").read_text()


def test_a_run_that_keeps_no_clip_leads_to_the_reasons(cli: Cli) -> None:
    said = run(cli, A, *FOCUS, "--set", "plugins.settings.face_focus.min_focus=1000000")
    assert "0 clips in the dataset" in said
    advised = [line.split(" ") for line in said.partition("try next:\n")[2].splitlines()]
    assert [words[3:] for words in advised][:2] == [
        ["report", "--workspace", "ws"],
        ["status", "--workspace", "ws", "--videos"],
    ]


def test_a_report_without_such_a_stage_has_no_script_for_it(cli: Cli) -> None:
    run(cli, A)
    assert "pluginTable" not in Path("ws/report/index.html").read_text()
    assert "plugged" not in Path("ws/report/gallery.js").read_text()


def test_a_stage_that_is_turned_off_keeps_its_settings_and_one_that_is_gone_can_be_turned_off(
    cli: Cli, site: Path
) -> None:
    run(cli, A, *FOCUS, "--set", "plugins.settings.face_focus.every=3")
    run(cli, "--unset", "plugins.stages")
    run(cli, *FOCUS)
    assert column()[0]["n_measured"] == 50
    shutil.rmtree(next(site.glob("*.dist-info")))
    looked_again()
    code, _, err = cli("status", "-w", "ws")
    assert (code, "no stage of another package 'face_focus'" in err, "is its package installed" in err) == (
        2,
        True,
        True,
    )
    assert "what that will do is not known: setting plugins.stages: no stage" in run(cli, "--unset", "plugins")
    assert "2 clips in the dataset" in cli("status", "-w", "ws")[1]


def test_a_wrong_stage_makes_no_folder(cli: Cli) -> None:
    code, _, err = cli("run", "-w", "ws", "--engine", "serial", *FOCUS, "--stage", "face_focos", A)
    assert (code, "no stage 'face_focos'" in err, "face_focus" in err, Path("ws").exists()) == (2, True, True, False)


@pytest.mark.parametrize(("form", "files"), [("manifest", "clips-*.parquet"), ("hf", "data/*.parquet")])
def test_exports_carry_its_column(cli: Cli, form: str, files: str) -> None:
    run(cli, A, *FOCUS)
    assert cli("export", "-w", "ws", "--format", form, "-o", "out")[0] == 0
    tables = [pq.read_table(file) for file in sorted(Path("out").glob(files))]
    assert [row for table in tables for row in table["face_focus"].to_pylist()] == column()
    assert [field.name for field in plugged_fields(tables[0].schema)] == ["face_focus"]


def test_describe_lists_what_is_installed_and_where_it_came_from(cli: Cli) -> None:
    said = cli("describe")[1]
    assert "template       from mit-example 1.0.0; Apache-2.0" in said
    assert "mouth-motion   from mit-example 1.0.0; Apache-2.0" in said
    assert "face_focus     from mit-example 1.0.0 (mit_example.focus:MeasureFaceFocus), after filter.cut" in said


def test_a_backend_of_another_package_is_named_in_rows_with_its_version(site: Path) -> None:
    settings = config.load(None, ["pose.model=template", "speech.model=mouth-motion"])
    found = backends.find("pose", "template")
    assert found.label_of(settings.pose) == "template (mit-example 1.0.0; Apache-2.0)"
    plugin_site.install_example(site, "2.0.0")
    looked_again()
    assert backends.find("pose", "template").label_of(settings.pose) == "template (mit-example 2.0.0; Apache-2.0)"
    by_path = backends.find("pose", "mit_example.pose:TemplatePose")
    assert type(by_path.load(settings.pose)) is type(found.load(settings.pose))


def contract(site: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """The contract tests of backends on this path, as somebody else would run them."""
    plugin = ("-p", "no:cacheprovider", "-p", "mit_builder.contract.plugin")
    asked = [word for name in names for word in ("--mit-backend", name)]
    paths = f"{site}:{Path(__file__).resolve().parents[1]}"
    command = [sys.executable, "-m", "pytest", "-q", *plugin, *asked]
    return subprocess.run(command, cwd=site, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)


def test_the_example_keeps_the_contract(site: Path) -> None:
    done = contract(site, "pose.template", "mit_example.speaker:MouthMotion")
    assert done.returncode == 0, done.stdout
    assert "19 passed" in done.stdout


def test_a_backend_that_breaks_the_contract_is_found_out(site: Path) -> None:
    (site / "mine.py").write_text(SHOUTS)
    done = contract(site, "mine:Shouts")
    assert done.returncode == 1
    assert "test_equal_input_gives_equal_scores_whatever_came_between[speaker-Shouts]" in done.stdout
    done = contract(site, "mine:Shout")
    assert (done.returncode, "no class in mine 'Shout': did you mean Shouts?" in done.stderr) == (4, True)


SHOUTS = """
import numpy as np
class Shouts:
    licence, label_tier, n = "CC0-1.0", "model", 0
    def __init__(self, settings): pass
    def score(self, clip):
        self.n += 1
        return np.full(clip.face_boxes_xyxy.shape[:2], self.n, np.float32)
"""
STAGE = """
from dataclasses import dataclass
from manifests.fields import doc
from manifests.rows import Artifact

@dataclass(frozen=True)
class Row:
    value: float = doc("a value")

@dataclass(frozen=True)
class Bare:
    value: float

@dataclass(frozen=True)
class WithFile:
    file: Artifact = doc("a file")

class Stage:
    name, version, after, emits = "mine", 1, "speech", (Row,)
    def __init__(self, settings): pass
    def process(self, row, ctx):
        yield Row(1.0)

class NoName(Stage):
    name = "Mine!"
class Column(Stage):
    name = "sharpness"
class Ours(Stage):
    name = "pose"
class Nowhere(Stage):
    after = "download"
class Files(Stage):
    emits = (WithFile,)
class Undocumented(Stage):
    emits = (Bare,)
class Odd(Stage):
    settings = {"threshold": 1}
class Two(Stage):
    emits = (Row, Bare)
class Nothing:
    pass
class Twice(Stage):
    def process(self, row, ctx):
        yield Row(1.0)
        yield Row(2.0)
class Judge(Stage):
    name, emits = "judge", ()
    def process(self, row, ctx):
        return None
"""


@pytest.fixture
def mine(site: Path) -> Path:
    (site / "mine.py").write_text(STAGE)
    return site


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("face_focos", "no stage of another package 'face_focos': did you mean face_focus? there are face_focus,"),
        ("mine:Stag", "no class in mine 'Stag': did you mean Stage?"),
        ("mine:NoName", "its name 'Mine!' is not made of small letters"),
        ("mine:Column", "its name 'sharpness' is that of a column of the dataset"),
        ("mine:Ours", "its name 'pose' is that of a step"),
        ("mine:Nowhere", "it stands after 'download', not after one of filter.cut, pose, speech"),
        ("mine:Files", "WithFile names an artifact"),
        ("mine:Undocumented", "Bare is no dataclass with doc"),
        ("mine:Odd", "its settings are no Section"),
        ("mine:Two", "it emits 2 kinds of rows"),
        ("mine:Nothing", "it lacks name, version, after, emits, process"),
        ("mine:Stage,mine:Stage", "plugins.stages names mine twice"),
    ],
)
def test_what_is_no_stage_is_refused_in_one_line_before_anything_is_made(
    name: str, said: str, mine: Path, cli: Cli
) -> None:
    code, _, err = cli("run", "-w", "ws", "--engine", "serial", "--set", f"plugins.stages={name}", A)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not Path("ws").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("plugins.settings.face_focus.min_focu=3", "'min_focu': did you mean min_focus?"),
        ("plugins.settings.face_focus.min_focus=-1", "plugins.settings.face_focus.min_focus: "),
        ("plugins.settings.face_fokus.min_focus=1", "'face_fokus': did you mean face_focus?"),
    ],
)
def test_a_wrong_setting_of_a_stage_is_refused(override: str, said: str, cli: Cli) -> None:
    code, _, err = cli("run", "-w", "ws", *FOCUS, "--set", override, A)
    assert (code, said in err, err.count("\n")) == (2, True, 1)


def test_stages_stand_where_they_say_in_the_order_that_settings_give(mine: Path) -> None:
    chosen = config.load(None, ["plugins.stages=mine:Judge,face_focus,mine:Stage"])
    steps = steps_of(chosen)
    assert [step.name for step in steps][4:] == [
        "filter.cut",
        "face_focus",
        "pose",
        "speech",
        "judge",
        "mine",
        "shards",
    ]
    assert steps_named(["speech"], steps) == {"speech", "judge", "mine"}
    assert steps_named(["judge"], steps) == {"judge"}
    with pytest.raises(ConfigError, match=r"choose all, or of download.*, face_focus, judge, mine"):
        steps_named(["focus"], steps)
    assert steps_of(config.Settings()) == STEPS


def test_one_that_judges_alone_adds_no_column_and_one_of_too_many_rows_fails(mine: Path, cli: Cli) -> None:
    run(cli, A, "--set", "plugins.stages=mine:Judge,mine:Stage")
    (file,) = Path("ws/dataset").glob("*.parquet")
    assert [field.name for field in plugged_fields(pq.read_schema(file))] == ["mine"]
    assert cli("run", "-w", "ws", "--engine", "serial", "--set", "plugins.stages=mine:Twice")[0] == 1
    assert "mine yields ['Row', 'Row'] for a clip, not ['Row']" in cli("status", "-w", "ws", "--failed")[1]


def test_two_packages_that_announce_one_name_are_told_apart_by_path(site: Path) -> None:
    for name in ("one", "two"):
        plugin_site.announce(site, name, "1", {"mit_builder.backends": {"pose.mine": f"{name}:Pose"}})
    looked_again()
    with pytest.raises(ConfigError, match=r"both announce pose.mine .*: name one by PACKAGE.MODULE:CLASS"):
        config.load(None, ["pose.model=mine"])


@pytest.mark.parametrize("told", [b"[", b'{"a": 1}', b'["clip", "nowhere", 3]', None])
def test_what_a_file_says_of_its_plugged_columns_is_not_trusted(told: bytes | None) -> None:
    schema = pa.schema([pa.field("clip", pa.string())], {b"plugins": told} if told else None)
    assert plugged_fields(schema) == []
