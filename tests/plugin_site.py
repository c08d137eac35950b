"""Packages on the path as pip leaves them there, without pip: their modules, and what they announce."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin"


def install_example(site: Path, version: str | None = None) -> Path:
    """The package of `examples/plugin`, of its own version or another one."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    package = project["name"].replace("-", "_")
    shutil.copytree(EXAMPLE / "src" / package, site / package, dirs_exist_ok=True)
    announce(site, project["name"], version or project["version"], project["entry-points"])
    return site


def announce(site: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> None:
    """Metadata of a package, in the place of that of another version."""
    package = name.replace("-", "_")
    for old in site.glob(f"{package}-*.dist-info"):
        shutil.rmtree(old)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [[f"[{group}]", *(f"{entry} = {path}" for entry, path in of.items())] for group, of in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(line for group in lines for line in group) + "\n")
