"""`report/index.html`: one page that opens from a disk or a bucket, without a server and without anything fetched.

Text from outside reaches the page in two ways, both as text: through templates that escape it, and as JSON that scripts
put in by `textContent`. The page's policy allows its own script, named by its digest, and scripts that lie beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.console.wording import counted
from mit_builder.driver.counts import N_BORDERLINE
from mit_builder.labels.keypoints import SKELETON
from mit_builder.report.charts import charts
from mit_builder.report.figures import Figures
from mit_builder.storage.workspace import Workspace
from mit_builder.version import __version__

PAGE_KEY = "report/index.html"
_FOLDER = Path(__file__).with_name("static")
_TEMPLATE, _STYLE = "report.html", "style.css"
_SCRIPTS = ("labels.js", "drawing.js", "player.js", "review.js", "pages.js")
_PLUGGED = "plugins.js"
"""Part of the page only where a clip has columns of other packages' stages."""


def write_page(workspace: Workspace, figures: Figures) -> bool:
    """Write the page, unless the one that lies there shows the same; whether it was written."""
    program = _program((*_SCRIPTS, _PLUGGED) if figures.get("plugged") else _SCRIPTS)
    digest = _digest(figures, program)
    mark = f'name="mit-build-report" content="{digest}"'.encode()
    if workspace.exists(PAGE_KEY) and mark in workspace.read(PAGE_KEY):
        return False
    workspace.write(PAGE_KEY, render(figures, program, digest, workspace.uri).encode())
    return True


def _program(scripts: Sequence[str]) -> str:
    """The page's script."""
    parts = [f"const SKELETON = {json.dumps(SKELETON)};", *((_FOLDER / name).read_text() for name in scripts)]
    return '"use strict";\n(() => {\n' + "\n".join(parts) + "\n})();\n"


def _digest(figures: Figures, program: str) -> str:
    texts = [json.dumps(_coarse(figures), sort_keys=True), program, __version__]
    texts += [(_FOLDER / name).read_text() for name in (_TEMPLATE, _STYLE)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:32]


def _coarse(value: Any) -> Any:
    """The values with floats at seven digits: sums differ in the last ones by the order of arrival."""
    if isinstance(value, dict):
        return {key: _coarse(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_coarse(v) for v in value]
    return f"{value:.7g}" if isinstance(value, float) else value


def render(figures: Figures, program: str, digest: str, workspace: str) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"hours": _hours, "length": _length, "percent": _percent}
    steps = {step["name"]: step for step in figures["funnel"]}
    return environment.get_template(_TEMPLATE).render(
        figures=figures,
        tiles=_tiles(figures),
        charts=charts(figures),
        video_hours=steps["videos"]["hours"],
        n_borderline=N_BORDERLINE,
        policy=_policy(program),
        program=program,
        style=(_FOLDER / _STYLE).read_text(),
        digest=digest,
        version=__version__,
        workspace=Path(workspace).name,
        counted=counted,
        review=hints.on_page(workspace, Hint.REVIEW),
    )


def _policy(program: str) -> str:
    """Nothing from elsewhere: the page's own script by its digest, and what lies beside the page."""
    script = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    beside = "'self' file:"
    return (
        f"default-src 'none'; script-src 'sha256-{script}' {beside}; style-src 'unsafe-inline'; "
        f"img-src {beside} data:; media-src {beside} blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
    )


def _hours(hours: float | None) -> str:
    """A number for a column of hours."""
    if not hours:
        return "–" if hours is None else "0"
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2f}" if hours >= 1 else f"{hours:.4f}"


def _length(hours: float) -> str:
    """Hours in words, in a unit that fits."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _tiles(figures: Figures) -> list[dict[str, str]]:
    mean = figures["averages"]
    kept = next(row["kept"] for row in figures["compared"])

    def number(value: float | None, unit: str = "") -> str:
        return "–" if value is None else f"{value:.3g}{unit}"

    values = (
        ("clip" if figures["clips"] == 1 else "clips", str(figures["clips"])),
        ("of footage", _length(figures["hours"])),
        ("of the videos' hours kept", kept or "–"),
        ("mean length of a clip", number(mean["length_s"], " s")),
        ("people in a clip, mean", number(mean["people"])),
        ("turns a minute, mean", number(mean["turns_per_min"])),
        ("talk share of a person, mean", _percent(mean["talk_share"])),
        ("silence, mean", _percent(mean["silence"])),
        ("overlap of speech, mean", _percent(mean["overlap"])),
        ("of a body seen, mean", _percent(mean["body_visible"])),
    )
    return [{"name": name, "value": value} for name, value in values]
