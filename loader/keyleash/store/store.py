"""A keyleash server as operators use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, TypeVar

from redis.exceptions import ClusterDownError, MovedError, ResponseError

from keyleash.store.deployment import Cluster
from keyleash.store.keyspace import HOME_TAG, Keyspace, script_digest
from keyleash.store.scripts import OperatorScript
from keyleash.store.server import round_trip
from keyleash.store.server_check import Client, operator_client
from keyleash.store.token import reject_tokens
from keyleash.store.wire import is_of_a_cluster

BATCH = 100
"""Items per pipeline: bounds each reply, and lets the server run other commands in between."""

ATTEMPTS = 20
"""Attempts to find the home of a cluster while its slot is being moved."""
PAUSE_S = 0.1
"""The time between them."""

T = TypeVar("T")


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[Sequence[T]]:
    """Cut *items* into pieces of *size*."""
    rest = iter(items)
    while piece := tuple(islice(rest, size)):
        yield piece


def pieces(
    items: Iterable[T], most: int, most_bytes: int, size_of: Callable[[T], int]
) -> Iterator[list[T]]:
    """Cut *items* into pieces of at most *most* items and, unless one alone has more, of bytes."""
    piece: list[T] = []
    size = 0
    for item in items:
        if piece and (len(piece) == most or size + size_of(item) > most_bytes):
            yield piece
            piece, size = [], 0
        piece.append(item)
        size += size_of(item)
    if piece:
        yield piece


@dataclass(frozen=True, slots=True)
class Store:
    """The control keys of one server, or of a cluster's home, for one operation of an operator.

    Raises:
        SecretInTextError: *actor* contains a token.

    Attributes:
        client: A redis-py client of an operator. Its replies are bytes, also if the given client
            decodes.
        keys: The names of the control keys.
        actor: The operator's name, for the control stream.
        cluster: The cluster; None on one server.
        on_missing: Called with a node whose streams are left out, and why it does not answer; if
            None, such a node is an error.
    """

    client: Client
    keys: Keyspace = field(default_factory=Keyspace)
    actor: str = "unknown"
    cluster: Cluster | None = None
    on_missing: Callable[[str, str], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.actor, str):
            raise TypeError(f"`actor` must be a str, not {type(self.actor).__name__}")
        reject_tokens(actor=self.actor)
        object.__setattr__(self, "client", operator_client(self.client))

    @classmethod
    def open_cluster(cls, cluster: Cluster, *, actor: str = "unknown") -> Store:
        """Return the store of a cluster's home, which has answered.

        Raises:
            OperationError (cluster-incomplete): no node serves the slot of the home.
        """
        cluster.read()
        for left in reversed(range(ATTEMPTS)):
            try:
                store = cls(cluster.home(), Keyspace(HOME_TAG), actor, cluster)
                store.ask_home()
            except MovedError:
                # The node that was asked first did not know of the change yet; this one does.
                cluster.read(cluster.home())
            except ResponseError as error:
                if not (left and is_of_a_cluster(error)):
                    raise
                # Nothing ran: the slot of the home is on its way.
                time.sleep(PAUSE_S)
                cluster.read()
            else:
                return store
        raise ClusterDownError("the nodes disagree about the slot of the home")

    def ask_home(self) -> None:
        """Raise the error of a node of a cluster that does not have all keys of the home."""
        # The key never exists, so a node that the slot of the home leaves replies with an error.
        self.client.exists(self.keys.none)

    def reopened(self) -> Store:
        """Return the same store; of a cluster at its home now, which a failover has moved."""
        if self.cluster is None:
            return self
        return self.on_node(self.open_cluster(self.cluster, actor=self.actor).client)

    def with_keys(self, keys: Keyspace) -> Store:
        """Return the same store with other names."""
        return replace(self, keys=keys)

    def on_node(self, client: Client) -> Store:
        """Return the same names on another node of the cluster."""
        return replace(self, client=client)

    def primaries(self) -> list[Store]:
        """Return this store, or one for each primary of a cluster."""
        if self.cluster is None:
            return [self]
        return [self.on_node(node.server.client) for node in self.cluster.nodes if node.slots]

    def now_us(self) -> int:
        """Return the server's clock, Unix microseconds; all limits and expiries use it."""
        seconds, micros = self.client.time()
        return int(seconds) * 1_000_000 + int(micros)

    def now_ms(self) -> int:
        """Return the server's clock, Unix milliseconds."""
        return self.now_us() // 1000

    def run(self, script: OperatorScript, *words: str | bytes | int) -> Any:
        """Run a script of operators and return its reply."""
        return self.client.eval(script.text, *script.arguments(self.keys, *words))

    def load(self, script: OperatorScript) -> None:
        """Load a script, so that the server compiles it before it runs."""
        self.client.script_load(script.text)

    def run_loaded(self, script: OperatorScript, *words: str | bytes | int) -> Any:
        """Run a script that `load` loaded, and return its reply."""
        return self.client.evalsha(script_digest(script.text), *script.arguments(self.keys, *words))

    def run_all(
        self, script: OperatorScript, calls: Iterable[Iterable[str | bytes | int]]
    ) -> list[Any]:
        """Run a script once for the arguments of each call, in one pipeline; see `run`."""
        calls = [tuple(words) for words in calls]
        if len(calls) == 1:
            return [self.run(script, *calls[0])]
        self.load(script)
        head = ("EVALSHA", script_digest(script.text))
        requests = ((*head, *script.arguments(self.keys, *words)) for words in calls)
        return round_trip(self.client, requests)
