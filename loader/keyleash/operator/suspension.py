"""Suspend and resume identities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keyleash.errors import OperationError
from keyleash.store.keyspace import Keyspace
from keyleash.store.prefixes import server_keyspace
from keyleash.store.records import Client
from keyleash.store.scripts import FREEZE, THAW, OperatorScript
from keyleash.store.server_check import operator_client
from keyleash.store.state import MAX_REASON_BYTES, IdentityState
from keyleash.store.token import reject_tokens
from keyleash.store.wire import reading_reply


@dataclass(frozen=True, slots=True)
class Frozen:
    """
    An identity after a freeze or a thaw.

    Attributes:
        changed: Whether this call changed it. A freeze changes nothing if another lasts as long, a
            thaw nothing if the identity was not suspended.
        until_ms: When the suspension ends, server time, Unix milliseconds; None if it does not end
            by itself, or there is none.
        reason: The reason; empty if none was given, or it is not suspended.
    """

    identity: str
    changed: bool
    until_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FreezeResult:
    """
    The result of a freeze or a thaw.

    Attributes:
        bound_us: Server time of the change, Unix µs: it applies to all later calls.
        event: The id of the control event; empty if nothing changed.
        identities: The identities that were named.
    """

    bound_us: int
    event: str
    identities: tuple[Frozen, ...]


def freeze(
    client: Client,
    identities: Sequence[str] = (),
    *,
    reason: str,
    for_s: int | None = None,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> FreezeResult:
    """
    Deny every call of some identities as suspended, from the next call on.

    It is atomic, and also runs on a server whose memory is full.

    Args:
        client: A redis-py client of an operator.
        identities: Their names; all active identities if empty.
        reason: The reason in denials: up to 128 bytes, without a token.
        for_s: The duration in seconds; until `thaw` if None. A longer suspension is not shortened.
        actor: The operator's name, for the control stream.
        keyspace: The keyspace; read from the server if None.

    Raises:
        OperationError (unknown-identity): An identity is not active; nothing was changed.
        OperationError (vault-changing): Prefixes are being changed; nothing was changed.
        SecretInTextError: *reason* or *actor* contains a token; nothing was changed.
        ValueError: *for_s* is not positive, or *reason* is too long.
    """
    client = operator_client(client)
    reject_tokens(reason=reason, actor=actor)
    if for_s is not None and for_s <= 0:
        raise ValueError("an identity is suspended for at least a second")
    if len(reason.encode()) > MAX_REASON_BYTES:
        raise ValueError(f"a reason has at most {MAX_REASON_BYTES} bytes")
    for_ms = "" if for_s is None else str(for_s * 1000)
    named = dict.fromkeys(identities)
    words = _run(client, FREEZE, keyspace, (actor, reason, for_ms, *named))
    with reading_reply("EVAL"):
        return FreezeResult(
            bound_us=int(words[0]),
            event=words[1].decode(),
            identities=tuple(
                Frozen(name.decode(), bool(changed), int(until) if until else None, _text(why))
                for name, until, why, changed in zip(*[iter(words[2:])] * 4, strict=True)
            ),
        )


def thaw(
    client: Client,
    identities: Sequence[str] = (),
    *,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> FreezeResult:
    """
    Resume identities, whatever suspended them; see `freeze`.

    Raises:
        OperationError (unknown-identity): An identity is not active; nothing was changed.
        OperationError (vault-changing): Prefixes are being changed; nothing was changed.
    """
    client = operator_client(client)
    reject_tokens(actor=actor)
    words = _run(client, THAW, keyspace, (actor, *dict.fromkeys(identities)))
    with reading_reply("EVAL"):
        return FreezeResult(
            bound_us=int(words[0]),
            event=words[1].decode(),
            identities=tuple(
                Frozen(name.decode(), bool(changed))
                for name, changed in zip(*[iter(words[2:])] * 2, strict=True)
            ),
        )


def set_suspended(
    client: Client,
    identity: str,
    suspended: bool,
    *,
    actor: str = "unknown",
    keyspace: Keyspace | None = None,
) -> bool:
    """
    Freeze or thaw an identity, without a reason and an end.

    Returns:
        Whether this changed anything.

    Raises:
        OperationError (unknown-identity): No such identity is active.
        OperationError (vault-changing): Prefixes are being changed; nothing was changed.
    """
    if suspended:
        result = freeze(client, [identity], reason="", actor=actor, keyspace=keyspace)
    else:
        result = thaw(client, [identity], actor=actor, keyspace=keyspace)
    return result.identities[0].changed


def _run(
    client: Client, script: OperatorScript, keyspace: Keyspace | None, words: Sequence[str]
) -> list[bytes]:
    keyspace = keyspace or server_keyspace(client)
    reply: list[bytes] | bytes | None = client.eval(
        script.text, *script.arguments(keyspace, *words)
    )
    if reply is None:
        raise OperationError(
            "vault-changing",
            "the key prefixes are being changed, or were changed meanwhile; nothing was changed",
            help="run it again; no agent can act during the change",
        )
    if isinstance(reply, bytes):
        raise OperationError(
            "unknown-identity",
            f"no identity `{_text(reply)}` is active; nothing was changed",
            help="see `keyleash status` for active identities",
        )
    return reply


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


MAX_DIGITS = 16
"""More than any time in milliseconds has."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """
    A suspension in effect; times are server time, Unix milliseconds.

    Attributes:
        until_ms: When it ends by itself; None if an operator must end it.
        reason: The reason; empty if none was given, or while prefixes are changed.
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
    """
    Return the suspension of an identity; None if it is not suspended.

    Args:
        state: Its state; None if it has none.
        record: The hash `Keyspace.suspension`, which may be out of date.
        now_ms: The server's clock.

    Returns:
        The suspension, or None.
    """
    if state is None or not state.is_suspended(now_ms * 1000):
        return None
    if state.suspended < 0:
        return Suspension(None)
    fields = {name: value.decode("utf-8", "backslashreplace") for name, value in record.items()}
    since = fields.get(b"since_ms", "")
    return Suspension(
        until_ms=state.suspended_until_ms,
        reason=fields.get(b"reason", ""),
        by=fields.get(b"by", ""),
        # Untrusted: an agent with a circuit breaker may write it.
        since_ms=int(since) if since.isdecimal() and len(since) <= MAX_DIGITS else None,
    )
