"""Breaks runs again and again, runs again, and looks at what is left.

    python tests/faults/kills.py --fakes --engine serial --kills 110 --seed 1
    python tests/faults/kills.py --fakes --engine ray --kills 40 --seed 2
    python tests/faults/kills.py --engine ray --kills 60 --seed 3

A round starts a run in a new workspace, breaks it in one of the ways of `KINDS` at a drawn point, and runs again to the
end. Then the dataset must equal that of an undisturbed run row for row, every artifact byte for byte; no unit that the
ledger held may have been started again, and a third run must find nothing to do; no unfinished file may lie about; and
the processes of the broken run must be gone, its workers after 5 s, all others after 90 s. Prints a table and exits
with 1 where something of this is not so.

Without --fakes: real stages on two short pieces of the demo. With it: the stages of tests/fakes.py. A full disk and a
read-only one are mounts, and are left out where this user may not mount.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import ANY, ARTIFACT, INDEX, LEDGER, PICTURE, Bench, Contents, Killed, Point, contents, parts_of, recorded
from processes import family

Kind = Callable[[Bench, Path], str | None]
"""Breaks a run in a new workspace; says at which point, or None where the run was over before."""
NAMES = {ARTIFACT: "artifact", LEDGER: "ledger part", INDEX: "index", PICTURE: "picture", ANY: "file"}
ALL_GONE_S = 90.0


@dataclass
class Round:
    """What came out of one kill.

    Attributes:
        in_flight: units that the broken run had started and the ledger did not hold afterwards.
        again: units that the next run started although the broken one had.
        problems: what is not as it must be; empty where all is.
    """

    kind: str
    point: str
    in_flight: int = 0
    again: int = 0
    lost: int = 0
    duplicated: int = 0
    different: int = 0
    n_strays: int = 0
    killed: Killed | None = None
    problems: list[str] = field(default_factory=list)


def at_a_random_time(bench: Bench, place: Path, hit: Callable[[subprocess.Popen[bytes]], bool]) -> str | None:
    """`hit` the run after a drawn time, and until it finds something to hit."""
    started, delay_s = time.monotonic(), bench.rng.uniform(0.2, 0.95 * bench.whole_s)
    run = bench.start(place)
    seen = bench.watch(run, for_s=delay_s)
    is_hit = False
    while run.poll() is None and not is_hit:
        seen |= family(run.pid)
        is_hit = hit(run)
        after_s = time.monotonic() - started
    bench.ended(seen | bench.watch(run))
    if is_hit:
        return f"after {after_s:.1f} s"
    bench.whole_s = time.monotonic() - started  # the machine is faster by now
    return None


def kill_driver(bench: Bench, place: Path) -> str | None:
    """SIGKILL to the driver."""

    def hit(run: subprocess.Popen[bytes]) -> bool:
        run.kill()
        return True

    return at_a_random_time(bench, place, hit)


def kill_group(bench: Bench, place: Path) -> str | None:
    """SIGKILL to the driver's whole process group."""

    def hit(run: subprocess.Popen[bytes]) -> bool:
        os.killpg(run.pid, signal.SIGKILL)
        return True

    return at_a_random_time(bench, place, hit)


def kill_worker(bench: Bench, place: Path) -> str | None:
    """SIGKILL to a worker process that is at work; the run goes on."""

    def hit(run: subprocess.Popen[bytes]) -> bool:
        busy = [pid for (pid, _), text in family(run.pid).items() if text.startswith("ray::Worker.run")]
        if busy:
            os.kill(bench.rng.choice(busy), signal.SIGKILL)
        return bool(busy)

    return at_a_random_time(bench, place, hit)


def kill_actor(bench: Bench, place: Path) -> str | None:
    """`ray.kill` to the actor that was just given a call; the run goes on."""
    n = bench.rng.randint(1, bench.n_calls)
    run = bench.start(place, KILLS_ACTOR=str(n))
    bench.ended(bench.watch(run))
    return f"call {n}" if len(bench.calls(place)) >= n else None


def at_point(what: str, moment: str, action: str = "kill") -> Kind:
    """At an exact point of a commit; `what` may be several patterns joined by `or`, one of which is drawn."""

    def kind(bench: Bench, place: Path) -> str | None:
        chosen = bench.rng.choice(what.split(" or "))
        n = bench.rng.randint(1, bench.n_files[chosen])
        run = bench.start(place, Point(chosen, moment, n, action))
        bench.ended(bench.watch(run))
        if bench.n_counted(place) >= n:
            return f"{moment} {NAMES[chosen]} {n}"
        bench.n_files[chosen] = max(1, bench.n_counted(place))
        return None

    return kind


def fill_disk(bench: Bench, place: Path) -> str | None:
    """A workspace on a tmpfs that is too small; it grows before the second run."""
    place.mkdir()
    share = bench.rng.uniform(0.15, 0.9)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(share * bench.n_bytes)}", "none", place], check=True)
    run = bench.start(place)
    bench.ended(bench.watch(run))
    subprocess.run(["mount", "-o", f"remount,size={4 * bench.n_bytes + 2**24}", place], check=True)
    return f"{share:.0%} of the space" if run.returncode != bench.exit_code else None


def make_read_only(bench: Bench, place: Path) -> str | None:
    """A read-only mount over the workspace, from a drawn commit on."""
    place.mkdir()
    point = at_point(ANY, "before", "read-only")(bench, place)
    unmount(place)
    return point


KINDS: dict[str, Kind] = {
    "driver, any time": kill_driver,
    "process group, any time": kill_group,
    "between artifact and ledger": at_point(LEDGER, "before"),
    "commit, half written": at_point(f"{ARTIFACT} or {ARTIFACT} or {LEDGER} or {INDEX}", "half"),
    "commit, before its rename": at_point(f"{ARTIFACT} or {INDEX}", "before"),
    "commit, after its rename": at_point(f"{ARTIFACT} or {ARTIFACT} or {LEDGER} or {INDEX}", "after"),
    "ledger part truncated": at_point(LEDGER, "after"),
    "ledger part with a bit flipped": at_point(LEDGER, "after"),
    "ledger part emptied": at_point(LEDGER, "after"),
    "disk full": fill_disk,
    "disk read-only": make_read_only,
    "worker process": kill_worker,
    "Ray actor": kill_actor,
    "process that draws": at_point(PICTURE, "before"),
}
MOUNTS = ("disk full", "disk read-only")
ON_RAY = ("worker process", "Ray actor")
DRAWS = ("process that draws",)


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def emptied(data: bytes, rng: random.Random) -> bytes:
    return b""


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "ledger part truncated": truncated,
    "ledger part with a bit flipped": flipped,
    "ledger part emptied": emptied,
}


def unmount(place: Path) -> None:
    """Take away every mount on a folder; `ismount` would not see one of the same file system."""
    while f" {place} " in Path("/proc/self/mountinfo").read_text():
        subprocess.run(["umount", "-l", place], check=True)


def may_mount() -> bool:
    """Whether this user may mount, tried out."""
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
        unmount(Path(folder))
    return tried.returncode == 0


def kinds_for(engine: str, *, fakes: bool) -> list[str]:
    left_out = (() if may_mount() else MOUNTS) + (ON_RAY if engine == "serial" else ()) + (DRAWS if fakes else ())
    return [kind for kind in KINDS if kind not in left_out]


def one_round(bench: Bench, kind: str) -> Round:
    """Break a run, run again, compare."""
    place = bench.new_place()
    try:
        while (point := KINDS[kind](bench, place)) is None:
            unmount(place)
            shutil.rmtree(place, ignore_errors=True)
        result = Round(kind, point, killed=bench.killed[-1])
        _judge_broken_run(bench, place, result)
        first, parts = bench.started(place), parts_of(place)
        if kind in DAMAGES:
            part = bench.rng.choice(parts)
            parts.remove(part)
            part.write_bytes(DAMAGES[kind](part.read_bytes(), bench.rng))
            result.point += f", then one of {part.parent.name}"
        settled = recorded(parts)
        again = bench.start(place)
        if again.wait() != bench.exit_code or "internal error" in bench.log(place):
            result.problems.append(f"the next run ended with {again.returncode}: {bench.log(place)[-500:]}")
            return result
        second = bench.started(place)
        result.in_flight = len(set(first) - settled)
        result.again = len(set(first) & set(second))
        _judge_work(result, second, settled)
        compare(bench.wanted, contents(place), result)
        bench.start(place).wait()
        if left := bench.started(place):
            result.problems.append(f"a third run still found work: {left[:2]}")
        strays = bench.strays(place)
        result.n_strays = len(strays)
        result.problems += [f"stray {name}" for name in strays]
    finally:
        unmount(place)
    if not result.problems:
        shutil.rmtree(place)
    return result


def _judge_broken_run(bench: Bench, place: Path, result: Round) -> None:
    """It was killed, went on to its end, or ended with one clear line: 1 where single units found no room."""
    code, said = bench.last.returncode, bench.log(place)
    allowed = (1, 3) if result.kind in MOUNTS + DRAWS else (-signal.SIGKILL, bench.exit_code)
    if result.kind in ON_RAY:
        allowed = (bench.exit_code,)
        first = bench.started(place)
        n_twice, largest_call = len(first) - len(set(first)), max(len(units) for _, *units in bench.calls(place))
        if n_twice > largest_call:
            result.problems.append(f"{n_twice} units of the same run started twice for one lost call")
    if code not in allowed or "internal error" in said or "Traceback" in said:
        result.problems.append(f"the broken run ended with {code}: {said[-500:]}")


def _judge_work(result: Round, second: list[tuple[str, str]], settled: set[tuple[str, str]]) -> None:
    if twice := settled & set(second):
        result.problems.append(f"{len(twice)} units were done and started again: {sorted(twice)[:2]}")
    if len(second) != len(set(second)):
        result.problems.append("the next run started a unit twice")


def compare(wanted: Contents, found: Contents, result: Round) -> None:
    """Rows by clip, value for value; artifacts by name and digest."""
    wanted_rows, found_rows = dict(wanted.rows), dict(found.rows)
    result.lost = len(wanted_rows.keys() - found_rows.keys())
    result.duplicated = len(found.rows) - len(found_rows)
    result.different = sum(wanted_rows.get(clip) != digest for clip, digest in found_rows.items())
    if found.rows != wanted.rows:
        result.problems.append(f"rows: {result.lost} lost, {result.duplicated} double, {result.different} different")
    if names := sorted({name for name, _ in wanted.files.items() ^ found.files.items()}):
        result.problems.append(f"{len(names)} artifacts missing, new or different, among them {names[:3]}")


def line_of(r: Round) -> str:
    return f"{r.kind}, {r.point}: {r.again} again of {r.in_flight}, {'; '.join(r.problems) or 'equal'}"


def table(bench: Bench, rounds: list[Round]) -> list[str]:
    """One row a kind."""
    lines = [
        "| kill point | engine | fakes | kills | rows lost | double | different | units again / in flight | strays "
        "| late workers |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(r.kind for r in rounds):
        mine = [r for r in rounds if r.kind == kind]
        sums = [sum(getattr(r, name) for r in mine) for name in ("lost", "duplicated", "different")]
        units = f"{sum(r.again for r in mine)} / {sum(r.in_flight for r in mine)}"
        cells = [kind, bench.engine, "yes" if bench.fakes else "no", len(mine), *sums, units]
        late = sum(len(r.killed.late_workers) for r in mine if r.killed)
        lines.append(f"| {' | '.join(map(str, [*cells, sum(r.n_strays for r in mine), late]))} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("ray", "serial"), default="ray")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="begin no round later than this")
    parser.add_argument("--fakes", action="store_true", help="stages of tests/fakes.py in the place of the real ones")
    parser.add_argument("--only", choices=KINDS, nargs="+", help="kills of these kinds alone")
    options = parser.parse_args()
    # Programs that a shell starts in the background ignore SIGINT.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stages = "fakes" if options.fakes else "real stages"
    print(f"seed {options.seed}, {options.kills} kills, engine {options.engine}, {stages}")
    rng = random.Random(options.seed)
    kinds = options.only or kinds_for(options.engine, fakes=options.fakes)
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    bench = Bench(base, engine=options.engine, fakes=options.fakes, rng=rng)
    print(f"undisturbed: {bench.whole_s:.1f} s, {bench.n_units} units, {len(bench.wanted.rows)} rows", flush=True)
    rounds: list[Round] = []
    latest = time.monotonic() + options.minutes * 60
    try:
        for i in range(options.kills):
            if time.monotonic() > latest:
                break
            rounds.append(one_round(bench, kinds[i % len(kinds)]))
            r, load = rounds[-1], os.getloadavg()[0]
            verdict = "; ".join(r.problems) or "equal"
            print(
                f"{i:4d} {r.kind}, {r.point}: {r.again} again of {r.in_flight}, {verdict} (load {load:.0f})", flush=True
            )
    except KeyboardInterrupt:
        print(f"interrupted in round {len(rounds)}, which does not count")
        bench.last.kill()
        bench.last.wait()
    deadline = bench.killed[-1].at + ALL_GONE_S
    while time.monotonic() < deadline and (time.monotonic() < bench.killed[-1].at + 6 or bench.left()):
        time.sleep(1.0)
    late = [text for killed in bench.killed for text in killed.late_workers]
    left = bench.left()
    bad = [r for r in rounds if r.problems]
    print("\n".join(table(bench, rounds)))
    print(f"{len(rounds)} kills, {len(bad)} with a problem; workers alive 5 s later: {len(late)} {late[:3]}")
    print(f"processes alive {ALL_GONE_S:g} s after the end of their run: {len(left)} {left[:3]}")
    if bad:
        print(f"workspaces of rounds with a problem stay in {base}")
    else:
        shutil.rmtree(base)
    return int(bool(bad or late or left))


if __name__ == "__main__":
    sys.exit(main())
