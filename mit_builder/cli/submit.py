"""`mit-build submit`: a run on a cluster, from a machine that is no part of it."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml

from manifests.signatures import is_signed
from manifests.source_lists import read_list
from manifests.sources import SourceListError
from mit_builder.cli.options import ConfigOption, FreshOption, ProfileOption, SetOption, UnsetOption, WorkspaceOption
from mit_builder.config import settings as config
from mit_builder.config.settings import Settings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import CannotContinue, ConfigError
from mit_builder.storage.settings_file import Changes
from mit_builder.storage.workspace import Workspace

if TYPE_CHECKING:
    from mit_builder.engine.ray_jobs import Jobs

SETTINGS_FILE = "settings.yaml"
_LOGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s]*@", re.IGNORECASE)
"""An address with a login in it."""
_BARE_LOGIN = re.compile(r"(?!mailto:)[^/?#\s:@]+:[^/?#\s@]+@[^/?#\s@]+")
"""The same where the scheme was left out."""
_INSTEAD = "leave it out, and set HTTPS_PROXY and HTTP_PROXY in the environment of the cluster's nodes"
STOPS_WITHIN_S = 15.0
"""Beyond a job's grace, until Ray has said that it has stopped."""


@dataclass(frozen=True)
class Submission:
    """A run as the cluster is to start it."""

    workspace: str
    changes: Changes
    addresses: list[str]
    lists: list[Path]
    stages: list[str]
    limit: int | None
    retry_failed: bool

    @property
    def settings(self) -> Settings:
        """What is given here; all else is as the workspace keeps it, which this machine may not reach."""
        return self.changes.on(None)[0]

    def check(self) -> None:
        """Refuse what could not work there, or would be seen there.

        Raises:
            ConfigError: says which.
        """
        if "://" not in self.workspace and not Path(self.workspace).is_absolute():
            raise ConfigError(f"--workspace {self.workspace}: give s3://, gs://, az://, or a shared folder's full path")
        if "://" in self.workspace:
            Workspace(self.workspace)  # an address with a password in it is refused
        for name, section in self.settings:
            for key in sorted(getattr(section, "secrets", ())):
                if getattr(section, key) is not None:
                    raise ConfigError(f"{name}.{key} may hold a password, which the job's files would tell: {_INSTEAD}")
        if self.settings.run.ray_address:
            raise ConfigError("run.ray_address is given by the cluster that a run is submitted to")
        try:
            told = next((w for w, text in self._told() if _LOGIN.search(text) or _BARE_LOGIN.match(text)), None)
        except SourceListError as error:
            raise ConfigError(str(error)) from error
        if told:
            raise ConfigError(f"{told} holds a user name or password, which the job's files would tell: leave it out")
        signed = next((n for n, address in enumerate(self.addresses, 1) if is_signed(address)), None)
        if signed:
            raise ConfigError(f"source {signed} is signed, and everybody sees the job's command: give it in a list")

    def _told(self) -> Iterator[tuple[str, str]]:
        """What the cluster's job service and its files will hold, and where a user has put it."""
        yield from ((f"source {n}", address) for n, address in enumerate(self.addresses, 1))
        for name, section in self.settings.model_dump(mode="json", exclude_defaults=True).items():
            values = section if isinstance(section, dict) else {}
            yield from ((f"{name}.{key}", str(value)) for key, value in values.items())
        for path in self.lists:
            if not path.is_file():
                is_there = f"{path} is a folder: give it without --sources" if path.is_dir() else ""
                raise ConfigError(is_there or f"no such source list: {path}")
            yield from ((f"{path}, source {n},", address) for n, address in enumerate(read_list(path), 1))

    def pack(self, folder: Path) -> str:
        """Put what the run needs into a folder; the command that finds it there."""
        named = config.merged({}, self.changes.values, self.changes.overrides)
        (folder / SETTINGS_FILE).write_text(yaml.safe_dump(named))
        command = [
            "python",
            "-m",
            "mit_builder",
            "run",
            "--workspace",
            self.workspace,
            "--config",
            SETTINGS_FILE,
        ]
        # Another run may have left it in the workspace; here the job's own cluster counts.
        for name in sorted({*self.changes.unset, "run.ray_address"}):
            command += ["--unset", name]
        command += ["--fresh-settings"] if self.changes.fresh else []
        for n, path in enumerate(self.lists):
            name = f"sources-{n}{path.suffix}"
            shutil.copyfile(path, folder / name)
            command += ["--sources", name]
        for stage in self.stages:
            command += ["--stage", stage]
        command += ["--limit", str(self.limit)] if self.limit else []
        command += ["--retry-failed"] if self.retry_failed else []
        return shlex.join([*command, "--", *self.addresses])


def submit(
    addresses: Annotated[list[str] | None, typer.Argument(help="URLs.")] = None,
    address: Annotated[str, typer.Option(help="Where the cluster takes jobs: http://HEAD:8265.")] = "",
    workspace: WorkspaceOption = "",
    sources: Annotated[list[Path] | None, typer.Option(help="List of URLs; sent along. May be repeated.")] = None,
    stage: Annotated[list[str], typer.Option(help="all, or stages to work on; may be repeated.")] = ["all"],  # noqa: B006
    profile: ProfileOption = None,
    settings: ConfigOption = None,
    overrides: SetOption = None,
    unset: UnsetOption = None,
    fresh: FreshOption = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N sources.")] = None,
    retry_failed: Annotated[bool, typer.Option(help="Also retry what failed for good.")] = False,
    follow: Annotated[bool, typer.Option(help="Print what the run prints until it ends; its exit code.")] = False,
    wait: Annotated[bool, typer.Option(help="Return when it has ended, with its exit code.")] = False,
    driver_cpus: Annotated[float, typer.Option(min=0, help="Cores reserved for the driver; 0: on the head.")] = 0.0,
    pending_s: Annotated[float, typer.Option(min=1, help="A run that has not begun by then is stopped.")] = 300.0,
    grace_s: Annotated[int, typer.Option(min=1, help="What runs may end within this time when it is stopped.")] = 60,
    attach: Annotated[str | None, typer.Option(metavar="ID", help="Follow a run that was submitted before.")] = None,
    stop: Annotated[str | None, typer.Option(metavar="ID", help="Stop a run; submit again to go on.")] = None,
) -> None:
    """Run on a Ray cluster: hand over a list, follow it, stop it; `status -w` tells how it goes, from anywhere."""
    from mit_builder.engine.ray_jobs import Jobs

    if not address:
        raise ConfigError("--address is missing: where the cluster takes jobs, http://HEAD:8265")
    if stop or attach:
        jobs = Jobs(address)
        raise typer.Exit(_stop(jobs, stop, grace_s) if stop else _end(jobs, str(attach), follow=True))
    if not workspace:
        raise ConfigError("--workspace is missing: s3://, gs://, az://, or a folder that all nodes share")
    changes = Changes.asked(settings, overrides, unset, profile=profile, fresh=fresh)
    submission = Submission(workspace, changes, addresses or [], sources or [], stage, limit, retry_failed)
    submission.check()
    jobs = Jobs(address)
    with tempfile.TemporaryDirectory(prefix="mit-build-submit-") as folder:
        command = submission.pack(Path(folder))
        job_id = jobs.submit(command, Path(folder), cpus=driver_cpus, grace_s=grace_s)
    print(f"submitted {job_id}", flush=True)
    print(f"  follow: {hints.say(Hint.FOLLOW, address=jobs.address, job_id=job_id)}")
    print(f"  stop:   {hints.say(Hint.STOP, address=jobs.address, job_id=job_id)}")
    print(f"  look:   {hints.say(Hint.STATUS)}", flush=True)
    jobs.wait_until_begun(job_id, pending_s)
    if follow or wait:
        raise typer.Exit(_end(jobs, job_id, follow=follow))


def _end(jobs: Jobs, job_id: str, *, follow: bool) -> int:
    """Wait for a run; its exit code."""
    if follow:
        jobs.follow(job_id, lambda text: print(text, end="", flush=True))
    state = jobs.wait(job_id)
    code = jobs.exit_code(job_id)
    if state == "SUCCEEDED":
        return 0
    if code in (1, 2, 3, 130):
        print(f"{job_id} ended with exit code {code}")
        return code
    why = jobs.status(job_id)[1]
    raise CannotContinue(f"{job_id} {state.lower()}: {why[:300]}")


def _stop(jobs: Jobs, job_id: str, grace_s: int) -> int:
    was_running = jobs.stop(job_id)
    state = jobs.wait(job_id, grace_s + STOPS_WITHIN_S)
    print(f"{job_id}: {state.lower()}" + ("" if was_running else ", before it was asked to"))
    return 0 if state in ("STOPPED", "SUCCEEDED", "FAILED") else 3
