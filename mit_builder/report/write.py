"""The report of a workspace, from a walk over it: the data of its clips, its figures and its page."""

from __future__ import annotations

from manifests.rows import Video
from mit_builder.report.figures import figures
from mit_builder.report.gallery import update_gallery
from mit_builder.report.page import PAGE_KEY, write_page
from mit_builder.report.rejects import update_rejects
from mit_builder.runner import Runner
from mit_builder.workspace import Workspace


def write_report(workspace: Workspace, runner: Runner, *, n_processes: int | None) -> str:
    """Bring `report/index.html` up to date, writing only what changed; its key.

    Args:
        workspace: where the report goes.
        runner: after its walk, of a run or of a look.
        n_processes: for reading new clips; None = one a core.

    Raises:
        CannotContinue: a process that reads clips was killed.
    """
    shown = sorted(runner.clips.all(), key=lambda pair: pair[0].clip.clip_id)
    clips = update_gallery(workspace, shown, runner.reviews, n_processes=n_processes)
    update_rejects(workspace, runner.tally, runner.settings.filter, lambda: _videos(runner))
    write_page(workspace, figures(runner, clips))
    return PAGE_KEY


def _videos(runner: Runner) -> dict[str, Video]:
    entries = runner.lanes["download"].ledger.entries()
    return {row.video_id: row for entry in entries for row in entry.outputs if isinstance(row, Video)}
