"""Instructions that a server executes per command of the ladder, counted by callgrind.

    .venv/bin/python -m benchmarks.instructions --server redis-server [--shard|--bound]

Counts in user space hardly differ between runs, even on a busy machine, so a difference of a few
hundred is visible. They are not times: waiting for memory and the kernel are not included. This
needs valgrind and takes some minutes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.bound_tokens import in_turn, restricted
from benchmarks.cluster import Shard, shard_on
from benchmarks.ladder import COUNTED, GUARDED_GET, GUARDED_SET, MANY, contenders_on
from benchmarks.support.bench import Bench, Plan, bench_on
from benchmarks.support.load import Generator
from benchmarks.support.measure import fill_keys
from benchmarks.support.sampling import Calls, Case, calls_of, sample
from benchmarks.support.servers import Cores, ServerChoice, choose_servers, version_of
from benchmarks.support.variants import CALLS_PER_CONNECTION, Variant

from keyleash.addons.servers.embedded import packaged_binary

FEWER, MORE = 500, 2500
"""Calls of two runs; their difference excludes everything else, such as reading the counts."""
IDLE_S = 2
"""The seconds in which the instructions of an idle server are counted."""

CONTROL = "callgrind_control"
DUMP = "callgrind.out"
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Print a line per variant; exit status 2 without valgrind."""
    parser = argparse.ArgumentParser(prog="instructions", description=__doc__)
    parser.add_argument("--server", default="redis-server", help="default: %(default)s")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--shard", action="store_true", help="count guarded calls at a shard")
    what.add_argument("--bound", action="store_true", help="count guarded SETs of bound tokens")
    options = parser.parse_args(argv)
    (choice,) = choose_servers([options.server])
    if not (shutil.which("valgrind") and shutil.which(CONTROL)):
        print("benchmarks: valgrind is not installed", file=sys.stderr)
        return 2
    plan = Plan(rounds=1, requests=FEWER, connections=(1,))
    with (
        tempfile.TemporaryDirectory() as folder,
        Generator(None) as generator,
        bench_on(watched(choice, Path(folder)), plan, Cores(None, None), generator) as bench,
    ):
        # The server's timer uses wall time: on this slow server it would add to the calls.
        bench.admin.config_set("hz", 1)
        print(f"{version_of(bench.admin)}: thousands of instructions per command", flush=True)
        count = count_shard if options.shard else count_bound if options.bound else count_ladder
        count(bench, choice, Path(folder))
    return 0


def watched(choice: ServerChoice, folder: Path) -> ServerChoice:
    """Return the server, run by callgrind, which writes into *folder*."""
    script = folder / "server"
    script.write_text(
        "#!/bin/sh\n"
        f"exec valgrind --tool=callgrind --instr-atstart=no --callgrind-out-file='{folder / DUMP}'"
        f" '{choice.binary or packaged_binary()}' \"$@\"\n",
        encoding="utf-8",
    )
    script.chmod(0o700)
    return ServerChoice(choice.name, script)


def count_ladder(bench: Bench, _: ServerChoice, folder: Path) -> None:
    """Print a line for each variant of the ladder."""
    contenders = contenders_on(bench.admin, COUNTED)
    fill_keys(bench.admin, MANY * CALLS_PER_CONNECTION * 64)
    bench.warm_up(contenders)
    for contender in contenders:
        variant, make = contender.variant, partial(bench.sample, contender, 1)
        _show(variant.name, per_call(bench, make, folder) / variant.commands)


def count_bound(bench: Bench, _: ServerChoice, folder: Path) -> None:
    """Print a line for a guarded SET by a token of each kind of restriction, and by many tokens."""
    for contender in restricted(bench):
        make = partial(bench.sample, contender, 1)
        make(FEWER)
        _show(contender.variant.name, per_call(bench, make, folder))
    for size in (1, 1_000, 10_000):
        case = in_turn(bench, size, FEWER)
        turns = partial(_sample_turns, case, calls_of(case))
        # A token's first call in a minute also notes its use.
        turns(MORE)
        _show(f"{size:,} bound tokens in turn", per_call(bench, turns, folder))


def _sample_turns(case: Case, bytes_of: Calls, calls: int) -> object:
    return sample(replace(case, calls=calls), bytes_of)


def count_shard(bench: Bench, choice: ServerChoice, folder: Path) -> None:
    """Print a line for a guarded SET and GET at a shard."""
    watched_choice = watched(choice, folder)
    with shard_on(watched_choice, bench) as shard:
        shard.bench.admin.config_set("hz", 1)
        for variant in (GUARDED_SET, GUARDED_GET):
            make = partial(_sample_shard, shard, variant)
            make(FEWER)
            _show(f"{variant.name} at a shard", per_call(shard.bench, make, folder))


def _sample_shard(shard: Shard, variant: Variant, calls: int) -> object:
    return shard.sample(variant, calls, 1)


def _show(what: str, count: float) -> None:
    print(f"{what:40}{count / 1e3:8.1f}", flush=True)


def per_call(bench: Bench, make: Callable[[int], object], folder: Path) -> float:
    """Return the instructions per call of a function that makes as many as it is given.

    Those of an idle server in the same time are not included: on a cluster there are many.
    """
    idle, idle_s = _counted(bench, time.sleep, IDLE_S, folder)
    (fewer, fewer_s), (more, more_s) = (
        _counted(bench, make, calls, folder) for calls in (FEWER, MORE)
    )
    return (more - fewer - idle / idle_s * (more_s - fewer_s)) / (MORE - FEWER)


def _counted(
    bench: Bench, make: Callable[[int], object], calls: int, folder: Path
) -> tuple[int, float]:
    """Return the instructions in the time of a call of *make*, and that time."""
    _control("--instr=on", bench)
    _control("--zero", bench)
    begun_s = time.monotonic()
    make(calls)
    _control("--dump", bench)
    taken_s = time.monotonic() - begun_s
    _control("--instr=off", bench)
    newest = max(folder.glob(f"{DUMP}.*"), key=lambda dump: int(dump.suffix[1:]))
    found = _TOTALS.search(newest.read_text(encoding="utf-8"))
    assert found is not None  # noqa: S101 - every dump ends with it
    return int(found[1]), taken_s


def _control(what: str, bench: Bench) -> None:
    subprocess.run([CONTROL, what, str(bench.server.pid)], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
