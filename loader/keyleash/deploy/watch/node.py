"""One server, looked at again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from redis import exceptions as redis_errors

from keyleash.deploy.watch.address import Address
from keyleash.deploy.watch.news import Drift, Kind
from keyleash.deploy.watch.role import Role, read_role
from keyleash.deploy.watch.scripts import Recorded, load_recorded, not_loaded, read_recorded
from keyleash.errors import KeyleashError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.reply import reason_of, said_by
from keyleash.protocol.sealed import read_seal
from keyleash.protocol.transport import Transport

LOOKS_BETWEEN_READINGS = 60
"""Texts are read again when the policy changes, and else so seldom: they may be many."""


class Node:
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
            self._add(Kind.LINK_DOWN, f"it has no link to its primary {self.role.primary}")

    def _tend(self) -> None:
        # Whoever watches for weeks sees prefixes change; while they do, guards are found as well.
        self._keyspace = read_seal(self._client).keyspace
        policy = self._client.hmget(self._keyspace.policy, "generation", "digest", "transport")
        if policy[0] is None:
            self._add(Kind.NO_POLICY, "no policy is active on it")
            return
        self.generation = int(policy[0])
        self._read_again((self.run, *policy))
        self.drifts += self._drifts_of_sources()
        transport = Transport((policy[2] or b"").decode() or Transport.EVALSHA)
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
            (Kind.SOURCE_MISSING, self._recorded.missing, "no recorded text"),
            (Kind.SOURCE_CHANGED, self._recorded.changed, "a recorded text that is not its own"),
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
            self._add(Kind.UNREADABLE, f"its records cannot be read: {type(error).__name__}")

    def _add(self, kind: Kind, message: str) -> None:
        self.drifts.append(Drift(str(self.address), kind, message))


def _said(error: Exception) -> tuple[Kind, str]:
    match error:
        case redis_errors.BusyLoadingError():
            return Kind.NOT_SERVING, "it is still loading its data"
        case (
            redis_errors.AuthenticationError()
            | redis_errors.AuthorizationError()
            | redis_errors.NoPermissionError()
        ):
            said = said_by(error)
            return Kind.NOT_PERMITTED, f"it does not permit this to the watcher's user: {said}"
        case redis_errors.ConnectionError() | redis_errors.TimeoutError() | OSError():
            return Kind.UNREACHABLE, f"it does not answer: {reason_of(error)}"
        case _:
            return Kind.NOT_SERVING, f"it answers: {said_by(error)}"
