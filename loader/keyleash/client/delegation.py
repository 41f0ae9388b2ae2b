"""Child tokens that a token makes by one call of its guard."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from keyleash.results import Instant, Result
from keyleash.store.token import child_id, new_token, reject_tokens, token_digest
from keyleash.store.wire import reading_reply


@dataclass(frozen=True, slots=True)
class DelegatedToken(Result):
    """A new child token; `token` is the secret, and is stored nowhere else.

    Attributes:
        expires_ms: When it expires, server time, Unix milliseconds.
        expires_at: `expires_ms` as a `datetime`.
    """

    token: str = field(repr=False)
    id: str
    identity: str
    expires_ms: int
    expires_at = Instant[datetime]()


class Delegation:
    """The request for a child token: a new secret, and the words for the guard.

    Args:
        bind, allow, keys, budget, ttl, meta: As of `keyleash.Redis.delegate`.

    Raises:
        TypeError: `allow` or `keys` is a text, or `ttl` neither a text nor a `timedelta`.
        ValueError: `ttl` is no duration.
        SecretInTextError: A text contains a token; events repeat it.
    """

    __slots__ = ("_identity", "_token", "ttl_s", "words")

    def __init__(
        self,
        *,
        bind: Mapping[str, str | int] | None,
        allow: Collection[str],
        keys: Collection[str],
        budget: Mapping[str, str | int] | None,
        ttl: str | timedelta | None,
        meta: Mapping[str, str] | None,
    ) -> None:
        # Here, since few clients delegate.
        from keyleash.policy.quantities import seconds_of  # noqa: PLC0415

        for name, texts in (("allow", allow), ("keys", keys)):
            if isinstance(texts, str):
                raise TypeError(f"`{name}` must be a collection of texts, not a str")
        self._identity = self._token = ""
        self.ttl_s = seconds_of("ttl", ttl)
        pairs = {"bind": bind, "budget": budget, "meta": meta}
        self.words = tuple(
            word
            for kind, texts in (
                *((kind, _joined(given or {})) for kind, given in pairs.items()),
                ("allow", allow),
                ("keys", keys),
            )
            for text in texts
            for word in (kind, text)
        )
        for kind, text in zip(self.words[::2], self.words[1::2], strict=True):
            reject_tokens(**{kind: text})

    def digest_for(self, identity: str) -> str:
        """Return the digest of the child, the same at each call."""
        if not self._token:
            self._identity, self._token = identity, new_token(identity)
        return token_digest(self._token)

    def made(self, reply: Any) -> DelegatedToken:
        """Return the child that a guard has made.

        Raises:
            UnexpectedReplyError: The reply is malformed.
        """
        with reading_reply("delegate"):
            expires_ms = int(reply[0])
        id_ = child_id(token_digest(self._token))
        return DelegatedToken(self._token, id_, self._identity, expires_ms)


def _joined(given: Mapping[str, Any]) -> Iterator[str]:
    return (f"{name}={value}" for name, value in given.items())
