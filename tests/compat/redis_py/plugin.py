"""Let redis-py's own tests make guarded clients, or use a gateway; a plugin of their pytest.

Each worker has a server of its own. `suite.py` lets the fixtures of the tests call `guarded` and
`flush`.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partialmethod
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import redis
import redis.asyncio

import keyleash
from compat.everything import everything
from keyleash.addons.servers import EmbeddedServer
from keyleash.errors import LeashError
from support.command_line import Cli
from support.gateways import gateway_process
from support.leash import NAMES, Leash
from support.servers import RealServer

BINARY = Path(os.environ["COMPAT_SERVER"])
MODE = os.environ["COMPAT_MODE"]
"""raw, guarded or gateway."""
OUTCOMES = Path(os.environ["COMPAT_OUTCOMES"])
LEFT_OUT = {*os.environ["COMPAT_LEFT_OUT"].splitlines()}


class Worker:
    """The server of this process, and a token of an identity that has everything granted."""

    def __init__(self) -> None:
        self.running = ExitStack()
        self.token = ""

    def start(self) -> str:
        process = self.running.enter_context(EmbeddedServer(binary=BINARY))
        self.server = RealServer(BINARY.name, process)
        self.admin = self.server.client()
        self.require_policy()
        if MODE != "gateway":
            return f"{self.server.url}/0"
        port = self.running.enter_context(gateway_process(Cli(self.server.url)))
        login = {"username": "everything", "password": self.token}
        # Those that a test makes from the host and port of the URL.
        kinds: list[Any] = [redis.Connection, redis.asyncio.Connection]
        for kind in kinds:
            kind.__init__ = partialmethod(kind.__init__, **login)
        return f"redis://everything:{self.token}@127.0.0.1:{port}/0"

    def require_policy(self) -> None:
        """Load the policy, unless it is loaded: a test may have emptied the server."""
        if MODE != "raw" and not self.admin.exists(NAMES.guard("everything")):
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
    if MODE == "guarded":
        is_async = isinstance(pool, redis.asyncio.ConnectionPool)
        make = keyleash.asyncio.connection_class if is_async else keyleash.connection_class
        pool.connection_class = make(WORKER.token, pool.connection_class)
    return pool


def flush() -> None:
    """Delete the keys of a test, which its own client may not."""
    if MODE == "raw":
        WORKER.admin.flushdb()
    elif keys := [key for key in WORKER.admin.scan_iter(count=1000) if key[:9] != b"keyleash:"]:
        WORKER.admin.unlink(*keys)


def pytest_configure(config: Any) -> None:
    """Start the server; with several workers, theirs."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.option.redis_url = WORKER.start()


def pytest_unconfigure() -> None:
    """Stop it."""
    WORKER.running.close()


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
    line = {
        "test": item.nodeid,
        "outcome": report.outcome,
        "when": report.when,
        "error": f"{type(error).__name__}: {error}"[:300] if error else "",
        "denied": _denied(error),
    }
    with OUTCOMES.open("a") as lines:
        lines.write(json.dumps(line) + "\n")


def _denied(error: BaseException | None) -> str:
    """Return the command, or the code, of the denial in a chain of errors; empty without one."""
    while error is not None:
        line = error.line if isinstance(error, LeashError) else str(error)
        if found := re.search(r"LEASH (\w+)(?:.*? command=(\S+))?", line):
            return unquote(found[2] or found[1])
        error = error.__cause__ or error.__context__
    return ""
