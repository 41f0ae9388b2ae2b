"""Calls of the guards on the nodes of a cluster, without I/O: the words of a node, and leases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from redis.exceptions import ClusterDownError, NoScriptError, ResponseError

from keyleash.client.actions import AtHome, Flow, Pause, Unguarded, Words
from keyleash.client.caller import Caller, require_known_outcome
from keyleash.client.calls import Call
from keyleash.client.command_words import split_words, upper
from keyleash.client.correlation import next_correlation
from keyleash.client.recovery import recover
from keyleash.client.session import Session
from keyleash.errors import (
    CounterCorruptError,
    LeaseNeededError,
    LeaseRefusedError,
    NotReplicatedError,
    RightMissingError,
    SlotNotServedError,
)
from keyleash.store.records import GuardRecord
from keyleash.store.wire import (
    BatchMode,
    declared_keys,
    delegation_words,
    is_down,
    is_of_a_cluster,
    to_shard,
)

MAX_LEASES = 30
"""Of one call. Each may be used up by other clients before the call uses it."""
PAUSE_S = 0.05
"""The time before a node makes the same request again."""
_OF_HOME = (CounterCorruptError, SlotNotServedError)
"""Errors of the home that do not depend on the call."""
TOPOLOGY = frozenset({"INFO", "KEYSLOT", "MYID", "MYSHARDID", "NODES", "SHARDS", "SLOTS"})
"""The sub-commands of CLUSTER that need no guard; CLUSTER GETKEYSINSLOT would list names."""


@dataclass(frozen=True, slots=True)
class FetchLease:
    """Fetch a voucher from the home, or wait for the task that fetches the same.

    Attributes:
        request: The request of the node for a lease.
        call: The call that needs the lease.
        used: The voucher with which the node made the same request again; None for none.
    """

    request: str
    call: Call
    used: str | None


class ClusterSession(Session):
    """The session of a token whose identity's records are at the home of a cluster."""

    at_home: ClassVar[Any] = AtHome

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._keyspace = self._keyspace.at_home()
        self.recoverable += (LeaseNeededError,)

    def _server_error(self, error: ResponseError) -> ResponseError:
        if is_down(error):
            # A guard that was called without a key fails at its first command.
            return ClusterDownError(str(error))
        return error if is_of_a_cluster(error) else super()._server_error(error)

    def at_shard(self, error: Any, tag: str) -> Any:
        """Return an error of a shard's guard, with the names of the shard's keys."""
        if not (isinstance(error, RightMissingError) and error.keys):
            return error
        keys = self._keyspace.at_shard(tag).control_patterns(self.identity)
        return RightMissingError(error.identity, error.right, error.reason, keys)

    def is_topology(self, words: Words) -> bool:
        """Return whether a command asks a node about the nodes of the cluster."""
        return len(words) > 1 and upper(words[1]) in TOPOLOGY

    def lease_request(self, request: str, call: Call) -> Words:
        """Return the call of the home's script that grants leases. It contains the token."""
        guard, child = self._called, call.delegation
        if child is not None:
            terms = child.digest_for(self.identity), child.ttl_s, child.words
            return (*self._home_head(guard, call), *delegation_words(*terms))
        if call.mode is BatchMode.RENEW:
            ((name, life),) = call.commands
            return (*self._home_head(guard, call), call.mode.value, "2", name, life)
        words = split_words(call.commands[0]) if call.commands else ("WHOAMI",)
        keys = call.script.keys if call.script else declared_keys(self.table, words)
        return (*self._home_head(guard, call), request, words[0], keys[0] if keys else "")

    def _home_head(self, guard: GuardRecord, call: Call) -> Words:
        record = self._keyspace.guard(self.identity)
        return ("EVALSHA", guard.lease, "1", record, self._token, call.traced(guard))


class ShardCaller(Caller):
    """Makes calls of the guard on one node of a cluster.

    Attributes:
        tag: Returns the tag of the node.
    """

    tag: Callable[[], str]
    session: ClusterSession
    _called_tag = ""
    _voucher = ""
    _used = ""

    def request(self, call: Call | AtHome) -> Words:
        """Return the words of a call, with the tag of the node or a voucher at the end."""
        if isinstance(call, AtHome):
            return call.words() if callable(call.words) else call.words
        voucher, self._voucher = self._voucher, ""
        self._called_tag = self.tag()
        return to_shard(super().request(call), self._called_tag, voucher)

    def about_token(self, call: Call) -> Flow:
        """Make a call at the home; otherwise like that of one server."""
        session = self.session
        yield from self.guard()
        call.correlation, call.waits_for = next_correlation(session.correlation), self.awaited(call)
        call.origin = self.origin
        again = partial(fetch_lease, session, FetchLease("", call, None))
        return (yield from _recovered(session, again, session.recoverable))

    def check(self, call: Call) -> Flow:
        """Fetch the lease of a call within MULTI and EXEC while its keys are watched.

        If it is denied, the watch ends, as EXEC would have ended it.
        """
        check = self.new_call(call.commands, BatchMode.PREPARE)
        check.has_scripts = call.has_scripts
        check.correlation = call.correlation = next_correlation(self.session.correlation)
        try:
            yield from self.reply_to(check)
        except ResponseError:
            yield Unguarded(("UNWATCH",))
            raise

    def exchange(self, calls: Sequence[Call], deliver: Callable[[Call, list[Any]], None]) -> Flow:
        """Make the calls of a pipeline; before them the token is looked after."""
        guard = self.session.guard
        if guard is not None and guard.renew:
            yield from self.look_after_token()
        yield from super().exchange(calls, deliver)

    def _typed(self, call: Call, error: ResponseError) -> ResponseError:
        typed: ResponseError = self.session.at_shard(super()._typed(call, error), self._called_tag)
        return typed

    def _recover(self, call: Call, error: ResponseError, tried: list[Any]) -> Flow:
        """Recover as on one server, and from the lack of a lease by fetching one."""
        if isinstance(error, LeaseNeededError):
            leases = [step for step in tried if isinstance(step, FetchLease)]
            last = leases[-1] if leases else None
            if last is not None and len(leases) == MAX_LEASES:
                raise self._unleased(error, last)
            used = self._used if last is not None and last.request == error.request else None
            # With a lease, other steps may be taken again.
            tried[:] = [*leases, FetchLease(error.request, call, used)]
            try:
                self._voucher = self._used = yield tried[-1]
            except (ResponseError, SlotNotServedError) as new:
                # Without a lease the node does not look for the id.
                require_known_outcome(call, new, *_OF_HOME)
                if not isinstance(new, self.session.recoverable):
                    raise
                error = new
            else:
                return
        yield from super()._recover(call, error, tried)

    def _unleased(self, error: LeaseNeededError, last: FetchLease) -> LeaseNeededError:
        """Return the error of a node that asks for a lease after all repetitions of a call."""
        if not self._used:
            reason = "the home refuses the requests of the node as outdated"
        elif last.request == error.request:
            reason = "the node accepts no voucher, as if the home had lost changes in a failover"
        else:
            reason = "other calls used up each lease before this one"
        return LeaseNeededError({**error.details, "reason": reason})


def fetch_lease(session: ClusterSession, need: FetchLease) -> Flow:
    """Return the voucher for a request, undecoded; empty if the request is outdated.

    Raises:
        LeashError: the home denies the call.
    """
    if need.used == "":
        # The node returns the same request until a second is over.
        yield Pause(PAUSE_S)
    return (yield from _recovered(session, partial(_granted, session, need), NoScriptError))


def _recovered(session: ClusterSession, call: Callable[[], Flow], errors: Any) -> Flow:
    """Return the reply to a call of the home; recover if it first fails with one of *errors*."""
    tried: list[Any] = []
    while True:
        try:
            return (yield from call())
        except errors as error:
            yield from recover(session, session.guard, error, "lease", tried)
            errors = session.recoverable


def _granted(session: ClusterSession, need: FetchLease) -> Flow:
    make = partial(session.lease_request, need.request, need.call)
    runs_once = need.call.mode in (BatchMode.DELEGATE, BatchMode.RENEW)
    try:
        return (yield AtHome(make, need.call.waits_for, runs_once))
    except NotReplicatedError as short:
        if not need.request:
            raise
        # Only the grant is without a replica; the call has not run yet.
        return short.reply
    except ResponseError as error:
        typed = session.typed_error(error)
        reason = typed.details.get("reason") if isinstance(typed, LeaseRefusedError) else None
        if reason == "stale":
            return b""
        raise typed from None
