from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path

from manifests.dataset_row import DatasetRow, Person

ROOT = Path(__file__).resolve().parents[1]


def test_schema_docs_are_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "make_schema_docs.py"))["schema_docs"]()
    assert made == (ROOT / "docs" / "SCHEMA.md").read_text(), "run: python scripts/make_schema_docs.py"


def test_schema_docs_name_every_column_of_the_dataset() -> None:
    text = (ROOT / "docs" / "SCHEMA.md").read_text()
    for field in (*dataclasses.fields(DatasetRow), *dataclasses.fields(Person)):
        assert f"| `{field.name}` |" in text
