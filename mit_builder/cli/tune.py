"""`mit-build tune`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mit_builder.cli.options import DEFAULT_WORKSPACE, JsonOption, WorkspaceOption
from mit_builder.console.waiting import waiting
from mit_builder.driver.session import settings_of
from mit_builder.planning.tune import how_to_take, in_json, in_text, moved, tables_of, take_over
from mit_builder.planning.what_if import WhatIf
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import existing


def tune(
    setting: Annotated[
        list[str] | None, typer.Option(help="Setting to move, e.g. filter.min_face_px; may be repeated. None: all.")
    ] = None,
    values: Annotated[str | None, typer.Option(help="Values of that one setting: 24,36,48.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value to move together; may be repeated.")
    ] = None,
    apply: Annotated[
        list[str] | None, typer.Option(help="The same, and write it into the workspace and select anew.")
    ] = None,
    list_clips: Annotated[bool, typer.Option(help="Also list the clips that each value keeps.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: JsonOption = False,
) -> None:
    """Show how many clips and hours other thresholds would keep, and why not the others; nothing is computed anew."""
    space = existing(workspace)
    pinned = settings_of(space, workspace)
    wanted = moved(pinned, [*(overrides or []), *(apply or [])])
    tables = tables_of(wanted, setting or [], values, together=wanted is not pinned)
    variants = [pinned, *(column.settings for columns in tables.values() for column in columns)]
    with waiting("judging shots anew", quiet=as_json):
        seen = WhatIf(space, pinned, SourceCatalog(space).sources(), variants)
        if as_json:
            lines = [json.dumps(in_json(seen, pinned, tables, list_clips=list_clips))]
        else:
            lines = list(in_text(seen, pinned, tables, list_clips=list_clips))
    for line in lines:
        print(line)
    if apply:
        with waiting("selecting anew", quiet=as_json):
            said = take_over(space, [*(overrides or []), *apply])
    elif overrides:
        said = ["", how_to_take(seen.outlook(pinned), seen.outlook(wanted), overrides)]
    else:
        said = []
    for line in said:
        print(line, file=sys.stderr if as_json else sys.stdout)
