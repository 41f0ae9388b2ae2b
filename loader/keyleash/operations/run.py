"""Run functions of a store: in the calling thread, or in worker threads beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from redis.exceptions import RedisError

from keyleash.errors import CrossSlotError, KeyleashError
from keyleash.store.connect import recipe_of, server_name, synchronous
from keyleash.store.deployment import Cluster
from keyleash.store.failures import cluster_failure, server_failure
from keyleash.store.server_check import Client, operator_client, require_supported
from keyleash.store.store import Store
from keyleash.store.token import reject_tokens
from keyleash.store.wire import is_down, is_of_a_cluster

P = ParamSpec("P")
T = TypeVar("T")

_END: Any = object()


class Runner:
    """A server and an operator's name.

    If the server is a node of a cluster, each call also reads the slot map, and runs at the home.

    Args:
        client: A redis-py client, whose connection pool is used, or an asyncio client, whose
            options are used for connections of its own.
        actor: The operator's name, for the control stream.
    """

    def __init__(self, client: Client, actor: str) -> None:
        reject_tokens(actor=actor)
        self.client = synchronous(client)
        self.actor = actor
        self._is_supported = False
        self._cluster: Cluster | None = None

    def __repr__(self) -> str:
        return f"{server_name(self.client)}, actor={self.actor!r}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (recipe_of(self.client), self.actor)

    @property
    def sync(self) -> Runner:
        """The runner in the calling thread."""
        return self

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the result of *function*, which may block."""
        with self._explained():
            return function(*args, **kwargs)

    def check(self) -> None:
        """Check the server, before the first call."""
        if not self._is_supported:
            if require_supported(self.client, cluster=True):
                self._cluster = Cluster(operator_client(self.client))
            self._is_supported = True

    def open(self) -> Store:
        """Return the store, after a check of the server before the first call."""
        self.check()
        if self._cluster is not None:
            return Store.open_cluster(self._cluster, actor=self.actor)
        return Store(self.client, actor=self.actor)

    def call(
        self, function: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return the result of *function* for the store."""
        with self._explained():
            return function(self.open(), *args, **kwargs)

    def result(self, call: Callable[[], T]) -> T:
        return call()

    def items(self, call: Callable[[], Iterator[T | None]]) -> Iterator[T]:
        """Return the items of what a call returns, without those that are None."""
        # Called now, and not with the first item, so that errors come early.
        return self._each(call())

    def _each(self, items: Iterator[T | None]) -> Iterator[T]:
        while (item := self.next_of(items)) is not _END:
            if item is not None:
                yield item

    def next_of(self, items: Iterator[T | None]) -> Any:
        """Return the next item, or `_END`."""
        with self._explained():
            return next(items, _END)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        if self._cluster is not None:
            self._cluster.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Add a note to an error of the server: what it means, and what to do."""
        try:
            yield
        except CrossSlotError:
            # Its keys are in the call, not control keys.
            raise
        except RedisError as error:
            if self._cluster is not None and is_of_a_cluster(error):
                reasons = self._cluster.reasons() if is_down(error) else {}
                dead = [str(node) for node, reason in reasons.items() if reason]
                raise cluster_failure(error, server_name(self.client), dead) from error
            if not isinstance(error, KeyleashError) and not hasattr(error, "__notes__"):
                failure = server_failure(error, server_name(self.client))
                error.add_note(failure.message)
                if failure.help:
                    error.add_note(f"help: {failure.help}")
            raise


class AsyncRunner:
    """A runner whose calls run in worker threads of the running event loop."""

    def __init__(self, client: Client, actor: str) -> None:
        self.sync = Runner(client, actor)

    async def result(self, call: Callable[[], T]) -> T:
        return await asyncio.to_thread(call)

    def items(self, call: Callable[[], Iterator[T | None]]) -> AsyncIterator[T]:
        """Return the items of what a call returns, without those that are None."""
        return _Items(call, self.sync.next_of)


class _Items(AsyncIterator[T]):
    """The items of an iterator that blocks, each read in a thread of this iterator alone.

    If the task that waits for an item is cancelled, the item is not lost: it comes next.

    Args:
        begin: Returns the iterator.
        next_of: Returns its next item, None if there is none yet, or `_END`.
    """

    def __init__(
        self, begin: Callable[[], Iterator[T | None]], next_of: Callable[[Iterator[T | None]], Any]
    ) -> None:
        self._begin = begin
        self._next_of = next_of
        self._items: Iterator[T | None] | None = None
        self._reading: asyncio.Future[Any] | None = None
        # Not a thread of the event loop's, all of which a few followers would occupy.
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(1, "keyleash-follow")

    async def __anext__(self) -> T:
        while self._thread is not None:
            loop = asyncio.get_running_loop()
            self._reading = self._reading or loop.run_in_executor(self._thread, self._read)
            await asyncio.wait([self._reading])
            read, self._reading = self._reading, None
            if read.exception() is not None or read.result() is _END:
                await self.aclose()
            item: T | None = read.result()
            if item is not None and item is not _END:
                return item
        raise StopAsyncIteration

    def _read(self) -> Any:
        self._items = self._items or self._begin()
        return self._next_of(self._items)

    async def aclose(self) -> None:
        """End the iteration."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)
        self._thread = None


def _rebuilt(make: Callable[[], Client], actor: str) -> Runner:
    return Runner(make(), actor)
