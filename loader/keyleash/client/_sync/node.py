"""Guarded connections to the nodes of a cluster."""
# Generated from client/aio_node.py by `make sync`: edit that file.

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from keyleash.client._redis_py import checkin_node, checkout_node, copy_error, pack
from keyleash.client._sync.connection import Guarded
from keyleash.client.actions import AtHome
from keyleash.client.caller import LOST
from keyleash.client.calls import Call
from keyleash.client.guarding import Lock
from keyleash.client.node_calls import FetchLease, ShardCaller, fetch_lease
from keyleash.client.retries import unmark
from keyleash.errors import LeashError


class Flight:
    """The fetching of one voucher, for which several tasks may wait.

    Attributes:
        request: What the node asks for.
        lock: Held by the task that fetches it.
        voucher: The voucher; None before it is fetched.
        failure: The error of the last attempt to fetch it, except denials.
    """

    def __init__(self, request: str) -> None:
        self.request = request
        self.lock = Lock()
        self.voucher: str | None = None
        self.failure: Exception | None = None


class Sharded(Guarded):
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

    def _send(
        self, calls: Sequence[Any], check_health: bool = True, *, is_due: bool = False
    ) -> None:
        super()._send(calls, check_health, is_due=is_due)
        if self.is_asking:
            above: Any = super(Guarded, self)
            above.read_response()

    def _carry_out(self, action: Any, options: dict[str, Any], check_health: bool) -> Any:
        match action:
            case AtHome():
                return self.cluster.run_at_home(action)
            case FetchLease():
                return self._fetch_lease(action)
        return super()._carry_out(action, options, check_health)

    def _fetch_lease(self, need: FetchLease) -> str:
        flight: Flight = self.cluster.flight(need.request)
        failure_before = flight.failure
        with flight.lock:
            if flight.voucher is None or flight.voucher == need.used:
                if flight.failure is not None and flight.failure is not failure_before:
                    # The home was tried for as long while this call waited.
                    raise copy_error(flight.failure)
                session: Any = self.session
                try:
                    reply: bytes = self._drive(fetch_lease(session, need), {})
                except LeashError:
                    # The home records a denial of each call.
                    raise
                except Exception as error:
                    flight.failure = error
                    raise
                flight.voucher = reply.decode("latin-1")
            return flight.voucher

    def learn(self) -> None:
        """Fetch the record of the guard if it is not known."""
        caller: Any = self._dialogue.caller
        self._drive_alone(caller.guard())

    def run_unguarded(self, action: AtHome) -> Any:
        """Send a command without the guard; return its reply, undecoded.

        Raises:
            NotReplicatedError: too few replicas have it.
        """
        try:
            self._send([action], check_health=False)
            return self._drive(self._dialogue.caller.receive(action), {})
        except (*LOST, OSError) as error:
            if not action.runs_once:
                unmark(error)
            raise


class NodePool:
    """The connections of one node, in the form of a pool of redis-py; a block takes one of them.

    Args:
        is_asking: Whether ASKING precedes each call.
    """

    def __init__(self, cluster: Any, node: Any, is_asking: bool = False) -> None:
        self._cluster = cluster
        self._node = node
        self._is_asking = is_asking
        self._taken: Any = None

    def __enter__(self) -> Any:
        self._taken = self.get_connection()
        return self._taken

    def __exit__(self, *error: object) -> None:
        self.release(self._taken)

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Return a connection."""
        connection = checkout_node(self._cluster, self._node)
        connection.is_asking = self._is_asking
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back."""
        connection.is_asking = False
        checkin_node(self._cluster, self._node, connection)

    def get_encoder(self) -> Any:
        """Return the encoder of its connections."""
        return self._cluster.get_encoder()
