"""Suspend identities and resume them."""

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
    One identity, as a freeze or a thaw left it.

    Attributes:
        changed: Whether this call made it so. A freeze changes nothing where another lasts as
            long, and a thaw nothing where nobody was suspended.
        until_ms: When the suspension ends by itself, server time, Unix milliseconds; None if
            somebody has to end it, or if there is none.
        reason: Why; empty if nobody said, or if it is not suspended.
    """

    identity: str
    changed: bool
    until_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class FreezeResult:
    """
    What a freeze or a thaw did.

    Attributes:
        bound_us: When, server time, Unix µs: whatever starts later is judged by it.
        event: Id of the control event; empty if nothing changed.
        identities: Those that were meant.
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
    Refuse every call of some identities as suspended, from the very next one on.

    It is one script: all of them, or none. It also runs on a server whose memory is full.

    Args:
        client: A redis-py client of an operator.
        identities: Their names; all that are active if there are none.
        reason: What refusals say, up to 128 bytes; without a token.
        for_s: For how many seconds; until `thaw` if None. Where another suspension lasts
            longer, that one stays.
        actor: Who does it, for the control stream.
        keyspace: Where keys are; what the server's record says if None.

    Raises:
        OperationError (unknown-identity): one of them is not active; nothing was changed.
        OperationError (vault-changing): prefixes are being changed; nothing was changed.
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
    Let identities act again, whoever or whatever suspended them; see `freeze`.

    Raises:
        OperationError (unknown-identity): one of them is not active; nothing was changed.
        OperationError (vault-changing): prefixes are being changed; nothing was changed.
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
    Freeze or thaw one identity, without a reason and without an end.

    Returns:
        Whether that changed anything.

    Raises:
        OperationError (unknown-identity): no such identity is active.
        OperationError (vault-changing): prefixes are being changed.
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
    said: list[bytes] | bytes | None = client.eval(script.text, *script.arguments(keyspace, *words))
    if said is None:
        raise OperationError(
            "vault-changing",
            "the prefixes are being changed, or are others since this began; nothing was changed",
            help="run it again; while they are changed nobody can act",
        )
    if isinstance(said, bytes):
        raise OperationError(
            "unknown-identity",
            f"no identity `{_text(said)}` is active; nothing was changed",
            help="see `keyleash status` for those that are",
        )
    return said


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


MAX_DIGITS = 16
"""More than a time in milliseconds ever has."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """
    A suspension that is in force; times are server time, Unix milliseconds.

    Attributes:
        until_ms: When it ends by itself; None if somebody has to end it.
        reason: Why; empty if nobody said, or while prefixes are changed.
        by: Who suspended it: an operator, or `itself`, if it was its circuit breaker.
        since_ms: Since when, if that is known.
    """

    until_ms: int | None
    reason: str = ""
    by: str = ""
    since_ms: int | None = None


def suspension_of(
    state: IdentityState | None, record: Mapping[bytes, bytes], now_ms: int
) -> Suspension | None:
    """
    Say whether and why an identity is suspended.

    Args:
        state: Its state; None if it has none.
        record: The hash `Keyspace.suspension`; it may be of a suspension that is over.
        now_ms: The server's clock.

    Returns:
        None if it is not suspended.
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
        # An agent with a circuit breaker may write it.
        since_ms=int(since) if since.isdecimal() and len(since) <= MAX_DIGITS else None,
    )
