"""Looking at a workspace, with a word on a terminal about how far that is."""

from __future__ import annotations

from collections.abc import Callable, Collection

from mit_builder.console.waiting import waiting
from mit_builder.console.wording import counted
from mit_builder.driver.snapshot import Snapshot
from mit_builder.errors import FailureClass
from mit_builder.storage.workspace import Workspace


def looked_at(
    workspace: Workspace,
    *,
    whole: bool = True,
    quiet: bool = False,
    due_again: Collection[FailureClass] = (),
    on_note: Callable[[str], None] = lambda line: None,
) -> Snapshot:
    """A workspace as its last run left it, see `Snapshot.of`; `quiet` shows nothing, for output that programs read."""
    with waiting("reading the workspace", quiet=quiet) as shown:

        def show(n: int, n_sources: int) -> None:
            shown.now(f"looking at {n:,} of {counted(n_sources, 'source')}")

        return Snapshot.of(workspace, whole=whole, due_again=due_again, on_note=on_note, on_progress=show)
