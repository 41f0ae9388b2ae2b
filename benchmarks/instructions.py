"""Instructions that a server executes per command of the ladder, counted by callgrind.

    .venv/bin/python -m benchmarks.instructions --server redis-server [--functions]

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
from pathlib import Path

from benchmarks.ladder import COUNTED, MANY, contenders_on
from benchmarks.support.bench import Bench, Contender, Plan, bench_on
from benchmarks.support.load import Generator
from benchmarks.support.measure import fill_keys
from benchmarks.support.servers import Cores, ServerChoice, choose_servers, version_of
from benchmarks.support.variants import CALLS_PER_CONNECTION

from keyleash.servers.embedded import packaged_binary
from keyleash.store.wire import Transport

FEWER, MORE = 500, 2500
"""Calls of two runs; their difference excludes everything else, such as reading the counts."""

CONTROL = "callgrind_control"
DUMP = "callgrind.out"
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    """Print a line per variant; exit status 2 without valgrind."""
    parser = argparse.ArgumentParser(prog="instructions", description=__doc__)
    parser.add_argument("--server", default="redis-server", help="default: %(default)s")
    parser.add_argument("--functions", action="store_true", help="load guards as functions")
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
        contenders = contenders_on(
            bench.admin,
            COUNTED,
            Transport.FUNCTION if options.functions else Transport.EVALSHA,
        )
        fill_keys(bench.admin, MANY * CALLS_PER_CONNECTION * 64)
        # The server's timer uses wall time: on this slow server it would add to the calls.
        bench.admin.config_set("hz", 1)
        bench.warm_up(contenders)
        print(f"{version_of(bench.admin)}: thousands of instructions per command")
        for contender in contenders:
            count = per_command(bench, contender, Path(folder))
            print(f"{contender.variant.name:40}{count / 1e3:8.1f}", flush=True)
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


def per_command(bench: Bench, contender: Contender, folder: Path) -> float:
    """Return the instructions per command."""
    fewer, more = (_counted(bench, contender, calls, folder) for calls in (FEWER, MORE))
    return (more - fewer) / (MORE - FEWER) / contender.variant.commands


def _counted(bench: Bench, contender: Contender, calls: int, folder: Path) -> int:
    _control("--instr=on", bench)
    _control("--zero", bench)
    bench.sample(contender, 1, calls)
    _control("--dump", bench)
    _control("--instr=off", bench)
    newest = max(folder.glob(f"{DUMP}.*"), key=lambda dump: int(dump.suffix[1:]))
    found = _TOTALS.search(newest.read_text(encoding="utf-8"))
    assert found is not None  # noqa: S101 - every dump ends with it
    return int(found[1])


def _control(what: str, bench: Bench) -> None:
    subprocess.run([CONTROL, what, str(bench.server.pid)], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
