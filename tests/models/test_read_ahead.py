from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mit_builder.models.read_ahead import read_ahead


@pytest.mark.parametrize("n_ahead", [1, 2, 5])
@pytest.mark.parametrize("n_items", [0, 1, 4])
def test_items_come_in_their_order(n_ahead: int, n_items: int) -> None:
    assert list(read_ahead(range(n_items), n_ahead)) == list(range(n_items))


def test_no_more_are_made_than_asked_for_ahead() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(10):
            made.append(i)
            yield i

    ahead = read_ahead(items(), 2)
    for asked in range(4):
        assert next(ahead) == asked
        assert len(made) <= asked + 3
    ahead.close()  # type: ignore[attr-defined]
    assert len(made) <= 6


def test_an_item_is_made_while_the_last_one_is_used() -> None:
    second_is_made = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second_is_made.set()
        yield 1

    ahead = read_ahead(items(), 1)
    assert next(ahead) == 0
    assert second_is_made.wait(timeout=30)
    assert list(ahead) == [1]


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 0
        raise KeyError("broken")

    ahead = read_ahead(items(), 3)
    assert next(ahead) == 0
    with pytest.raises(KeyError, match="broken"):
        next(ahead)


def test_the_thread_ends_with_the_iteration() -> None:
    ahead = read_ahead(range(100), 3)
    next(ahead)
    assert any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
    ahead.close()  # type: ignore[attr-defined]
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())
