"""Child tokens that a token makes by one call of its guard."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, get_args

from keyleash.results import Instant, Result
from keyleash.store.token import bound_text, child_id, new_token, reject_tokens, token_digest
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
        TypeError: An argument, or an item of one, has a wrong type; a bool is not a number.
        ValueError: `ttl` is no duration, `allow` or `keys` is empty, or a text cannot be encoded.
        SecretInTextError: A text contains a token; events repeat it.
    """

    __slots__ = ("_identity", "_token", "ttl_s", "words")

    def __init__(
        self,
        *,
        bind: Mapping[str, str | int | bytes] | None,
        allow: Collection[str] | None,
        keys: str | Collection[str] | None,
        budget: Mapping[str, str | int] | None,
        ttl: str | timedelta | None,
        meta: Mapping[str, str] | None,
    ) -> None:
        # Here, since few clients delegate.
        from keyleash.policy.quantities import seconds_of  # noqa: PLC0415

        self._identity = self._token = ""
        self.ttl_s = seconds_of("ttl", ttl)
        texts = {
            "bind": _pairs("bind", bind, str | int | bytes),
            "budget": _pairs("budget", budget, str | int),
            "meta": _pairs("meta", meta, str),
            "allow": _items("allow", allow, "operation class"),
            "keys": _items("keys", [keys] if isinstance(keys, str) else keys, "key"),
        }
        self.words = tuple(
            word for kind, values in texts.items() for text in values for word in (kind, text)
        )

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


def _pairs(kind: str, values: Any, type_: Any) -> Iterator[bytes]:
    """Yield the words of a mapping."""
    if not isinstance(values, Mapping | None):
        raise TypeError(f"`{kind}` must be a mapping, not {_type_of(values)}")
    for name, value in (values or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"the names in `{kind}` must be texts, not {_type_of(name)}")
        if not isinstance(value, type_) or isinstance(value, bool):
            wanted = " or ".join(item.__name__ for item in get_args(type_) or (type_,))
            raise TypeError(f"a value in `{kind}` must be {wanted}, not {_type_of(value)}")
        yield _word(kind, f"{name}={bound_text(value)}")


def _items(kind: str, texts: Any, noun: str) -> Iterator[bytes]:
    """Yield the words of a collection; none for None."""
    if texts is None:
        return
    if isinstance(texts, str | bytes) or not isinstance(texts, Collection):
        raise TypeError(f"`{kind}` must be a collection of texts, not {_type_of(texts)}")
    if not texts:
        raise ValueError(f"`{kind}` has no {noun}")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"`{kind}` must be a collection of texts, not of {_type_of(text)}")
        yield _word(kind, text)


def _word(kind: str, text: str) -> bytes:
    # Events repeat it.
    reject_tokens(**{kind: text})
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"a text in `{kind}` cannot be encoded") from None


def _type_of(value: Any) -> str:
    return "a str" if isinstance(value, str) else type(value).__name__
