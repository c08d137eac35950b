"""`mit-build preview`."""

from __future__ import annotations

from typing import Annotated

import typer

from mit_builder.cli.looking import looked_at
from mit_builder.cli.options import DEFAULT_WORKSPACE, WorkspaceOption
from mit_builder.console.waiting import waiting
from mit_builder.storage.workspace import existing


def preview(
    clip_id: Annotated[str, typer.Argument(metavar="CLIP_ID")],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Draw one clip, or a candidate that the filter rejected: a contact sheet (PNG) and a video with sound (MP4)."""
    from mit_builder.report.preview import draw_preview

    space = existing(workspace)
    seen = looked_at(space)
    with waiting("drawing"):
        drawn = draw_preview(space, seen, clip_id)
    if drawn.note:
        print(f"{clip_id}: {drawn.note}")
    for key in (drawn.video_key, drawn.picture_key):
        print(f"{space.uri}/{key}")
