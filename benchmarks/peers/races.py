"""Races against a budget, and revocations during a call."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock, Thread

from benchmarks.peers.pace import keys_for
from benchmarks.peers.peer import Bed, Peer
from benchmarks.peers.work import forget_limits, prepare, store_token
from benchmarks.support.bars import Spread, spread_of
from benchmarks.support.measure import MiscountError
from benchmarks.support.policy import operator_of

WORKERS = 8
BUDGET = 100
CALLS = 25
"""Calls per worker: twice the budget in total."""


@dataclass(frozen=True, slots=True)
class Race:
    """Results of several races.

    Attributes:
        overrun: Keys written beyond the budget; negative if too few were written.
        charged: Charged calls that did not write; None if nothing is counted.
    """

    overrun: Spread
    charged: Spread | None


def raced(peer: Peer, beds: Sequence[Bed]) -> Race:
    """Race once on every bed, each with an unused identity."""
    overruns, charges = [], []
    for bed in beds:
        prepare(bed)
        keys = keys_for(WORKERS * CALLS)
        bed.admin.unlink(*keys)
        with peer.open(bed) as caller:
            caller.race([keys[worker::WORKERS] for worker in range(WORKERS)])
        written = bed.admin.exists(*keys)
        overruns.append(written - BUDGET)
        if (charged := peer.tally(bed).charged) is not None:
            charges.append(charged - written)
        forget_limits(bed)
    return Race(spread_of(overruns), spread_of(charges) if charges else None)


CHUNK = 65_536
"""Bytes read at once; a small request is read whole."""


class Gate:
    """A proxy in front of a server."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listening]
        self._lock, self._left = Lock(), -1
        self._action: Callable[[], object] = lambda: None
        Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Return the port of the proxy."""
        return int(self._listening.getsockname()[1])

    def before(self, number: int, action: Callable[[], object]) -> None:
        """Run *action* before a request is forwarded, after *number* others."""
        with self._lock:
            self._action, self._left = action, number

    def close(self) -> None:
        """Close all sockets."""
        for item in self._sockets:
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)
            item.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                for item in (client, server):
                    item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets += (client, server)
                for pair in ((client, server, self._pass), (server, client, lambda: None)):
                    Thread(target=_pump, args=pair, daemon=True).start()

    def _pass(self) -> None:
        with self._lock:
            if self._left == 0:
                self._action()
            self._left = max(self._left - 1, -1)


def _pump(source: socket.socket, sink: socket.socket, passing: Callable[[], object]) -> None:
    try:
        while data := source.recv(CHUNK):
            passing()
            sink.sendall(data)
    except OSError:
        pass  # one side closed; the other follows
    finally:
        for item in (source, sink):
            with suppress(OSError):
                item.shutdown(socket.SHUT_RDWR)


@contextmanager
def gate_to(server_port: int) -> Iterator[Gate]:
    """Open a gate during the block."""
    gate = Gate(server_port)
    try:
        yield gate
    finally:
        gate.close()


BEFORE, KEY = keys_for(2)


class NotRevokedError(MiscountError):
    """A call ended before the planned revocation."""


@dataclass(frozen=True, slots=True)
class Revocation:
    """Revocations before each request of a call.

    Attributes:
        moments: Number of revocations.
        written: Number of those after which the key was written.
    """

    moments: int
    written: int


def revoked_in_between(peer: Peer, bed: Bed, trips: int) -> Revocation | None:
    """Revoke before each request of a call, each time with a new token; None without tokens.

    Raises:
        NotRevokedError: the call made fewer requests than *trips*.
    """
    if peer.revoke is None:
        return None
    written = [_wrote(peer, bed, peer.revoke, number) for number in range(trips)]
    return Revocation(trips, sum(written))


def _wrote(peer: Peer, bed: Bed, revoke: Callable[[Bed], object], number: int) -> bool:
    """Return whether a call writes if its token is revoked after *number* of its requests."""
    issued = operator_of(bed.admin).tokens.issue(bed.identity)
    port = bed.admin.connection_pool.connection_kwargs["port"]
    with gate_to(port) as gate:
        own = replace(
            bed,
            url=f"redis://127.0.0.1:{gate.port}",
            target=replace(bed.target, token=issued.token),
        )
        store_token(own)
        bed.admin.unlink(BEFORE, KEY)
        with peer.open(own) as caller:
            # The first call connects and loads scripts.
            caller.run([BEFORE])
            found: list[object] = []
            gate.before(number, partial(_revoke, own, revoke, found))
            caller.race([[KEY]])
    if not found:
        raise NotRevokedError(f"`{peer.name}` made fewer than {number + 1} requests")
    return found == [0] and bool(bed.admin.exists(KEY))


def _revoke(bed: Bed, revoke: Callable[[Bed], object], found: list[object]) -> None:
    """Revoke, and add to *found* whether the key was already written."""
    revoke(bed)
    found.append(bed.admin.exists(KEY))
