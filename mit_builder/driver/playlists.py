"""Playlists, channels and pages with several videos: looked at again from time to time, and what they held stays.

Their videos are units of their own, so that another look fetches nothing that is there. A video that is not listed any
more keeps its place: a feed shows its latest ones only, and a site that is away shows none. `takedown` removes.
"""

from __future__ import annotations

from dataclasses import replace

from manifests.ledger import Entry
from manifests.rows import Source


def listed(entry: Entry | None) -> tuple[Source, ...]:
    """The sources that a download found in the place of a video."""
    return () if entry is None else tuple(row for row in entry.outputs if isinstance(row, Source))


def is_stale(entry: Entry, refresh_s: float, now_s: float) -> bool:
    """Whether a download found a list, empty or not, and that more than `refresh_s` before `now_s` (since 1970)."""
    is_list = bool(listed(entry)) or (entry.status == "done" and not entry.outputs)
    return is_list and now_s - entry.started_at_s - entry.duration_s > refresh_s


def with_earlier(entry: Entry, before: Entry | None) -> Entry:
    """What came of another look at a list, with all that was on it before; also where the look failed."""
    known = listed(before)
    if entry.status == "rejected" or not known:
        return entry
    names = {source.source_id for source in known}
    new = tuple(row for row in entry.outputs if not isinstance(row, Source) or row.source_id not in names)
    return replace(entry, outputs=(*known, *new))
