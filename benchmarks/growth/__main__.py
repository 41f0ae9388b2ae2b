"""This section alone: `python -m benchmarks.growth [--quick] [--server NAME] [--draw FOLDER]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.growth import draw, measure
from benchmarks.support.bars import bar_table
from benchmarks.support.section import Setting
from benchmarks.support.servers import EMBEDDED, choose_cores, choose_servers


def main() -> int:
    """Measure, print, draw; exit status 1 if a bar is missed."""
    parser = argparse.ArgumentParser(prog="growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="where to put the figures")
    options = parser.parse_args()
    setting = Setting(tuple(choose_servers([options.server])), choose_cores(), options.quick)
    section = measure(setting)
    print(section.text, "", sep="\n")
    print(bar_table((*bar, section.noisy) for bar in section.bars))
    if options.draw:
        options.draw.mkdir(parents=True, exist_ok=True)
        print(*draw(section, options.draw), sep="\n")
    return 0 if all(bar.met for _, bar in section.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
