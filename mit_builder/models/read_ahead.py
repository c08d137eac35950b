"""Making the next items in a thread while the last one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], n_ahead: int) -> Iterator[Item]:
    """The items in their order, of which up to `n_ahead` (at least 1) are made before they are asked for.

    An error in making an item is raised where it would have been without the thread.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        coming = deque(thread.submit(next, source, end) for _ in range(n_ahead))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, source, end))
            yield item  # type: ignore[misc]
