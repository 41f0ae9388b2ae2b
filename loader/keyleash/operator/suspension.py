"""Suspend and resume identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from keyleash.errors import OperationError
from keyleash.operations import operation
from keyleash.operations.types import FreezeDuration, FreezeReason, IdentityName, RecordedReason
from keyleash.policy.quantities import seconds_of
from keyleash.results import Change, Instant, Result
from keyleash.store.identities import known_identities
from keyleash.store.scripts import FREEZE, THAW, OperatorScript
from keyleash.store.shards import confirm, expire_leases, raise_epochs, read_shards
from keyleash.store.state import IdentityState, check_reason, is_in_effect
from keyleash.store.states import read_packed_state
from keyleash.store.store import Store
from keyleash.store.token import reject_tokens
from keyleash.store.wire import reading_reply
from keyleash.text import json_object


@dataclass(frozen=True, slots=True)
class Frozen(Result):
    """An identity after a freeze or a thaw.

    Attributes:
        changed: Whether this call changed it. A freeze changes nothing if another lasts as long, a
            thaw nothing if the identity was not suspended.
        until_ms: When the suspension ends, server time, Unix milliseconds; None if it does not end
            by itself, or there is none.
        reason: The reason; empty if none was given, or it is not suspended.
        until: `until_ms` as a `datetime`.
    """

    identity: str
    changed: bool
    until_ms: int | None = None
    reason: str = ""
    until = Instant["datetime | None"]("until_ms")


@dataclass(frozen=True, slots=True)
class FreezeResult(Change):
    """The result of a freeze or a thaw.

    Attributes:
        effective_us: Server time of the change, Unix µs: it applies to all later calls.
        event: The id of the control event; empty if nothing changed.
        identities: The identities that were named.
        effective_at: `effective_us` as a `datetime`.
    """

    effective_us: int
    event: str
    identities: tuple[Frozen, ...]
    effective_at = Instant[datetime]("effective_us")

    def to_dict(self) -> dict[str, Any]:
        """Return the change as `--json` prints it."""
        shown = json_object(self, "bound_at=effective_us", "event", "identities")
        return self.with_nodes({**shown, "event": self.event or None})


@operation("freeze")
def freeze(
    store: Store,
    *identities: IdentityName,
    reason: FreezeReason,
    duration: FreezeDuration | None = None,
) -> FreezeResult:
    """Deny every call of some identities, or of all, from the next call on.

    It is atomic, and also runs on a server whose memory is full.

    Args:
        identities: Their names; all of the active policy if none is given.
        reason: The reason, which agents are shown: up to 128 bytes, without a token.
        duration: How long, as text (`30m`) or `timedelta`; until `thaw` if None.

    Raises:
        OperationError (unknown-identity): an identity is not active; nothing was changed.
        SecretInTextError: *reason* contains a token; nothing was changed.
        ValueError: *reason* is blank or too long, or *duration* is not a positive duration.
    """
    check_reason("reason", reason)
    reject_tokens(reason=reason)
    for_s = seconds_of("duration", duration)
    for_ms = "" if for_s is None else str(for_s * 1000)
    result = _run(store, FREEZE, (reason, for_ms, *dict.fromkeys(identities)), fields=4)
    names = [item.identity for item in result.identities]
    return replace(result, nodes=expire_leases(store, names))


@operation("thaw")
def thaw(
    store: Store, *identities: IdentityName, reason: RecordedReason | None = None
) -> FreezeResult:
    """Resume identities, or all, whatever suspended them.

    Args:
        identities: Their names; all of the active policy if none is given.
        reason: The reason, for the control stream: up to 128 bytes, without a token.

    Raises:
        OperationError (unknown-identity): an identity is not active; nothing was changed.
    """
    names = [*dict.fromkeys(identities)]
    nodes, at_shards = None, ""
    if store.cluster is not None:
        for name in names:
            if read_packed_state(store, name) is None:
                raise _no_records(store, name)
        at_shards = ",".join(_suspended_at_shards(store, names))
        nodes = expire_leases(store, names or None, resume=True)
        raise_epochs(store, dict.fromkeys(names, 0))
    result = _run(store, THAW, [at_shards, reason or "", *names], fields=2)
    return replace(result, nodes=confirm(store, nodes))


def _suspended_at_shards(store: Store, identities: Sequence[str]) -> set[str]:
    """Return the identities, by default of all, that circuit breakers of shards suspended."""
    names = identities or known_identities(store)
    now_us = store.now_us()
    found = ((item.identity, item.state) for item in read_shards(store, names))
    return {name for name, state in found if state and is_in_effect(state.suspended, now_us)}


def _run(
    store: Store, script: OperatorScript, words: Sequence[str], *, fields: int
) -> FreezeResult:
    """Run a script that replies with time, event and *fields* words per identity."""
    reply = store.run(script, store.actor, *words)
    if isinstance(reply, bytes):
        raise _no_records(store, _text(reply))
    with reading_reply("EVAL"):
        effective_us, event, *rest = reply
        return FreezeResult(
            effective_us=int(effective_us),
            event=event.decode(),
            identities=tuple(map(_frozen, zip(*[iter(rest)] * fields, strict=True))),
        )


def _no_records(store: Store, identity: str) -> OperationError:
    """Return the error for an identity without records; nothing was changed."""
    # Imported here: the help of `keyleash freeze` needs no policy.
    from keyleash.operator.tokens.issue import active_identity  # noqa: PLC0415

    active_identity(store, identity)
    return OperationError(
        "unknown-identity",
        f"the records of `{identity}` are missing; nothing was changed",
        help="run `keyleash doctor`",
    )


def _frozen(words: Sequence[Any]) -> Frozen:
    name, *until_and_reason, changed = words
    until, reason = until_and_reason or (b"", b"")
    return Frozen(name.decode(), bool(changed), int(until) if until else None, _text(reason))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class Suspension:
    """A suspension in effect; times are server time, Unix milliseconds.

    Attributes:
        until_ms: When it ends by itself; None if an operator must end it.
        reason: The reason; empty if none was given.
        by: The operator who suspended it, or `itself` for the circuit breaker.
        since_ms: When it began, if known.
    """

    until_ms: int | None
    reason: str = ""
    by: str = ""
    since_ms: int | None = None


def suspension_of(
    state: IdentityState | None, record: Mapping[bytes, bytes], now_ms: int
) -> Suspension | None:
    """Return the suspension of an identity; None if it is not suspended.

    Args:
        record: The hash `Keyspace.suspension`, which may be out of date.
    """
    if state is None or not state.is_suspended(now_ms * 1000):
        return None
    fields = {name: _text(value) for name, value in record.items()}
    since = fields.get(b"since_ms", "")
    return Suspension(
        until_ms=state.suspended_until_ms,
        reason=fields.get(b"reason", ""),
        by=fields.get(b"by", ""),
        since_ms=int(since) if since else None,
    )
