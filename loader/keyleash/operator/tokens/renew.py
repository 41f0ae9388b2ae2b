"""Renew tokens."""

from __future__ import annotations

from typing import Annotated

from keyleash.client.renewal import Renewal
from keyleash.errors import OperationError
from keyleash.operations import operation
from keyleash.operations.types import Duration, Param, TokenId
from keyleash.operator.tokens.issue import not_active
from keyleash.operator.tokens.list import TokenInfo, require_token
from keyleash.policy.quantities import seconds_of
from keyleash.store.scripts import RENEW_TOKEN
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply

RenewTtl = Annotated[
    Duration, Param(help="Lifetime from now on, such as `90m`.  [default: that of its issue]")
]


@operation("token renew")
def renew_token(store: Store, token_id: TokenId, *, ttl: RenewTtl | None = None) -> Renewal:
    """Let a token live longer, at most until the policy's `max_ttl` after its issue.

    A renewal never shortens a life, and an idle timeout is not affected.

    Args:
        token_id: The id of the token.
        ttl: The lifetime from now on; that of its issue if None.

    Raises:
        OperationError (unknown-token-id): there is no such token.
        OperationError (token-not-live): the token is expired or revoked.
        OperationError (token-replaced): another token replaces it.
        OperationError (token-too-old): it lives as long as the policy's `max_ttl` allows.
        OperationError (token-delegated): another token made it.
        OperationError (no-policy, unknown-identity): no active policy has its identity.
        UsageError: *token_id* is a token.
        ValueError: *ttl* is not positive.
    """
    ttl_s = seconds_of("ttl", ttl)
    info = require_token(store, token_id)
    if info.chain:
        raise OperationError(
            "token-delegated",
            f"the token `{token_id}` was made by another, so it is not renewed",
            help=f"renew `{info.chain[0]}`, which was issued, and let it delegate again",
        )
    reply: object = 1
    if info.is_live:
        words = store.actor, info.identity, token_id, "" if ttl_s is None else ttl_s
        reply = store.run(RENEW_TOKEN, *words)
    if reply == 0:
        raise not_active(store, info.identity)
    if isinstance(reply, int):
        raise _refused(info, reply)
    with reading_reply("EVAL"):
        assert isinstance(reply, list)  # noqa: S101 - for mypy
        return Renewal(token_id, info.identity, int(reply[0]), bool(reply[1]))


def _refused(info: TokenInfo, reply: int) -> OperationError:
    """Return the error that a reply of the script stands for."""
    name, help = f"the token `{info.id}`", f"issue one with `keyleash token issue {info.identity}`"
    if reply == 2:
        # Empty if it was replaced after it was read.
        help = f"renew `{info.replaced_by}`, which replaced it" if info.replaced_by else help
        return OperationError("token-replaced", f"{name} was replaced by another", help=help)
    why = f"{name} lives as long as the policy's `max_ttl` allows"
    if reply == 3:
        return OperationError("token-too-old", why, help=help)
    why = f"{name} is expired or revoked; it was not renewed"
    return OperationError("token-not-live", why, help=help)
