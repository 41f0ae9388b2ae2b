"""From a token to its record, without a hint of what is wrong with one that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyleash.cli.settings import Settings
from keyleash.errors import TokenExpiredError, TokenRevokedError, TokenUnknownError
from keyleash.store.token import TokenRecord, identity_of, token_digest

if TYPE_CHECKING:
    from keyleash.policy import Identity
    from keyleash.store.token import TokenRecord


NOBODY = "-"
"""In whose name a text is looked up that has not the shape of a token."""
SECOND_US = 1_000_000


def require_record(settings: Settings, token: str) -> tuple[str, TokenRecord, int]:
    """
    Whose a token is, its record, and the server's clock in µs: one look, whatever the token is.

    Raises:
        TokenUnknownError: there is no such token. A wrong identity, a wrong secret and a text
            that is no token are not told apart, and cost the same.
    """
    try:
        name = identity_of(token)
    except TokenUnknownError:
        name = NOBODY
    digest = token_digest(token.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
    with settings.client.pipeline(transaction=False) as pipe:
        pipe.get(settings.keyspace.token(name, digest))
        pipe.time()
        packed, (seconds, micros) = pipe.execute()
    if packed is None:
        raise TokenUnknownError
    now_us = int(seconds) * SECOND_US + int(micros)
    return name, TokenRecord.unpack(packed), now_us


def require_live(identity: Identity, record: TokenRecord, now_us: int) -> None:
    """
    Do nothing if a guard would take the token.

    Raises:
        TokenRevokedError: it was revoked.
        TokenExpiredError: its life, or its idle time, is over.
    """
    if record.revoked:
        raise TokenRevokedError
    if record.expires_us <= now_us:
        raise TokenExpiredError({"expired_at_ms": str(record.expires_us // 1000)})
    idle_s = identity.token.idle_s
    # One second more, as in a guard, which writes the time of use at most once a second.
    if idle_s is not None and now_us - record.used_us > (idle_s + 1) * SECOND_US:
        raise TokenExpiredError({"idle_since_ms": str(record.used_us // 1000)})
