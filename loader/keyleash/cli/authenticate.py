"""Check a token as a guard does, without its counters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyleash.errors import TokenExpiredError, TokenRevokedError, TokenUnknownError
from keyleash.store.token import TokenRecord, identity_of, token_digest

if TYPE_CHECKING:
    from keyleash.cli.settings import Settings
    from keyleash.policy import Identity

SECOND_US = 1_000_000


def require_record(settings: Settings, token: str) -> tuple[str, TokenRecord, int]:
    """Return the identity and the record of a token, and the server's time in µs.

    Every token takes one request, so that errors and timing do not reveal which part is wrong.

    Raises:
        TokenUnknownError: There is no such token.
    """
    try:
        name = identity_of(token)
    except TokenUnknownError:
        name = "-"
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
    """Require a token that a guard would accept.

    Raises:
        TokenRevokedError: It was revoked.
        TokenExpiredError: Its lifetime or idle timeout is over.
    """
    if record.revoked:
        raise TokenRevokedError
    if record.expires_us <= now_us:
        raise TokenExpiredError({"expired_at_ms": str(record.expires_us // 1000)})
    idle_s = identity.token.idle_s
    # One second more, as in guards, which write the time of use at most once a second.
    if idle_s is not None and now_us - record.used_us > (idle_s + 1) * SECOND_US:
        raise TokenExpiredError({"idle_since_ms": str(record.used_us // 1000)})
