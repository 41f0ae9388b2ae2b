"""Run Redis's own tests on a server and through a gateway, and classify what differs.

The tests are in Debian's source package of Redis, which is downloaded and not part of keyleash.
`differences.toml` says why tests may fail through the gateway. One that it does not cover is
*wrong*, and so is an entry that nothing needs.

python -m compat.redis_suite.suite [UNIT …]     # writes the page if all units run
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from compat.everything import everything
from compat.page import wrapped
from keyleash.addons.servers import EmbeddedServer
from support.command_line import Cli
from support.gateways import gateway_process
from support.leash import Leash
from support.servers import RealServer, find_server_binaries

HERE = Path(__file__).parent
FOLDER = Path(".compat").absolute()
PAGE = Path("docs/reference/redis-suite.md")
TYPES = ("string", "incr", "list", "list-3", "hash", "set", "zset", "stream", "stream-cgroups")
OTHERS = (
    "bitops", "bitfield", "geo", "hyperloglog", "keyspace", "dump", "expire", "multi", "pubsub",
    "scan", "protocol", "sort", "quit", "other",
)  # fmt: skip
UNITS = (*(f"unit/type/{name}" for name in TYPES), *(f"unit/{name}" for name in OTHERS))
EVICTING = ("Keyspace notifications: evicted events",)
"""Tests that let the server evict all keys, also those of keyleash: not run with a token."""
SETTINGS = {"enable-debug-command": "yes", "enable-protected-configs": "yes"}
HUNG_S = 300
"""How long a test may make no progress."""
REPORT = re.compile(r"^\[(ok|err)\]: (.*(?:\n(?!\[|\*\*\*|\n).*)*)", re.M)
PROGRESS = re.compile(r"\(IN PROGRESS\) (.*)$", re.M)
BAR = 1385
"""The fewest tests that pass through the gateway."""
KINDS = {
    "denied": "Denied on purpose",
    "limits": "Bounds of a call",
    "polls": "Blocked commands",
    "artifact": "Artifacts",
    "wrong": "Wrong",
}
COLUMNS = ("direct", "pass", *KINDS)
HEAD = [f"| unit | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
INTRODUCTION = """\
<!-- Made by `make redis-suite` from test runs; do not edit. -->
# Redis's own tests

The tests of Redis itself, of data types, transactions, subscriptions and the protocol, ran on
{label} and, with a token that may do everything, through `keyleash gateway`. The clients of the
tests log in with the token. FLUSHALL, FLUSHDB, CONFIG, DEBUG, DBSIZE, INFO and FUNCTION go to a
connection of the operator in both runs, as they prepare and examine the server. The other units are
about administration, replication, persistence or modules, or start servers of their own.

`direct` counts the tests that pass without keyleash, and `pass` those of them that also pass
through the gateway. For the others the columns say why:

| | |
|---|---|
| denied | the command, or what it shows, is not for agents |
| limits | one call asks for more than the gateway or the guard allows |
| polls | a [polled](gateway.md) command serves another client, or at another moment |
| artifact | it examines the server from outside, which has also what guards write |
| wrong | a reply that Redis would not give |
"""

Test = tuple[str, str, int]
"""A unit, the name of a test, and which of that name it is."""


@dataclass(frozen=True, eq=False)
class Difference:
    """An entry of `differences.toml`.

    Attributes:
        kind: One of `KINDS`.
        reason: Why tests fail.
        tests: Patterns of tests, `UNIT: NAME`.
        error: A regular expression that an error has.
    """

    kind: str
    reason: str
    tests: Sequence[str] = ()
    error: str = ""

    def covers(self, test: Test, error: str) -> bool:
        """Return whether it is why a test fails."""
        name = f"{short(test[0])}: {test[1]}"
        is_named = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.tests)
        return (is_named or not self.tests) and bool(re.search(self.error, error))


WRONG = Difference("wrong", "No entry of `differences.toml` covers these.")


def unpack(version: str) -> Path:
    """Return a folder with the tests of a version of Redis, which log in."""
    folder = FOLDER / f"redis-server-{version}"
    if not (folder / "tests").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("sources", "lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        for path in Path("/etc/apt/sources.list.d").glob("*.sources"):
            text = re.sub(r"(?m)^Types:.*", "Types: deb-src", path.read_text())
            (folder / "sources" / path.name).write_text(text)
        places = {"Etc::SourceList": "/dev/null", "Etc::SourceParts": folder / "sources"}
        places |= {"State::Lists": folder / "lists", "Cache": folder / "cache"}
        apt = ["apt-get", "-qq"]
        for name, place in places.items():
            apt += ["-o", f"Dir::{name}={place}"]
        subprocess.run([*apt, "update"], check=True)
        download = [*apt, "source", "--download-only", "--tar-only", "redis"]
        subprocess.run(download, cwd=folder, check=True)
        with tarfile.open(folder / f"redis_{version}.orig.tar.gz") as archive:
            for item in archive:
                item.name = item.name.partition("/")[2]
                if item.name.startswith("tests/"):
                    archive.extract(item, folder, filter="data")
    helper = folder / "tests" / "test_helper.tcl"
    before, begin, rest = helper.read_text().partition("\nif {$::client} {\n")
    assert begin, "the tests do not begin as expected"
    mine = f"\nsource {HERE / 'login.tcl'}\n"
    helper.write_text(f"{before.removesuffix(mine)}{mine}{begin}{rest}")
    return folder


@contextmanager
def gateway(process: EmbeddedServer) -> Iterator[tuple[int, str]]:
    """Run a gateway with a token that may do everything; yield its port and the token."""
    leash = Leash(RealServer("upstream", process))
    leash.load(everything(["return 1"]))
    token = leash.issue("everything", ttl=timedelta(days=1)).token
    with gateway_process(Cli(process.url)) as port:
        yield port, token


def run_unit(folder: Path, unit: str, server: EmbeddedServer, port: int, token: str) -> None:
    """Run the tests of a unit, and write their reports to a file."""
    hung: list[str] = []
    command = ["tclsh", "tests/test_helper.tcl", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--single", unit, "--singledb", "--durable", "--timeout", str(HUNG_S)]
    # The port of the test server, and of the one that runs beside it.
    command += ["--baseport", "23111" if token else "21111", "--dont-clean", "--dont-pre-clean"]
    variables = {"SUITE_TOKEN": token, "SUITE_OPERATOR": str(server.port), "TERM": "dumb"}
    variables |= {"SUITE_PID": str(server.pid)}
    while True:
        names = [*hung, *(EVICTING if token else ())]
        skipped = [word for name in names for word in ("--skiptest", name)]
        ended = subprocess.run(
            [*command, *skipped], cwd=folder, env={**os.environ, **variables}, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="latin-1",
        )  # fmt: skip
        found = PROGRESS.search(ended.stdout)
        if found is None or found[1] in hung:
            break
        hung.append(found[1])
    reports = [f"[err]: {name} in tests/{unit}.tcl\nhung\n" for name in hung]
    report_of(unit, bool(token)).write_text("\n".join([*reports, ended.stdout]))


def report_of(unit: str, is_guarded: bool) -> Path:
    return FOLDER / f"{'gateway' if is_guarded else 'direct'}-{unit.replace('/', '-')}.log"


def results_of(unit: str, is_guarded: bool) -> dict[Test, str]:
    """Return the error of each test of a unit; empty if it passed."""
    results: dict[Test, str] = {}
    seen = Counter[str]()
    for kind, text in REPORT.findall(report_of(unit, is_guarded).read_text()):
        name, _, error = text.partition("\n")
        ends = r" \(\d+ ms\)$" if kind == "ok" else rf" in tests/{unit}\.tcl$"
        name = re.sub(ends, "", name)
        seen[name] += 1
        results[unit, name, seen[name]] = "" if kind == "ok" else error or "failed"
    return results


def run_both(units: Sequence[str], label: str, binary: Path) -> None:
    """Run units directly and through a gateway."""
    folder = unpack(label.rpartition("-")[2])

    def run(is_guarded: bool) -> None:
        # Servers of their own, as tests leave settings, or evict the keys of keyleash.
        for unit in units:
            with EmbeddedServer(binary=binary, settings=SETTINGS) as process:
                if not is_guarded:
                    run_unit(folder, unit, process, process.port, "")
                else:
                    with gateway(process) as (port, token):
                        run_unit(folder, unit, process, port, token)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, (False, True)))


def classified(failing: Mapping[Test, str]) -> dict[Difference, list[Test]]:
    """Return the tests of each entry, the first that covers them; `WRONG` has the others."""
    entries = tomllib.loads((HERE / "differences.toml").read_text()).get("difference", [])
    found: dict[Difference, list[Test]] = {Difference(**entry): [] for entry in entries}
    found[WRONG] = []
    for test, error in failing.items():
        found[next(entry for entry in found if entry.covers(test, error))].append(test)
    return found


def page(label: str, direct: Mapping[Test, str], found: Mapping[Difference, list[Test]]) -> str:
    """Return the page: the numbers of each unit, and the tests of each entry."""
    kinds = {test: entry.kind for entry, tests in found.items() for test in tests}
    rows, total = [], Counter[str]()
    for unit in UNITS:
        passing = [test for test in direct if test[0] == unit and not direct[test]]
        count = Counter(kinds.get(test, "pass") for test in passing)
        count["direct"] = len(passing)
        total += count
        rows.append(row(short(unit), count))
    lines = [INTRODUCTION.format(label=label.replace("-", "-server ", 1)), *HEAD, *rows]
    lines += [row("all", total), ""]
    for kind, title in KINDS.items():
        entries = {entry: tests for entry, tests in found.items() if entry.kind == kind and tests}
        if entries:
            lines += [f"## {title}", ""]
        for entry, tests in entries.items():
            lines += [*wrapped(entry.reason), ""]
            for unit in dict.fromkeys(test[0] for test in tests):
                names = ", ".join(f"`{test[1]}`" for test in tests if test[0] == unit)
                lines += wrapped(f"{short(unit)}: {names}", "- ")
            lines.append("")
    return "\n".join(lines)


def row(name: str, count: Mapping[str, int]) -> str:
    numbers = (count[column] for column in COLUMNS)
    return f"| {name} | {' | '.join(f'{number:,}' if number else '' for number in numbers)} |"


def short(unit: str) -> str:
    return unit.removeprefix("unit/")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("units", nargs="*", default=UNITS)
    parser.add_argument("--again", action="store_true", help="classify what ran before")
    arguments = parser.parse_args()
    units = arguments.units
    label, binary = [*find_server_binaries().items()][-1]
    if not arguments.again:
        run_both(units, label, binary)
    direct, guarded = (
        {test: error for unit in units for test, error in results_of(unit, side).items()}
        for side in (False, True)
    )
    passing = [test for test, error in direct.items() if not error]
    failing = {test: guarded.get(test, "not run") for test in passing if guarded.get(test, "x")}
    found = classified(failing)
    for test in found[WRONG]:
        print(f"wrong: {short(test[0])}: {test[1]}\n{failing[test][:1000]}\n")
    passed = len(passing) - len(failing)
    print(f"{passed} of {len(passing)} tests that pass directly pass through the gateway")
    if units != UNITS:
        return int(bool(found[WRONG]))
    PAGE.write_text(page(label, direct, found))
    unneeded = [entry.reason for entry, tests in found.items() if not tests and entry != WRONG]
    print(*(f"not needed in differences.toml: {reason}" for reason in unneeded), sep="\n")
    return int(bool(found[WRONG] or unneeded) or passed < BAR)


if __name__ == "__main__":
    sys.exit(main())
