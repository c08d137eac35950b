"""The docs: every command in them exists, those that can run here do, and the site needs nothing from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import doc_blocks
import pytest
from doc_blocks import PAGES, ROOT, Block

from mit_builder.driver.session import DEMO
from mit_builder.media.cut import cut_clip

CHROMIUM = Path("/usr/bin/chromium")
SHORT_FRAMES = 130
"""Of the demo's first shot, in which two people talk: a little more than `filter.min_clip_s`."""
TUTORIAL = ROOT / "docs" / "TUTORIAL.md"
OTHERS = [page for page in PAGES if page != TUTORIAL and any(block.runs for block in doc_blocks.blocks(page))]
NEEDS_TORCH = re.compile(r"^\s*(import|from) torch\b", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_exists(page: Path) -> None:
    assert [problem for block in doc_blocks.blocks(page) for problem in doc_blocks.problems(block)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_that_marks_a_block_marks_all(page: Path) -> None:
    shell = [block for block in doc_blocks.blocks(page) if block.language == "sh"]
    unmarked = [block.place for block in shell if not block.mark]
    assert len(unmarked) in (0, len(shell)), f'write "sh run" or "sh skip=…" there as well: {unmarked}'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mit-build rum --workspace talks", "no command rum"),
        ("mit-build weights steal", "no command steal"),
        ("FOO=bar .venv/bin/mit-build run --wrkspace x", "No such option"),
        ("mit-build run --set filter.min_face=3", "unknown setting filter.min_face"),
        ("mit-build tune --apply filter.min_face_px=wide", "setting filter.min_face_px"),
        ("mit-build run --limit many", "valid integer"),
        ("make dinner", "no target dinner"),
    ],
)
def test_a_command_that_is_gone_is_noticed(text: str, problem: str) -> None:
    (found,) = doc_blocks.problems(Block("page:1", "sh", "", f"{text}  # comment\n"))
    assert problem in found


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md", "llms.txt"])
def test_links_of_the_top_level_lead_to_files(name: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#\s]+)", (ROOT / name).read_text())
    assert len(links) > 3
    assert [link for link in links if not (ROOT / link).is_file()] == []


class Clone:
    """A folder that looks like a fresh clone in which `make .venv/.installed` was run; its demo is short."""

    def __init__(self, root: Path) -> None:
        self.root = root
        demo = root / "manifests" / "demo"
        demo.mkdir(parents=True)
        cut_clip(DEMO, 0, SHORT_FRAMES, demo / "demo.mp4", root / "sound.flac", crf=16, audio_kbps=192)
        programs = root / ".venv" / "bin"
        programs.mkdir(parents=True)
        for name, module in (("mit-build", "-m mit_builder"), ("python", "")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            (programs / name).chmod(0o755)

    def run(self, page: Path) -> subprocess.CompletedProcess[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            text = doc_blocks.script(page).replace("8765", str(free.getsockname()[1]))
        path = f"{self.root / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "MIT_BUILDER_WEIGHTS": str(self.root / "weights"),
        }
        return subprocess.run(
            ["bash", "-c", text], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    pytest.importorskip("mediapipe", reason="the embedded backends are not installed")
    return Clone(tmp_path_factory.mktemp("clone"))


@pytest.fixture(scope="module")
def walked(clone: Clone) -> subprocess.CompletedProcess[str]:
    """The tutorial, typed as written; what other pages call `talks` is what came out."""
    done = clone.run(TUTORIAL)
    if (clone.root / "first").is_dir():
        shutil.copytree(clone.root / "first", clone.root / "talks")
    return done


@pytest.mark.timeout(600)
def test_the_tutorial_can_be_typed_as_written(walked: subprocess.CompletedProcess[str]) -> None:
    assert walked.returncode == 0, walked.stdout + walked.stderr
    assert "1 source -> 1 video" in walked.stdout
    assert re.search(r"-> 1 clip in the dataset", walked.stdout)
    assert "\nvalid\n" in walked.stdout
    assert f"keypoints of the first: ({SHORT_FRAMES}, 133, 3)" in walked.stdout
    assert "told rightly" in walked.stdout


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", OTHERS, ids=lambda page: page.name)
def test_what_can_run_here_runs(page: Path, clone: Clone, walked: subprocess.CompletedProcess[str]) -> None:
    if NEEDS_TORCH.search(doc_blocks.script(page)):
        pytest.importorskip("torch", reason="torch is not installed")
    done = clone.run(page)
    assert done.returncode == 0, done.stdout + done.stderr


EXAMPLES = {
    "make_dataset.py": ("made", "manifests/demo/demo.mp4"),
    "who_speaks.py": ("talks",),
    "move_threshold.py": ("talks", "filter.min_face_px", "900"),
    "share.py": ("talks", "shards"),
}
"""Arguments of each example; that which trains has a test of its own (tests/test_examples.py)."""
SAID = {
    "make_dataset.py": "1 clip in the dataset",
    "who_speaks.py": "person 1: ",
    "move_threshold.py": "face_too_small",
    "share.py": ".mp4",
}


def test_every_example_is_run() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {*EXAMPLES, "train.py"}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_works(name: str, clone: Clone, walked: subprocess.CompletedProcess[str]) -> None:
    """As scripts without a `__main__` guard; the first runs on Ray and draws pictures in processes of its own."""
    program = [sys.executable, str(ROOT / "examples" / name), *EXAMPLES[name]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=clone.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert SAID[name] in done.stdout
    assert done.stderr == ""


@pytest.mark.timeout(600)
def test_the_notebook_works(clone: Clone, walked: subprocess.CompletedProcess[str], monkeypatch: Any) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "dataset.ipynb", as_version=4)
    done = nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(clone.root)}}, timeout=300).execute()
    shown = ["".join(str(output) for output in cell.get("outputs", [])) for cell in done.cells]
    first, table, clips, clip, preview, arrays = [text for text in shown if text]
    assert "1 clip in the dataset" in first
    assert "no sources given: going on" in first
    assert "too_few_people" in table or "Empty DataFrame" in table or "<tbody>" in table
    assert "n_people" in clips
    assert "data:video/mp4;base64," in clip
    assert "speaks" in clip
    assert "data:video/mp4;base64," in preview
    assert "133, 3)" in arrays


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    folder = tmp_path_factory.mktemp("site")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_has_every_page_and_what_is_made_from_the_code(site: Path) -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / f"{page.stem}.html").is_file()
    home = (site / "index.html").read_text()
    linked = {match[1] for match in re.finditer(r'href="([^"#]+\.html)', home)}
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")} - {"404.html"}
    assert pages - linked == set(), "reached from the navigation"
    assert "mit-build tune" in (site / "reference" / "commands.html").read_text()
    assert "max_camera_motion_pct" in (site / "reference" / "settings.html").read_text()
    assert "open_dataset" in (site / "reference" / "python.html").read_text()
    assert "FindPauses" in (site / "howto" / "add-a-stage.html").read_text()


_LOADS = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|href|data|srcset)\s*=\s*[\"']?\s*"
    r"(?P<url>(?:https?:)?//[^\"'\s>]+)|(?:url\(|@import)\s*[\"']?(?P<css>(?:https?:)?//[^\"')\s]+)",
    re.IGNORECASE,
)


def from_elsewhere(text: str) -> Iterator[str]:
    return (match["url"] or match["css"] for match in _LOADS.finditer(text))


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 15
    assert {path.name: list(found) for path in files if (found := list(from_elsewhere(path.read_text())))} == {}


@pytest.mark.parametrize(
    "text",
    [
        '<script defer src="https://unpkg.com/x"></script>',
        "<link rel=stylesheet href=//fonts.example/x.css>",
        "<img alt='' src='http://a.example/b.png'>",
        "@font-face { src: url(https://fonts.example/a.woff2) }",
    ],
)
def test_what_loads_from_elsewhere_would_be_noticed(text: str) -> None:
    assert len(list(from_elsewhere(text))) == 1
    assert list(from_elsewhere('<a href="https://example.org">a link that one may follow</a>')) == []


def test_the_site_works_from_disk_in_a_browser_and_asks_no_server(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("no Chromium here")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=options)
        page = browser.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.locator("input.md-search__input").focus()
        page.locator(".md-search-result__meta", has_text="Type to start searching").wait_for(timeout=60_000)
        page.keyboard.type("bystander")
        page.wait_for_selector(".md-search-result__link", timeout=60_000)
        assert page.locator(".md-search-result__link").count() > 0
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    assert errors == []
