"""Real guards under a clock that a test moves.

A guard derives the time from the remaining life of the token record
(`lua/guard/authenticate/check_token.lua`), so a test that sets this life sets the guard's clock.
All calls of a case are one transaction, during which the server's clock stands still: the time
that a guard reads is exact to the millisecond on every machine.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from keyleash.commands import CommandTable, load_table
from keyleash.errors import LeashError, OperationError, ReplyCode
from keyleash.evaluate import ALLOWED, Decision
from keyleash.operator import activate_policy, prepare_policy
from keyleash.policy import SECOND_US, Identity
from keyleash.policy_tests.model import Case
from keyleash.store.keyspace import Keyspace
from keyleash.store.live_table import UnreadableCommandsError, read_table
from keyleash.store.records import guard_record, read_active
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.store.token import (
    KEEP_AFTER_EXPIRY_MS,
    TokenRecord,
    new_token,
    new_token_id,
    token_digest,
)
from keyleash.store.wire import declared_keys, guard_call, refusal
from keyleash.text import counted

LIFE_MS = 3_600_000
"""Remaining life of a token at each call."""
ACTOR = "keyleash test"
SCANNED = 1000


class Guards:
    """
    The guards of one policy at a time, on an otherwise empty server.

    Args:
        client: A redis-py client with all permissions, `decode_responses` off.

    Raises:
        OperationError (not-empty): The database holds keys, or other tests use it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._keyspace = Keyspace()
        self._touched: set[bytes] = set()
        self._initial_states: dict[str, bytes] = {}
        self._claim()
        try:
            self.table: CommandTable = read_table(client)
        except UnreadableCommandsError:
            self.table = load_table()
        except BaseException:
            self._client.unlink(self._keyspace.policy_tests)
            raise

    def load(self, document: str, file: str, starts_us: int) -> None:
        """
        Activate another policy, with calendars from the year of *starts_us* on.

        Raises:
            PolicyError: The document has problems.
        """
        self.clear()
        year = datetime.fromtimestamp(starts_us // SECOND_US, UTC).year
        prepared = prepare_policy(
            Store.open(self._client),
            document,
            file=file,
            table=self.table,
            year=year,
            allow_eviction=True,
            allow_unvalidated_restore=True,
        )
        activate_policy(Store.open(self._client, actor=ACTOR), prepared)
        names = [guard.identity for guard in prepared.guards]
        states = self._client.mget([self._keyspace.state(name) for name in names])
        self._initial_states = dict(zip(names, states, strict=True))

    def decisions(self, case: Case, identity: Identity) -> list[Decision]:
        """
        Return the guard's decision about each call of a case; counters start at 0.

        Raises:
            OperationError (guard-broke): The guard failed with an error of its own.
        """
        keyspace, name = self._keyspace, identity.name
        record = guard_record(self._client.hgetall(keyspace.guard(name)))
        assert record is not None  # noqa: S101 - `load` wrote it
        tokens = {step.token: (new_token(name), new_token_id()) for step in case.steps}
        pipe = self._client.pipeline(transaction=True)
        pipe.set(keyspace.state(name), self._initial_states[name])
        pipe.delete(keyspace.refused(name))
        calls: list[int] = []
        for step in case.steps:
            token, token_id = tokens[step.token]
            # The life of the token's record sets the clock of the guard.
            token_record = TokenRecord(
                token_id, expires_us=step.at_us + LIFE_MS * 1000, used_us=step.at_us
            )
            pipe.set(
                keyspace.token(name, token_digest(token)),
                token_record.pack(),
                px=LIFE_MS + KEEP_AFTER_EXPIRY_MS,
            )
            call = guard_call(self.table, record.digest, token, "test", "2", step.argv)
            self._touched.update(bytes(key) for key in declared_keys(self.table, step.argv))
            for _ in range(step.times):
                if identity.audit.hard_max is not None:
                    # An archiver would export the audit stream; here it must not become full.
                    pipe.delete(keyspace.audit(name))
                calls.append(len(pipe))
                pipe.execute_command(*call)
        replies = pipe.execute(raise_on_error=False)
        for limit in identity.limits:
            self._delete(self._keys(keyspace.limit_prefix(name, limit.name)))
        return [_decision(replies[place], record.digest) for place in calls]

    def clear(self) -> None:
        """
        Delete all control keys, and the keys that calls named.

        Raises:
            OperationError (not-empty): Another policy was loaded meanwhile; nothing is deleted.
        """
        active = read_active(Store(self._client, self._keyspace))
        if active is not None and active.actor != ACTOR:
            raise OperationError(
                "not-empty",
                "another policy was loaded into the database during the tests; nothing was removed",
                help="see its operator with `keyleash policy history`, and use another database",
            )
        ours = self._keys(self._keyspace.prefix) | self._touched
        self._touched.clear()
        self._delete(ours - {self._keyspace.policy_tests.encode()})

    def release(self) -> None:
        """Leave the database empty."""
        self.clear()
        self._client.unlink(self._keyspace.policy_tests)

    def _claim(self) -> None:
        # In one step: two tests that find the same database empty must not both use it.
        pipe = self._client.pipeline(transaction=True)
        pipe.dbsize()
        pipe.set(self._keyspace.policy_tests, ACTOR, nx=True)
        count, is_ours = pipe.execute()
        if not count:
            return
        if is_ours:
            self._client.unlink(self._keyspace.policy_tests)
        raise OperationError(
            "not-empty",
            f"the database already holds {counted(count, 'key')}, and tests load policies into it"
            if is_ours
            else "other tests run in the database, or were killed there",
            help="name an empty database, or use the embedded server",
        )

    def _keys(self, prefix: str) -> set[bytes]:
        return {*self._client.scan_iter(match=f"{prefix}*", count=SCANNED)}

    def _delete(self, keys: set[bytes]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.unlink(key)
            pipe.execute()


def _decision(reply: Any, digest: str) -> Decision:
    """
    Return the decision in a reply; an error of the command itself means that it was allowed.

    Raises:
        OperationError (guard-broke): It is an error of the guard, or of the server about it.
    """
    if not isinstance(reply, ResponseError):
        return ALLOWED
    text = str(reply)
    if isinstance(reply, NoScriptError) or "user_script" in text or digest in text:
        raise OperationError(
            "guard-broke", f"a guard ended in an error of its own: {text}", help="please report it"
        )
    denial = refusal(text)
    if not isinstance(denial, LeashError):
        return ALLOWED
    return Decision(ReplyCode(denial.code), denial.details)
