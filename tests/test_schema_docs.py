from __future__ import annotations

import dataclasses
import re
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


def test_the_tables_of_modules_are_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "make_architecture.py"))
    assert made["page"]() == (ROOT / "docs" / "ARCHITECTURE.md").read_text(), "run: python scripts/make_architecture.py"


def test_architecture_answers_with_files_that_exist() -> None:
    answers = (ROOT / "docs" / "ARCHITECTURE.md").read_text().partition("## Where to look")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w/.]+(?:\.py|\.md|/))`", answers)
    assert len(named) > 10
    assert [place for place in named if not (ROOT / place).exists()] == []


def test_the_glossary_has_at_most_twelve_words() -> None:
    words = (ROOT / "docs" / "ARCHITECTURE.md").read_text().partition("## Words")[2].partition("\n## ")[0]
    assert 8 <= len(re.findall(r"^\| ", words, re.MULTILINE)) - 1 <= 12
