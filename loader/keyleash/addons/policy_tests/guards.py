"""Real guards under a clock that a test moves; see `store.trial`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from keyleash.addons.policy_tests.model import Case
from keyleash.commands import CommandTable, load_table
from keyleash.errors import LeashError, OperationError, ReplyCode, UnreadableCommandsError
from keyleash.evaluate.client_calls import client_call
from keyleash.evaluate.trace import ALLOWED, Decision
from keyleash.limits import SECOND_US
from keyleash.operator.load.activate import activate_policy
from keyleash.operator.load.compile import prepare_policy
from keyleash.policy import Identity
from keyleash.store.live_table import read_table
from keyleash.store.server_check import Client
from keyleash.store.token import new_token
from keyleash.store.trial import TrialCall, TrialDatabase
from keyleash.store.wire import guard_call, refusal

ACTOR = "keyleash test"


class Guards:
    """
    The guards of one policy at a time, on an otherwise empty server.

    Args:
        client: A redis-py client with all permissions, `decode_responses` off.

    Attributes:
        table: The commands of the server.
        searches: Whether it has the module Search.

    Raises:
        OperationError (not-empty): The database holds keys or indexes, or other tests use it.
    """

    def __init__(self, client: Client) -> None:
        self._touched: set[bytes] = set()
        self._database = TrialDatabase(client, ACTOR)
        try:
            self.table: CommandTable = read_table(client)
        except UnreadableCommandsError:
            self.table = load_table()
        except BaseException:
            self._database.release()
            raise
        search = self.table.get("FT.SEARCH")
        self.searches = search is not None and search.refused is None
        if self.searches and self._database.indexes():
            self._database.release()
            raise OperationError(
                "not-empty",
                "the server already has search indexes, and tests make and drop some",
                help="name a server without indexes, or use the embedded server",
            )

    def _drop_indexes(self) -> None:
        if self.searches:
            self._database.drop_indexes()

    def load(self, document: str, file: str, starts_us: int) -> None:
        """
        Activate another policy, with calendars from the year of *starts_us* on.

        Raises:
            PolicyError: The document has problems.
        """
        self.clear()
        store = self._database.open()
        prepared = prepare_policy(
            store,
            document,
            file=file,
            table=self.table,
            year=datetime.fromtimestamp(starts_us // SECOND_US, UTC).year,
            allow_eviction=True,
            allow_unvalidated_restore=True,
        )
        activate_policy(store, prepared)
        self._database.keep_states([guard.identity for guard in prepared.guards])

    def decisions(self, case: Case, identity: Identity) -> list[Decision]:
        """
        Return the guard's decision about each call of a case; counters start at 0.

        Each step is one call of the guard, perhaps another one: WATCH is a TOUCH. Search indexes
        are dropped afterwards.

        Raises:
            OperationError (guard-broke): The guard failed with an error of its own.
        """
        name = identity.name
        record = self._database.read_guard(name)
        assert record is not None  # noqa: S101 - `load` wrote it
        digest = record.digest
        tokens = {step.token: new_token(name) for step in case.steps}
        tails = {key: item.pack() for key, item in case.restrictions(identity).items()}
        calls = [
            TrialCall(
                tokens[step.token],
                step.at_us,
                guard_call(self.table, digest, tokens[step.token], "test", argv),
                step.times,
                tails.get(step.token),
            )
            for step in case.steps
            for argv in client_call(identity, step.argv).calls
        ]
        for step in case.steps:
            self._touched.update(client_call(identity, step.argv).touched(self.table))
        limits = [limit.name for limit in identity.limits]
        is_exported = identity.audit.hard_max is not None
        replies = self._database.run(name, calls, limits, is_exported=is_exported)
        self._drop_indexes()
        return [_decision(reply, digest) for reply in replies]

    def clear(self) -> None:
        """
        Delete all control keys, and the keys that calls named.

        Raises:
            OperationError (not-empty): Another policy was loaded meanwhile; nothing is deleted.
        """
        self._database.clear(self._touched)
        self._touched.clear()

    def release(self) -> None:
        """Leave the database empty, also if a call was interrupted."""
        self._database.stop()
        self._drop_indexes()
        self.clear()
        self._database.release()


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
