"""Libraries built on redis-py, over guarded connections; `make compat` runs them.

Each file is about one library, or about some that share their Redis code: its LIBRARY is the row of
the page. A test gets the names that the recipe of the page defines, from the fixture `recipe`, and
runs with the policy of the page. Each is about one feature, which its docstring names. What does
not work has a strict `xfail` whose reason is for readers. A test with `every_scheme` runs by TCP,
TLS and a Unix socket; one with `every_way` with a client of keyleash, with a guarded pool, and
through the gateway.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio

import keyleash
from compat.page import Library, page
from compat.redis_py.suite import FOLDER
from support.fronts import Front
from support.gateways import gateway_to
from support.leash import Leash, with_files
from support.servers import RealServer

END = "the end of what is noted"
ALLOWED = (
    "EVALSHA", "HELLO", "AUTH", "SELECT", "CLIENT SET", "CLIENT GETNAME", "CLIENT ID",
    "CLIENT INFO", "PING", "WATCH", "UNWATCH", "MULTI", "EXEC", "SUBSCRIBE", "UNSUBSCRIBE",
    "PSUBSCRIBE", "PUNSUBSCRIBE", "HGETALL KEYLEASH:GUARD:",
)  # fmt: skip
"""What guarded connections send."""

SCHEMES = ["redis", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rediss", "unix"))]
every_scheme = pytest.mark.parametrize("guarded", SCHEMES, indirect=True)
"""Runs a test with a URL of each scheme."""
every_way = pytest.mark.parametrize("guarded", ["client", "pool", "gateway"], indirect=True)
"""Runs a test whose recipe has `from_url` of `keyleash.Redis` and `keyleash.asyncio.Redis`."""


def ways(way: str, port: int) -> Any:
    """Return what recipes take for `keyleash`: clients over pools, or to a gateway."""

    def made(client: Any, pool: Any) -> Any:
        def from_url(url: str, token: str, **options: Any) -> Any:
            if way == "pool":
                return client(connection_pool=pool(url, token, **options))
            return client.from_url(f"redis://agent-runner:{token}@127.0.0.1:{port}", **options)

        return SimpleNamespace(from_url=from_url)

    of_asyncio = made(redis.asyncio.Redis, keyleash.asyncio.pool)
    return SimpleNamespace(
        Redis=made(redis.Redis, keyleash.pool), asyncio=SimpleNamespace(Redis=of_asyncio)
    )


@dataclass
class Guarded:
    """The server with the policy of a library, and a token.

    Attributes:
        leash: The operator's side.
        library: The row of the page.
        url: The server.
        keyleash: The package, or its replacement for a way.
        token: Of the policy's identity, `agent-runner`.
    """

    leash: Leash
    library: Library
    url: str
    keyleash: Any = keyleash
    token: str = ""

    def __post_init__(self) -> None:
        self.load(self.library.policy)
        self.token = self.leash.issue("agent-runner").token

    def load(self, policy: str) -> None:
        """Make a policy active, with the scripts of the library as its files."""
        files = {f"{at}.lua": text for at, text in enumerate(self.library.scripts, start=1)}
        self.leash.load(with_files(policy, files))

    def run(self, code: str) -> Any:
        """Run code as the page prints it; return the names that it defines."""
        names: dict[str, Any] = {
            "keyleash": self.keyleash,
            "redis": redis,
            "url": self.url,
            "token": self.token,
        }
        exec(code, names)  # noqa: S102
        return SimpleNamespace(**{name: names[name] for name in names if name.isidentifier()})

    def client(self, **options: Any) -> Any:
        """Return a guarded client of redis-py."""
        return redis.Redis(connection_pool=keyleash.pool(self.url, self.token, **options))


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
            # What a module does for a command has no client.
            if line["client_type"] not in ("lua", "unknown"):
                address = f"{line['client_address']}:{line['client_port']}"
                self.commands.append((address, line["command"]))

    def unguarded(self, admin: Any) -> list[str]:
        """Stop, and return the commands of others than the operator that are not a guard's."""
        self._admin.echo(END)
        self.join()
        self._monitor.__exit__()
        own = {client.client_info()["addr"] for client in (self._admin, admin)}
        assert any(address not in own for address, _ in self.commands), "nothing was sent"
        return [
            command
            for address, command in self.commands
            if address not in own and not command.upper().startswith(ALLOWED)
        ]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the certificate of the session."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def guarded(
    certificates: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Guarded]:
    """A server where nothing of a library may get past its guard."""
    library: Library = request.module.LIBRARY
    name = "stack_server" if library.has_modules else "embedded"
    server: RealServer = request.getfixturevalue(name)
    scheme = getattr(request, "param", "redis")
    url, front = f"{server.url}/0", None
    if scheme == "rediss":
        front = Front(server.port, certificates)
        file = certificates / "certificate.pem"
        url = f"rediss://localhost:{front.port}/0?ssl_cert_reqs=required&ssl_ca_certs={file}"
    elif scheme == "unix":
        front = Front(server.port, tmp_path / "socket")
        url = library.unix.format(tmp_path / "socket")
    guarded = Guarded(Leash(server), library, url)
    wire = Wire(server.client(socket_timeout=None))
    with gateway_to(url) if scheme == "gateway" else contextlib.nullcontext() as gateway:
        if scheme in ("pool", "gateway"):
            guarded.keyleash = ways(scheme, gateway.port if gateway else 0)
        yield guarded
    assert wire.unguarded(guarded.leash.admin) == []
    if front is not None:
        front.stop()


@pytest.fixture
def recipe(guarded: Guarded) -> Any:
    """The names that the recipe of the page defines."""
    return guarded.run(guarded.library.recipe)


LIBRARIES: dict[str, Library] = {}
SKIPPED: set[str] = set()
"""Libraries with a test that was skipped: the page would lack what it shows."""


def pytest_configure(config: pytest.Config) -> None:
    """Leave to libraries what they leave open."""
    for kind in ("ResourceWarning", "pytest.PytestUnraisableExceptionWarning"):
        config.addinivalue_line("filterwarnings", f"default::{kind}")
    config.addinivalue_line(
        "filterwarnings", "default::pytest.PytestUnhandledThreadExceptionWarning"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Note what each test shows of its library."""
    outcome: Any = yield
    report = outcome.get_result()
    library: Library | None = getattr(item.module, "LIBRARY", None)
    reason = getattr(report, "wasxfail", "").removeprefix("[NOTRUN] ")
    if library is not None and report.skipped and not reason:
        SKIPPED.add(library.name)
    if library is None or (report.when != "call" and not reason):
        return
    LIBRARIES[library.name] = library
    library.versions = [version(name) for name in library.names]
    feature = item.function.__doc__.partition("\n")[0].rstrip(".")
    library.features[feature] = reason


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write the page, if all is as expected."""
    target = os.environ.get("KEYLEASH_COMPAT_PAGE")
    if target and SKIPPED:
        session.exitstatus = 1
        print(f"\nthe page is not written: skipped tests of {', '.join(sorted(SKIPPED))}")
    elif target and exitstatus == 0:
        summary = json.loads((FOLDER / "summary.json").read_text())
        Path(target).write_text(page(LIBRARIES.values(), summary))
