"""The client of redis.asyncio that can coalesce the commands of tasks."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

from keyleash.client import aio
from keyleash.client._redis_py import UnreplicatedReply, called_back, needs_parser
from keyleash.client.calls import RateWait
from keyleash.client.coalesce import Coalescer, goes_alone
from keyleash.client.correlation import CorrelationSource
from keyleash.client.tokens import AsyncTokenSource
from keyleash.errors import RateLimitedError


class Redis(aio.Redis):
    """A drop-in `redis.asyncio.Redis` for the holder of a token; otherwise like `keyleash.Redis`.

    Args:
        token: As of `keyleash.Redis`. A callable may be a coroutine function, and is first called
            at the first use.
        wait, correlation: As of `keyleash.Redis`.
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
        if not self._coalesce or goes_alone(args[0]) or needs_parser(self, options):
            return await super().execute_command(*args, **options)
        coalescing = self._coalescing
        if coalescing is None or coalescing.loop is not asyncio.get_running_loop():
            coalescing = self._coalescing = self._coalescer()
        reply, waiting = await coalescing.join(args), None
        while reply is not None and isinstance(denial := reply.error, RateLimitedError):
            guarded: Any = self.connection_pool.connection_class
            waiting = waiting or RateWait(guarded.wait_s)
            await guarded.sleep(waiting.pause([denial]).seconds)
            reply = await coalescing.join(args)
        if reply is None:
            return await coalescing.alone(super().execute_command(*args, **options))
        response = called_back(self, args[0], reply.read_response(), options)
        if hasattr(response, "__await__"):
            response = await response
        if isinstance(reply, UnreplicatedReply):
            raise reply.short.about(response)
        return response

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
