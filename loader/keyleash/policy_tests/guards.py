"""Real guards under a clock that a test moves.

A guard reads the time from the life that a token's record has left
(`lua/guard/authenticate/check_token.lua`).
So a record whose life is set by the test sets the guard's clock, and the server's own does not
matter. All calls of a case are one transaction, for which a server's clock stands still: what
a guard sees is exact to the millisecond, however slow the machine is.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from keyleash.commands import CommandTable, load_table
from keyleash.commands.live import UnreadableCommandsError, read_table
from keyleash.errors import LeashError, OperationError, ReplyCode
from keyleash.evaluate import Decision
from keyleash.operator import activate_policy, prepare_policy
from keyleash.policy import SECOND_US, Identity
from keyleash.policy_tests.model import (
    Case,
)
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client, guard_record, read_active
from keyleash.store.token import (
    KEEP_AFTER_EXPIRY_MS,
    TokenRecord,
    new_token,
    new_token_id,
    token_digest,
)
from keyleash.store.wire import declared_keys, guard_call, refusal

LIFE_MS = 3_600_000
"""How long a token has still to live at each call: tests are about policies, not about tokens."""
ACTOR = "keyleash test"
SCANNED = 1000


class Guards:
    """
    The guards of one policy after the other, on a server that holds nothing else.

    Args:
        client: A redis-py client that may do everything, `decode_responses` off.

    Raises:
        OperationError (not-empty): The database holds something, or other tests use it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keyspace = Keyspace()
        self._touched: set[bytes] = set()
        self._pristine: dict[str, bytes] = {}
        self._claim()
        try:
            self.table: CommandTable = _table_of(client)
        except BaseException:
            self._disclaim()
            raise

    def load(self, document: str, file: str, starts_us: int) -> None:
        """
        Make another policy the active one, with calendars from the year of *starts_us* on.

        Raises:
            PolicyError: The document has problems.
        """
        self.clear()
        year = datetime.fromtimestamp(starts_us // SECOND_US, UTC).year
        prepared = prepare_policy(
            self._client,
            document,
            file=file,
            table=self.table,
            year=year,
            allow_eviction=True,
            allow_unvalidated_restore=True,
        )
        activate_policy(self._client, prepared, actor=ACTOR)
        names = [guard.identity for guard in prepared.guards]
        states = self._client.mget([self._keyspace.state(name) for name in names])
        self._pristine = dict(zip(names, states, strict=True))

    def decisions(self, case: Case, identity: Identity) -> list[Decision]:
        """
        What the guard says to each call of a case, from a fresh start.

        Raises:
            OperationError (guard-broke): The reply is neither a denial nor a command's reply.
        """
        record = guard_record(self._client.hgetall(self._keyspace.guard(identity.name)))
        assert record is not None  # noqa: S101 - `load` made it
        tokens = {step.token: (new_token(identity.name), new_token_id()) for step in case.steps}
        pipe = self._client.pipeline(transaction=True)
        pipe.set(self._keyspace.state(identity.name), self._pristine[identity.name])
        pipe.delete(self._keyspace.refused(identity.name))
        calls: list[int] = []
        for step in case.steps:
            token, token_id = tokens[step.token]
            self._set_clock(pipe, identity.name, token, token_id, step.at_us)
            call = guard_call(self.table, record.digest, token, "test", "2", step.argv)
            self._touched.update(bytes(key) for key in declared_keys(self.table, step.argv))
            for _ in range(step.times):
                if identity.audit.hard_max is not None:
                    # So that the trail has room: how much is for an archiver to keep free.
                    pipe.delete(self._keyspace.audit(identity.name))
                calls.append(len(pipe))
                pipe.execute_command(*call)
        replies = pipe.execute(raise_on_error=False)
        self._forget_subjects(identity)
        return [_decision(replies[place], record.digest) for place in calls]

    def clear(self) -> None:
        """
        Take away all that was made here: control keys, and the keys that calls named.

        Raises:
            OperationError (not-empty): Somebody loaded a policy here meanwhile; then all stays.
        """
        active = read_active(self._client, self._keyspace)
        if active is not None and active.actor != ACTOR:
            raise OperationError(
                "not-empty",
                "somebody loaded a policy into the database during the tests; nothing was removed",
                help="see whose it is with `keyleash policy history`, and test elsewhere",
            )
        mine = {*self._keys(f"{self._keyspace.prefix}*"), *self._touched}
        self._touched.clear()
        self._delete(mine - {self._keyspace.policy_tests.encode()})

    def release(self) -> None:
        """Leave the database as empty as it was."""
        self.clear()
        self._disclaim()

    def _claim(self) -> None:
        # In one step, since a database that two tests find empty is neither's to clear.
        pipe = self._client.pipeline(transaction=True)
        pipe.dbsize()
        pipe.set(self._keyspace.policy_tests, ACTOR, nx=True)
        held, is_ours = pipe.execute()
        if not held:
            return
        if is_ours:
            self._disclaim()
        raise OperationError(
            "not-empty",
            f"the database holds {held} keys already, and tests load policies into it"
            if is_ours
            else "other tests run in the database, or were killed there",
            help="name an empty database, or let an embedded server be started",
        )

    def _disclaim(self) -> None:
        self._delete({self._keyspace.policy_tests.encode()})

    def _set_clock(self, pipe: Any, identity: str, token: str, token_id: str, at_us: int) -> None:
        expires_us = at_us + LIFE_MS * 1000
        record = TokenRecord(token_id, expires_us=expires_us, used_us=at_us)
        name = self._keyspace.token(identity, token_digest(token))
        pipe.set(name, record.pack(), px=LIFE_MS + KEEP_AFTER_EXPIRY_MS)

    def _forget_subjects(self, identity: Identity) -> None:
        for limit in identity.limits:
            prefix = self._keyspace.limit_prefix(identity.name, limit.name)
            self._delete(set(self._keys(f"{prefix}*")))

    def _keys(self, pattern: str) -> Iterator[bytes]:
        yield from self._client.scan_iter(match=pattern, count=SCANNED)

    def _delete(self, keys: set[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.unlink(key)
            pipe.execute()


def _table_of(client: Client) -> CommandTable:
    try:
        return read_table(client)
    except UnreadableCommandsError:
        return load_table()


def _decision(reply: Any, digest: str) -> Decision:
    """
    What a reply says; an error that is the command's own came through the guard.

    Raises:
        OperationError (guard-broke): It is an error of the guard, or of the server's about it.
    """
    if not isinstance(reply, ResponseError):
        return Decision()
    said = str(reply)
    if isinstance(reply, NoScriptError) or "user_script" in said or digest in said:
        raise OperationError(
            "guard-broke", f"a guard ended in an error of its own: {said}", help="please report it"
        )
    found = refusal(said)
    if not isinstance(found, LeashError):
        return Decision()
    return Decision(ReplyCode(found.code), found.details)
