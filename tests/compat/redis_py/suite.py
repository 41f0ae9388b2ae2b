"""Run redis-py's own tests raw, over guarded connections and by a gateway's URL, and compare.

The tests are in the source distribution of the redis-py that is installed. `differences.toml` lists
the tests that may fail with keyleash though they pass raw, with reasons. An unexpected
difference is an error, and so is an entry that nothing needs. A test that differs unexpectedly gets
a second try.

python -m compat.redis_py.suite            # in all three ways, with protocol 2 and without
python -m compat.redis_py.suite --quick    # guarded, protocol 2; raw outcomes as recorded
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import redis

from support.servers import find_server_binaries

HERE = Path(__file__).parent
FOLDER = Path(".compat")
RAW_FAILURES = HERE / "raw_failures.txt"
NAMES = (
    "client", "commands", "connect", "connection", "connection_pool", "driver_info", "encoding",
    "function", "hash", "keyspace_notifications", "legacy_responses_arg", "lock",
    "max_connections_error", "monitor", "multiprocessing", "pipeline", "pubsub", "retry",
    "scripting", "sentinel", "sentinel_managed_connection", "usage_counter", "utils", "vsets",
)  # fmt: skip
"""The modules of tests whose calls a guarded connection may change."""
MARKERS = (
    "redismod", "onlycluster", "ssl", "cp_integration", "multidb_integration", "replica"
)  # fmt: skip
KINDS = ("tests", "tests/test_asyncio")
FLUSHES = {"flush(?:all|db)": "flush", "script_flush": "WORKER.admin.script_flush"}
HUNG_S = 1200
"""How long a run may take. Its timeout of a test does not end a process that the test forked."""
FEW = 20
"""The largest number of unexpected differences that get a second try."""
WAYS = {"guarded": "over guarded connections", "gateway": "by a gateway's URL"}
BARS = {"guarded": {"sync": 98, "async": 107}, "gateway": {"sync": 90, "async": 102}}
"""The largest number of differences."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a test.

    Attributes:
        word: passed, skipped or failed.
        denied: The command whose denial made it fail, or empty.
        error: The first error.
    """

    word: str = "passed"
    denied: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry of `differences.toml`.

    Attributes:
        reason: Why tests may fail.
        denied: Commands whose denial makes them fail.
        tests: Functions that may fail.
        varies: Whether they may pass as well.
    """

    reason: str
    denied: Sequence[str] = ()
    tests: Sequence[str] = ()
    varies: bool = False

    def needs(self, test: str, outcome: Outcome) -> Iterable[tuple[str, str]]:
        """Yield what of the entry covers a test."""
        if outcome.denied in self.denied:
            yield "denied", outcome.denied
        if (name := function_of(test)) in self.tests:
            yield "tests", name

    def parts(self) -> Iterable[tuple[str, str]]:
        """Return everything that must be needed."""
        return () if self.varies else [
            *(("denied", name) for name in self.denied), *(("tests", name) for name in self.tests)
        ]  # fmt: skip


def differences() -> list[Difference]:
    """Return the entries of `differences.toml`."""
    entries = tomllib.loads((HERE / "differences.toml").read_text())["difference"]
    return [Difference(**entry) for entry in entries]


def function_of(test: str) -> str:
    return test.partition("[")[0].rpartition("::")[2]


def side_of(test: str) -> str:
    return "async" if "/test_asyncio/" in test else "sync"


def unpack() -> Path:
    """Return a folder with the tests of the installed redis-py, whose fixtures are patched."""
    folder = FOLDER / f"redis-{redis.__version__}"
    if (folder / "tests").exists():
        return folder
    FOLDER.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    wanted = ["--no-deps", "--no-binary", "redis", "--no-build-isolation"]
    wanted += [f"redis=={redis.__version__}"]
    subprocess.run([*pip, "--dest", FOLDER, *wanted], check=True)
    with tarfile.open(FOLDER / f"{folder.name}.tar.gz") as archive:
        # Without the package itself, in whose place the installed one is tested.
        parts = (f"{folder.name}/tests/", f"{folder.name}/pyproject.toml")
        members = [item for item in archive if item.name.startswith(parts)]
        archive.extractall(FOLDER, members, filter="data")
    for kind in KINDS:
        patch(folder / kind / "conftest.py")
        for path in (folder / kind).glob("test_*.py"):
            # Tests and their fixtures that begin or end with an empty server.
            text = path.read_text()
            for name, mine in FLUSHES.items():
                text = re.sub(rf"(?m)^( +)(await )?\w+\.{name}\(\)$", rf"\1{mine}()", text)
            # One SCAN passes over keyleash's own keys, so that the sets of all rounds are compared.
            text = re.sub(r"(?m)= r\.scan\((.*)\)$", r"= 0, list(r.scan_iter(\1))", text)
            each = r"= 0, [key async for key in r.scan_iter(\1)]"
            text = re.sub(r"(?m)= await r\.scan\((.*)\)$", each, text)
            path.write_text(imported(text))
    return folder


def patch(conftest: Path) -> None:
    """Let the fixtures of a file make guarded clients, and empty the server by the plugin."""
    text = conftest.read_text()
    for pattern, new in (
        (r"cls\(connection_pool=pool\)", "cls(connection_pool=guarded(pool))"),
        (r"(await )?client\.flushdb\(\)", "flush()"),
    ):
        text, count = re.subn(pattern, new, text)
        if not count:
            raise SystemExit(f"{conftest} has nothing like `{pattern}`")
    # It takes half of the time.
    text = text.replace("import tracemalloc", "raise ImportError")
    conftest.write_text(imported(text))


def imported(text: str) -> str:
    """Return a module with the names of the plugin, after its docstring and future imports."""
    line = "from compat.redis_py.plugin import WORKER, flush, guarded\n"
    return re.sub(r"(?m)^(?=import |from (?!__future__))", line, text, count=1)


def run(
    mode: str, protocol: str, tests: Sequence[str] = (), *, left_out: Iterable[str] = ()
) -> dict[str, Outcome]:
    """Run tests, by default all but those that are left out, and return their outcomes."""
    folder = unpack()
    lines = (FOLDER / f"{mode}{protocol}.jsonl").absolute()
    lines.unlink(missing_ok=True)
    paths = [Path(kind) / f"test_{name}.py" for kind in KINDS for name in NAMES]
    files = [str(path) for path in paths if (folder / path).exists()]
    command = [sys.executable, "-m", "pytest", "-p", "compat.redis_py.plugin", "-q", "--tb=no"]
    command += ["-p", "no:cacheprovider", "-p", "no:logging", "--no-header", "--timeout", "30"]
    command += ["-m", " and ".join(f"not {name}" for name in MARKERS), "--disable-warnings"]
    # These set a password or reset the server that all tests share.
    command += ["-k", "not test_auth and not test_reset", "-n", "0" if tests else "6"]
    command += ["--protocol", protocol] if protocol else []
    environment = {
        **os.environ,
        "COMPAT_MODE": mode,
        "COMPAT_OUTCOMES": str(lines),
        "COMPAT_LEFT_OUT": "\n".join(left_out),
        "COMPAT_SERVER": str(list(find_server_binaries().values())[-1]),
        "PYTHONPATH": str(HERE.parent.parent),
    }
    print(f"redis-py's tests, {mode}, protocol {protocol or 'of redis-py'}")
    ended = subprocess.run(
        [*command, *(tests or files)], cwd=folder, env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HUNG_S,
    )  # fmt: skip
    print(ended.stdout.strip().rpartition("\n")[2])
    if ended.returncode not in (0, 1):
        raise SystemExit(ended.stdout)
    return outcomes(lines)


def outcomes(lines: Path) -> dict[str, Outcome]:
    """Return the outcome of each test; of its phases the worst."""
    found: dict[str, Outcome] = {}
    order = ("passed", "skipped", "failed")
    for line in map(json.loads, lines.read_text().splitlines()):
        new = Outcome(line["outcome"], line["denied"] or "", line["error"])
        old = found.get(line["test"], Outcome())
        found[line["test"]] = max(old, new, key=lambda outcome: order.index(outcome.word))
    return found


def differing(guarded: Mapping[str, Outcome], passing: Iterable[str]) -> dict[str, Outcome]:
    """Return the tests that pass raw and do not pass otherwise."""
    return {
        test: guarded[test]
        for test in passing
        if test in guarded and guarded[test].word != "passed"
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="take raw outcomes as recorded")
    parser.add_argument("--record", action="store_true", help="record the tests that fail raw")
    arguments = parser.parse_args()
    entries = differences()
    recorded = set() if arguments.record else {*RAW_FAILURES.read_text().splitlines()}
    unexpected: dict[str, Outcome] = {}
    needed, failures = set[tuple[str, str]](), set[str]()
    rows: list[tuple[str, str, str, str]] = []
    is_over = False
    for protocol, mode in [("2", "guarded")] if arguments.quick else product(("2", ""), WAYS):
        # Those that fail raw show no difference, and take a fifth of the time.
        left_out = recorded if arguments.quick else ()
        guarded = run(mode, protocol, left_out=left_out)
        if arguments.quick:
            passing = {test for test in guarded if guarded[test].word != "skipped"}
        elif mode == "guarded":
            raw = run("raw", protocol)
            passing = {test for test, outcome in raw.items() if outcome.word == "passed"}
            failures |= {test for test, outcome in raw.items() if outcome.word == "failed"}
        # Some of them pass where a server listens on the default port.
        passing -= recorded
        for attempt in (1, 2):
            found = differing(guarded, passing)
            covered = {
                test: {part for entry in entries for part in entry.needs(test, outcome)}
                for test, outcome in found.items()
            }
            open_ = {test: found[test] for test, parts in covered.items() if not parts}
            if attempt == 1 and 0 < len(open_) <= FEW:
                guarded = {**guarded, **run(mode, protocol, sorted(open_))}
        needed |= set[tuple[str, str]]().union(*covered.values())
        unexpected |= open_
        for side, bar in BARS[mode].items():
            total = sum(side_of(test) == side for test in passing)
            count = sum(side_of(test) == side for test in found)
            result = f"{total - count} of {total}"
            rows.append((side, protocol or "not given", WAYS[mode], result))
            print(f"{side}: {result} that pass raw pass {WAYS[mode]}")
            is_over |= count > bar
    for test, outcome in sorted(unexpected.items()):
        print(f"unexpected: {test}: {outcome.denied} {outcome.error}")
    parts = () if arguments.quick else [part for entry in entries for part in entry.parts()]
    unneeded = [part for part in parts if part not in needed]
    for kind, name in unneeded:
        print(f"not needed in differences.toml: {kind} {name}")
    modules = {path.stem for kind in KINDS for path in (unpack() / kind).glob("test_*.py")}
    counted = {"modules": f"{len(NAMES)} of {len(modules)}", "results": rows}
    (FOLDER / "summary.json").write_text(json.dumps(counted))
    if arguments.record:
        RAW_FAILURES.write_text("".join(f"{test}\n" for test in sorted(failures)))
    return int(bool(unexpected or unneeded or is_over))


if __name__ == "__main__":
    sys.exit(main())
