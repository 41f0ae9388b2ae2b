"""Guarded connections to the nodes of a cluster; `node` is generated from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from keyleash.client._redis_py import acheckin_node, acheckout_node, copy_error, pack
from keyleash.client.actions import AtHome
from keyleash.client.aio_connection import AsyncGuarded
from keyleash.client.caller import LOST
from keyleash.client.calls import Call
from keyleash.client.guarding import AsyncLock
from keyleash.client.node_calls import FetchLease, ShardCaller, fetch_lease
from keyleash.client.retries import unmark
from keyleash.errors import LeashError


class AsyncFlight:
    """The fetching of one voucher, for which several tasks may wait.

    Attributes:
        request: What the node asks for.
        lock: Held by the task that fetches it.
        voucher: The voucher; None before it is fetched.
        failure: The error of the last attempt to fetch it, except denials.
    """

    def __init__(self, request: str) -> None:
        self.request = request
        self.lock = AsyncLock()
        self.voucher: str | None = None
        self.failure: Exception | None = None


class AsyncSharded(AsyncGuarded):
    """A guarded connection that knows its node of a cluster. `RedisCluster` makes subclasses.

    Attributes:
        is_asking: Whether ASKING precedes each call.
    """

    caller_class = ShardCaller
    check_attempts = 8
    """29 s: by default a home fails over in 17 s. Meanwhile no message is delivered."""
    cluster: Any
    is_asking = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        caller: Any = self._dialogue.caller
        name = f"{options['host']}:{options['port']}"
        caller.tag = partial(self.cluster.tags.tag, name)

    def _parts(self, call: Call) -> list[bytes]:
        parts = super()._parts(call)
        return [*pack(("ASKING",)), *parts] if self.is_asking else parts

    async def _send(
        self, calls: Sequence[Any], check_health: bool = True, *, is_due: bool = False
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
        flight: AsyncFlight = self.cluster.flight(need.request)
        failure_before = flight.failure
        async with flight.lock:
            if flight.voucher is None or flight.voucher == need.used:
                if flight.failure is not None and flight.failure is not failure_before:
                    # The home was tried for as long while this call waited.
                    raise copy_error(flight.failure)
                session: Any = self.session
                try:
                    reply: bytes = await self._drive(fetch_lease(session, need), {})
                except LeashError:
                    # The home records a denial of each call.
                    raise
                except Exception as error:
                    flight.failure = error
                    raise
                flight.voucher = reply.decode("latin-1")
            return flight.voucher

    async def learn(self) -> None:
        """Fetch the record of the guard if it is not known."""
        caller: Any = self._dialogue.caller
        await self._drive_alone(caller.guard())

    async def run_unguarded(self, action: AtHome) -> Any:
        """Send a command without the guard; return its reply, undecoded.

        Raises:
            NotReplicatedError: too few replicas have it.
        """
        try:
            await self._send([action], check_health=False)
            return await self._drive(self._dialogue.caller.receive(action), {})
        except (*LOST, OSError) as error:
            if not action.runs_once:
                unmark(error)
            raise


class AsyncNodePool:
    """The connections of one node, in the form of a pool of redis-py; a block takes one of them.

    Args:
        is_asking: Whether ASKING precedes each call.
    """

    def __init__(self, cluster: Any, node: Any, is_asking: bool = False) -> None:
        self._cluster = cluster
        self._node = node
        self._is_asking = is_asking
        self._taken: Any = None

    async def __aenter__(self) -> Any:
        self._taken = await self.get_connection()
        return self._taken

    async def __aexit__(self, *error: object) -> None:
        await self.release(self._taken)

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
