"""Let redis-py's own tests make clients over guarded connections; a plugin of their pytest.

Each worker has a server of its own. `suite.py` lets the fixtures of the tests call `guarded` and
`flush`.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from compat.everything import everything
from keyleash.errors import LeashError
from keyleash.servers import EmbeddedServer
from support.leash import NAMES, Leash
from support.servers import RealServer

BINARY = Path(os.environ["COMPAT_SERVER"])
IS_GUARDED = os.environ["COMPAT_MODE"] == "guarded"
OUTCOMES = Path(os.environ["COMPAT_OUTCOMES"])
LEFT_OUT = {*os.environ["COMPAT_LEFT_OUT"].splitlines()}


class Worker:
    """The server of this process, and a token of an identity that has everything granted."""

    def __init__(self) -> None:
        self._process = EmbeddedServer(binary=BINARY)
        self.token = ""

    def start(self) -> str:
        self._process.start()
        self.server = RealServer(BINARY.name, self._process)
        self.admin = self.server.client()
        self.require_policy()
        return f"{self.server.url}/0"

    def stop(self) -> None:
        self._process.stop()

    def require_policy(self) -> None:
        """Load the policy, unless it is loaded: a test may have emptied the server."""
        if IS_GUARDED and not self.admin.exists(NAMES.guard("everything")):
            leash = Leash(self.server)
            leash.load(everything(scripts()))
            self.token = leash.issue("everything").token


def scripts() -> list[str]:
    """Return the texts of scripts in redis-py's tests; the sandbox denies the broken one."""
    tree = ast.parse(Path("tests/test_scripting.py").read_text())
    return [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("_script")
    ]


WORKER = Worker()


def guarded(pool: Any) -> Any:
    """Make the connections of a pool guarded, and change nothing else."""
    if IS_GUARDED:
        is_async = isinstance(pool, redis.asyncio.ConnectionPool)
        make = keyleash.asyncio.connection_class if is_async else keyleash.connection_class
        pool.connection_class = make(WORKER.token, pool.connection_class)
    return pool


def flush() -> None:
    """Delete the keys of a test, which its own client may not."""
    if not IS_GUARDED:
        WORKER.admin.flushdb()
    elif keys := [key for key in WORKER.admin.scan_iter(count=1000) if key[:9] != b"keyleash:"]:
        WORKER.admin.unlink(*keys)


def flush_scripts() -> None:
    """Let the server forget its scripts, which a client of a test may not."""
    WORKER.admin.script_flush()


def pytest_configure(config: Any) -> None:
    """Start the server; with several workers, theirs."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.option.redis_url = WORKER.start()


def pytest_unconfigure() -> None:
    """Stop it."""
    WORKER.stop()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Leave tests out."""
    items[:] = [item for item in items if item.nodeid not in LEFT_OUT]


def pytest_runtest_setup() -> None:
    """Let each test find the policy."""
    WORKER.require_policy()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Write what came of each phase of each test."""
    outcome: Any = yield
    report = outcome.get_result()
    error = call.excinfo.value if call.excinfo else None
    denial = _denial(error)
    line = {
        "test": item.nodeid,
        "outcome": report.outcome,
        "when": report.when,
        "error": f"{type(error).__name__}: {error}"[:300] if error else "",
        "denied": denial and str(denial.details.get("command", denial.code)),
    }
    with OUTCOMES.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def _denial(error: BaseException | None) -> LeashError | None:
    """Return the denial in a chain of errors."""
    while error is not None and not isinstance(error, LeashError):
        error = error.__cause__ or error.__context__
    return error
