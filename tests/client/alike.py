"""The async client behind the sync one's interface, so that one test is of both."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.client import Pipeline

import keyleash
from support.leash import Leash
from support.servers import embedded_label, find_server_binaries

EITHER = pytest.mark.parametrize(
    "leash",
    [
        *((label, "sync") for label in find_server_binaries()),
        # What the async client does differently is not the server's.
        (embedded_label(), "async"),
    ],
    ids="-".join,
    indirect=True,
)
"""A test of both clients: the sync one on every server, the async one on one."""

ONE_EITHER = pytest.mark.parametrize("one_leash", ["sync", "async"], indirect=True)
"""The same on the embedded server alone."""


OPEN = weakref.WeakKeyDictionary[asyncio.Runner, list[Any]]()
"""What was awaited in each loop, and is closed before the loop ends."""


@contextlib.contextmanager
def awaiting() -> Iterator[asyncio.Runner]:
    """A loop for clients behind `Awaited`."""
    runner = asyncio.Runner()
    try:
        yield runner
    finally:
        end(runner)


def end(runner: asyncio.Runner) -> None:
    """Close a loop, and before it all clients that were awaited in it."""

    async def close() -> None:
        for inner in reversed(OPEN.pop(runner, [])):
            pool = getattr(inner, "connection_pool", None)
            # Of a connection that is gone.
            with contextlib.suppress(redis.RedisError, OSError):
                await (inner.reset() if isinstance(inner, Pipeline) else inner.aclose())
            if pool is not None and not isinstance(inner, Pipeline):
                await pool.disconnect()

    runner.run(close())
    runner.close()


class Awaited:
    """An async client or pipeline, whose every call is awaited before it returns."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self.__dict__.update(_inner=inner, _runner=runner)
        if hasattr(inner, "aclose"):
            OPEN.setdefault(runner, []).append(inner)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not inspect.ismethod(value):
            return value

        def call(*args: Any, **options: Any) -> Any:
            return self._settled(value(*args, **options))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._inner, name, value)

    def __enter__(self) -> Any:
        return self._settled(self._inner.__aenter__())

    def __exit__(self, *raised: Any) -> Any:
        return self._settled(self._inner.__aexit__(*raised))

    def __len__(self) -> int:
        return len(self._inner)

    def __bool__(self) -> bool:
        return bool(self._inner)

    def _settled(self, result: Any) -> Any:
        if inspect.iscoroutine(result):
            # Or the runner's own context would hide that of the test.
            result = self._runner.run(result, context=contextvars.copy_context())
        if inspect.isasyncgen(result):
            return self._runner.run(_listed(result))
        # Pipelines return themselves, and clients make others.
        return Awaited(result, self._runner) if isinstance(result, redis.asyncio.Redis) else result


async def _listed(items: Any) -> list[Any]:
    return [item async for item in items]


def agent(leash: Leash, **options: Any) -> Any:
    """A client with a token of its own, of no type: redis-py's pipelines have only a half."""
    return leash.agent("one", **options)


class SyncLeash(Leash):
    """A leash whose clients may connect to another port."""

    def client(self, token: str, **options: Any) -> keyleash.Redis:
        return keyleash.Redis(**{"port": self.server.port, **options}, token=token)


@dataclass
class AsyncLeash(Leash):
    """Agents' clients are async ones."""

    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def client(self, token: str, **options: Any) -> Any:
        options = {"port": self.server.port, **options}
        return Awaited(keyleash.asyncio.Redis(token=token, **options), self.runner)

    def close(self) -> None:
        end(self.runner)


class FakeClock:
    """The clock and the sleep of a client: no time passes but in its sleeps.

    Attributes:
        slept: Every sleep, in seconds.
        step: Seconds that pass with each look at the clock.
        at: What to do when a sleep reaches a time, by that time.
    """

    def __init__(self, client: Any, step: float = 0) -> None:
        self._step = step
        self.now = 1000.0
        self.started = self.now
        self.slept: list[float] = []
        self.at: dict[float, Callable[[], Any]] = {}
        guarded = client.connection_pool.connection_class
        guarded.clock = staticmethod(self._read)
        guarded.sleep = staticmethod(
            self._async_sleep if isinstance(client, Awaited) else self._sleep
        )

    @property
    def passed(self) -> float:
        return self.now - self.started

    def _read(self) -> float:
        self.now += self._step
        return self.now

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        for due in [when for when in self.at if when <= self.passed]:
            self.at.pop(due)()

    async def _async_sleep(self, seconds: float) -> None:
        self._sleep(seconds)
