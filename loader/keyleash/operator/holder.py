"""The identity, grants and limits of a token, as operators read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from keyleash.client.whoami import RemainingLimit, remaining_limit
from keyleash.errors import (
    NotActiveError,
    ReplyCode,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
)
from keyleash.evaluate.evaluate import judge_standing
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import Decision
from keyleash.limits import SECOND_US, Limit, SubjectKind
from keyleash.limits.budget import BudgetCount
from keyleash.operations import operation
from keyleash.operator.decisions import grant_json, identity_counts, read_subject
from keyleash.policy import Identity, parse_policy
from keyleash.results import Instant, Result
from keyleash.store.records import read_active, read_issue, read_token
from keyleash.store.restrictions import Ancestor, Restrictions, restrictions_of
from keyleash.store.store import Store
from keyleash.store.token import TokenRecord, hint_of, identity_of, use_noted_us
from keyleash.store.token_entries import read_token_records
from keyleash.text import json_object


@dataclass(frozen=True)
class TokenHolder(Result):
    """The identity and the limits of a token.

    Attributes:
        token: The token's record.
        issued_ms: When it was issued, server time, Unix milliseconds; None if that is not recorded.
        now_ms: The server's time.
        stopped: The denial of every call, if any.
        limits: What is left of the identity's limits, in their order, then of the token's caps,
            and of those of its ancestors.
        restrictions: What the token may do of what the identity may do; None if all of that.
        renewable_ms: The latest time until which its client may renew it; None if it may not.
    """

    identity: Identity
    token: TokenRecord
    issued_ms: int | None
    now_ms: int
    stopped: Decision | None
    limits: tuple[RemainingLimit, ...]
    restrictions: Restrictions | None = None
    renewable_ms: int | None = None

    issued_at = Instant[datetime | None]()
    expires_at = Instant[datetime]()
    idle_ends_at = Instant[datetime | None]()
    renewable_at = Instant[datetime | None]()

    @property
    def expires_ms(self) -> int:
        """When the token expires."""
        return self.token.expires_us // 1000

    @property
    def idle_ends_ms(self) -> int | None:
        """When the token expires if it is not used before; None if it has no idle time."""
        idle_s = self.identity.token.idle_s
        if idle_s is None:
            return None
        return (self.token.used_us + use_noted_us(idle_s)) // 1000 + idle_s * 1000

    @property
    def suspended_until_ms(self) -> int | None:
        """When the suspension ends by itself, if it does."""
        until = None if self.stopped is None else self.stopped.details.get("until_ms")
        return None if until is None else int(until)

    def to_dict(self) -> dict[str, Any]:
        """Return it as `keyleash whoami --json` prints it."""
        stopped, suspension = self.stopped, None
        if stopped is not None and stopped.code is ReplyCode.SUSPENDED:
            suspension = {
                "reason": stopped.details.get("reason", ""),
                **json_object(self, "until=suspended_until_ms"),
            }
        return {
            **json_object(self.identity, "identity=name", "kind"),
            "token_id": self.token.id,
            **json_object(self, "issued_ms", "expires_ms", "idle_ends_ms"),
            **json_object(self, "renewable_until=renewable_ms"),
            "stopped": None if stopped is None else stopped.code,
            "suspension": suspension,
            "grants": [grant_json(grant) for grant in self.identity.grants],
            "deny": [[pattern.source for pattern in item.keys] for item in self.identity.deny],
            "limits": [limit.to_dict() for limit in self.limits],
            "restrictions": self.restrictions and self.restrictions.to_dict(),
        }


@operation()
def inspect_token(store: Store, token: str) -> TokenHolder:
    """Return the identity, expiry, grants and remaining limits of a token.

    Nothing is changed or charged. Every token takes the same requests, so that errors and timing
    do not reveal which part of a token is wrong.

    Args:
        token: The token, not its id.

    Raises:
        TokenUnknownError, TokenRevokedError, TokenExpiredError: its guard would not accept it.
        NotActiveError: the active policy does not have its identity.
    """
    try:
        name = identity_of(token)
    except TokenUnknownError:
        name = "-"
    record, now_us = read_token(store, name, token), store.now_us()
    if record is None:
        raise TokenUnknownError(help=hint_of(token))
    active = read_active(store)
    policy = active and parse_policy(active.document, file="<active policy>", commands=None)
    identity = policy and policy.identity(name)
    if not identity:
        raise NotActiveError
    restrictions = _restrictions(record)
    _require_live(identity, record, now_us)
    chain = restrictions.chain if restrictions else ()
    inherited = _require_ancestors(store, identity, chain, now_us)
    # An issued token and all tokens that were delegated from it count as one.
    counted_id = chain[0].id if chain else record.id
    state = identity_counts(store, identity)
    issue = read_issue(store, name, record.id)
    standing = judge_standing(state, now_us, [])
    return TokenHolder(
        identity=identity,
        token=record,
        issued_ms=None if issue is None else int(issue["issued_ms"]),
        now_ms=now_us // 1000,
        stopped=None if standing.allowed else standing,
        limits=(
            *(
                _left(store, identity, limit, state, counted_id, now_us)
                for limit in identity.limits
            ),
            *(
                remaining_limit(count.limit, count, now_us)
                for count in (restrictions.counts if restrictions else ())
            ),
            *(
                replace(remaining_limit(count.limit, count, now_us), per="ancestor")
                for count in inherited
            ),
        ),
        restrictions=restrictions,
        renewable_ms=_renewable_ms(identity, record, issue or {}),
    )


def _renewable_ms(identity: Identity, record: TokenRecord, issue: dict[str, Any]) -> int | None:
    """As `lua/guard/authorize/read_issue.lua`."""
    if not identity.token.renew or record.is_child or issue.get("replaced_by"):
        return None
    return issue["issued_ms"] + identity.token.max_ttl_s * 1000 if "issued_ms" in issue else None


def _restrictions(record: TokenRecord) -> Restrictions | None:
    try:
        return restrictions_of(record)
    except ValueError:
        # Its guard accepts it no more than an unknown one.
        raise TokenUnknownError from None


def _require_live(identity: Identity, record: TokenRecord, now_us: int) -> None:
    if record.revoked:
        raise TokenRevokedError
    if record.tail is not None and not identity.token.bound:
        raise TokenRevokedError({"bound": "off"})
    if record.expires_us <= now_us:
        raise TokenExpiredError({"expired_at_ms": str(record.expires_us // 1000)})
    idle_s = identity.token.idle_s
    # One second more, as in guards, which write the time of use at most once a second.
    if idle_s is not None and now_us - record.used_us > (idle_s + 1) * SECOND_US:
        raise TokenExpiredError({"idle_since_ms": str(record.used_us // 1000)})


def _require_ancestors(
    store: Store, identity: Identity, chain: Sequence[Ancestor], now_us: int
) -> list[BudgetCount]:
    """Return the caps of the ancestors of a token, which count its calls too."""
    if not chain:
        return []
    if len(chain) > identity.delegate.depth:
        raise TokenRevokedError({"depth": str(len(chain))})
    digests = [item.digest for item in chain]
    (packed,) = read_token_records(store, {identity.name: digests})
    counts: list[BudgetCount] = []
    for item, data in zip(chain, packed, strict=True):
        found = TokenRecord.unpack(data) if data else None
        if state := _end_of(found, now_us):
            raise TokenRevokedError({"ancestor": item.id, "state": state})
        restrictions = _restrictions(found) if found else None
        counts += restrictions.counts if restrictions else ()
    return counts


def _end_of(record: TokenRecord | None, now_us: int) -> str:
    """Return why an ancestor is over, as `check_chain.lua`; empty if it is live."""
    if record is None:
        return "expired"
    if record.revoked:
        return "revoked"
    return "rotated" if record.is_rotated else "expired" if record.expires_us <= now_us else ""


def _left(
    store: Store, identity: Identity, limit: Limit, state: ModelState, token_id: str, now_us: int
) -> RemainingLimit:
    if limit.subject.kind is SubjectKind.CAPTURE:
        return remaining_limit(limit, None, now_us)
    subject = b""
    if limit.subject.kind is SubjectKind.TOKEN:
        subject = token_id.encode()
        read_subject(store, identity, limit, subject, state, now_us)
    return remaining_limit(limit, state.count(limit, subject, now_us), now_us)
