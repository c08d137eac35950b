"""What was found out about a file is kept as long as the file stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar, cast

Options = ParamSpec("Options")
Found = TypeVar("Found")


def kept_by_file(
    look: Callable[Concatenate[Path, Options], Found],
) -> Callable[Concatenate[Path, Options], Found]:
    """A function of a file that looks again only when the file's size or time has changed.

    The last four results are kept: the units of a video come one after another.
    """

    @lru_cache(maxsize=4)
    def kept(path: Path, as_it_is: Hashable, *args: Options.args, **kwargs: Options.kwargs) -> Found:
        return look(path, *args, **kwargs)

    @wraps(look)
    def call(path: Path, *args: Options.args, **kwargs: Options.kwargs) -> Found:
        try:
            found = path.stat()
        except OSError:
            return look(path, *args, **kwargs)  # which says what is wrong
        as_it_is = (found.st_ino, found.st_size, found.st_mtime_ns)
        return kept(path, as_it_is, *args, **kwargs)  # type: ignore[arg-type] # the options of such functions hash

    return cast(Callable[Concatenate[Path, Options], Found], call)
