"""Runs `mit-build run --stage download` over a scripted web in which everything goes wrong, twice, and compares.

    python tests/faults/web_run.py [--share 0.1] [--engine serial] [--seed 1]

What became of each address is read from the ledger, how it was asked from the servers: requests for each address,
downloads at once and time between their starts at each host, pauses that were asked for. Prints tables as Markdown;
exits with 1 on any difference from what `scripted_web.KINDS` says.
"""

from __future__ import annotations

import argparse
import itertools
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

try:
    from faults import scripted_web as web
except ImportError:  # started as a script
    import scripted_web as web  # type: ignore[no-redef]

from manifests.ledger import Entry, Ledger
from manifests.rows import Source, Video
from manifests.sources import url_source
from mit_builder.media.write import write_video
from mit_builder.storage.workspace import Workspace

PER_HOST, INTERVAL_S = 2, 0.5
LATE_S = 0.25
"""Jitter allowed between the start that the driver decides and the first request at the server."""
SETTINGS = {
    "download.per_host": PER_HOST,
    "download.host_interval_s": INTERVAL_S,
    "download.timeout_s": web.SOCKET_TIMEOUT_S,
    "download.max_file_gb": web.MAX_FILE_GB,
    "download.allow_private_addresses": "true",
    "download.host_failures": 12,
    "download.host_rest_s": 0.5,
    "download.host_rests": 2,
    "download.host_refusals": 3,
    "run.max_attempts": web.ATTEMPTS,
    "run.retry_base_s": 0.5,
    "run.retry_max_s": 3,
}
COUNTS = {
    "slow": 24,
    "file": 31,
    "page": 26,
    "playlist": 6,
    "moved": 8,
    "unavailable-once": 8,
    "busy": 6,
    "expired-once": 6,
    "cut-once": 6,
    "404": 12,
    "410": 6,
    "451": 3,
    "private": 6,
    "removed": 6,
    "geo": 6,
    "no-video": 8,
    "endless-page": 2,
    "loop": 3,
    "moved-to-a-file": 3,
    "html-as-mp4": 6,
    "no-mp4": 4,
    "401": 8,
    "403": 8,
    "bot": 8,
    "age": 6,
    "adult": 6,
    "live-hls": 4,
    "live-dash": 2,
    "premiere": 4,
    "too-long": 4,
    "too-large": 4,
    "500": 7,
    "reset": 7,
    "refused": 6,
    "moved-to-nobody": 5,
    "empty": 5,
    "cut": 4,
    "stalled": 2,
    "login-wall": 10,
    "down": 14,
}
"""300 addresses."""
OWN_HOSTS = {"slow": "127.0.1.100", "login-wall": "127.0.1.101", "down": "127.0.1.102"}
N_MIXED = 12
MIXED = tuple(f"127.0.1.{i + 1}" for i in range(N_MIXED))
TWO_A_HOST = ("401", "403", "bot")
"""Spread so that no host of the mixed ones refuses three in a row."""


@dataclass(frozen=True)
class Address:
    """One line of the source list."""

    kind: str
    url: str


@dataclass(frozen=True)
class Run:
    """What one run did.

    Attributes:
        outcomes: address -> what the ledger says, "pending" without an entry.
        hits: requests that were answered while it ran.
        said: what the command printed.
    """

    exit_code: int
    wall_s: float
    outcomes: dict[str, str]
    hits: list[web.Hit]
    said: str


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--share", type=float, default=1.0, help="of the 300 addresses; at least one of every kind")
    parser.add_argument("--engine", default="ray")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts = {kind: max(1, round(n * options.share)) for kind, n in COUNTS.items()}
    with tempfile.TemporaryDirectory(prefix="web-run-") as folder:
        report, problems = trial(Path(folder), counts, engine=options.engine, seed=options.seed)
    print("\n".join(report))
    print(f"\n{len(problems)} differences", *problems, sep="\n- ")
    return int(bool(problems))


def trial(base: Path, counts: dict[str, int], *, engine: str, seed: int) -> tuple[list[str], list[str]]:
    """Two runs over one list: lines of Markdown, and everything that is not as expected."""
    with web.serve(short_video(base), [*MIXED, *OWN_HOSTS.values()]) as served:
        listed = addresses(served, counts, random.Random(seed))
        (base / "list.txt").write_text("".join(f"{address.url}\n" for address in listed))
        first = run(base, served, listed, engine, "--sources", str(base / "list.txt"))
        second = run(base, served, listed, engine)
        guard_row, guard_problems = guarded(base, served, engine)
    rows, problems = outcomes_table(listed, first, second)
    rate_rows, rate_problems = rates_table(first)
    again = [p for name, r in (("first", first), ("second", second)) for p in check_run(name, r)]
    sums = [
        f"{len(listed)} addresses ({len(first.outcomes)} with those of playlists), engine {engine}, seed {seed}.",
        f"First run {first.wall_s:.0f} s, {len(first.hits)} requests, exit code {first.exit_code}; "
        f"second run {second.wall_s:.0f} s, {len(second.hits)} requests, exit code {second.exit_code}.",
    ]
    return [*sums, "", *rows, guard_row, "", *rate_rows], [*problems, *guard_problems, *rate_problems, *again]


def guarded(base: Path, served: web.Web, engine: str) -> tuple[str, list[str]]:
    """A small run with private addresses refused, as they are by default, and a host of this web as the proxy."""
    proxy = served.urls[MIXED[0]]
    good = ["http://one.example/file-900.mp4"]
    bad = [f"http://two.example/moved-inside-{n}" for n in range(3)] + ["http://three.example/moved-900"]
    bad += ["http://169.254.169.254/latest", "http://localhost/x.mp4", f"{proxy}/file-901.mp4"]
    listed = [Address("guarded", url) for url in good + bad]
    changed = {"download.allow_private_addresses": "false", "download.proxy": proxy}
    done = run(base, served, listed, engine, *(a.url for a in listed), place="guarded", settings=SETTINGS | changed)
    seen = Counter(done.outcomes[url] for url in bad)
    problems = [] if set(seen) == {"failed: permanent"} and done.outcomes[good[0]] == "done" else [str(done.outcomes)]
    hosts = {urlsplit(hit.asked).hostname for hit in done.hits}
    problems += [f"{host} was asked for" for host in hosts - {"one.example", "two.example", "three.example"}]
    first = f"addresses and redirects inside, private ones refused | {len(bad)} | failed: permanent"
    return f"| {first} | {_counted(seen)} | none of those inside | | |", problems


def short_video(base: Path) -> bytes:
    picture = np.full((48, 64, 3), 90, np.uint8)
    write_video(base / "video.mp4", [picture] * 25, width_px=64, height_px=48)
    return (base / "video.mp4").read_bytes()


def addresses(served: web.Web, counts: dict[str, int], rng: random.Random) -> list[Address]:
    """The list in random order; every mixed host gets some of each group."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        served.closed_port = probe.getsockname()[1]
    listed = []
    turns: dict[str, Iterator[str]] = defaultdict(lambda: itertools.cycle(MIXED))
    for kind, n in counts.items():
        way = web.KINDS[kind]
        group = "refuses" if kind in TWO_A_HOST else way.outcome
        for i in range(n):
            host = OWN_HOSTS.get(kind) or next(turns[group])
            place = f"http://{host}:{served.closed_port}" if kind == "refused" else served.urls[host]
            listed.append(Address(kind, f"{place}/{kind}-{i}{way.suffix}"))
    rng.shuffle(listed)
    return listed


def run(
    base: Path,
    served: web.Web,
    listed: list[Address],
    engine: str,
    *arguments: str,
    place: str = "workspace",
    settings: dict[str, Any] = SETTINGS,
) -> Run:
    """The installed command, to its end."""
    served.hits.clear()
    installed = Path(sys.executable).with_name("mit-build")
    program = [str(installed)] if installed.exists() else [sys.executable, "-m", "mit_builder"]
    workspace = str(base / place)
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    command = [*program, "run", "--stage", "download", "--engine", engine, "--workspace", workspace, *sets, *arguments]
    started = time.monotonic()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=3000
    )
    wall_s = time.monotonic() - started
    ledger = Ledger(Workspace(workspace), "download", (Video, Source))
    outcomes = {address.url: outcome(ledger.latest(url_source(address.url).source_id)) for address in listed}
    for entry in ledger.newest():
        for row in entry.outputs:
            if isinstance(row, Source):
                outcomes[row.address] = outcome(ledger.latest(row.source_id))
    time.sleep(web.SOCKET_TIMEOUT_S)  # servers that stall write their hits down later
    return Run(done.returncode, wall_s, outcomes, sorted(served.hits, key=lambda hit: hit.start_s), done.stdout)


def outcome(entry: Entry | None) -> str:
    if entry is None:
        return "pending"
    detail = {"rejected": entry.reason, "failed": entry.failure_class}.get(entry.status)
    return f"{entry.status}: {detail}" if detail else entry.status


def asked(listed: list[Address], hits: list[web.Hit]) -> dict[str, int]:
    """Requests for each address."""
    n = Counter((hit.host, hit.path) for hit in hits)
    found = {}
    for address in listed:
        host, _, path = address.url.removeprefix("http://").partition("/")
        found[address.url] = n[host.partition(":")[0], f"/{path}"]
    return found


def outcomes_table(listed: list[Address], first: Run, second: Run) -> tuple[list[str], list[str]]:
    rows = [
        "| address | n | expected | first run | requests for each | second run | requests for each |",
        "|---|---|---|---|---|---|---|",
    ]
    problems = []
    in_first, in_second = asked(listed, first.hits), asked(listed, second.hits)
    for kind, way in web.KINDS.items():
        urls = [address.url for address in listed if address.kind == kind]
        if not urls:
            continue
        own = kind in OWN_HOSTS and way.again
        allowed = {way.outcome, "pending"} if own else {way.outcome}
        least, most = way.n_asked
        for url in urls:
            seen, then = first.outcomes[url], second.outcomes[url]
            if not {seen, then} <= allowed:
                problems.append(f"{url}: {seen}, then {then}; expected {way.outcome}")
            if not least <= in_first[url] <= most:
                problems.append(f"{url}: {in_first[url]} requests in the first run, expected {least} to {most}")
            n_again = (least, most) if way.again else (0, 0)
            if not n_again[0] <= in_second[url] <= n_again[1]:
                problems.append(f"{url}: {in_second[url]} requests in the second run, expected {n_again}")
        cells = [kind, str(len(urls)), " or ".join(sorted(allowed, reverse=True))]
        for done, n in ((first, in_first), (second, in_second)):
            cells += [_counted(Counter(done.outcomes[url] for url in urls)), _span([n[url] for url in urls])]
        rows.append(f"| {' | '.join(cells)} |")
    children = {url: what for url, what in first.outcomes.items() if url not in in_first}
    problems += [f"{url} of a playlist: {what}" for url, what in children.items() if what != "done"]
    rows.append(f"| entries of playlists | {len(children)} | done | {_counted(Counter(children.values()))} | | | |")
    return rows, problems


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{what} ({n})" if len(found) > 1 else what for what, n in sorted(found.items()))


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else f"{min(numbers)} to {max(numbers)}"


def rates_table(done: Run) -> tuple[list[str], list[str]]:
    """What the servers saw of the limits; the starts are those of the host whose files are slow and asked for once."""
    problems = []
    starts = first_requests(done.hits, OWN_HOSTS["slow"]) or [0.0]
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    at_once = {host: most_at_once(done.hits, host) for host in {hit.host for hit in done.hits}}
    busiest = max(at_once, key=at_once.__getitem__, default="")
    wall_s = starts[-1] - starts[0]
    slow_at_once = at_once.get(OWN_HOSTS["slow"], 0)
    rows = [
        "| limit | setting | measured at the servers |",
        "|---|---|---|",
        f"| downloads at once from one host | {PER_HOST} | {at_once.get(busiest, 0)} ({len(at_once)} hosts); "
        f"{slow_at_once} at the host with {len(starts)} slow files |",
        f"| time between starts at one host | {INTERVAL_S} s | least {min(gaps, default=0):.2f} s, "
        f"{len(starts)} starts in {wall_s:.1f} s |",
    ]
    problems += [f"{host}: {n} addresses at once" for host, n in at_once.items() if n > PER_HOST]
    if gaps and min(gaps) < INTERVAL_S - LATE_S:
        problems.append(f"two downloads began within {min(gaps):.2f} s")
    if wall_s < INTERVAL_S * len(gaps) - LATE_S:
        problems.append(f"{len(starts)} downloads began within {wall_s:.1f} s")
    pauses = kept_pauses(done.hits)
    rows.append(
        f"| pause of a host that says Retry-After | {web.PAUSE_S} s | least {min(pauses, default=0):.2f} s until the "
        f"next download there began ({len(pauses)} pauses) |"
    )
    problems += [f"a pause of {pause:.2f} s" for pause in pauses if pause < web.PAUSE_S - LATE_S]
    return rows, problems


def first_requests(hits: list[web.Hit], host: str) -> list[float]:
    """When each path of a host was asked for the first time, in order."""
    first: dict[str, float] = {}
    for hit in hits:
        if hit.host == host:
            first.setdefault(hit.path, hit.start_s)
    return sorted(first.values())


def most_at_once(hits: list[web.Hit], host: str) -> int:
    """Largest number of addresses of a host that were being answered at one time."""
    there = [hit for hit in hits if hit.host == host]
    return max((len({h.path for h in there if h.start_s <= hit.start_s < h.end_s}) for hit in there), default=0)


def kept_pauses(hits: list[web.Hit]) -> list[float]:
    """After each 429: time until the next path is begun at that host by a download that the driver had not sent yet."""
    pauses = []
    for refusal in (hit for hit in hits if hit.status == 429):
        there = [hit for hit in hits if hit.host == refusal.host]
        soon_s = refusal.end_s + LATE_S
        under_way = {hit.path for hit in there if hit.start_s <= soon_s} - {refusal.path}
        new = [h.start_s - refusal.end_s for h in there if h.start_s > soon_s and h.path not in under_way]
        pauses += [min(new)] if new else []
    return pauses


def check_run(name: str, done: Run) -> Iterator[str]:
    if done.exit_code != 1:
        yield f"the {name} run ended with {done.exit_code}, expected 1: some failed"
    if not done.hits:
        yield f"nothing was asked for in the {name} run: {done.said[-2000:]}"


if __name__ == "__main__":
    sys.exit(main())
