"""The gateway: accepts connections of agents, bounds them, and ends them in order."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from keyleash.errors import LeashError, OperationError, TokenUnknownError
from keyleash.gateway.agent import Agent, ClusterAgent, all_ended
from keyleash.gateway.connection import Connection
from keyleash.gateway.shares import Shares
from keyleash.gateway.upstream import Upstream

MAX_UNAUTHENTICATED = 1_000
MAX_WAITING = 256 << 20
"""Bytes of requests that have not arrived whole, and of unread replies, in all; then the largest
are cut."""
MAX_LARGE = 4
"""Large requests that arrive, or are under way, at a time."""
LARGE_S = 60.0
"""Seconds in which a large request must arrive and be answered, since others wait for its place."""
LOGINS_AT_ONCE = 2
DENIED_LOGIN_S, DENIALS_S, MAX_DENIED_S = 0.5, 0.01, 5.0
"""The pause after a denied login, longer by the second number for each one that pauses, and the
longest one, so that a flood of them takes little from others."""
SWEEP_S, SWEPT_AT_ONCE = 1.0, 100
DRAIN_S = 10.0
HANDSHAKE_S, SHUTDOWN_S = 3.0, 5.0
MAX_ADMIN_BYTES = 4096
ADMIN_S = 5.0
BACKLOG = 1024


class Gateway:
    """A gateway.

    Attributes:
        connections: Those of agents that are open.
        shares: What each agent uses.
        large: Those with a large request, and since when.
        waiting: Those not read from until another large request has ended.
        is_draining: Whether it accepts no more, and ends connections as they become idle.
        commands, calls, logins, cuts: What it has done, as metrics report it.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.commands = self.calls = 0
        self.logins: Counter[str] = Counter()
        self.cuts: Counter[str] = Counter()
        self._numbers = count(1)
        self._strangers: dict[Connection, None] = {}
        self._agents: dict[tuple[str, int], Agent] = {}
        self.shares = Shares()
        self._denied_at = 0.0
        self._logging_in = asyncio.Semaphore(LOGINS_AT_ONCE)
        self._servers: list[asyncio.AbstractServer] = []
        self.large: dict[Connection, float] = {}
        self.waiting: dict[Connection, None] = {}
        self._path: Path | None = None
        self._inode = (0, 0)

    # Listening.

    async def listen(
        self,
        host: str,
        port: int,
        path: str | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        share_port: bool = False,
    ) -> int:
        """Listen on an address, and on a unix socket if *path* is given; return the port.

        Args:
            share_port: Whether other processes may listen on the same port.

        Raises:
            OperationError (port-in-use): the address or the path is in use, or may not be used.
        """
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"ssl": tls, "backlog": BACKLOG, "reuse_port": share_port}
        if tls is not None:
            options["ssl_handshake_timeout"] = HANDSHAKE_S
            options["ssl_shutdown_timeout"] = SHUTDOWN_S
        try:
            server = await loop.create_server(self._accept, host, port, **options)
            self._servers.append(server)
            if path is not None:
                self._servers.append(await self._listen_at(Path(path)))
        except OSError as error:
            where = f"{host}:{port}" if not self._servers else f"`{path}`"
            raise _unusable(where, error) from None
        return int(server.sockets[0].getsockname()[1])

    async def _listen_at(self, path: Path) -> asyncio.AbstractServer:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            # asyncio would replace the socket of a server that runs.
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()
            raise OSError(errno.EADDRINUSE, "")
        mask = os.umask(0o117)
        try:
            server = await asyncio.get_running_loop().create_unix_server(self._accept, str(path))
        finally:
            os.umask(mask)
        found = path.stat()
        self._path, self._inode = path, (found.st_dev, found.st_ino)
        return server

    async def listen_for_admin(self, host: str, port: int) -> int:
        """Serve health and metrics over HTTP; return the port.

        Raises:
            OperationError (port-in-use): the address is in use, or may not be used.
        """
        try:
            server = await asyncio.start_server(
                self._answer_admin, host, port, limit=MAX_ADMIN_BYTES
            )
        except OSError as error:
            raise _unusable(f"{host}:{port}", error) from None
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _accept(self) -> Connection:
        return Connection(self, next(self._numbers))

    def add(self, connection: Connection) -> None:
        """Note a new connection; if there are too many, close the oldest without a token."""
        self.connections.add(connection)
        self._strangers[connection] = None
        if len(self._strangers) > MAX_UNAUTHENTICATED:
            # An agent needs its connection for some milliseconds until it has a token.
            oldest = next(iter(self._strangers))
            # At once: of a burst, each newcomer cuts another one.
            del self._strangers[oldest]
            oldest.cut("unauthenticated")

    def remove(self, connection: Connection) -> None:
        """Forget a connection that was closed."""
        self.connections.discard(connection)
        self.give_large(connection)
        self.waiting.pop(connection, None)
        self.leave(connection)
        self._strangers.pop(connection, None)

    def take_large(self, connection: Connection) -> bool:
        """Return whether a large request may arrive now; otherwise reading goes on later."""
        identity = connection.share.identity
        same = sum(other.share.identity == identity for other in self.large)
        if connection in self.large or (len(self.large) < MAX_LARGE and same < MAX_LARGE // 2):
            self.large.setdefault(connection, asyncio.get_running_loop().time())
            self.waiting.pop(connection, None)
            return True
        self.waiting[connection] = None
        return False

    def give_large(self, connection: Connection) -> None:
        """Note that a large request has ended, if there was one; let the next arrive."""
        if self.large.pop(connection, None) is not None:
            waiting, self.waiting = self.waiting, {}
            for following in filter(self.take_large, waiting):
                following.resume_reading()

    async def sweep(self) -> None:
        """Look after connections, endlessly."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now, waiting = loop.time(), 0
            for number, connection in enumerate([*self.connections]):
                if not number % SWEPT_AT_ONCE:
                    await asyncio.sleep(0)
                if connection in self.connections:
                    connection.check(now)
                    waiting += connection.waiting_bytes
            for pipe in self.upstream.pipes:
                pipe.close_if_silent()
            for connection, since in [*self.large.items()]:
                if now - since > LARGE_S:
                    connection.cut("slow")
            self.shares.sweep()
            if waiting > MAX_WAITING:
                self._bound_memory()

    def _bound_memory(self) -> None:
        """Cut the largest connections of the identity that has most in memory, while all have too
        much: others do not pay for it.
        """
        sizes, of_identity = Counter[str](), defaultdict[str, list[Connection]](list)
        for connection in sorted(self.connections, key=lambda connection: connection.waiting_bytes):
            sizes[connection.share.identity] += connection.waiting_bytes
            of_identity[connection.share.identity].append(connection)
        while sizes.total() > MAX_WAITING:
            identity = max(sizes, key=sizes.__getitem__)
            largest = of_identity[identity].pop()
            sizes[identity] -= largest.waiting_bytes
            self.connections.discard(largest)
            largest.cut("memory")

    async def drain(self) -> None:
        """Accept no more connections; end each when its replies are delivered, all after 10 s."""
        self.is_draining = self.upstream.polls.is_draining = True
        for server in self._servers:
            server.close()
        if self._path is not None:
            with suppress(FileNotFoundError):
                found = self._path.stat()
                # Not that of a gateway that has followed.
                if (found.st_dev, found.st_ino) == self._inode:
                    self._path.unlink()
        for connection in [*self.connections]:
            connection.go_on()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while self.connections:
                    await asyncio.sleep(0.02)
        for connection in [*self.connections]:
            connection.cut("drained")
        await all_ended()
        await self.upstream.close()

    # Tokens.

    async def login(self, token: str, user: bytes, protocol: int) -> Agent:
        """Return the agent of a token that its guard accepts.

        Raises:
            LeashError: it does not, or *user* is not its identity.
            RedisConnectionError: the server cannot be reached.
        """
        try:
            async with self._logging_in:
                agent = self._agents.get((token, protocol)) or self._made(token, protocol)
                if user not in (b"", b"default", agent.session.identity.encode()):
                    raise TokenUnknownError
                try:
                    whoami = await agent.whoami()
                except BaseException:
                    if not agent.users:
                        agent.close()
                    raise
        except LeashError:
            self.logins["denied"] += 1
            now = asyncio.get_running_loop().time()
            latest = now + DENIED_LOGIN_S, self._denied_at + DENIALS_S
            self._denied_at = min(max(latest), now + MAX_DENIED_S)
            await asyncio.sleep(self._denied_at - now)
            raise
        chain = whoami.restrictions.chain if whoami.restrictions else ()
        root = chain[0].id if chain else whoami.token_id
        agent.share = self.shares.share(whoami.identity, root)
        self.logins["accepted"] += 1
        return agent

    def _made(self, token: str, protocol: int) -> Agent:
        kind = ClusterAgent if self.upstream.hello.get("mode") == "cluster" else Agent
        return kind(self.upstream, token, protocol)

    def enter(self, connection: Connection, agent: Agent) -> None:
        """Note that a connection has authenticated, or did so again.

        Raises:
            ResponseError: there are too many, and its agent has most of them.
        """
        self.leave(connection)
        self.shares.enter(connection, agent.share)
        agent.users += 1
        self._strangers.pop(connection, None)
        self._agents[agent.key] = agent

    def leave(self, connection: Connection) -> None:
        """Note that a connection has no agent any more."""
        agent, connection.agent = connection.agent, None
        if agent is None:
            return
        self._strangers[connection] = None
        self.shares.leave(connection, agent.share)
        agent.users -= 1
        if not agent.users:
            agent.close()
            if self._agents.get(agent.key) is agent:
                del self._agents[agent.key]

    def agent_of(self, agent: Agent, protocol: int) -> Agent:
        """Return the agent with the same token for another protocol."""
        token = agent.key[0]
        other = self._agents.get((token, protocol)) or self._made(token, protocol)
        other.share = agent.share
        return other

    # Health and metrics.

    async def _answer_admin(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(ADMIN_S):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].partition(b"?")[0]
                status, body = self._admin_page(path)
                writer.write(
                    b"HTTP/1.1 %b\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                    b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body)
                )
                await writer.drain()
        except (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError, IndexError):
            pass
        finally:
            writer.close()

    def _admin_page(self, path: bytes) -> tuple[bytes, bytes]:
        match path:
            case b"/readyz" if self.is_draining:
                return b"503 Service Unavailable", b"draining\n"
            case b"/readyz" if not self.upstream.pipes:
                return b"503 Service Unavailable", b"no connection to the server\n"
            case b"/healthz" | b"/readyz":
                return b"200 OK", b"ok\n"
            case b"/metrics":
                registry = CollectorRegistry()
                registry.register(self)
                return b"200 OK", generate_latest(registry)
        return b"404 Not Found", b"there are /healthz, /readyz and /metrics\n"

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as prometheus-client asks for them."""
        name = "keyleash_gateway"
        strangers = "Open connections that sent no valid token yet."
        for what, text, items in (
            ("connections", "Open connections of agents.", self.connections),
            ("unauthenticated_connections", strangers, self._strangers),
            ("tokens", "Tokens with connections.", {token for token, _ in self._agents}),
            ("upstream_connections", "Connections to servers.", self.upstream.pipes),
        ):
            yield GaugeMetricFamily(f"{name}_{what}", text, len(items))
        yield CounterMetricFamily(f"{name}_commands", "Commands of agents.", self.commands)
        yield CounterMetricFamily(f"{name}_calls", "Guard calls sent at once.", self.calls)
        for what, label, numbers, text in (
            ("logins", "result", self.logins, "Logins, by result."),
            ("cuts", "reason", self.cuts, "Connections that the gateway closed, by reason."),
        ):
            family = CounterMetricFamily(f"{name}_{what}", text, labels=[label])
            for value, number in numbers.items():
                family.add_metric([value], number)
            yield family


def _unusable(where: str, error: OSError) -> OperationError:
    # uvloop and asyncio put their own words before those of the system.
    code = error.errno or 0
    reason = os.strerror(code) if code in errno.errorcode else error.strerror or str(error)
    reason = reason.lower()
    return OperationError(
        "port-in-use",
        f"cannot listen on {where}: {reason}",
        help="choose another with `--listen`, `--unix` or `--admin`",
    )


def tls_context(certificate: str, key: str, client_ca: str | None = None) -> ssl.SSLContext:
    """Return the TLS settings for connections of agents.

    Args:
        certificate: The file of the certificate, with those that sign it.
        key: The file of its key.
        client_ca: The file of the certificates that sign those of agents, which then need one.

    Raises:
        OperationError (certificate-unreadable): one of them cannot be read.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_certificate(context, certificate, key)
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise _unreadable(client_ca, error) from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Read certificate and key, also again: new connections use them.

    Raises:
        OperationError (certificate-unreadable): they cannot be read, or do not belong together.
    """
    try:
        # First elsewhere: what does not belong together would replace what does.
        for loaded in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            # OpenSSL would ask for the password at the terminal.
            loaded.load_cert_chain(certificate, key, password="")
    except (OSError, ssl.SSLError) as error:
        raise _unreadable(f"{certificate}` or `{key}", error) from None


def _unreadable(what: str, error: Exception) -> OperationError:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
    return OperationError(
        "certificate-unreadable",
        f"`{what}` cannot be read: {str(reason).lower()}",
        help="give PEM files that this user may read, and the key that belongs to the certificate",
    )
