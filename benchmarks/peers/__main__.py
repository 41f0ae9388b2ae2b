"""Measure this section alone.

PYTHONPATH=loader:. python -m benchmarks.peers [--quick] [--draw FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.peers import NAME, draw, measure
from benchmarks.support.section import Setting
from benchmarks.support.servers import EMBEDDED, choose_cores, choose_servers


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and say by the exit status whether the bar is met."""
    parser = argparse.ArgumentParser(prog=NAME, description="keyleash's peers on the same work")
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: not to be quoted")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="put the chart there")
    options = parser.parse_args(argv)
    servers = tuple(choose_servers([options.server]))
    section = measure(Setting(servers, choose_cores(), options.quick))
    print(section.text, "", sep="\n")
    for version, bar in section.bars:
        bound = f"{bar.side} {bar.bound:g} × {bar.unit}"
        print(f"{version}: {bar.measured} {bound}: {bar.value:.2f} {'ok' if bar.met else 'MISSED'}")
    if options.draw is not None:
        print(*draw(section, options.draw), sep="\n")
    return 0 if all(bar.met for _, bar in section.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
