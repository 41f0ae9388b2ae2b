"""The servers of a deployment, and the scripts that each has."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from redis import exceptions as redis_errors

from keyleash.errors import (
    KeyleashError,
    OperationError,
)
from keyleash.operator.load.functions import held_functions
from keyleash.operator.load.plan import batches
from keyleash.store.keyspace import Keyspace, script_digest
from keyleash.store.prefixes import read_seal
from keyleash.store.records import Client, GuardRecord, guard_record
from keyleash.store.wire import Transport, function_name, library_code, reason_of, server_message
from keyleash.watch.events import Drift, WatchEventKind
from keyleash.watch.roles import Address, Role, Sentinels, read_role

# Which scripts a server should have loaded, which it has, and loading the rest.
#
# This is all that a watcher knows of how guards are called. Functions are kept and replicated by
# the servers themselves: there is something to load only where somebody flushed them, and only on a
# primary.


@dataclass(slots=True)
class Recorded:
    """
    The scripts that a server's own records speak of.

    Attributes:
        owners: The identity of each script whose text is there and is its digest's.
        missing: Identity and digest of what a guard record names and nobody has the text of.
        changed: Identity and digest of a text that is another script's.
    """

    owners: dict[str, str] = field(default_factory=dict)
    missing: list[tuple[str, str]] = field(default_factory=list)
    changed: list[tuple[str, str]] = field(default_factory=list)


def read_recorded(client: Client, keyspace: Keyspace) -> Recorded:
    """Read records and texts, and compare every text with its digest.

    Texts that no record names yet are of a load that is under way, and loaded as well: then
    they are there when it activates.
    """
    recorded = Recorded()
    for names in batches(sorted(client.hkeys(keyspace.layouts))):
        identities = [name.decode() for name in names]
        with client.pipeline(transaction=False) as pipe:
            for identity in identities:
                pipe.hgetall(keyspace.guard(identity))
                pipe.hgetall(keyspace.source(identity))
            replies = iter(pipe.execute())
        for identity in identities:
            _sort(recorded, identity, guard_record(next(replies)), next(replies))
    return recorded


def _sort(
    recorded: Recorded,
    identity: str,
    record: GuardRecord | None,
    texts: Mapping[bytes, bytes],
) -> None:
    held = {digest.decode("latin-1"): text for digest, text in texts.items()}
    for digest, text in held.items():
        if is_text_of(text, digest):
            recorded.owners[digest] = identity
        else:
            recorded.changed.append((identity, digest))
    named = () if record is None else (record.digest, record.batch_digest)
    recorded.missing += [(identity, digest) for digest in named if digest not in held]


def is_text_of(text: bytes, digest: str) -> bool:
    """Whether *text* is the script of that digest, and in ASCII as guards are."""
    script = text.decode("latin-1")
    return script.isascii() and script_digest(script) == digest


def not_loaded(
    client: Client, digests: Iterable[str], transport: Transport = Transport.EVALSHA
) -> Iterator[str]:
    """Of which of *digests* the server would answer that there is no such script or function."""
    if transport is Transport.FUNCTION:
        held = held_functions(client)
        yield from (digest for digest in digests if function_name(digest) not in held)
        return
    for some in batches(digests):
        for digest, is_there in zip(some, client.script_exists(*some), strict=True):
            if not is_there:
                yield digest


def load_recorded(
    client: Client,
    keyspace: Keyspace,
    identity: str,
    digest: str,
    transport: Transport = Transport.EVALSHA,
) -> bool:
    """Load a script from its recorded text.

    Returns:
        Whether it was; False if the text is gone or is another script's.

    Raises:
        OperationError (digest-mismatch): the server names it otherwise.
    """
    text = client.hget(keyspace.source(identity), digest)
    # It may have been changed since it was compared.
    if text is None or not is_text_of(text, digest):
        return False
    if transport is Transport.FUNCTION:
        client.function_load(library_code(identity, digest, text.decode("ascii")), replace=True)
        return True
    answered = client.script_load(text)
    named = answered.decode() if isinstance(answered, bytes) else answered
    if named != digest:
        raise OperationError(
            "digest-mismatch", f"the server gives the digest `{named}`, expected `{digest}`"
        )
    return True


LOOKS_BETWEEN_READINGS = 60
"""Texts are read again when the policy changes, and else so seldom: they may be many."""


class WatchedNode:
    """
    A server that is watched. Each look is `ask`, and `tend` if it answered.

    Attributes:
        role: Its part in the deployment; None if it did not say at the last look.
        run: Which life of which process it was when it last said so; empty if it never did.
        silences: For how many looks it has not answered.
        generation: Of its policy; None if it has none, or did not say.
        loaded: How many scripts it lacked at the last look, and now has.
        drifts: What the last look found.
    """

    def __init__(self, address: Address, client: Client) -> None:
        self.address = address
        self.role: Role | None = None
        self.run = ""
        self.silences = 0
        self.generation: int | None = None
        self.loaded = 0
        self.drifts: list[Drift] = []
        self._client = client
        self._keyspace = Keyspace()
        self._recorded = Recorded()
        self._read_as: tuple[object, ...] = ()
        self._looks = 0

    def ask(self) -> Role | None:
        """See whether it answers, and who it is."""
        self.role, self.generation, self.loaded, self.drifts = None, None, 0, []
        self._attempt(self._ask)
        self.silences = 0 if self.role else self.silences + 1
        return self.role

    def tend(self) -> None:
        """See which policy it has, and load the scripts that it lacks."""
        self._attempt(self._tend)

    def close(self) -> None:
        self._client.close()

    def _ask(self) -> None:
        self.role = read_role(self._client)
        self.run = self.role.run_id
        if not self.role.is_linked:
            self._add(
                WatchEventKind.LINK_DOWN, f"it has no link to its primary {self.role.primary}"
            )

    def _tend(self) -> None:
        # Whoever watches for weeks sees prefixes change; while they do, guards are found as well.
        self._keyspace = read_seal(self._client).keyspace
        policy = self._client.hmget(self._keyspace.policy, "generation", "digest", "transport")
        if policy[0] is None:
            self._add(WatchEventKind.NO_POLICY, "no policy is active on it")
            return
        self.generation = int(policy[0])
        self._read_again((self.run, *policy))
        self.drifts += self._drifts_of_sources()
        transport = Transport(policy[2].decode())
        if transport is Transport.FUNCTION and self.role and self.role.primary:
            # A replica gets functions from its primary, and takes them from nobody else.
            return
        for digest in list(not_loaded(self._client, self._recorded.owners, transport)):
            identity = self._recorded.owners[digest]
            self.loaded += load_recorded(self._client, self._keyspace, identity, digest, transport)

    def _read_again(self, as_of: tuple[object, ...]) -> None:
        self._looks += 1
        drifted = self._recorded.missing or self._recorded.changed
        if drifted or as_of != self._read_as or self._looks > LOOKS_BETWEEN_READINGS:
            self._recorded = read_recorded(self._client, self._keyspace)
            self._read_as, self._looks = as_of, 0

    def _drifts_of_sources(self) -> Iterator[Drift]:
        for kind, found, said in (
            (WatchEventKind.SOURCE_MISSING, self._recorded.missing, "no recorded text"),
            (
                WatchEventKind.SOURCE_CHANGED,
                self._recorded.changed,
                "a recorded text that is not its own",
            ),
        ):
            for identity, digest in found:
                message = f"the script {digest} of `{identity}` has {said}"
                yield Drift(str(self.address), kind, message, f"{identity} {digest}")

    def _attempt(self, do: Callable[[], None]) -> None:
        try:
            do()
        except (redis_errors.RedisError, OSError) as error:
            self._add(*_said(error))
        except (KeyleashError, LookupError, ValueError) as error:
            # Somebody wrote to them. That must not end who keeps the other servers going.
            self._add(
                WatchEventKind.UNREADABLE, f"its records cannot be read: {type(error).__name__}"
            )

    def _add(self, kind: WatchEventKind, message: str) -> None:
        self.drifts.append(Drift(str(self.address), kind, message))


def _said(error: Exception) -> tuple[WatchEventKind, str]:
    match error:
        case redis_errors.BusyLoadingError():
            return WatchEventKind.NOT_SERVING, "it is still loading its data"
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthorizationError()
            | redis_errors.NoPermissionError()
        ):
            said = server_message(error)
            return (
                WatchEventKind.NOT_PERMITTED,
                f"it does not permit this to the watcher's user: {said}",
            )
        case redis_errors.ConnectionError() | redis_errors.TimeoutError() | OSError():
            return WatchEventKind.UNREACHABLE, f"it does not answer: {reason_of(error)}"
        case _:
            return WatchEventKind.NOT_SERVING, f"it answers: {server_message(error)}"


FORGOTTEN_AFTER_LOOKS = 600
"""A primary does not name a replica that has crashed, and somebody should hear of that one."""


class Topology:
    """
    The servers of a deployment.

    A server that is down stays for as long as somebody names it, and for a while longer; seeds
    stay for ever.

    Attributes:
        nodes: By address, each server once.
    """

    def __init__(
        self,
        make: Callable[[Address], WatchedNode],
        seeds: Sequence[Address],
        sentinels: Sentinels | None,
    ) -> None:
        self.nodes: dict[Address, WatchedNode] = {}
        self._make = make
        self._seeds = tuple(seeds)
        self._sentinels = sentinels
        self._asked: dict[Address, WatchedNode] = {}
        self._first: dict[Address, Address] = {}

    def refresh(self) -> None:
        """Ask every server that can be found who it is, and whom it knows."""
        named = [*self._seeds, *(self._sentinels.addresses() if self._sentinels else ())]
        # Who did not answer the last time may hold this up again, so it comes last.
        known = [*named, *self._asked]
        waiting = deque(sorted(known, key=self._was_silent))
        listed, asked = set(named), dict[Address, WatchedNode]()
        while waiting:
            address = waiting.popleft()
            if address not in asked:
                node = asked[address] = self._asked.get(address) or self._make(address)
                if role := node.ask():
                    listed.update(role.neighbours)
                    waiting += role.neighbours
        silent = {item for item, node in asked.items() if node.silences > FORGOTTEN_AFTER_LOOKS}
        gone = silent - listed
        for address in gone:
            asked.pop(address).close()
        self._asked = asked
        self._name_once()

    def named(self, address: Address) -> WatchedNode | None:
        """The server that is known by this address, perhaps by another one besides."""
        return self.nodes.get(self._first.get(address, address))

    def close(self) -> None:
        for node in self._asked.values():
            node.close()

    def _was_silent(self, address: Address) -> bool:
        node = self._asked.get(address)
        return node is not None and node.role is None

    def _name_once(self) -> None:
        """Of several addresses of one server, take that of a seed, or else the first."""
        by_run: dict[str, Address] = {}
        for address in sorted(self._asked, key=lambda item: item not in self._seeds):
            run = self._asked[address].run or str(address)
            self._first[address] = by_run.setdefault(run, address)
        self.nodes = {item: node for item, node in self._asked.items() if self._first[item] == item}
