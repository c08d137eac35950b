"""`mit-build plan`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from mit_builder.cli.options import (
    DEFAULT_WORKSPACE,
    AddressesArgument,
    ConfigOption,
    EngineOption,
    FreshOption,
    JsonOption,
    ProfileOption,
    SetOption,
    SourcesOption,
    StageOption,
    UnsetOption,
    WorkspaceOption,
)
from mit_builder.cli.run import carry_out
from mit_builder.driver.retry_policy import PASSES_BY_ITSELF
from mit_builder.pipeline import STEPS
from mit_builder.pipeline_run import RunRequest, steps_named
from mit_builder.planning.sample_plan import FORECAST_KEY, compare, forecast, sample, say
from mit_builder.storage.settings_file import Changes
from mit_builder.storage.source_catalog import SourceCatalog
from mit_builder.storage.workspace import Workspace, existing


def plan(
    addresses: AddressesArgument = None,
    sources: SourcesOption = None,
    probe_n: Annotated[int, typer.Option("--probe", min=2, help="Sources to work on.")] = 20,
    seed: Annotated[int, typer.Option(help="Another one draws other sources.")] = 0,
    stage: StageOption = ["all"],  # noqa: B006
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    profile: ProfileOption = None,
    settings: ConfigOption = None,
    overrides: SetOption = None,
    unset: UnsetOption = None,
    fresh: FreshOption = False,
    engine: EngineOption = "ray",
    check: Annotated[bool, typer.Option(help="Compare the last forecast with what was done since.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Work on a sample and forecast what all sources will take; no dataset is written, `run` goes on from there."""
    if check:
        compare(existing(workspace), as_json=as_json)
        return
    changes = Changes.asked(settings, overrides, unset, profile=profile, fresh=fresh)
    request = RunRequest(
        addresses=addresses or [],
        lists=sources or [],
        workspace=workspace,
        changes=changes,
        stages=sorted(steps_named([name for text in stage for name in text.split(",")]) - {STEPS[-1].name}),
        forced=[],
        limit=None,
        retry=PASSES_BY_ITSELF,
        at_once=False,
        engine=engine,
        go_on=["run", *(["--engine", engine] if engine != "ray" else []), *changes.secrets_to_give],
        sample=lambda found: sample(found, probe_n, seed)[0],
    )
    carry_out(request, as_json=as_json)
    place = Workspace(workspace)
    found = SourceCatalog(place).sources()
    chosen, sizes, by = sample(found, probe_n, seed)
    made = forecast(place, [s.source_id for s in found], {s.source_id for s in chosen}, sizes, by)
    place.write(FORECAST_KEY, json.dumps(asdict(made)).encode())
    say(made, as_json=as_json)
