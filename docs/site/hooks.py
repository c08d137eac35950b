"""What the docs site shows besides the files in docs/: pages from README, CONTRIBUTING and the code.

A page that the navigation does not name is added to it under "More", so that nobody's page is left out in silence.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import make_reference  # noqa: E402

_SECTION = re.compile(r"^## (?P<title>Add an? \w+)\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_WHOLE_LINK = re.compile(r"\[(?P<text>[^\]\n]+)\]\((?P<target>\.\./[^)#\s]+)\)")
_LINK = re.compile(r"\]\((?!https?:|#)(?P<target>[^)#\s]+)")

TOP_LEVEL = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "howto/add-a-stage.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the top level that are pages."""

SHIM = """// Search where a page is opened from disk: browsers start no worker from a file, so a frame is one.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe"), waiting = [];
      frame.hidden = true;
      document.body.appendChild(frame);
      const inside = frame.contentWindow;
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => Promise.all(urls.map(src => this.load(inside, src)));
      this.send = data => waiting.push(data);
      this.load(inside, url).then(() => {
        this.send = data => inside.dispatchEvent(new MessageEvent("message", { data }));
        waiting.forEach(this.send);
      });
    }
    load(inside, src) {
      return new Promise((resolve, reject) => {
        const script = inside.document.createElement("script");
        Object.assign(script, { src: String(src), onload: resolve, onerror: reject });
        inside.document.body.appendChild(script);
      });
    }
    postMessage(data) { this.send(data); }
    terminate() {}
  };
}
"""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add pages that the navigation does not name."""
    named = set(_pages(config.nav))
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    left = sorted(found - named)
    decisions = [page for page in left if page.startswith("decisions/")]
    others = [page for page in left if page not in decisions]
    config.nav = [*(config.nav or []), *_group("More", others), *_group("Decisions", decisions)]
    return config


def on_page_markdown(markdown: str, page: Page, **others: Any) -> str:
    """Say where a file of the repository lies that the site does not hold."""
    here = (DOCS / page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        place = (here / match["target"]).resolve()
        if place.is_relative_to(DOCS) or not place.is_relative_to(ROOT) or not place.exists():
            return match[0]
        name = place.relative_to(ROOT).as_posix()
        if name in TOP_LEVEL:
            return f"[{match['text']}]({get_relative_url(TOP_LEVEL[name], page.file.src_uri)})"
        return f"`{name}`" if match["text"].strip("`") == name else f"{match['text']} (`{name}`)"

    return _WHOLE_LINK.sub(rewritten, markdown)


def _group(title: str, pages: list[str]) -> list[dict[str, list[str]]]:
    return [{title: pages}] if pages else []


def _pages(nav: Any) -> list[str]:
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    values = nav.values() if isinstance(nav, dict) else nav or []
    return [page for value in values for page in _pages(value)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made from README, CONTRIBUTING and the code."""
    for place, text in generated().items():
        files.append(File.generated(config, place, content=text))
    return files


def generated() -> dict[str, str]:
    """Texts by their place in the site."""
    chapters = {match["title"]: match["text"] for match in _SECTION.finditer((ROOT / "CONTRIBUTING.md").read_text())}
    return {
        "index.md": _moved((ROOT / "README.md").read_text()),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "assets/iframe-worker.js": SHIM,
        "reference/commands.md": make_reference.commands_page(),
        "reference/settings.md": make_reference.settings_page(),
        "reference/python.md": make_reference.python_page(),
        **{f"howto/{title.lower().replace(' ', '-')}.md": f"# {title}\n{text}" for title, text in chapters.items()},
    }


def _moved(text: str) -> str:
    """A page of the top level as it reads in docs/."""
    return _LINK.sub(lambda match: f"]({TOP_LEVEL.get(match['target'], match['target'].removeprefix('docs/'))}", text)
