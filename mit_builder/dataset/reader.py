"""The files of a published dataset, wherever they lie: a folder, a workspace, or either of them on object storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mit_builder.dataset.index import FOLDER, INDEX_NAME, Index, inside, is_below, no_dataset, parse_index
from mit_builder.errors import ConfigError
from mit_builder.storage.object_store import is_remote
from mit_builder.storage.workspace import Workspace

GIVE = "give a dataset's folder, or a workspace in which a run made one"


def check_place(place: str | Path) -> None:
    """Raise `ConfigError` where the folder of a dataset is not there."""
    if not is_remote(str(place)) and not Path(place).expanduser().is_dir():
        raise ConfigError(f"no folder {place}: {GIVE}")


class DatasetFiles:
    """Reads a dataset's files; nothing is written beside them.

    Args:
        place: a dataset's folder or a workspace, as a path or a URI.

    Raises:
        ConfigError: there is no index.
        WorkspaceError: storage does not answer.
    """

    def __init__(self, place: str | Path) -> None:
        check_place(place)
        self._storage = Workspace(place, create=False)
        self._storage.check_reachable()
        for self._below in ("", f"{FOLDER}/"):
            if self._storage.exists(f"{self._below}{INDEX_NAME}"):
                return
        raise no_dataset(place, is_workspace=bool(self._storage.names("manifests")))

    def index(self) -> Index:
        """The dataset's index.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            return parse_index(self._storage.read(f"{self._below}{INDEX_NAME}").decode())
        except UnicodeDecodeError as error:
            raise ConfigError(f"{INDEX_NAME} is no text") from error

    def names(self) -> list[str]:
        """Paths of all files below the dataset's folder."""
        return sorted(key.removeprefix(self._below) for key in self._storage.names(self._below.rstrip("/")))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """A file of the dataset on this machine while the context is open.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        with self._storage.local(f"{self._below}{name}") as path:
            yield path

    @contextmanager
    def media(self, cell: dict[str, Any] | None, scratch: Path) -> Iterator[Path | None]:
        """A `clip` or `audio` cell as a file: its bytes in `scratch`, else the file beside the shards, else None."""
        if cell is None:
            yield None
        elif cell["bytes"] is not None:
            scratch.write_bytes(cell["bytes"])
            yield scratch
        elif not self._holds(cell["path"]):
            yield None
        else:
            with self.local(cell["path"]) as path:
                yield path

    def _holds(self, name: object) -> bool:
        root = self._storage.root
        leads_out = not is_below(name) or (root is not None and inside(root / self._below, name) is None)
        return not leads_out and self._storage.exists(f"{self._below}{name}")
