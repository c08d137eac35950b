"""Several sources with one video: the one with the smallest source_id keeps it, whatever the order of the list.

Videos are one where their `video_id` (a site's id, else the content) or the bytes of their files are equal; so a talk
that a site has and a copy of the file on disk are one as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from manifests.ledger import Entry
from manifests.rows import Video
from mit_builder.pipeline import Unit


@dataclass
class _Group:
    """Everything that is one video."""

    keeper: Video
    entries: list[Entry] = field(default_factory=list)


class Duplicates:
    """Groups of equal videos, which grow and merge while sources arrive."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        """By video_id and by digest; merged groups are one object."""
        self._held: dict[str, tuple[Unit, Entry]] = {}
        """By source, those that wait for whoever keeps their video."""
        self._waiting_for: dict[str, list[str]] = {}
        """By video_id and by digest, sources in `_held`."""
        self._let_in: set[str] = set()

    def holds(self, unit: Unit, entry: Entry) -> bool:
        """Keep a source back that was a duplicate by the ledger, until one with its video has arrived.

        Else it would have its video for as long as it comes first, and work would be done for it in vain.
        """
        names = _names_of(entry)
        has_come = entry.unit_id in self._let_in or not self._groups.keys().isdisjoint(names)
        if entry.reason != "duplicate" or has_come:
            return False
        self._held[entry.unit_id] = unit, entry
        for name in names:
            self._waiting_for.setdefault(name, []).append(entry.unit_id)
        return True

    def released(self, entry: Entry) -> list[tuple[Unit, Entry]]:
        """The sources that waited for a download whose video has arrived."""
        names = [name for video in _names_of(entry) for name in self._waiting_for.pop(video, ())]
        return [self._held.pop(name) for name in sorted(set(names)) if name in self._held]

    def let_in(self) -> Iterator[tuple[Unit, Entry]]:
        """When none arrives any more: those that still wait, the smallest first; `released` may take some of them."""
        for name in sorted(self._held):
            if name in self._held:
                self._let_in.add(name)
                yield self._held.pop(name)

    @property
    def n_held(self) -> int:
        """Sources that wait."""
        return len(self._held)

    def arrive(self, entry: Entry) -> tuple[Entry, list[Video]]:
        """A finished download: its entry with the verdict so far, and videos that lose their place because of it."""
        video = _video_of(entry)
        if video is None:
            return entry, []
        names = (video.video_id, video.media.sha256)
        known = list({id(g): g for g in map(self._groups.get, names) if g is not None}.values())
        keepers = [group.keeper for group in known]
        keeper = min([video, *keepers], key=lambda v: v.source_id)
        # The entries of the larger group stay where they are, so that many copies cost no more than one each.
        known.sort(key=lambda group: -len(group.entries))
        whole = known[0] if known else _Group(video)
        for other in known[1:]:
            whole.entries += other.entries
            for name in {n for e in other.entries for n in _names_of(e)}:
                self._groups[name] = whole
        whole.entries.append(entry)
        whole.keeper = keeper
        for name in names:
            self._groups[name] = whole
        return _verdict(entry, None if keeper is video else keeper.source_id), [k for k in keepers if k is not keeper]

    def current(self, video: Video) -> Video | None:
        """The row that stands for a video in the dataset; None where another id or other bytes took its place."""
        keeper = self._groups[video.video_id].keeper
        same = (keeper.video_id, keeper.media.sha256) == (video.video_id, video.media.sha256)
        return keeper if same else None

    def group(self, video: Video) -> list[Entry]:
        """Downloads of all sources that have this video, each with the verdict it came with."""
        return self._groups[video.video_id].entries

    def changed_verdicts(self) -> Iterator[Entry]:
        """Downloads that are duplicates, or no longer: known for sure only when all sources have arrived."""
        for group in {id(g): g for g in self._groups.values()}.values():
            keeper = group.keeper.source_id
            for entry in group.entries:
                changed = _verdict(entry, None if entry.unit_id == keeper else keeper)
                if changed != entry:
                    yield changed


def _video_of(entry: Entry) -> Video | None:
    return next((row for row in entry.outputs if isinstance(row, Video)), None)


def _names_of(entry: Entry) -> tuple[str, ...]:
    video = _video_of(entry)
    return () if video is None else (video.video_id, video.media.sha256)


def _verdict(entry: Entry, duplicate_of: str | None) -> Entry:
    """A download's entry as rejected duplicate of another source, or as done."""
    if duplicate_of is None:
        return replace(entry, status="done", reason=None, message=None)
    return replace(entry, status="rejected", reason="duplicate", message=f"same video as source {duplicate_of}")
