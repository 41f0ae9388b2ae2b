"""The client of redis.asyncio that can coalesce the commands of tasks."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, ClassVar, Self

from redis.client import NEVER_DECODE

from keyleash.client import aio, aio_cluster
from keyleash.client._redis_py import UnreplicatedReply, acalled_back, needs_parser
from keyleash.client.actions import Words
from keyleash.client.aio_node import AsyncNodePool
from keyleash.client.calls import RateWait
from keyleash.client.coalesce import Coalescer, goes_alone
from keyleash.client.correlation import CorrelationSource
from keyleash.client.retries import is_lost
from keyleash.client.routing import is_redirect
from keyleash.client.tokens import AsyncTokenSource
from keyleash.errors import RateLimitedError

_ALONE = {NEVER_DECODE, "target_nodes"}
"""Options of commands that a cluster's client does not coalesce."""


async def _joined(
    coalescing: Coalescer, guarded: Any, words: Words, slot: int | None = None
) -> Any:
    """Return the buffered reply to a command, after waiting for rate limits."""
    reply, waiting = await coalescing.join(words, slot), None
    while reply is not None and isinstance(denial := reply.error, RateLimitedError):
        waiting = waiting or RateWait(guarded.wait_s)
        await guarded.sleep(waiting.pause([denial]).seconds)
        reply = await coalescing.join(words, slot)
    return reply


async def _response(client: Any, name: Any, reply: Any, options: dict[str, Any]) -> Any:
    """Return what the response callback of a command makes of its buffered reply."""
    response = await acalled_back(client, name, reply.read_response(), options)
    if isinstance(reply, UnreplicatedReply):
        raise reply.short.about(response)
    return response


class Redis(aio.Redis):
    """A drop-in `redis.asyncio.Redis` for the holder of a token; otherwise like `keyleash.Redis`.

    Args:
        token: As of `keyleash.Redis`. A callable may be a coroutine function, and is first called
            at the first use.
        wait: As of `keyleash.Redis`.
        correlation: As of `keyleash.Redis`.
        coalesce: Whether commands that tasks issue in one event-loop iteration are sent in one
            batch, which checks each on its own. Commands with the same correlation id may share
            an audit event. Many commands use up to two connections. Commands of different tasks
            have no order.

    Raises:
        LeashError: As `keyleash.Redis`, which has the other errors too.
    """

    _OPTIONS: ClassVar[tuple[str, ...]] = (*aio.Redis._OPTIONS, "coalesce")

    def __init__(
        self,
        *,
        token: AsyncTokenSource | None = None,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        coalesce: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(token=token, wait=wait, correlation=correlation, **kwargs)
        self._coalesce = coalesce
        self._coalescing: Coalescer | None = None

    def client(self) -> Self:
        """Return a client with the same token and its own connection."""
        client = super().client()
        client._coalesce = self._coalesce
        return client

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial."""
        is_alone = not self._coalesce or goes_alone(args[0], options)
        if is_alone or needs_parser(self, options):
            return await super().execute_command(*args, **options)
        coalescing = self._coalescing
        if coalescing is None or coalescing.loop is not asyncio.get_running_loop():
            coalescing = self._coalescing = self._coalescer()
        reply = await _joined(coalescing, self.connection_pool.connection_class, args)
        if reply is None:
            return await coalescing.alone(super().execute_command(*args, **options))
        return await _response(self, args[0], reply, options)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the client; commands that are not yet sent fail."""
        if self._coalescing is not None:
            self._coalescing.close()
        await super().aclose(close_connection_pool)

    def _coalescer(self) -> Coalescer:
        return Coalescer(
            self._session,
            self.connection_pool,
            self._connected,
            bool(self.single_connection_client),
            asyncio.get_running_loop(),
        )


class RedisCluster(aio_cluster.RedisCluster):
    """A drop-in `redis.asyncio.RedisCluster` for the holder of a token.

    Otherwise like `keyleash.RedisCluster`; `token`, `wait` and `correlation` are as of
    `keyleash.asyncio.Redis`.

    Args:
        coalesce: As of `keyleash.asyncio.Redis`; the commands for one node are sent in one packet,
            with a batch for each slot.
    """

    def __init__(self, *args: Any, coalesce: bool = False, **options: Any) -> None:
        super().__init__(*args, **options)
        self._coalesce = coalesce
        self._coalescing: dict[str, Coalescer] = {}

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial."""
        is_alone = not self._coalesce or goes_alone(args[0], options)
        if is_alone or not _ALONE.isdisjoint(options):
            return await super().execute_command(*args, **options)
        await self.initialize()
        slot = self.slot_of(args)
        if slot is None:
            return await super().execute_command(*args, **options)
        node: Any = None
        try:
            node = self.node_of(slot)
            coalescing = self._coalescer(node)
            reply = await _joined(coalescing, self._kind, args, slot)
            error = reply and reply.error
        except Exception as lost:
            error = lost
        if error is not None and (is_redirect(error) or is_lost(error)):
            run = partial(self._run, words=args, options=options)
            return await self.routed(slot, run, (node, error))
        if error is not None:
            raise error
        if reply is None:
            return await coalescing.alone(super().execute_command(*args, **options))
        return await _response(self, args[0], reply, options)

    async def aclose(self) -> None:
        """Close the client; commands that are not yet sent fail."""
        for coalescing in self._coalescing.values():
            coalescing.close()
        await super().aclose()

    def _coalescer(self, node: Any) -> Coalescer:
        loop = asyncio.get_running_loop()
        coalescer = self._coalescing.get(node.name)
        if coalescer is None or coalescer.loop is not loop or coalescer.pool is not node:
            connected = partial(AsyncNodePool, self, node)
            coalescer = self._coalescing[node.name] = Coalescer(
                self._kind.session, node, connected, False, loop
            )
        return coalescer
