"""Drop-in `redis.asyncio.RedisCluster` that calls guards; `cluster` is generated from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import redis.asyncio.cluster
from redis.client import NEVER_DECODE
from redis.exceptions import AskError, ClusterDownError, ResponseError, TryAgainError, WatchError

from keyleash.client import aio
from keyleash.client._redis_py import (
    BufferedReply,
    UnreplicatedReply,
    acalled_back,
    acheckin_node,
    acheckout_node,
    agathered,
    aguard_nodes,
    astarted,
    copy_error,
    pack,
    refresh_options,
)
from keyleash.client.actions import AtHome, Pause, Receive, Words
from keyleash.client.aio_connection import AsyncGuarded
from keyleash.client.batches import chunks
from keyleash.client.calls import Call, RateWait, longest_wait
from keyleash.client.correlation import CorrelationSource
from keyleash.client.guarding import AsyncLock
from keyleash.client.pools import guarded_class
from keyleash.client.roles import Role, role_of, upper
from keyleash.client.routing import (
    HOME_SLOT,
    Attempt,
    Locate,
    MoveSlot,
    Refresh,
    Route,
    Shards,
    is_answer,
    is_redirect,
    keys_of,
    one_slot,
    slot_of,
)
from keyleash.client.shards import (
    ClusterSession,
    FetchLease,
    ShardCaller,
    fetch_lease,
    fetch_records,
)
from keyleash.client.shortcuts import with_shortcuts
from keyleash.client.tokens import AsyncTokenSource, token_from_env, url_from_env
from keyleash.client.unsupported import (
    monitoring,
    reject_options,
    subscription_in_pipeline,
    transaction_in_pipeline,
)
from keyleash.client.whoami import WhoAmI
from keyleash.errors import NotReplicatedError, RateLimitedError
from keyleash.store.placement import key_slot
from keyleash.store.wire import BatchMode

_ABOUT_ALL_KEYS = frozenset({"KEYS", "SCAN", "SCRIPT LOAD", "SCRIPT EXISTS"})
"""The commands that a client makes on every primary."""


class AsyncFlight:
    """The fetching of one voucher, for which several tasks may wait.

    Attributes:
        request: What the node asks for.
        lock: Held by the task that fetches it.
        voucher: The voucher; None before it is fetched.
    """

    def __init__(self, request: str) -> None:
        self.request = request
        self.lock = AsyncLock()
        self.voucher: str | None = None


class AsyncSharded(AsyncGuarded):
    """A guarded connection that knows its node of a cluster. `RedisCluster` makes subclasses.

    Attributes:
        cluster: The client.
        is_asking: Whether ASKING precedes each call.
    """

    caller_class = ShardCaller
    cluster: Any
    is_asking = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        caller: Any = self._dialogue.caller
        name = f"{options['host']}:{options['port']}"
        caller.tag = partial(self.cluster.shards.tag, name)

    def _parts(self, call: Call) -> list[bytes]:
        parts = super()._parts(call)
        return [*pack(("ASKING",)), *parts] if self.is_asking else parts

    async def _send(
        self, calls: Sequence[Call], check_health: bool = True, *, is_due: bool = False
    ) -> None:
        await super()._send(calls, check_health, is_due=is_due)
        if self.is_asking:
            above: Any = super(AsyncGuarded, self)
            await above.read_response()

    async def _carry_out(self, action: Any, options: dict[str, Any], check_health: bool) -> Any:
        match action:
            case AtHome():
                return await self.cluster.run_at_home(action)
            case FetchLease():
                return await self._fetch_lease(action)
        return await super()._carry_out(action, options, check_health)

    async def _fetch_lease(self, need: FetchLease) -> str:
        flight = self.cluster.flight(need.request)
        async with flight.lock:
            if flight.voucher is None or flight.voucher == need.used:
                session: Any = self.session
                reply: bytes = await self._drive(fetch_lease(session, need), {})
                flight.voucher = reply.decode("latin-1")
            voucher: str = flight.voucher
        return voucher

    async def fetch_records(self) -> Any:
        """Return the records of the token, as a batch in mode `whoami` on one server."""
        caller: Any = self._dialogue.caller
        return await self._drive_alone(fetch_records(caller))

    async def run_plain(self, action: AtHome) -> Any:
        """Send a command without the guard; return its reply, undecoded.

        Raises:
            NotReplicatedError: too few replicas have it.
        """
        above: Any = super(AsyncGuarded, self)
        guard = action.replicas
        if not self._is_open:
            await self.connect()
        await self._send_plain(action)
        failed = None
        try:
            reply = await above.read_response(disable_decoding=True)
        except ResponseError as error:
            failed = error
        if guard is not None:
            count = await self._receive(Receive(longer_s=guard.wait_ms / 1000), {})
            if failed is None and count < guard.wait_replicas:
                raise NotReplicatedError(None, count, guard.wait_replicas, guard.wait_ms)
        if failed is not None:
            raise failed
        return reply

    async def _send_plain(self, action: AtHome) -> None:
        """Send a command, which may contain the token, so it is in no frame of `run_plain`."""
        above: Any = super(AsyncGuarded, self)
        words, guard = action.words, action.replicas
        try:
            parts = pack(words() if callable(words) else words)
            if guard is not None:
                parts += pack(("WAIT", str(guard.wait_replicas), str(guard.wait_ms)))
            await above.send_packed_command([b"".join(parts)], check_health=False)
        except BaseException as error:
            error.__context__ = None
            raise error.with_traceback(None) from None


class AsyncNodePool:
    """The connections of one node, in the form of a pool of redis-py.

    Args:
        cluster: The client.
        node: The node.
        is_asking: Whether ASKING precedes each call.
    """

    def __init__(self, cluster: Any, node: Any, *, is_asking: bool = False) -> None:
        self._cluster = cluster
        self._node = node
        self._is_asking = is_asking

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Return a connection."""
        connection = await acheckout_node(self._cluster, self._node)
        connection.is_asking = self._is_asking
        return connection

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        connection.is_asking = False
        await acheckin_node(self._cluster, self._node, connection)

    def get_encoder(self) -> Any:
        """Return the encoder of its connections."""
        return self._cluster.get_encoder()


class ClusterPipeline(aio.Pipeline):
    """Made by `keyleash.asyncio.RedisCluster.pipeline`."""

    def __init__(self, cluster: Any, transaction: bool) -> None:
        pool: Any = None
        super().__init__(pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster
        self._is_atomic = transaction
        self._watched: list[int | None] = []

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Queue a command, or run it at once while keys are watched."""
        options.pop("target_nodes", None)
        above: Any = super()
        return above.execute_command(*args, **options)

    async def immediate_execute_command(self, *args: Any, **options: Any) -> Any:
        """Run WATCH, or another command while keys are watched, on the node of their slot.

        Raises:
            CrossSlotError: its keys, or those that are watched, are in several slots.
        """
        slots = [*self._watched, *self._cluster.slots_of(args)]
        slot = one_slot(slots)
        run: Any = partial(super().immediate_execute_command, *args, **options)
        if self.watching:
            return await self._unmoved(run)

        async def attempt(node: Any, is_asking: bool) -> Any:
            if is_asking:
                raise TryAgainError("keys of a moving slot cannot be watched")
            pool: Any = AsyncNodePool(self._cluster, node)
            self.connection_pool = pool
            try:
                return await run()
            except BaseException:
                await self._release()
                raise

        reply = await self._cluster.routed(slot, attempt)
        self._watched = slots
        return reply

    async def _release(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await self.connection_pool.release(connection)

    async def _unmoved(self, run: Any) -> Any:
        """Run a command on the node where keys are watched; if they move, the watch is lost."""
        try:
            return await run()
        except ResponseError as error:
            if not is_redirect(error):
                raise
            await self.reset()  # type: ignore[no-untyped-call]
            raise WatchError("the watched keys have moved to another node") from error

    async def reset(self) -> None:  # type: ignore[override]
        """Forget the queued commands, and end the watch."""
        self._watched = []
        await super().reset()  # type: ignore[no-untyped-call]

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Send the queued commands; return one result for each, in order.

        Raises:
            CrossSlotError: the keys of a transaction are in several slots; nothing was sent.
        """
        commands: Any = self.command_stack
        execute: Any = partial(super().execute, raise_on_error)
        if not (self._is_atomic or self.explicit_transaction or self.watching):
            return await self._execute_each(commands, raise_on_error)
        try:
            slots = [slot for words, _ in commands for slot in self._cluster.slots_of(words)]
            slot = one_slot([*self._watched, *slots])
            if self.watching or not commands:
                results: list[Any] = await self._unmoved(execute)
                return results

            async def attempt(node: Any, is_asking: bool) -> Any:
                self.command_stack = [*commands]
                pool: Any = AsyncNodePool(self._cluster, node, is_asking=is_asking)
                self.connection_pool = pool
                return await execute()

            results = await self._cluster.routed(slot, attempt)
        finally:
            await self.reset()
        return results

    async def _execute_each(self, commands: Any, raise_on_error: bool) -> list[Any]:
        try:
            replies = await self._cluster.run_all([words for words, _ in commands])
        finally:
            await self.reset()
        values = [
            reply.error or reply.read_response(NEVER_DECODE in options)
            for reply, (_, options) in zip(replies, commands, strict=True)
        ]
        found = await self._called_back(commands, values, BatchMode.EACH)
        for reply in replies:
            if isinstance(reply, UnreplicatedReply):
                raise reply.short.about(found)
        if raise_on_error:
            self.raise_first_error(commands, found)  # type: ignore[no-untyped-call]
        return found


class ClusterBatch(aio.Batch, ClusterPipeline):  # type: ignore[misc]
    """Made by `keyleash.asyncio.RedisCluster.batch`: all commands run, or none, in one slot."""


class RoutedCall(Call):
    """A call of a pipeline.

    Attributes:
        slot: The slot of its keys.
        places: The places of its commands in the pipeline.
    """

    def __init__(self, commands: Sequence[Words], slot: int, places: Sequence[int]) -> None:
        chosen = [commands[place] for place in places]
        super().__init__(chosen, BatchMode.EACH if len(places) > 1 else None)
        self.slot = slot
        self.places = places
        self._pipeline = commands

    def part(self, places: Sequence[int]) -> RoutedCall:
        """Return a call for some of its commands."""
        return RoutedCall(self._pipeline, self.slot, places)

    def left(self, replies: Sequence[Any]) -> list[int]:
        """Return the places of the commands that were not answered, or are to be sent again."""
        return [
            place
            for place in self.places
            if replies[place] is None or is_redirect(replies[place].error)
        ]


@with_shortcuts
class RedisCluster(redis.asyncio.cluster.RedisCluster):  # type: ignore[misc]
    """A drop-in `redis.asyncio.RedisCluster` for the holder of a token.

    Every command goes through the guard of the token's identity, on the node that has its keys. A
    denial is raised as a `LeashError`. A command that was sent is never sent again, since it may
    have run, unless its reply says that nothing ran, as those of moved slots do.

    Args:
        token, wait, correlation: As of `keyleash.asyncio.Redis`.

    Raises:
        CommandRefusedError: a client-side cache is requested.
        TypeError: There is no token, or replicas are to be read: guards run on primaries.
    """

    _kind: Any = None

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
        self.shards = Shards(lambda: self.nodes_manager.slots_cache)
        self._flights: dict[str, AsyncFlight] = {}
        self._wait_s = longest_wait(wait)
        self._sleep = asyncio.sleep
        known = {"cluster": self, "__module__": "keyleash"}
        mixin: Any = type("AsyncShardConnection", (AsyncSharded,), known)

        def guard(base: type) -> type:
            self._kind = guarded_class(mixin, base, token, wait, correlation, ClusterSession)
            kind: type = self._kind
            return kind

        aguard_nodes(self, guard)

    @classmethod
    def from_env(cls, **options: Any) -> Self:
        """Return a client of the cluster that the node in `KEYLEASH_URL` belongs to.

        Its token is found as by `keyleash.asyncio.Redis.from_env`, which has the errors too.

        Args:
            options: Those of `from_url`, without the token.
        """
        client: Any = cls.from_url(url_from_env(), token=token_from_env(), **options)
        return client  # type: ignore[no-any-return]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command through the guard; return its reply, or raise the typed denial."""
        if self._kind is None:
            # redis-py asks for the keys of all commands while it makes a sync client.
            return {}
        await astarted(self)
        slot = self._slot_of(args)
        if slot is None or "target_nodes" in options:
            return await self._run_on_nodes(args, options)
        run = partial(self._run, words=args, options=options)
        node = None
        try:
            node = self.node_of(slot)
            return await run(node)
        except Exception as error:
            return await self.routed(slot, run, (node, error))

    def _slot_of(self, words: Words) -> int | None:
        return slot_of(self._kind.session.table, self.encoder.encode, words)

    async def _run(
        self, node: Any, is_asking: bool = False, *, words: Words, options: dict[str, Any]
    ) -> Any:
        """Make a call on a node; return what the response callback makes of its reply."""
        connection = await acheckout_node(self, node)
        connection.is_asking = is_asking
        try:
            if NEVER_DECODE in options:
                options = {name: options[name] for name in options if name != NEVER_DECODE}
                await connection.send_command(*words)
                reply = await connection.read_response(disable_decoding=True)
            else:
                reply = await connection.run(words)
        except NotReplicatedError as short:
            found = await acalled_back(self, words[0], short.reply, options)
            raise short.about(found) from short.__cause__
        finally:
            connection.is_asking = False
            await acheckin_node(self, node, connection)
        return await acalled_back(self, words[0], reply, options)

    async def _run_on_nodes(self, words: Words, options: dict[str, Any]) -> Any:
        """Make a call on the nodes that were chosen, or on all if it is about all keys."""
        options = {**options}
        nodes = self._targets(words, options.pop("target_nodes", None))
        run = partial(self._run, words=words, options=options)
        if nodes is None:
            slot = self._slot_of(words)
            if slot is None:
                slot = key_slot(self.encoder.encode(words[1])) if len(words) > 1 else HOME_SLOT
            return await self.routed(slot, run)
        found = {node.name: await self.routed(node, run) for node in nodes}
        combine: Any = self.result_callbacks.get(words[0])
        if combine is not None:
            return combine(words[0], found, **options)
        return found if len(found) != 1 else found.popitem()[1]

    def _targets(self, words: Words, given: Any) -> list[Any] | None:
        """Return the nodes of a call; None if any node may serve it."""
        flag = given if isinstance(given, str) else None
        if given is None and upper(words[0]) in _ABOUT_ALL_KEYS:
            flag = self.PRIMARIES
        if flag == self.REPLICAS:
            raise TypeError("guards run on primaries alone")
        if flag in (self.PRIMARIES, self.ALL_NODES):
            primaries: Any = self.nodes_manager.get_nodes_by_server_type("primary")
            return [node for node in primaries if self.shards.has_tag(node.name)]
        if given is None or flag is not None:
            return None
        if isinstance(given, dict):
            return [*given.values()]
        return [*given] if isinstance(given, list) else [given]

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> Any:
        """Return a pipeline like redis-py's, whose calls go through the guard.

        With *transaction* it is one batch in one slot: all commands are allowed, or none runs.
        Without, the commands of each slot are one batch that checks each on its own; the batches
        of a node are sent in one packet.
        """
        return ClusterPipeline(self, bool(transaction))

    def batch(self) -> ClusterBatch:
        """Queue commands in an `async with` block; leaving it runs all of them, or none.

        Raises:
            CrossSlotError: on leaving it: their keys are in several slots of the cluster.
        """
        return ClusterBatch(self, True)

    def monitor(self, *_: Any, **__: Any) -> Any:
        """Raise CommandRefusedError: MONITOR shows the commands of all clients."""
        raise monitoring()

    async def whoami(self) -> WhoAmI:
        """Return the identity, the expiry and what is left of each limit, as the home reports it.

        What nodes have on lease counts as used.

        Raises:
            LeashError: As of every call: the token is over, or the identity is suspended.
        """
        await astarted(self)
        async with self._connected(self.node_of(HOME_SLOT), False) as connection:
            found: WhoAmI = self._kind.session.whoami(await connection.fetch_records())
        return found

    @asynccontextmanager
    async def _connected(self, node: Any, is_asking: bool) -> AsyncIterator[Any]:
        connection = await acheckout_node(self, node)
        connection.is_asking = is_asking
        try:
            yield connection
        finally:
            connection.is_asking = False
            await acheckin_node(self, node, connection)

    # Pipelines.

    def slots_of(self, words: Words) -> list[int | None]:
        """Return the slots of all keys of a call."""
        keys = words[1:] if words[0] == "WATCH" else keys_of(self._kind.session.table, words)
        return [key_slot(self.encoder.encode(key)) for key in keys]

    async def run_all(self, commands: Sequence[Words]) -> list[BufferedReply]:
        """Make a call for each command, of which none depends on another; return their replies."""
        await astarted(self)
        replies: list[Any] = [None] * len(commands)
        waiting = RateWait(self._wait_s)
        places: Sequence[int] = range(len(commands))
        while places:
            await self._run_each(commands, places, replies)
            errors = {place: replies[place].error for place in places}
            denials = {at: e for at, e in errors.items() if isinstance(e, RateLimitedError)}
            try:
                if denials:
                    await self._sleep(waiting.pause([*denials.values()]).seconds)
            except RateLimitedError:
                break
            places = [*denials]
        return replies

    async def _run_each(
        self, commands: Sequence[Words], places: Iterable[int], replies: list[Any]
    ) -> None:
        batch: list[int] = []
        for place in places:
            words = commands[place]
            if role_of(words[0]) in (None, Role.BLOCKING):
                batch.append(place)
                continue
            await self._run_batch(commands, batch, replies)
            batch = []
            try:
                reply = await self._run_alone(words)
            except ResponseError as error:
                reply = error
            replies[place] = BufferedReply(reply)
        await self._run_batch(commands, batch, replies)

    async def _run_alone(self, words: Words) -> Any:
        if role_of(words[0]) is Role.SUBSCRIPTION:
            raise subscription_in_pipeline(str(words[0]))
        if role_of(words[0]) is Role.TRANSACTION:
            raise transaction_in_pipeline(str(words[0]))

        async def attempt(node: Any, is_asking: bool) -> Any:
            async with self._connected(node, is_asking) as connection:
                return await connection.run(words)

        slot = self._slot_of(words)
        return await self.routed(HOME_SLOT if slot is None else slot, attempt)

    async def _run_batch(
        self, commands: Sequence[Words], places: Sequence[int], replies: list[Any]
    ) -> None:
        """Send a batch for each slot, those of a node in one packet."""
        slots: dict[int, list[int]] = {}
        for place in places:
            slot = self._slot_of(commands[place])
            slots.setdefault(HOME_SLOT if slot is None else slot, []).append(place)
        packets: dict[Any, list[RoutedCall]] = {}
        for slot, some in slots.items():
            node = self.node_of(slot)
            for chunk in chunks(commands, some):
                packets.setdefault(node, []).append(RoutedCall(commands, slot, chunk))
        run: Any = self._run_packet
        await agathered(run(node, calls, replies) for node, calls in packets.items())

    async def _run_packet(self, node: Any, calls: Sequence[RoutedCall], replies: list[Any]) -> None:
        """Make calls on one node; make what did not run there again, elsewhere or later."""
        failed = None
        try:
            await self._exchange(node, False, calls, replies)
        except Exception as error:
            if not is_answer(error):
                raise
            failed = error
        for call in calls:
            left = call.left(replies)
            if left:
                reply = replies[left[0]]
                why = reply.error if reply else failed
                await self._run_again(node, why, call.part(left), replies)

    async def _run_again(self, node: Any, error: Any, call: RoutedCall, replies: list[Any]) -> None:
        if isinstance(error, TryAgainError) and len(call.places) > 1:
            # Of the keys of a moving slot some may be on one node, and some on the other.
            for place in call.places:
                await self._run_again(node, error, call.part([place]), replies)
            return

        async def attempt(node: Any, is_asking: bool) -> None:
            nonlocal call
            await self._exchange(node, is_asking, [call], replies)
            left = call.left(replies)
            if left:
                call, error = call.part(left), replies[left[0]].error
                if isinstance(error, TryAgainError) and len(left) > 1:
                    await self._run_again(node, error, call, replies)
                else:
                    raise error

        try:
            await self.routed(call.slot, attempt, (node, error))
        except Exception as final:
            if not is_answer(final):
                raise
            for place in call.left(replies):
                replies[place] = BufferedReply(copy_error(final))

    async def _exchange(
        self, node: Any, is_asking: bool, calls: Sequence[RoutedCall], replies: list[Any]
    ) -> None:
        def deliver(call: Any, found: Sequence[Any]) -> None:
            for place, reply in zip(call.places, found, strict=True):
                replies[place] = reply

        async with self._connected(node, is_asking) as connection:
            await connection.exchange(calls, deliver)

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
        is_home: bool = False,
    ) -> Any:
        """Make a call where its keys are, also while they move.

        Args:
            place: The slot of its keys, or a node.
            attempt: Makes the call on a node; its second argument is whether to send ASKING.
            failed: The node and the error of an attempt that was made before.
            is_home: As of `Route`.
        """
        flow = Route(self.shards, is_home=is_home).run(failed)
        try:
            action = next(flow)
            while True:
                try:
                    outcome = await self._follow(action, place, attempt)
                except Exception as error:
                    action = flow.throw(error)
                else:
                    action = flow.send(outcome)
        except StopIteration as end:
            return end.value

    async def _follow(self, action: Any, place: Any, attempt: Callable[..., Any]) -> Any:
        manager: Any = self.nodes_manager
        match action:
            case Locate(None):
                return self.node_of(place) if isinstance(place, int) else place
            case Locate(AskError() as asked):
                node = manager.get_node(host=asked.host, port=asked.port)
                if node is None:
                    await manager.initialize(**refresh_options(manager, None))
                    raise TryAgainError("the node to which the slot moves is not known yet")
                return node
            case Attempt(node, is_asking):
                return await attempt(node, is_asking)
            case MoveSlot(error):
                return await manager.move_slot(error)
            case Refresh(failed):
                return await manager.initialize(**refresh_options(manager, failed))
            case Pause(seconds):
                return await self._sleep(seconds)

    async def run_at_home(self, action: AtHome) -> Any:
        """Send a command without the guard to the home, which may be moving."""

        async def attempt(node: Any, _: bool) -> Any:
            async with self._connected(node, False) as connection:
                return await connection.run_plain(action)

        return await self.routed(HOME_SLOT, attempt, is_home=True)

    def flight(self, request: str) -> AsyncFlight:
        """Return the fetching of the voucher for a request."""
        tag = request.partition(":")[0]
        flight = self._flights.get(tag)
        if flight is None or flight.request != request:
            flight = self._flights[tag] = AsyncFlight(request)
        return flight
