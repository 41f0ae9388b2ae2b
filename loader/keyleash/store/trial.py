"""An otherwise empty database in which guards are tried, under a clock that the caller sets.

A guard derives the time from the remaining life of the token record
(`lua/guard/authenticate/check_token.lua`), so the caller sets the guard's clock by this life. All
calls of a trial are one transaction, during which the server's clock stands still: the time that a
guard reads is exact to the millisecond on every machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import RedisError

from keyleash.commands.facts import LISTS_INDEXES
from keyleash.errors import OperationError
from keyleash.store.keyspace import CONTROL_PREFIX, Keyspace
from keyleash.store.records import GuardRecord, guard_record, read_active
from keyleash.store.server import round_trip
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.token import (
    KEEP_AFTER_EXPIRY_MS,
    RECORD_BYTES,
    TokenRecord,
    new_token_id,
    token_digest,
)
from keyleash.text import counted

LIFE_MS = 3_600_000
"""Remaining life of a token at each call."""
SCANNED = 1000


@dataclass(frozen=True, slots=True)
class TrialCall:
    """A call of a guard at a moment.

    Attributes:
        token: The calling token; it need not have been issued.
        at_us: The moment, Unix microseconds.
        words: The words of EVALSHA.
        times: How often it is made.
        tail: The packed restrictions of the token at its first call; None for an unbound one.
    """

    token: str
    at_us: int
    words: Sequence[Any]
    times: int = 1
    tail: bytes | None = None


class TrialDatabase:
    """A database that holds nothing but what is tried in it.

    Args:
        client: A redis-py client with all permissions, `decode_responses` off.
        actor: The name of the owner.

    Raises:
        OperationError (not-empty): The database holds keys, or others try guards in it.
    """

    def __init__(self, client: Client, actor: str) -> None:
        self.client = client
        self.actor = actor
        self._keyspace = Keyspace()
        self._initial_states: dict[str, bytes] = {}
        self._connection = client.client_id()
        self._claim_value = f"{actor} {new_token_id()}".encode()
        self._claim()

    def indexes(self) -> list[bytes]:
        """Return the search indexes of a server that has the module Search."""
        return list(self.client.execute_command(LISTS_INDEXES))

    def drop_indexes(self) -> None:
        """Drop them all."""
        for index in self.indexes():
            self.client.execute_command("FT.DROPINDEX", index)

    def open(self) -> Store:
        """Return the store."""
        return Store(self.client, self._keyspace, self.actor)

    def keep_states(self, names: Sequence[str]) -> None:
        """Remember the states of identities, with which each trial begins."""
        states = self.client.mget([self._keyspace.state(name) for name in names])
        self._initial_states = dict(zip(names, states, strict=True))

    def read_guard(self, name: str) -> GuardRecord | None:
        """Return the guard record of an identity; None if it has none."""
        return guard_record(self.client.hgetall(self._keyspace.guard(name)))

    def run(
        self, name: str, calls: Iterable[TrialCall], limits: Iterable[str], *, is_exported: bool
    ) -> list[Any]:
        """Call the guard of an identity, whose counters start at 0.

        Args:
            calls: The calls, in order.
            limits: The names of its limits; counters per token or segment are deleted afterwards.
            is_exported: Whether an archiver would trim its audit stream, so that it is never full.

        Returns:
            The reply to each call, an error as a `redis.ResponseError`.
        """
        keys, ids = self._keyspace, dict[str, str]()
        pipe = self.client.pipeline(transaction=True)
        pipe.set(keys.state(name), self._initial_states[name])
        pipe.delete(keys.refused(name))
        places: list[int] = []
        for call in calls:
            token_key = keys.token(name, token_digest(call.token))
            is_new = call.token not in ids
            token_id = ids.setdefault(call.token, new_token_id())
            # The life of the token's record sets the clock of the guard.
            expires_us = call.at_us + LIFE_MS * 1000
            record = TokenRecord(token_id, expires_us, call.at_us, tail=call.tail).pack()
            # Behind the fields of every token the guard counts the calls of its caps.
            pipe.setrange(token_key, 0, record if is_new else record[:RECORD_BYTES])
            pipe.pexpire(token_key, LIFE_MS + KEEP_AFTER_EXPIRY_MS)
            for _ in range(call.times):
                if is_exported:
                    pipe.delete(keys.audit(name))
                places.append(len(pipe))
                pipe.execute_command(*call.words)
        replies = pipe.execute(raise_on_error=False)
        for limit in limits:
            self._delete(self._keys(keys.limit_prefix(name, limit)))
        return [replies[place] for place in places]

    def stop(self) -> None:
        """End the connection of a call that was interrupted.

        It is closed, but the server may still read what it sent, and would run it after `clear`.
        """
        if self.client.client_id() != self._connection:
            self.client.client_kill_filter(_id=self._connection)

    def clear(self, touched: Collection[bytes] = ()) -> None:
        """Delete all control keys, and the keys *touched*.

        Raises:
            OperationError (not-empty): Another policy was loaded meanwhile; nothing is deleted.
        """
        active = read_active(self.open())
        if active is not None and active.actor != self.actor:
            raise OperationError(
                "not-empty",
                "another policy was loaded into the database during the tests; nothing was removed",
                help="see its operator with `keyleash policy history`, and use another database",
            )
        ours = self._keys(CONTROL_PREFIX) | set(touched)
        self._delete(ours - {self._keyspace.policy_tests.encode()})

    def release(self) -> None:
        """Give the database back if it is ours; `clear` empties it."""
        if self.client.get(self._keyspace.policy_tests) == self._claim_value:
            self.client.unlink(self._keyspace.policy_tests)

    def _claim(self) -> None:
        # In one step: two trials that find the same database empty must not both use it.
        pipe = self.client.pipeline(transaction=True)
        pipe.dbsize()
        pipe.set(self._keyspace.policy_tests, self._claim_value, nx=True)
        try:
            count, is_ours = pipe.execute()
        except BaseException:
            # The server may have run it.
            with suppress(RedisError):
                self.stop()
                self.release()
            raise
        if not count:
            return
        if is_ours:
            self.release()
        raise OperationError(
            "not-empty",
            f"the database already holds {counted(count, 'key')}, and tests load policies into it"
            if is_ours
            else "other tests run in the database, or were killed there",
            help="name an empty database, or use the embedded server",
        )

    def _keys(self, prefix: str) -> set[bytes]:
        return {*self.client.scan_iter(match=f"{prefix}*", count=SCANNED)}

    def _delete(self, keys: set[bytes]) -> None:
        round_trip(self.client, (("UNLINK", key) for key in keys))
