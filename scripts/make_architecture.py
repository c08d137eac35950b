"""Write the tables of docs/ARCHITECTURE.md from the first sentence of each module: `scripts/make_architecture.py`."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ARCHITECTURE.md"
HEADING = "## Modules\n"
OURS = "mit_builder"
PACKAGES = (
    *("manifests", "console", "config", "storage", "media", "web", "labels", "models", "engine", "dataset", "stages"),
    *("driver", "report", "review", "planning", "exports", "removal", "cli"),
)
"""In the order of imports: none imports what stands below it here."""


def first_sentence(path: Path) -> str:
    """The first paragraph of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def folder_of(package: str) -> Path:
    """Where a package lies."""
    return ROOT / package if package in ("manifests", "stages") else ROOT / OURS / package


def table(package: str) -> str:
    """A package and its modules."""
    folder = folder_of(package)
    lines = [f"### {folder.relative_to(ROOT).as_posix()}/", "", first_sentence(folder / "__init__.py"), ""]
    lines += ["| module | what it does |", "|---|---|"]
    for path in sorted(folder.rglob("*.py")):
        if path.name != "__init__.py":
            lines.append(f"| {path.relative_to(folder).with_suffix('').as_posix()} | {first_sentence(path)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page, its tables made anew."""
    written, _, _ = PAGE.read_text().partition(HEADING)
    alone = sorted(p for p in (ROOT / OURS).glob("*.py") if p.name != "__init__.py")
    rows = "".join(f"| {path.stem} | {first_sentence(path)} |\n" for path in alone)
    tables = "\n".join(table(package) for package in PACKAGES)
    introduction = (
        "One table a package, from the bottom up: a package imports only what stands above it here, which\n"
        "tests/test_packaging.py checks. `scripts/make_architecture.py` writes them from the modules' docstrings.\n\n"
        f"### {OURS}/\n\n| module | what it does |\n|---|---|\n{rows}\n"
    )
    return f"{written}{HEADING}\n{introduction}{tables}"


if __name__ == "__main__":
    PAGE.write_text(page())
