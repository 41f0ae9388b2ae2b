"""Drop-in `redis.asyncio.RedisCluster` that calls guards; `cluster` is generated from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ClassVar

import redis.asyncio.cluster
from redis.client import NEVER_DECODE
from redis.exceptions import AskError, ClusterDownError, RedisClusterException, TryAgainError

from keyleash.client._redis_py import acalled_back, aguard_nodes, amove_slot, refresh_options
from keyleash.client.actions import AtHome, Words
from keyleash.client.aio_cluster_pipeline import ClusterBatch, ClusterPipeline
from keyleash.client.aio_holder import TokenHolder
from keyleash.client.aio_node import AsyncFlight, AsyncNodePool, AsyncSharded
from keyleash.client.calls import longest_wait
from keyleash.client.command_words import upper
from keyleash.client.correlation import CorrelationSource
from keyleash.client.node_calls import ClusterSession
from keyleash.client.once import CallId, attempts, current_block, maybe_once
from keyleash.client.pools import guarded_class
from keyleash.client.routing import HOME_SLOT, Route, Step, Tags, keys_of, slot_of
from keyleash.client.shortcuts import with_shortcuts
from keyleash.client.tokens import AsyncTokenSource
from keyleash.client.unsupported import reject_options
from keyleash.errors import NotReplicatedError
from keyleash.store.placement import key_slot


@with_shortcuts
class RedisCluster(TokenHolder, redis.asyncio.cluster.RedisCluster):  # type: ignore[misc]
    """A drop-in `redis.asyncio.RedisCluster` for the holder of a token.

    Every command goes through the guard of the token's identity, on the node that has its keys. A
    denial is raised as a `LeashError`. A command that was sent is never sent again, since it may
    have run, unless its reply says that nothing ran, as those of moved slots do, or it has an
    idempotency id (`keyleash.once`).

    Args:
        token: As of `keyleash.asyncio.Redis`.
        wait: As of `keyleash.asyncio.Redis`.
        correlation: As of `keyleash.asyncio.Redis`.

    Raises:
        CommandRefusedError: a client-side cache is requested.
        TypeError: There is no token, or replicas are to be read: guards run on primaries.
    """

    _kind: Any = None
    connection_base: ClassVar[type | None] = None
    """The class of connections that are guarded in place of redis-py's."""

    def __init__(
        self,
        *args: Any,
        token: AsyncTokenSource,
        wait: bool | float = False,
        correlation: CorrelationSource | None = None,
        **kwargs: Any,
    ) -> None:
        reject_options(kwargs)
        if kwargs.get("read_from_replicas") or kwargs.get("load_balancing_strategy"):
            raise TypeError("guards run on primaries alone, so replicas cannot be read")
        super().__init__(*args, **kwargs)
        # redis-py lists and counts the keys of one node.
        self.command_flags.update(dict.fromkeys(("DBSIZE", "KEYS"), self.PRIMARIES))
        self.tags = Tags(lambda: self.nodes_manager.slots_cache)
        self._flights: dict[str, AsyncFlight] = {}
        self.wait_s = longest_wait(wait)
        self.sleep = asyncio.sleep
        attributes = {"cluster": self, "__module__": "keyleash"}
        mixin: Any = type("AsyncShardConnection", (AsyncSharded,), attributes)

        def guard(base: type) -> type:
            base = self.connection_base or base
            self._kind = guarded_class(mixin, base, token, wait, correlation, ClusterSession)
            kind: type = self._kind
            return kind

        aguard_nodes(self, guard)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial.

        Args:
            args: The command.
            options: As of redis-py; besides, `once` is its idempotency id, see `keyleash.once`.
        """
        if "once" in options:
            with maybe_once(options.pop("once")):
                return await self.execute_command(*args, **options)
        if self._kind is None:
            # redis-py asks for the keys of all commands while it makes a sync client.
            return {}
        await self.initialize()  # asyncio only
        slot = self.slot_of(args)
        if slot is None or "target_nodes" in options:
            return await self._run_on_nodes(args, options)
        run = partial(self._run, words=args, options=options)
        if current_block() is not None:
            return await self.routed(slot, run)
        node = None
        try:
            node = self.node_of(slot)
            return await run(node)
        except Exception as error:
            return await self.routed(slot, run, (node, error))

    @property
    def session(self) -> ClusterSession:
        """The session of the token."""
        session: ClusterSession = self._kind.session
        return session

    def slot_of(self, words: Words) -> int | None:
        """Return the slot of a call; None if it has no key."""
        return slot_of(self._kind.session.table, self.encoder.encode, words)

    async def _run(
        self, node: Any, is_asking: bool = False, *, words: Words, options: dict[str, Any]
    ) -> Any:
        """Make a call on a node; return what the response callback makes of its reply."""
        try:
            async with AsyncNodePool(self, node, is_asking) as connection:
                if NEVER_DECODE in options:
                    options = {name: options[name] for name in options if name != NEVER_DECODE}
                    await connection.send_command(*words)
                    reply = await connection.read_response(disable_decoding=True)
                else:
                    reply = await connection.run(words)
        except NotReplicatedError as short:
            result = await acalled_back(self, words[0], short.reply, options)
            raise short.about(result) from short.__cause__
        return await acalled_back(self, words[0], reply, options)

    async def _run_on_nodes(self, words: Words, options: dict[str, Any]) -> Any:
        """Make a call on the nodes that were chosen, or on all if it is about all keys."""
        options = {**options}
        nodes = self._targets(words, options.pop("target_nodes", None))
        run = partial(self._run, words=words, options=options)
        if nodes is None:
            slot = self.slot_of(words)
            if slot is None:
                slot = key_slot(self.encoder.encode(words[1])) if len(words) > 1 else HOME_SLOT
            return await self.routed(slot, run)
        results = {node.name: await self.routed(node, run) for node in nodes}
        combine: Any = self.result_callbacks.get(words[0])
        if combine is not None:
            return combine(words[0], results, **options)
        return results if len(results) != 1 else results.popitem()[1]

    def _targets(self, words: Words, nodes: Any) -> list[Any] | None:
        """Return the nodes of a call; None if any node may serve it.

        Args:
            nodes: As of redis-py's `target_nodes`.
        """
        if nodes is None:
            nodes = self.command_flags.get(upper(words[0]))
        if nodes == self.REPLICAS:
            raise TypeError("guards run on primaries alone")
        if nodes in (self.PRIMARIES, self.ALL_NODES):
            primaries: Any = self.nodes_manager.get_nodes_by_server_type("primary")
            return [node for node in primaries if self.tags.has_tag(node.name)]
        if nodes is None or isinstance(nodes, str):
            return None
        if isinstance(nodes, dict):
            return [*nodes.values()]
        return [*nodes] if isinstance(nodes, list) else [nodes]

    def pipeline(
        self, transaction: Any = None, shard_hint: Any = None, *, once: str | None = None
    ) -> Any:
        """Return a pipeline like redis-py's, whose calls go through the guard.

        With *transaction* it is one batch in one slot: all commands are allowed, or none runs.
        Without, the commands of each slot are one batch that checks each on its own; the batches
        of a node are sent in one packet. *once* is the idempotency id of what it executes, see
        `keyleash.once`.
        """
        pipeline = ClusterPipeline(self, bool(transaction))
        pipeline.once = once
        return pipeline

    def batch(self, *, once: str | None = None) -> ClusterBatch:
        """Queue commands in an `async with` block; leaving it runs all of them, or none.

        *once* is the idempotency id of the batch, see `keyleash.once`.

        Raises:
            CrossSlotError: on leaving it: their keys are in several slots of the cluster.
        """
        batch = ClusterBatch(self, True)
        batch.once = once
        return batch

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """Check out a connection to the home."""
        await self.initialize()  # asyncio only
        async with AsyncNodePool(self, self.node_of(HOME_SLOT)) as connection:
            yield connection

    async def _ask_permission(self, words: Words) -> None:
        async def attempt(node: Any, is_asking: bool) -> None:
            async with AsyncNodePool(self, node, is_asking) as connection:
                await connection.can_i(words)

        await self.initialize()  # asyncio only
        slot = self.slot_of(words)
        await self.routed(HOME_SLOT if slot is None else slot, attempt)

    # Pipelines.

    def slots_of(self, words: Words) -> list[int | None]:
        """Return the slots of all keys of a call."""
        keys = words[1:] if words[0] == "WATCH" else keys_of(self._kind.session.table, words)
        return [key_slot(self.encoder.encode(key)) for key in keys]

    # Routes.

    def node_of(self, slot: int) -> Any:
        """Return the node that serves a slot, as far as is known.

        Raises:
            ClusterDownError: no node does.
        """
        nodes: Any = self.nodes_manager.slots_cache.get(slot)
        if not nodes:
            raise ClusterDownError(f"no node serves the slot {slot}")
        return nodes[0]

    async def routed(
        self,
        place: Any,
        attempt: Callable[..., Any],
        failed: tuple[Any, Exception] | None = None,
        *,
        once: CallId | None = None,
        **options: Any,
    ) -> Any:
        """Make a call where its keys are, also while they move.

        Args:
            place: The slot of its keys, or a node.
            attempt: Makes the call on a node; its second argument is whether to send ASKING.
            failed: The node and the error of an attempt that was made before.
            once: Its idempotency id, if it has one from the beginning.
            options: Those of `Route`.
        """
        await self.initialize()  # asyncio only
        node, error = failed or (None, None)
        with attempts(once) as ids:
            route = Route(self.tags, ids, **options)
            while True:
                if error is not None:
                    await self._prepare(route.after(error, node))
                if ids is not None:
                    ids.begin_attempt()
                ask = route.step.ask
                try:
                    if ask is not None:
                        node = await self._asked_node(ask)
                    else:
                        node = self.node_of(place) if isinstance(place, int) else place
                    return await attempt(node, ask is not None)
                except Exception as new:
                    error = new

    async def _prepare(self, step: Step) -> None:
        """Do what comes before the next attempt."""
        manager: Any = self.nodes_manager
        # Before the slots are read, so that the attempt follows what is true after the pause.
        if step.pause_s:
            await self.sleep(step.pause_s)
        if step.moved is not None:
            await amove_slot(manager, step.moved)
        if step.refreshes:
            # If no node answers, or some slots have none: later again.
            with suppress(RedisClusterException):
                await manager.initialize(**refresh_options(manager, step.failed))
        if step.final is not None:
            raise step.final

    async def _asked_node(self, ask: AskError) -> Any:
        manager: Any = self.nodes_manager
        node = manager.get_node(host=ask.host, port=ask.port)
        if node is None:
            await manager.initialize(**refresh_options(manager, None))
            raise TryAgainError("the node to which the slot moves is not known yet")
        return node

    async def run_at_home(self, action: AtHome) -> Any:
        """Send a command without the guard to the home, which may be moving."""

        async def attempt(node: Any, _: bool) -> Any:
            async with AsyncNodePool(self, node) as connection:
                return await connection.run_unguarded(action)

        return await self.routed(HOME_SLOT, attempt, is_home=True)

    def flight(self, request: str) -> AsyncFlight:
        """Return the fetching of the voucher for a request."""
        tag = request.partition(":")[0]
        flight = self._flights.get(tag)
        if flight is None or flight.request != request:
            flight = self._flights[tag] = AsyncFlight(request)
        return flight
