"""The report of a workspace, from a walk over it: the data of its clips, its figures and its page."""

from __future__ import annotations

from manifests.rows import Video
from mit_builder.driver.snapshot import Snapshot
from mit_builder.report.figures import figures
from mit_builder.report.gallery import update_gallery
from mit_builder.report.page import PAGE_KEY, write_page
from mit_builder.report.pictures import update_pictures
from mit_builder.report.rejects import update_rejects
from mit_builder.storage.workspace import Workspace


def write_report(workspace: Workspace, seen: Snapshot, *, n_processes: int | None) -> str:
    """Bring `report/index.html` up to date, writing only what changed; its key.

    Args:
        workspace: where the report goes.
        seen: after its walk, of a run or of a look.
        n_processes: for reading new clips; None = one a core.

    Raises:
        CannotContinue: a process that reads clips was killed.
    """
    shown = sorted(seen.clips.all(), key=lambda pair: pair[0].clip.clip_id)
    clips = update_gallery(workspace, shown, seen.reviews, n_processes=n_processes)
    update_rejects(workspace, seen.tally, seen.settings.filter, lambda: _videos(seen))
    pictures = update_pictures(workspace, [row for row, left_out in shown if left_out is None])
    shows = {**figures(seen, clips), "pictures": pictures}
    write_page(workspace, {**shows, "plugged": True} if any("plugged" in clip for clip in clips) else shows)
    return PAGE_KEY


def _videos(seen: Snapshot) -> dict[str, Video]:
    entries = seen.lanes["download"].ledger.newest()
    return {row.video_id: row for entry in entries for row in entry.outputs if isinstance(row, Video)}
