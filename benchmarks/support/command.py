"""What the commands have in common: options, one report per server, the exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from benchmarks.support.bars import Bar, bar_line
from benchmarks.support.load import LoadError
from benchmarks.support.measure import MiscountError
from benchmarks.support.policy import StructureError
from benchmarks.support.servers import Cores, ServerChoice, choose_servers

from keyleash.errors import KeyleashError


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        rounds: In each, everything that is compared has its turn.
        requests: Calls per run.
        connections: Numbers of connections, the larger first.
        protocol: RESP version, 2 or 3, of raw and guarded calls alike.
    """

    rounds: int
    requests: int
    connections: tuple[int, ...]
    protocol: int


class Report(Protocol):
    """What a command measured on one server."""

    @property
    def version(self) -> str:
        """What the server says it is."""

    @property
    def bars(self) -> tuple[Bar, ...]:
        """What was promised, and what was measured."""

    @property
    def noisy(self) -> bool:
        """Whether other processes had a part of the cores: then no verdict is worth much."""

    def text(self) -> str:
        """For people."""

    def plain(self) -> dict[str, object]:
        """For JSON."""


def run(prog: str, options: argparse.Namespace, measure: Callable[[ServerChoice], Report]) -> int:
    """Measure every server, print, and return the exit status.

    It is 1 if a bar is missed on any server, 2 if something could not be measured.
    """
    reports = []
    try:
        for choice in choose_servers(options.server):
            report = measure(choice)
            reports.append(report)
            if not options.json:
                print(report.text(), "", sep="\n", flush=True)
    except (FileNotFoundError, LoadError, MiscountError, StructureError, KeyleashError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    if options.json:
        plain = [{**one.plain(), "passes": passes(one), "noisy": one.noisy} for one in reports]
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        for report in reports:
            for bar in report.bars:
                print(bar_line(report.version, bar, noisy=report.noisy))
    return 0 if options.no_bar or all(map(passes, reports)) else 1


def passes(report: Report) -> bool:
    """Whether every bar is met."""
    return all(bar.met for bar in report.bars)


def heading(version: str, name: str, plan: Plan, cores: Cores, calls: str) -> str:
    """The first line of a report; *calls* says what there are so many of per round."""
    where = (
        "not pinned"
        if cores.server is None
        else f"server on core {cores.server}, clients on core {cores.client}"
    )
    return (
        f"{version} ({name}); {plan.rounds} rounds of {plan.requests} {calls},"
        f" RESP{plan.protocol}; {where}"
    )


def options_of(
    prog: str, description: str | None, *, rounds: int, requests: int, of: str
) -> argparse.ArgumentParser:
    """The parser of a command's options.

    Args:
        rounds: The default.
        requests: The default.
        of: What is counted by `--requests`.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description and description.partition("\n")[0]
    )
    parser.add_argument(
        "--server",
        nargs="+",
        default=[],
        metavar="NAME",
        help="embedded, redis-server, valkey-server or a path; default: all that are found",
    )
    parser.add_argument("--rounds", type=positive, default=rounds, help="default: %(default)s")
    parser.add_argument(
        "--requests", type=positive, default=requests, help=f"{of}; default: %(default)s"
    )
    parser.add_argument(
        "--protocol",
        type=int,
        choices=(2, 3),
        default=3,
        help="RESP version; redis-py speaks 3; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--no-bar", action="store_true", help="exit with 0 whether the bars are met or not"
    )
    return parser


def positive(text: str) -> int:
    """An option's value, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
