"""The session of a token, and its guarded connections over pipes, which connections share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence, Sized
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, ResponseError, WatchError

from keyleash.client.actions import Pause, Words
from keyleash.client.aio_cluster import RedisCluster
from keyleash.client.aio_cluster_pipeline import AsyncSpread
from keyleash.client.aio_connection import AsyncGuarded
from keyleash.client.aio_holder import TokenHolder
from keyleash.client.batches import chunks
from keyleash.client.blocking import timeout_of
from keyleash.client.caller import LOST
from keyleash.client.calls import Call
from keyleash.client.command_words import upper
from keyleash.client.pools import guarded_class
from keyleash.client.retries import mark_sent
from keyleash.client.routing import HOME_SLOT, keys_of
from keyleash.client.session import Session
from keyleash.client.transactions import NESTED
from keyleash.gateway.polls import UNITS_PER_S, Pace, Polls
from keyleash.gateway.resp import error_line
from keyleash.gateway.upstream import PipeConnection, Upstream
from keyleash.store.wire import BatchMode

source: ContextVar[str] = ContextVar("keyleash_gateway_source", default="")
"""The address of the connection whose calls are made."""
_ORIGIN = property(lambda _: source.get())
CHECK_S = 1.0
"""Seconds after which subscriptions are checked again."""
MAX_FREE = 64
_MOVES = ("BLMOVE", "BRPOPLPUSH")
_AGAIN = (*_MOVES, "XREADGROUP")
"""Blocking commands that on a server run again, and fail, when a key gets another type."""


class _Polling:
    """Mixed in before a caller, whose blocking commands wait in `polls`."""

    polls: Polls

    def is_no_data(self, call: Call, error: ResponseError) -> bool:
        """Return whether a key got another type: on a server, that wakes only some commands."""
        is_again = call not in self.polls._waits or upper(call.commands[0][0]) in _AGAIN
        return not is_again and error_line(error).startswith(b"WRONGTYPE ")


class Agent(TokenHolder):
    """The holder of a token, on one server.

    Args:
        protocol: The protocol of its connections.

    Attributes:
        key: The token and the protocol.
        share: That of its root token; set at login.
        users: The number of connections that are authenticated with it.

    Raises:
        TokenUnknownError: *token* has not the shape of one.
    """

    def __init__(self, upstream: Upstream, token: str, protocol: int) -> None:
        self.key = token, protocol
        self.share: Any = None
        self.users = 0
        self._upstream, self._polls = upstream, upstream.polls
        self._pace = Pace(UNITS_PER_S / 2)
        # A guarded connection goes back to the agent whose token it has, and to no other.
        attributes = {"upstream": upstream, "agent": self}
        base = type("UpstreamConnection", (PipeConnection,), attributes)
        self._kind = self._guarded(base)
        self._kind.check_every_s = CHECK_S
        self._kind.pause = self._pause
        caller: Any = self._kind.caller_class
        leave = staticmethod(self._polls.leave)
        overridden = {"origin": _ORIGIN, "polls": self._polls, "stop_waiting": leave}
        self._kind.caller_class = type(caller.__name__, (_Polling, caller), overridden)
        self.session: Session = self._kind.session
        self._free: list[Any] = []

    async def _pause(self, pause: Pause) -> bool:
        if (call := pause.polled) is None:
            await asyncio.sleep(pause.seconds)
            return False
        keys, identity = self._taken(call.commands[0]), self.session.identity
        return not await self._polls.wait(call, pause.seconds, keys, identity, self._pace)

    def _taken(self, words: Words) -> Sequence[Any]:
        """Return the keys from which a blocking command takes: not the other one of BLMOVE."""
        keys = keys_of(self.session.table, words)
        return keys[:1] if upper(words[0]) in _MOVES else keys

    def require_room(self, words: Words) -> None:
        """Check that a command may wait for its keys, if it waits; see `Polls.require_room`."""
        if timeout_of(words) is not None:
            self._polls.require_room(self.session.identity, len(self._taken(words)))

    def wake(self, commands: Iterable[Words]) -> None:
        """Poll at once for what waits for keys that *commands* may have written."""
        if self._polls:
            for words in filter(self.session.may_write, commands):
                self._polls.wake(keys_of(self.session.table, words))

    def _guarded(self, base: type) -> Any:
        """Return the class of guarded connections."""
        return guarded_class(AsyncGuarded, base, self.key[0], False, None)

    def take(self) -> Any:
        """Return a guarded connection, which nothing else uses until it is given back."""
        return self.take_for(()) or self._kind(protocol=self.key[1])

    def take_for(self, commands: Sequence[Words]) -> Any:
        """Return a guarded connection that can send commands at once; None if there is none."""
        while self._free:
            connection = self._free.pop()
            if connection.is_connected:
                return connection
        return None

    def give_back(self, connection: Any) -> None:
        """Take back a guarded connection; what was left unfinished ends."""
        if _is_done(connection):
            self.keep(connection)

    def keep(self, connection: Any) -> None:
        """Take back a guarded connection that left nothing unfinished."""
        if connection.is_connected and len(self._free) < MAX_FREE:
            self._free.append(connection)

    hold = take
    """Return a guarded connection for a transaction, or for commands that need more."""

    def close(self) -> None:
        """Let go of what it has; it can be used again."""

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        connection = self.take()
        try:
            yield connection
        finally:
            self.give_back(connection)

    async def run_each(self, commands: Sequence[Words]) -> list[Any]:
        """Return the replies and errors of plain commands, which are one batch."""
        connection, replies = self.take(), dict[Call, list[Any]]()
        try:
            # One after the other, since a call that is repeated must not be overtaken.
            for part in chunks(commands, range(len(commands))):
                mode = BatchMode.EACH if len(part) > 1 else None
                call = Call([commands[at] for at in part], mode)
                await connection.exchange([call], replies.__setitem__)
        except ResponseError as error:
            # A command cannot be sent; of a batch, each goes alone.
            if len(commands) == 1:
                return [error]
            values = _values(replies)
            for words in commands[len(values) :]:
                try:
                    values += await self.run_each([words])
                except (*LOST, OSError) as lost:
                    raise _after(values, lost) from None
            return values
        except (*LOST, OSError) as error:
            raise _after(replies, error) from None
        finally:
            self.give_back(connection)
        return _values(replies)


def _after(replies: Sized, error: Exception) -> Exception:
    """Return an error that is a lost reply if others have come: not as if nothing had run."""
    return mark_sent(RedisConnectionError(str(error))) if replies else error


def _values(replies: Mapping[Call, Sequence[Any]]) -> list[Any]:
    return [_value(reply) for several in replies.values() for reply in several]


def _value(reply: Any) -> Any:
    """Return a reply; its error, also if it ran and too few replicas have it, in its place."""
    return getattr(reply, "short", reply.error) or reply.read_response()


def _is_done(connection: Any) -> bool:
    """Return whether a guarded connection may be used again; end what was left unfinished."""
    dialogue = connection._dialogue
    if dialogue.is_idle and connection.is_answered and not dialogue.subscriptions.active:
        connection.unpin()
    else:
        dialogue.clear()
        connection.abandon()
    return bool(connection.is_connected)


class ClusterAgent(Agent):
    """The holder of a token, on a cluster, which looks to agents like one server."""

    def _guarded(self, base: type) -> Any:
        """Return the class of guarded connections to nodes."""
        kind = type("UpstreamCluster", (RedisCluster,), {"connection_base": base})
        token, protocol = self.key
        # The server of the URL may be lost when a token is used first.
        nodes = [ClusterNode(*address) for address in self._upstream.nodes if address[0]]
        options = {**self._upstream.options, "protocol": protocol, "startup_nodes": nodes}
        self._cluster: Any = kind(**options, token=token)
        # Replies pass as the nodes send them.
        self._cluster.response_callbacks = {}
        return self._cluster._kind

    def take_for(self, commands: Sequence[Words]) -> Any:
        """Return a guarded connection to the node of all commands; None if there is none."""
        cluster = self._cluster
        slots = {cluster.slot_of(words) for words in commands} if commands else {HOME_SLOT}
        slot = slots.pop()
        nodes = cluster.nodes_manager.slots_cache.get(slot)
        if slots or not nodes:
            return None
        connection = nodes[0].acquire_connection()
        connection.server = nodes[0]
        if commands and not connection.is_connected:
            self.give_back(connection)
            return None
        return connection

    def give_back(self, connection: Any) -> None:
        """Take back a guarded connection; what was left unfinished ends."""
        if isinstance(connection, ClusterTransaction):
            connection.abandon()
            return
        _is_done(connection)
        self.keep(connection)

    def keep(self, connection: Any) -> None:
        """Take back a guarded connection that left nothing unfinished."""
        connection.server.release(connection)

    def hold(self) -> Any:
        """Return what runs a transaction, or commands that need more."""
        return ClusterTransaction(self, self._cluster)

    def close(self) -> None:
        """Let go of the nodes in the background."""
        _end(self._cluster.aclose())

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        try:
            await self._cluster.initialize()
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from None
        async with super()._connected() as connection:
            yield connection

    async def _ask_permission(self, words: Words) -> None:
        await self._cluster._ask_permission(words)

    async def run_each(self, commands: Sequence[Words]) -> list[Any]:
        """Return the replies and errors of plain commands, which are a batch for each slot."""
        replies = await AsyncSpread(self._cluster, commands).run()
        return [_value(reply) for reply in replies]


class ClusterTransaction:
    """WATCH, MULTI and EXEC on a cluster, where their keys say which node they are for.

    Attributes:
        agent: The holder of its token.
        queued: The commands since MULTI; None outside of a transaction.
    """

    def __init__(self, agent: ClusterAgent, cluster: Any) -> None:
        self.agent = agent
        self.queued: list[Words] | None = None
        self._cluster = cluster
        self._pipeline: Any = None

    @property
    def is_idle(self) -> bool:
        """True if there is neither a transaction nor a watch."""
        return self.queued is None and self._pipeline is None

    def abandon(self) -> None:
        """End a watch in the background."""
        pipeline, self._pipeline, self.queued = self._pipeline, None, None
        if pipeline is not None:
            _end(pipeline.reset())

    async def run(self, words: Words) -> Any:
        """Return the reply to a command, or raise its error."""
        name = words[0]
        if self.queued is not None:
            return await self._run_queued(words)
        if name == "MULTI":
            self.queued = []
            return b"OK"
        if name in ("EXEC", "DISCARD"):
            raise ResponseError(f"{name} without MULTI")
        if name == "UNWATCH":
            self.abandon()
            return b"OK"
        if name == "SCAN" and len(words) > 1 and words[1].isdigit():
            return await self._scan(int(words[1]), words[2:])
        if name != "WATCH" and self._pipeline is None:
            reply = await self._cluster.execute_command(*words)
            return b"OK" if name in ("FLUSHDB", "FLUSHALL") else reply
        if self._pipeline is None:
            self._pipeline = self._cluster.pipeline(True)
        return await self._pipeline.immediate_execute_command(*words)

    async def _scan(self, cursor: int, options: Words) -> Any:
        """Scan one node after the other; the cursor names the node and the place in it."""
        nodes = self._cluster.nodes_manager.get_nodes_by_server_type("primary")
        nodes.sort(key=lambda node: node.name)
        place, at = divmod(cursor, len(nodes))
        target = {"target_nodes": nodes[at]}
        cursors, keys = await self._cluster.execute_command("SCAN", place, *options, **target)
        place = int(cursors.popitem()[1])
        following = place * len(nodes) + at if place else (at + 1) % len(nodes)
        return [b"%d" % following, keys]

    async def _run_queued(self, words: Words) -> Any:
        queued, name = self.queued, words[0]
        assert queued is not None  # noqa: S101 - the caller looks
        if problem := self.agent.session.table.problem(words) or NESTED.get(name):
            raise ResponseError(problem)
        if name == "DISCARD":
            self.abandon()
            return b"OK"
        if name != "EXEC":
            queued.append(words)
            return b"QUEUED"
        pipeline = self._pipeline or self._cluster.pipeline(True)
        self.queued = self._pipeline = None
        if pipeline.watching:
            pipeline.multi()
        for command in queued:
            pipeline.execute_command(*command)
        try:
            return await pipeline.execute(raise_on_error=False)
        except WatchError:
            return None


_ENDING: set[asyncio.Future[Any]] = set()
"""The event loop itself holds only a weak reference."""


def _end(ending: Coroutine[Any, Any, Any]) -> None:
    _ENDING.add(task := asyncio.ensure_future(ending))
    task.add_done_callback(_ENDING.discard)


async def all_ended() -> None:
    """Wait until nothing ends in the background."""
    while _ENDING:
        await asyncio.wait(_ENDING)
