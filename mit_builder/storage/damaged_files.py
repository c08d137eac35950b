"""The files that ledgers name, as a walk finds them: what is gone or damaged is told, set aside, and made again.

A plain walk costs a look at each file (8 µs on a local disk): it must have its size, and where it was written to after
its unit had ended, its digest is compared as well. So a finished workspace is not read again, yet nobody can change a
file by the usual means without being noticed. What a disk changes by itself is noticed when the file is read for work
or publication (`Workspace.artifact`), or by `mit-build run --verify`. Object storage keeps checksums of its own, so
that without `--verify` sizes are looked at there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from manifests.ledger import Entry
from manifests.rows import Artifact
from manifests.schema import artifacts
from mit_builder.console.wording import counted
from mit_builder.storage.scratch import GONE
from mit_builder.storage.workspace import Workspace

TOLD_ONE_BY_ONE = 5
"""So many files of a folder are named; the others are counted."""


def ended_s(entry: Entry) -> float:
    """When a unit had written all its files, in seconds since 1970."""
    return entry.started_at_s + entry.duration_s


class Files:
    """Which artifacts are there and whole.

    Args:
        run_id: of the run that walks.
        mends: what is damaged is set aside; else it is only told.
        verify: compare every digest.
        tell: takes a line about a damaged file.
        expects: whether a file, by its key, should be there at all; what is gone and was not expected is no damage.

    Attributes:
        damaged: keys of what was found damaged or gone.
        in_the_way: those of them that kept a unit from its work; they are made again by another walk.
    """

    def __init__(
        self,
        workspace: Workspace,
        run_id: str,
        *,
        mends: bool = False,
        verify: bool = False,
        tell: Callable[[str], None] = lambda line: None,
        expects: Callable[[str], bool] = lambda key: True,
    ) -> None:
        self._workspace, self.run_id = workspace, run_id
        self._mends, self._verify, self._tell, self._expects = mends, verify, tell, expects
        self._folders: dict[str, set[int]] = {}
        """In object storage: hashes of names and sizes by folder, which is listed once: there are millions."""
        self._removed: set[str] = set()
        self._n_told = Counter[str]()
        self.damaged: set[str] = set()
        self.in_the_way: set[str] = set()

    def has_all(self, entry: Entry) -> bool:
        """Whether all artifacts that an entry names are whole; where one is not, the others are compared as well."""
        named = [artifact for row in entry.outputs for artifact in artifacts(row)]
        wrong = {a.key: problem for a in named if (problem := self._problem(a, entry))}
        if wrong:
            others = (a for a in named if a.key not in wrong)
            self._found(wrong | {a.key: problem for a in others if (problem := self._workspace.problem(a))})
        return not wrong

    def _problem(self, artifact: Artifact, entry: Entry) -> str | None:
        if self._workspace.root is None and not self._verify and self._is_listed(artifact, entry):
            return None
        found = self._workspace.state(artifact.key)
        if found is None:
            return GONE
        if found[0] != artifact.n_bytes:
            return f"has {counted(found[0], 'byte')}, not {artifact.n_bytes}"
        is_changed = self._workspace.root is not None and found[1] > ended_s(entry)
        problem = self._workspace.problem(artifact) if is_changed or self._verify else None
        if is_changed and problem is None and self._mends:
            self._workspace.date_back(artifact.key, ended_s(entry))
        return problem

    def _is_listed(self, artifact: Artifact, entry: Entry) -> bool:
        folder = artifact.key.partition("/")[0]
        if folder not in self._folders:
            self._folders[folder] = set(map(hash, self._workspace.sizes(folder).items()))
        is_there = hash((artifact.key, artifact.n_bytes)) in self._folders[folder]
        return is_there and artifact.key not in self._removed

    def found(self, wrong: Mapping[str, str]) -> None:
        """A unit could not do its work: by key what is wrong with the files that it wanted to read."""
        self.in_the_way |= wrong.keys()
        self._found(wrong)

    def _found(self, wrong: Mapping[str, str]) -> None:
        for key, problem in wrong.items():
            if problem == GONE and not self._expects(key):
                continue
            if key not in self.damaged:
                folder = key.partition("/")[0]
                self._n_told[folder] += 1
                if self._n_told[folder] <= TOLD_ONE_BY_ONE:
                    self._tell(f"{key} {problem}: what made it is due again")
            self.damaged.add(key)
            if self._mends:
                self._workspace.set_aside(key)
                self.remove([key])

    def end(self) -> None:
        """Tell how many files were not named."""
        for folder, n in sorted(self._n_told.items()):
            if n > TOLD_ONE_BY_ONE:
                self._tell(f"gone or damaged as well, in {folder}/: {n - TOLD_ONE_BY_ONE} more")

    def remove(self, keys: Iterable[str]) -> None:
        """Forget files that were removed."""
        self._removed.update(keys)
