"""What is shipped, what it declares to need, and the structure that keeps the code readable."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

from mit_builder import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("manifests", "mit_builder", "stages")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted(path for folder in ("tests", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
FLOORS = (
    ("manifests", "version"),
    ("errors", "console"),
    ("stage", "config"),
    ("pipeline",),
    ("storage", "media"),
    ("web", "labels"),
    ("models",),
    ("engine", "contract"),
    ("dataset",),
    ("stages", "driver"),
    ("report", "review", "planning"),
    ("exports",),
    ("removal",),
    ("pipeline_run",),
    ("api",),
    ("mit_builder",),
    ("cli",),
    ("__main__",),
)
"""Packages, and modules that stand alone: each may import of its own and of what is named in a line above its own."""
MAX_LINES = 400
MAX_TEST_LINES = 700
"""Tests mirror the sources, one file a module, and hold more cases than their module has lines."""
MAX_FUNCTION_LINES = 75
DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "ffmpeg": "ffmpeg-python",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "vl_convert": "vl-convert-python",
}
"""Packages that are imported under another name than they are installed under."""
LOCKS = ("constraints.txt", "constraints-paper.txt")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def normalised(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def declared(*extras: str) -> set[str]:
    settings = project()
    options = settings["optional-dependencies"]
    lists = [settings["dependencies"], *(options[extra] for extra in extras)]
    return {normalised(requirement) for requirements in lists for requirement in requirements}


def pins(lock: str) -> dict[str, str]:
    lines = (ROOT / lock).read_text().splitlines()
    return dict(line.partition(";")[0].strip().split("==") for line in lines if line and not line.startswith("#"))


def imports(path: Path) -> Iterator[str]:
    """Top-level names of the packages that a module imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def test_wheel_holds_the_packages_with_their_types_and_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = pytest.importorskip("hatchling.build", reason="hatchling is not installed")
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / backend.build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "mit-build = mit_builder.cli.main:main" in archive.read(entry_points).decode()
    assert {name_of(path) for path in MODULES} <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    page = ROOT / "mit_builder" / "report" / "static"
    assert {name_of(path) for path in page.iterdir()} <= names
    assert {f"manifests/demo/{file}" for file in ("demo.mp4", "truth.json", "sources.txt")} <= names
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)


def test_version_is_the_same_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_bundled_demo_is_small() -> None:
    assert (ROOT / "manifests" / "demo" / "demo.mp4").stat().st_size < 4_000_000


def test_every_stage_imports_without_a_model_framework() -> None:
    heavy = ("mediapipe", "torch", "ultralytics", "jax", "tensorflow")
    program = (
        "import importlib, sys, mit_builder.cli.main\n"
        "from mit_builder.pipeline import STEPS\n"
        "for step in STEPS: importlib.import_module(step.stage.partition(':')[0])\n"
        f"print(*[name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def distributions_imported() -> set[str]:
    """Names of what our packages import from others, as they are installed."""
    names = {name for path in MODULES for name in imports(path)}
    return {normalised(DISTRIBUTIONS.get(name, name)) for name in names - sys.stdlib_module_names - set(PACKAGES)}


def test_every_third_party_import_is_declared() -> None:
    assert distributions_imported() - declared("embedded", "paper", "cluster", "contract") == set()


def test_every_core_dependency_is_imported() -> None:
    assert declared() - distributions_imported() == set()


@pytest.mark.parametrize(("lock", "extra"), [("constraints.txt", "embedded"), ("constraints-paper.txt", "paper")])
def test_lock_pins_what_is_declared(lock: str, extra: str) -> None:
    chosen_by_hand = {"opencv-python", "opencv-contrib-python", "torch", "ultralytics"}
    assert declared(extra, "dev") - chosen_by_hand <= set(pins(lock))


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_has_one_opencv_without_windows_and_no_torch(lock: str) -> None:
    names = set(pins(lock))
    assert {name for name in names if name.startswith("opencv")} == {"opencv-contrib-python-headless"}
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton"))}


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_can_be_satisfied_anywhere(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"://|@ |--hash|--index|==[^\s;]*\+", text)


def test_this_environment_is_a_lock() -> None:
    """Only in the environments that `make` builds: the versions tested are the versions pinned."""
    if not (Path(sys.prefix) / ".installed").exists():
        pytest.skip("not an environment made by make")
    distributions = {
        d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()
    }
    lock = LOCKS[0] if "mediapipe" in distributions else LOCKS[1]
    lines = [line for line in (ROOT / lock).read_text().splitlines() if not line.startswith("#")]
    allowed = {line.partition(";")[0].strip() for line in lines}
    wrong = {f"{name}=={distributions[name]}" for name in pins(lock) if name in distributions} - allowed
    assert wrong == set()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows() -> dict[str, set[str]]:
    """Which of our modules each of them imports, for types alone too."""
    known = {module_of(path) for path in MODULES}
    found: dict[str, set[str]] = {}
    for path in MODULES:
        to = found.setdefault(module_of(path), set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                to |= {alias.name for alias in node.names} & known
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                to |= (names & known) or ({node.module} & known)
    return found


def floor_of(module: str) -> tuple[int, str]:
    top, *rest = module.split(".")
    package = rest[0] if top == "mit_builder" and rest else top
    return next(i for i, names in enumerate(FLOORS) if package in names), package


def test_imports_point_one_way() -> None:
    wrong = []
    for module, others in arrows().items():
        floor, package = floor_of(module)
        for other in others:
            below, its_package = floor_of(other)
            if its_package != package and below >= floor:
                wrong.append(f"{module} imports {other}")
    assert wrong == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    assert list(TopologicalSorter(arrows()).static_order())


def test_only_the_engine_imports_ray() -> None:
    users = {name_of(path) for path in MODULES if "ray" in imports(path)}
    assert all(user.startswith("mit_builder/engine") for user in users)


def test_blind_excepts_are_where_stages_run_and_ray_starts() -> None:
    blind = [
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]
    assert sorted(blind) == ["mit_builder/engine/ray_connect.py", "mit_builder/engine/worker.py"]


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name_of)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    limit = MAX_TEST_LINES if path.is_relative_to(ROOT / "tests") else MAX_LINES
    assert len(text.splitlines()) < limit
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [f.name for f in functions if f.end_lineno is not None and f.end_lineno - f.lineno >= MAX_FUNCTION_LINES]
    assert long == []
