"""Count the calls of tokens in the audit log."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from redis.exceptions import NoPermissionError

from keyleash.audit.operator_actions import read_control
from keyleash.audit.read import Query, read_denials, read_events
from keyleash.errors import ReplyCode
from keyleash.operations import operation
from keyleash.operations.types import TokenId
from keyleash.operator.tokens.list import TokenInfo, list_tokens, require_token
from keyleash.operator.tokens.revoke import Revocation
from keyleash.results import Result
from keyleash.store.store import Store
from keyleash.text import json_object

BEFORE_MS = 60_000
AT_MOST = 10_000
"""Maximum number of events read per audit stream after a revocation."""


@dataclass(frozen=True, slots=True)
class TokenUse(Result):
    """A token, and its calls in the audit log.

    Attributes:
        token: The token, without its secret.
        recorded_uses: Its commands in the audit log, which has reads only if the policy records
            them.
        denied_as_revoked: The number of calls that were denied since it was revoked.
    """

    token: TokenInfo
    recorded_uses: int
    denied_as_revoked: int

    def to_dict(self) -> dict[str, Any]:
        """Return the token and its calls as `--json` prints them."""
        return {**self.token.to_dict(), **json_object(self, "recorded_uses", "denied_as_revoked")}


def labelled_tokens(store: Store, meta: Mapping[str, str]) -> frozenset[str]:
    """Return the ids of all tokens that have labels, as far back as they are recorded.

    Those that are listed no more are in the control stream.
    """
    found = {info.id for info in list_tokens(store, meta=meta)}
    for action in read_control(store):
        if action.event == "issue" and "meta" in action.details:
            try:
                labels = json.loads(action.details["meta"])
            except ValueError:
                continue
            if isinstance(labels, dict) and meta.items() <= labels.items():
                found.add(action.details.get("token", ""))
    return frozenset(found)


@operation("token show")
def token_use(store: Store, token_id: TokenId) -> TokenUse:
    """Return a token with the number of its calls in the audit log.

    Raises:
        OperationError (unknown-token-id): there is no such token.
        UsageError: *token_id* is a token.
    """
    token = require_token(store, token_id)
    return TokenUse(
        token,
        sum(1 for _ in read_events(store, [token.identity], Query(token=token_id))),
        count_revoked_denials(store, [token.identity])[token_id],
    )


@operation()
def with_calls_before(store: Store, revocation: Revocation) -> Revocation:
    """Return a revocation with the calls of each token in the minute before.

    The newest 10,000 events of each identity are counted; `is_partial` is set if there are
    more. A count is None if the user may not read audit streams.
    """
    until_ms = revocation.effective_us // 1000
    query = Query(since_ms=until_ms - BEFORE_MS, until_ms=until_ms)
    counts: Counter[str] = Counter()
    partial: set[str] = set()
    try:
        for identity in revocation.identities:
            events = read_events(store, [identity], query, newest_first=True)
            counts.update(event.token for event in islice(events, AT_MOST))
            partial |= {identity} if next(events, None) is not None else set()
    except NoPermissionError:
        return revocation
    tokens = (
        replace(item, calls_before=counts[item.id], is_partial=item.identity in partial)
        for item in revocation.tokens
    )
    return replace(revocation, tokens=tuple(tokens))


def count_revoked_denials(
    store: Store, identities: Collection[str], since_ms: int | None = None
) -> Counter[str]:
    """Count the calls that were denied because their token is revoked, by token id.

    Repeats within a minute count with the first of them; they are left out if that came before
    *since_ms*.
    """
    query = Query(code=ReplyCode.TOKEN_REVOKED, since_ms=since_ms)
    counts: Counter[str] = Counter()
    for denial in read_denials(store, identities, query):
        counts[denial.token] += denial.repeats
    return counts
