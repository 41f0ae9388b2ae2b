"""Libraries built on redis-py, over guarded connections; `make compat` runs them.

Each file is about one library: LIBRARY names its distribution, CLIENT is the code by which guarded
connections get into it, BUNDLES and SCRIPTS are its Lua scripts, TEXTS says where those of SCRIPTS
are, and POLICY, if given, has what the library needs. Each test is about one feature,
which its docstring names. What does not work has a strict `xfail` whose reason is for readers.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from compat.everything import everything
from compat.page import Library, page
from compat.redis_py.suite import FOLDER
from support.leash import Leash, with_files
from support.servers import RealServer

END = "the end of what is noted"
ALLOWED = (
    "EVALSHA", "HELLO", "AUTH", "SELECT", "CLIENT SET", "CLIENT GETNAME", "CLIENT ID", "PING",
    "WATCH", "UNWATCH", "MULTI", "EXEC", "SUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE", "PUNSUBSCRIBE",
    "HGETALL KEYLEASH:GUARD:",
)  # fmt: skip
"""What guarded connections send."""


@dataclass
class Guarded:
    """The server, the policy and the token for a library.

    Attributes:
        leash: The operator's side.
        scripts, bundles: The scripts that the policy approves: their texts, and names of bundles.
        url: The server.
        policy: Of one identity, `agent-runner`; by default an identity has everything granted.
        token: Of the identity.
    """

    leash: Leash
    scripts: Sequence[str] = ()
    bundles: Sequence[str] = ()
    policy: str = ""
    url: str = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        if self.policy:
            files = {f"{number}.lua": text for number, text in enumerate(self.scripts, start=1)}
            self.leash.load(with_files(self.policy, files))
        else:
            self.leash.load(everything(self.scripts, self.bundles))
        self.url = f"{self.leash.server.url}/0"
        self.token = self.leash.issue("agent-runner" if self.policy else "everything").token

    def pool(self, **options: Any) -> redis.ConnectionPool:
        return keyleash.pool(self.url, self.token, **options)

    def client(self, **options: Any) -> Any:
        return redis.Redis(connection_pool=self.pool(**options))

    def aclient(self, **options: Any) -> Any:
        pool = keyleash.asyncio.pool(self.url, self.token, **options)
        return redis.asyncio.Redis(connection_pool=pool)


class Wire(threading.Thread):
    """Notes what reaches a server from outside of scripts, until it sees its end.

    Attributes:
        commands: The address of each client, and its command.
    """

    def __init__(self, admin: Any) -> None:
        super().__init__(daemon=True)
        self.commands: list[tuple[str, str]] = []
        self._admin = admin
        self._monitor = admin.monitor()
        self._monitor.__enter__()
        self.start()

    def run(self) -> None:
        for line in self._monitor.listen():
            if END in line["command"]:
                return
            if line["client_type"] != "lua":
                address = f"{line['client_address']}:{line['client_port']}"
                self.commands.append((address, line["command"]))

    def unguarded(self, admin: Any) -> list[str]:
        """Stop, and return the commands of others than the operator that are not a guard's."""
        self._admin.echo(END)
        self.join()
        self._monitor.__exit__()
        own = {client.client_info()["addr"] for client in (self._admin, admin)}
        return [
            command
            for address, command in self.commands
            if address not in own and not command.upper().startswith(ALLOWED)
        ]


@pytest.fixture
def guarded(embedded: RealServer, request: pytest.FixtureRequest) -> Iterator[Guarded]:
    """A server where nothing of a library may get past its guard."""
    given: dict[str, Any] = {
        name.lower(): getattr(request.module, name)
        for name in ("SCRIPTS", "BUNDLES", "POLICY")
        if hasattr(request.module, name)
    }
    guarded = Guarded(Leash(embedded), **given)
    wire = Wire(embedded.client(socket_timeout=None))
    yield guarded
    assert wire.unguarded(guarded.leash.admin) == []


LIBRARIES: dict[str, Library] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Note what each test shows of its library."""
    outcome: Any = yield
    report = outcome.get_result()
    name = getattr(item.module, "LIBRARY", "")
    reason = getattr(report, "wasxfail", "").removeprefix("[NOTRUN] ")
    if not name or (report.when != "call" and not reason):
        return
    texts, policy = (getattr(item.module, kind, "") for kind in ("TEXTS", "POLICY"))
    bundles = getattr(item.module, "BUNDLES", ())
    new = Library(name, version(name), item.module.CLIENT, texts, bundles, policy)
    library = LIBRARIES.setdefault(name, new)
    feature = item.function.__doc__.partition("\n")[0].rstrip(".")
    library.features[feature] = reason


def pytest_sessionfinish(exitstatus: int) -> None:
    """Write the page, if all is as expected."""
    target = os.environ.get("KEYLEASH_COMPAT_PAGE")
    if target and exitstatus == 0:
        summary = json.loads((FOLDER / "summary.json").read_text())
        Path(target).write_text(page(LIBRARIES.values(), summary))
