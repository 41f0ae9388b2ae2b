"""The gateway's connections to its servers, which the connections of agents share."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeAlias

import redis.asyncio
from redis._parsers import Encoder
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, BusyLoadingError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.utils import str_if_bytes

from keyleash.client._redis_py import pack, quiet_options, taken_over
from keyleash.commands.facts import SUBSCRIPTIONS
from keyleash.gateway.channels import Channels, Key, More
from keyleash.gateway.polls import Polls
from keyleash.gateway.resp import Frames, parse
from keyleash.store.connect import TIMEOUT_S

Sink: TypeAlias = Callable[[bytes | None], None]
"""Takes the bytes of a reply; None if the connection was lost before it came."""

LARGE_BYTES = 1 << 20
"""The size from which a request has a connection of its own."""
PACKET_CALLS = 8
"""Calls of agents that leave in one packet."""
WAIT_S, RETRY_S = 5.0, 0.05
"""Seconds for which commands wait for a server that is lost, and between attempts to reach it."""
SILENT_S = 30.0
"""A server that owes a reply and sends nothing for so long is lost."""
MAX_OWN = 512
"""Connections to one server for one agent each: WATCH, subscriptions, WAIT, large requests."""
MAX_OF_IDENTITY = MAX_OWN // 2
"""Those of them that agents of one identity may have, so that they leave some to others; and its
agents with subscriptions, which are checked each second."""
IN_USE = "all connections to the server are in use"
_DEMOTED = (b"-READONLY", b"-MASTERDOWN")
_LISTENS = frozenset(
    name.encode()
    for joined in SUBSCRIPTIONS
    for name in (joined, joined.replace("SUB", "UNSUB", 1))
)
_PINS = frozenset({b"WATCH", b"MULTI"})
"""Commands after which the connection has a state, so that it serves one agent."""
_WAIT = b"*3\r\n$4\r\nWAIT\r\n"
"""The head of WAIT, which blocks its connection."""


class NotSentError(RedisConnectionError):
    """There is no connection, so nothing was sent: callers look for the exact types of others."""


class Pipe(asyncio.Protocol):
    """One connection to a server; replies come in the order of requests.

    Attributes:
        is_open: Whether requests may be sent.
        listener: Takes messages of subscriptions; None if there are none.
        writer: Holds the socket, which is closed when it is collected.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.listener: Sink | None = None
        self.writer: Any = None
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._sinks: deque[Sink] = deque()
        self._packet: list[bytes] = []
        self._heard_at = self._loop.time()
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport

    def send(self, packet: bytes, *sinks: Sink) -> None:
        """Send requests, whole.

        Args:
            sinks: One for each reply.
        """
        is_idle = not self._sinks
        self._sinks.extend(sinks)
        if is_idle:
            self._heard_at = self._loop.time()
            self._write(packet)
            return
        # Others are served meanwhile: what agents send in this iteration leaves in few packets, of
        # which the server takes the first while the last are made.
        if not self._packet:
            self._loop.call_soon(self._flush)
        self._packet.append(packet)
        if len(self._packet) == PACKET_CALLS:
            self._flush()

    def _flush(self) -> None:
        if self._packet:
            packet, self._packet = b"".join(self._packet), []
            self._write(packet)

    def _write(self, packet: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(packet)

    def data_received(self, data: bytes) -> None:
        """Give each reply to whom it belongs."""
        self._heard_at = self._loop.time()
        sinks = self._sinks
        try:
            for frame in self._frames.feed(data):
                if frame[0] == 45 and frame.startswith(_DEMOTED):
                    # The next connection is to the new primary.
                    self.is_open = False
                sink: Any = sinks.popleft() if sinks else self.listener
                sink(frame)
        except BaseException:
            # A reply that went astray would be another agent's next one.
            self.close()
            raise
        if not (self.is_open or sinks or self.listener):
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Report the loss to all who wait."""
        self.is_open = False
        waiting = [*self._sinks, *([self.listener] if self.listener else [])]
        self._sinks.clear()
        self.listener = None
        for sink in waiting:
            sink(None)

    def hold(self, is_held: bool) -> None:
        """Read no more from it, or go on."""
        if self.is_open and not self._transport.is_closing():
            (self._transport.pause_reading if is_held else self._transport.resume_reading)()

    def close(self) -> None:
        """Close it; what was sent may have run."""
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def close_if_silent(self) -> None:
        """Close it if the server owes a reply for too long."""
        if self._sinks and self._loop.time() - self._heard_at > SILENT_S:
            self.close()


class Node:
    """A server.

    Args:
        make: Returns a new connection of redis-py, which knows address, TLS and credentials.
        wait_s: Returns the seconds for which to wait for the server if it is lost.
        more: Of the upstream.
    """

    def __init__(self, make: Callable[[], Any], wait_s: Callable[[], float], more: More) -> None:
        self._make, self._wait_s, self._more = make, wait_s, more
        self._channels: dict[str, Channels] = {}
        self._lock = asyncio.Lock()
        self._shared: Pipe | None = None
        self._connecting: asyncio.Future[Pipe] | None = None
        self._own: dict[Pipe, str] = {}

    async def pipe(self) -> Pipe:
        """Return the connection that agents share; connect if there is none.

        Raises:
            RedisConnectionError: the server cannot be reached, or refuses the credentials.
        """
        pipe = self._shared
        if pipe is not None and pipe.is_open:
            return pipe
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._connect(Pipe()))
            self._connecting.add_done_callback(self._connected)
        # One attempt for all who wait; some of them may go away.
        return await asyncio.shield(self._connecting)

    def _connected(self, attempt: asyncio.Future[Pipe]) -> None:
        self._connecting = None
        self._shared = None if attempt.cancelled() or attempt.exception() else attempt.result()

    async def _connect(self, pipe: Pipe) -> Pipe:
        began, inbox = time.monotonic(), Inbox()
        while True:
            try:
                async with asyncio.timeout(2 * TIMEOUT_S):
                    pipe.writer = pipe.writer or await taken_over(self._make(), pipe)
                    pipe.send(pack(("PING",))[0], inbox.put)
                    if isinstance(reply := await inbox.get(), BusyLoadingError):
                        raise reply
                    return pipe
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                is_closed = pipe.writer is not None and not pipe.is_open
                is_final = is_closed or isinstance(error, AuthenticationError)
                if is_final or time.monotonic() - began >= self._wait_s():
                    pipe.close()
                    raise
            except asyncio.CancelledError:
                pipe.close()
                raise
            await asyncio.sleep(RETRY_S)

    async def own(self, identity: str) -> Pipe:
        """Return a connection for one agent of an identity.

        Raises:
            NotSentError: As `pipe`; or there are too many, in all or of the identity.
        """
        self._own = {pipe: user for pipe, user in self._own.items() if pipe.is_open}
        free = next((pipe for pipe, user in self._own.items() if not user), None)
        is_full = free is None and len(self._own) >= MAX_OWN
        if is_full or [*self._own.values()].count(identity) >= MAX_OF_IDENTITY:
            raise NotSentError(IN_USE)
        pipe = free or Pipe()
        # Before it is connected: others ask for one meanwhile.
        self._own[pipe] = identity
        if free is None:
            try:
                await self._connect(pipe)
            except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                pipe.is_open = False
                raise NotSentError(str(error)) from None
            except BaseException:
                pipe.is_open = False
                raise
        return pipe

    async def channels(self, identity: str) -> Channels:
        """Return what an identity listens to.

        Raises:
            NotSentError: As `own`; or too many agents of the identity listen.
        """
        async with self._lock:
            channels = self._channels.get(identity)
            if channels is None or not channels.pipe.is_open:
                channels = Channels(await self.own(identity), self._more)
                self._channels[identity] = channels
        if len(channels.listeners) >= MAX_OF_IDENTITY:
            raise NotSentError(IN_USE)
        return channels

    def give_back(self, pipe: Pipe) -> None:
        """Take back a connection whose agent has left no state."""
        self._own[pipe] = ""

    @property
    def pipes(self) -> list[Pipe]:
        """The open connections."""
        shared = [self._shared] if self._shared is not None else []
        return [pipe for pipe in (*shared, *self._own) if pipe.is_open]


class Upstream:
    """The servers of a gateway.

    Args:
        url: The URL of a server, or of a node of a cluster.
        sentinels: The URLs of Sentinels that know the primary; user, password and database are
            those of *url*.
        service: The name of the primary in the Sentinels.
        wait_s: Seconds for which commands wait for a server that is lost. On a cluster, calls wait
            for its nodes and slots as the client's do.

    Attributes:
        hello: The reply to HELLO of the first server.
        polls: The blocking commands that wait.
        more: The number of listeners to each channel beyond the first of each identity.
        nodes: The servers that were called, by address; that of the URL has none.
        options: Those of connections.
    """

    def __init__(
        self,
        url: str,
        sentinels: Iterable[str] = (),
        service: str = "mymaster",
        wait_s: float = WAIT_S,
    ) -> None:
        parsed: dict[str, Any] = {"socket_connect_timeout": TIMEOUT_S, **parse_url(url)}
        self._class = parsed.pop("connection_class", redis.asyncio.Connection)
        self.options = {**parsed, **quiet_options(), "client_name": "keyleash-gateway"}
        self.database = int(parsed.get("db") or 0)
        self.hello: dict[str, Any] = {}
        self.polls = Polls()
        self.more = More()
        self.wait_s = wait_s
        self.nodes: dict[tuple[str, int], Node] = {}
        self._sentinels: Any = None
        addresses: Any = [parse_url(sentinel) for sentinel in sentinels]
        if addresses:
            manager = Sentinel([])
            manager.sentinels = [
                redis.asyncio.Redis(**{"socket_timeout": TIMEOUT_S, **options})
                for options in addresses
            ]
            options = {key: self.options[key] for key in self.options.keys() - {"host", "port"}}
            self._sentinels = SentinelConnectionPool(
                service,
                manager,
                ssl=issubclass(self._class, redis.asyncio.SSLConnection),
                **options,
            )

    def node(self, host: str = "", port: int = 0) -> Node:
        """Return the server at an address; without one, that of the URL."""
        node = self.nodes.get((host, port))
        if node is None:
            node = Node(lambda: self._make(host, port), lambda: self._wait_for(host), self.more)
            self.nodes[host, port] = node
        return node

    def _wait_for(self, host: str) -> float:
        # Who starts a gateway hears at once that the server of the URL does not answer.
        return 0 if host or not self.hello or self.polls.is_draining else self.wait_s

    def _make(self, host: str, port: int) -> Any:
        if self._sentinels is not None:
            return self._sentinels.make_connection()
        address = {"host": host, "port": port} if host else {}
        return self._class(**{**self.options, **address})

    async def open(self) -> None:
        """Connect, and learn what the server is.

        Raises:
            RedisConnectionError: it cannot be reached.
        """
        pipe = await self.node().pipe()
        inbox = Inbox()
        pipe.send(pack(("HELLO",))[0], inbox.put)
        reply = await inbox.get()
        if isinstance(reply, ResponseError):
            raise reply
        self.hello = {
            str_if_bytes(name): value if isinstance(value, list) else str_if_bytes(value)
            for name, value in zip(reply[::2], reply[1::2], strict=True)
        }

    @property
    def pipes(self) -> list[Pipe]:
        """The open connections to all servers."""
        return [pipe for node in self.nodes.values() for pipe in node.pipes]

    async def close(self) -> None:
        """Close all connections."""
        for pipe in self.pipes:
            pipe.close()
        if self._sentinels is not None:
            for client in self._sentinels.sentinel_manager.sentinels:
                await client.aclose()


class Inbox:
    """The replies that one connection awaits."""

    def __init__(self) -> None:
        self.frames: deque[bytes | None] = deque()
        self._arrived: asyncio.Future[None] | None = None

    def put(self, frame: bytes | None) -> None:
        """Take a reply."""
        self.frames.append(frame)
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def get(self) -> Any:
        """Return the next reply, which may be an error.

        Raises:
            RedisConnectionError: the connection was lost.
        """
        if not self.frames:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        frame = self.frames.popleft()
        if frame is None:
            raise RedisConnectionError("the server closed the connection")
        return parse(frame)


class PipeConnection:
    """The part of redis-py's connection that a guarded one needs, over a pipe that others share.

    It has a pipe of its own after WATCH, and while WAIT blocks. So nothing else holds a connection
    to the server, not even a blocking command, which is polled.

    Attributes:
        upstream: The servers. `agent` makes subclasses that know them.
        pipe: The pipe in use; None if there is none yet.
        agent: The holder of its token.
        server: On a cluster, the node of redis-py's client.
        channels: What its identity listens to, if it does, too.
        heard, sink: Those of a listener, see `Channels`.
    """

    upstream: ClassVar[Upstream]
    agent: ClassVar[Any]
    server: Any
    session: Any
    takes_parts = True
    encoder: Any = Encoder("utf-8", "strict", False)
    socket_timeout = None
    health_check_interval = db = 0
    retry: Any
    _is_open: bool
    _dialogue: Any
    _re_auth_token = None

    def __init__(self, host: str = "", port: int = 0, **_: Any) -> None:
        self.retry = Retry(NoBackoff(), 0)
        self.host, self.port = host, int(port)
        self.node = self.upstream.node(host, self.port)
        self.pipe: Pipe | None = None
        self._is_pinned = False
        self._inbox = Inbox()
        self._awaited = 0
        self.channels: Channels | None = None
        self.heard = set[Key](), set[Key]()
        self.sink: Any = None

    @property
    def is_answered(self) -> bool:
        """True if no reply is to come, which the next user would get."""
        return not self._awaited

    @property
    def is_connected(self) -> bool:
        """True while its pipe is open."""
        return self.pipe is not None and self.pipe.is_open

    @property
    def is_idle(self) -> bool:
        """True if nothing is due, and there is neither a transaction nor a watch."""
        return bool(self._dialogue.is_idle)

    @property
    def queued(self) -> list[Any] | None:
        """The commands since MULTI; None outside of a transaction."""
        held: list[Any] | None = self._dialogue.transaction.held
        return held

    async def connect(self, **_: Any) -> None:
        """Take the shared pipe."""
        await self.connect_check_health()

    async def connect_check_health(self, **_: Any) -> None:
        """Take the shared pipe."""
        self.pipe = await self.node.pipe()

    async def check_health(self) -> None:
        """Do nothing: pipes are watched."""

    async def disconnect(self, *_: Any, **__: Any) -> None:
        """Forget the replies to come; close a pipe of its own."""
        self.abandon()

    def abandon(self) -> None:
        """Forget the replies to come, and subscriptions; close a pipe of its own."""
        self._inbox, self._awaited = Inbox(), 0
        self._unlisten()
        if self._is_pinned and self.pipe is not None:
            self.pipe.close()
        self._leave()

    def unpin(self) -> None:
        """Give back a pipe of its own, which no longer has a state."""
        self._unlisten()
        if self._is_pinned and self.pipe is not None:
            self.node.give_back(self.pipe)
            self._leave()

    def _unlisten(self) -> None:
        channels, self.channels = self.channels, None
        if channels is not None:
            channels.leave(self)

    def _leave(self) -> None:
        self.pipe, self._is_pinned, self._is_open = None, False, False

    _close = abandon

    def should_reconnect(self) -> bool:
        """Return False: pipes outlast the list of nodes, and the server does not ask for it."""
        return False

    mark_for_reconnect = should_reconnect

    async def can_read(self, *_: Any, **__: Any) -> bool:
        """Return whether a reply has come."""
        return bool(self._inbox.frames)

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send commands, in one packet."""
        parts: list[bytes] = command if isinstance(command, list) else [command]
        name = parts[0].split(b"\r\n", 3)[2].upper()
        if name in _LISTENS:
            self.channels = self.channels or await self.node.channels(self.session.identity)
            self.channels.send(parse(b"".join(parts)), self)
            return
        has_state = name in _PINS or parts[-1].startswith(_WAIT)
        # A large request would hold up what others send.
        if not self._is_pinned and (has_state or sum(map(len, parts)) > LARGE_BYTES):
            self.pipe, self._is_pinned = await self.node.own(self.session.identity), True
        elif self.pipe is None:
            await self.connect()
        assert self.pipe is not None  # noqa: S101 - it is connected
        if not self.pipe.is_open:
            raise RedisConnectionError("the server closed the connection")
        self._awaited += len(parts)
        self.pipe.send(b"".join(parts), *[self._inbox.put] * len(parts))

    async def read_response(
        self, disable_decoding: bool = False, *, timeout: float | None = None, **_: Any
    ) -> Any:
        """Return the next reply or message; None if there is none within *timeout* seconds."""
        try:
            async with asyncio.timeout(timeout):
                reply = await self._inbox.get()
        except TimeoutError:
            return None
        self._awaited = max(0, self._awaited - 1)
        if isinstance(reply, Exception):
            raise reply
        return reply
