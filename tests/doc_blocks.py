"""The fenced blocks of README and docs: which commands they hold, and whether a test runs them.

A fence says ```sh run``` or ```sh skip="why it cannot run here"```; a page that marks one block marks all. What is not
run is at least parsed, so that a command or an option that is gone is noticed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from mit_builder.cli.main import app
from mit_builder.config import settings

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]

_FENCE = re.compile(r"^```(?P<language>sh|python)(?P<mark>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_WRITTEN = re.compile(r" <<'(\w+)'\n.*?^\1$", re.MULTILINE | re.DOTALL)
"""What a block writes into a file."""
_SKIP = re.compile(r'skip="(?P<reason>[^"]+)"')
_OPTIONS_WITH_SETTINGS = ("overrides", "apply")
"""Parameters whose values look like section.key=value."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        place: page and line.
        language: sh or python.
        mark: run, skip or nothing.
        text: what stands in it.
    """

    place: str
    language: str
    mark: str
    text: str

    @property
    def runs(self) -> bool:
        return self.mark == "run"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order."""
    text = page.read_text()
    found = []
    for match in _FENCE.finditer(text):
        mark = match["mark"].strip()
        assert mark in ("", "run") or _SKIP.fullmatch(mark), f"{page.name}: what does {mark!r} mean?"
        place = f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}"
        found.append(Block(place, match["language"], mark.partition("=")[0], match["text"]))
    return found


def script(page: Path) -> str:
    """What a shell does with the blocks of a page that run, one after another."""
    parts = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"]
    for block in filter(lambda block: block.runs, blocks(page)):
        parts.append(f"echo '# {block.place}' >&2")
        parts.append(block.text if block.language == "sh" else f"python - <<'END_OF_BLOCK'\n{block.text}END_OF_BLOCK")
    return "\n".join(parts) + "\n"


def problems(block: Block) -> Iterator[str]:
    """What is wrong with the commands of a block, without running them."""
    if block.language == "python":
        return
    typed = _WRITTEN.sub("", block.text)
    for line in typed.replace("\\\n", " ").splitlines():
        words = [word for word in shlex.split(line, comments=True) if word not in ("&", ">/dev/null", "2>&1")]
        while words and re.match(r"\w+=", words[0]):
            del words[0]
        if words and words[0].endswith("mit-build"):
            yield from (f"{block.place}: {line.strip()}: {problem}" for problem in _misused(words[1:]))
        elif words and words[0] == "make":
            yield from (f"{block.place}: no target {word}" for word in words[1:] if "=" not in word and not _made(word))


def _made(target: str) -> bool:
    makefile = (ROOT / "Makefile").read_text().replace("$(VENV)", ".venv")
    return re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE) is not None


def _misused(words: list[str]) -> Iterator[str]:
    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        if words[0] not in command.commands:
            yield f"no command {words[0]}"
            return
        command = command.commands[words.pop(0)]
    try:
        context = command.make_context(command.name, words)
        for name in _OPTIONS_WITH_SETTINGS:
            settings.load(None, context.params.get(name) or [])
    except Exception as error:  # noqa: BLE001 - typer's own click has exceptions that nothing public names
        yield str(error) or type(error).__name__
