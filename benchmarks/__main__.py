"""The suite: measure the sections, print their tables and bars, write results, draw plots.

    make bench                                    # less than three minutes
    make bench QUICK=1                            # a smoke test of all; not for quoting
    python -m benchmarks --section ladder --server redis-server
    python -m benchmarks --draw .bench/results/2025-12-31.json

Exit status 1 if a bar is missed on any server, 2 if a measurement failed or the
counters of keyleash disagree with the calls made. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import cluster, issuing, ladder, latency
from benchmarks.support.bars import bar_table
from benchmarks.support.load import CACHE, BuildError, LoadError
from benchmarks.support.measure import MiscountError
from benchmarks.support.policy import StructureError
from benchmarks.support.section import (
    Section,
    SectionModule,
    Setting,
    machine,
    read_sections,
    write_results,
)
from benchmarks.support.servers import choose_cores, choose_servers
from redis.exceptions import RedisError

from keyleash.errors import KeyleashError

SECTIONS: tuple[SectionModule, ...] = (ladder, cluster, latency, issuing)
BY_NAME = {module.NAME: module for module in SECTIONS}

FAILURES = (
    BuildError,
    LoadError,
    MiscountError,
    StructureError,
    KeyleashError,
    RedisError,
    ModuleNotFoundError,  # of the extra `bench`
)


def main(argv: list[str] | None = None) -> int:
    """Run the suite and return the exit status."""
    options = parser().parse_args(argv)
    if options.draw:
        draw(read_sections(options.draw), options.out or CACHE)
        return 0
    try:
        servers = tuple(choose_servers(options.server))
    except FileNotFoundError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    out = options.out or CACHE
    setting = Setting(servers, choose_cores(), options.quick)
    about = machine(quick=options.quick)
    names = options.section or list(BY_NAME)
    sections, failures = measure([BY_NAME[name] for name in names], setting, quiet=options.json)
    written = write_results(about, sections, out / "results")
    draw(sections, out)
    if options.json:
        print(written.read_text(encoding="utf-8"), end="")
    else:
        print(bar_table((*bar, section.noisy) for section in sections for bar in section.bars))
        print(f"\nresults: {written}\nplots: {out / 'plots'}")
    for failure in failures:
        print(f"benchmarks: {failure}", file=sys.stderr)
    if failures:
        return 2
    return 0 if options.no_bar or all_met(sections) else 1


def measure(
    modules: Sequence[SectionModule], setting: Setting, *, quiet: bool
) -> tuple[list[Section], list[str]]:
    """Measure each section; a failed section does not stop the others."""
    sections, failures = [], []
    for module in modules:
        try:
            section = module.measure(setting)
        except FAILURES as error:
            failures.append(f"{module.NAME}: {error}")
            continue
        sections.append(section)
        if not quiet:
            print(f"# {section.name}\n\n{section.text}\n", flush=True)
    return sections, failures


def draw(sections: Iterable[Section], out: Path) -> None:
    """Draw the plots of all sections."""
    folder = out / "plots"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for section in sections:
            BY_NAME[section.name].draw(section, folder)
    except ModuleNotFoundError as error:
        print(f"benchmarks: no plots: {error}; pip install -e '.[bench]'", file=sys.stderr)


def all_met(sections: Iterable[Section]) -> bool:
    """Return whether every bar is met on every server."""
    return all(bar.met for section in sections for _, bar in section.bars)


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__ and __doc__.partition("\n")[0],
        epilog="exit status: 1 if a bar is missed, 2 if a measurement failed",
    )
    result.add_argument(
        "--quick", action="store_true", help="smoke test of under a minute; not for quoting"
    )
    result.add_argument(
        "--section",
        action="extend",
        nargs="+",
        choices=BY_NAME,
        metavar="NAME",
        help=f"of {', '.join(BY_NAME)}; default: all",
    )
    result.add_argument(
        "--server",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="embedded, redis-server, valkey-server or a path; default: all that are on PATH",
    )
    result.add_argument("--json", action="store_true", help="print the results instead of tables")
    result.add_argument("--no-bar", action="store_true", help="exit with 0 even if a bar is missed")
    result.add_argument(
        "--out", type=Path, metavar="FOLDER", help="folder for results/ and plots/; default: .bench"
    )
    result.add_argument(
        "--draw", type=Path, metavar="RESULTS.json", help="draw the plots of a results file only"
    )
    return result


if __name__ == "__main__":
    sys.exit(main())
