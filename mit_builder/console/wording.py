"""Words that several modules say in the same way."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, which agree: "1 clip", "2 clips", "1,200 people" of ("person", "people")."""
    return f"{n:,} {_agreeing(n, noun, plural)}"


def counted_in_column(n: int, noun: str, plural: str | None = None) -> str:
    """The same for lines below one another: numbers end in one column."""
    return f"{n:6d} {_agreeing(n, noun, plural)}"


def _agreeing(n: int, noun: str, plural: str | None) -> str:
    return noun if n == 1 else plural or noun + "s"
