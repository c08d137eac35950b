"""Write docs/SCHEMA.md from manifests/rows.py and dataset_row.py: `python scripts/make_schema_docs.py`."""

from __future__ import annotations

import ast
import dataclasses
import itertools
from pathlib import Path

import pyarrow as pa

from manifests import plugin_rows, rows
from manifests.dataset_row import DatasetRow, Person
from manifests.schema import arrow_schema
from manifests.sound_track import SoundTrack
from mit_builder.dataset.index import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[1]
DATASET_ROWS = (DatasetRow, Person, rows.Caption, SoundTrack)
HAND_OFFS = tuple(
    row
    for module in (rows, plugin_rows)
    for row in vars(module).values()
    if dataclasses.is_dataclass(row) and row.__module__ == module.__name__ and row not in DATASET_ROWS
)
"""Every other row, in the order of its module."""
ARTIFACTS = ("TRACK", "SIGNALS", "PEOPLE", "POSES", "SPEECH", "VOICE")

INTRODUCTION = f"""# Schema

Generated from `manifests/rows.py` and `manifests/dataset_row.py` by `scripts/make_schema_docs.py`; change the fields
there.
Schema version {SCHEMA_VERSION}.

Conventions: times are seconds (`_s`), sizes pixels (`_px`), intervals half-open, frames 0-based on the clip timeline of
{rows.TIMELINE_FPS} frames a second. `float32[n][4]` is a list of n (frames) with 4 numbers each. Boxes and keypoints of
the dataset are in the pixels of `clip`.

The file metadata of every shard holds, as JSON: `schema_version`, `fps`, `keypoint_names` (133), `skeleton` (pairs of
keypoint numbers) and `huggingface` (which columns are Video and Audio).

Interaction labels, of all people; the first from `speak_periods`, the others from `speaking`, frame by frame:

- `n_turns`: how often the sole speaker differs from the one before (frames with none or several are passed over).
- `overlap_ratio`: frames with at least two speakers / frames with at least one; null where nobody speaks.
- `silence_ratio`: frames without a speaker / all frames.
- `talk_share`: frames in which the person speaks / all frames.
"""


def main() -> None:
    (ROOT / "docs" / "SCHEMA.md").write_text(schema_docs())


def schema_docs() -> str:
    """The whole document."""
    parts = [INTRODUCTION, "## The dataset\n"]
    parts += [_row_section(row) for row in DATASET_ROWS]
    parts += ["## What the stages hand to each other\n"]
    parts += [_row_section(row) for row in HAND_OFFS]
    parts += ["## Arrays in artifacts\n"]
    parts += [_array_section(name, _docs_after_assignments()[name]) for name in ARTIFACTS]
    return "\n".join(parts)


def _row_section(row: type) -> str:
    schema = arrow_schema(row)
    optional = {field.name for field in dataclasses.fields(row) if str(field.type).endswith("| None")}
    lines = [f"### {row.__name__}\n", f"{row.__doc__}\n", "| field | type | what it is |", "|---|---|---|"]
    for field in schema:
        kind = _type(field.type) + (" or null" if field.name in optional else "")
        lines.append(f"| `{field.name}` | {kind} | {_cell(field.metadata[b'doc'].decode())} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text without meaning to Markdown's tables and HTML."""
    return text.replace("|", "/").replace("<", "&lt;")


def _array_section(name: str, doc: str) -> str:
    schema: pa.Schema = getattr(rows, name)
    lines = [f"### {name}\n", f"{doc}\n", "| field | type |", "|---|---|"]
    return "\n".join(lines + [f"| `{field.name}` | {_type(field.type)} |" for field in schema]) + "\n"


def _type(kind: pa.DataType) -> str:
    for row in (*DATASET_ROWS, *HAND_OFFS):
        if kind == pa.struct(list(arrow_schema(row))):
            return f"[{row.__name__}](#{row.__name__.lower()})"
    shape = ""
    while pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        size = "n" if pa.types.is_list(kind) else kind.list_size
        shape, kind = f"{shape}[{size}]", kind.value_type
    if pa.types.is_struct(kind) and shape:
        return f"list of {_type(kind)}"
    if pa.types.is_struct(kind):
        return "struct of " + ", ".join(f"{field.name}: {_type(field.type)}" for field in kind)
    name = {"float": "float32", "double": "float64"}.get(str(kind), str(kind))
    return f"`{name}{shape}`" if shape else name


def _docs_after_assignments() -> dict[str, str]:
    """The strings that follow module-level assignments in rows.py, by name."""
    body = ast.parse(Path(rows.__file__).read_text()).body
    docs = dict.fromkeys(ARTIFACTS, "")
    for statement, after in itertools.pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[ast.unparse(statement.targets[0])] = " ".join(str(after.value.value).split())
    return docs


if __name__ == "__main__":
    main()
