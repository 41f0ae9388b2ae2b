"""Tokens, `kl_<identity>_<32 url-safe characters>`, and their packed records.

Redis stores the SHA-1 of a token, never the token: 192 random bits need no slow hash. They exceed
the 160 bits of the digest, and a token fits into one SHA-1 block of 55 bytes if its identity's
name has up to 19 characters.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from dataclasses import dataclass

from keyleash.doubles import whole
from keyleash.errors import SecretInTextError, TokenUnknownError
from keyleash.text import without_tokens

RECORD_FORMAT = "<ddB12s"
"""expires_us, used_us, flags, id."""
RECORD_BYTES = struct.calcsize(RECORD_FORMAT)
REVOKED_OFFSET = 16
FLAG_REVOKED, FLAG_BOUND, FLAG_CHILD, FLAG_ROTATED = 1, 2, 4, 8
"""A child is bound too. A rotated token works until its grace ends, and its children do not."""
ID_CHARS = 12
CHAIN_BYTES = ID_CHARS + 40
"""An ancestor of a child token: its id, and its digest in hex."""
TAIL_HEADER = "<BBBBH"
"""The restrictions of a bound token: classes as bits, the numbers of bindings, keys and caps, and
the place of the bindings in the record, from 1."""
TAIL_HEADER_BYTES = struct.calcsize(TAIL_HEADER)
CAP_FORMAT = "<Bdddd"
"""A cap of a bound token: the number of its counter, limit, period_us, used, ends_us."""
CAP_BYTES = struct.calcsize(CAP_FORMAT)
CAP_USED_OFFSET = struct.calcsize("<Bdd")
MOST_TAIL_BYTES = 4096
"""The most bytes of the restrictions after the record of a bound token."""
KEEP_AFTER_EXPIRY_MS = 7 * 86_400_000
"""Time for which the record of an expired token stays; a guard computes the time from it."""
USE_NOTED_US = 60_000_000
"""Minimum interval between updates of a token's last-used time."""
USE_NOTED_IDLE_US = 1_000_000
"""The interval for tokens with an idle timeout."""
MAX_TOKEN_BYTES = 160
"""The longest real token has 100 bytes; longer input is not even hashed."""

ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without 0, o, 1, l
TOKEN_START = "kl_"
ASKING_ID = "0" * ID_CHARS
"""The id of tokens with which operators ask a guard; no issued token has a `0` in its id.

A guard neither records denials of a question with it nor counts them for the breaker.
"""
ID_SHAPE = re.compile(rf"[{ID_ALPHABET}]{{{ID_CHARS}}}")
_SHAPE = re.compile(r"kl_([a-z0-9-]{1,64})_.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """The record of a token for guards; times in server µs, `expires_us` a whole millisecond.

    Its key expires `KEEP_AFTER_EXPIRY_MS` after `expires_us`: guards compute the time from that.

    Attributes:
        tail: The packed `Restrictions` of a bound token; None for any other.
        is_child: Whether another token made it; its ancestors are at the end of the tail.
        is_rotated: Whether another token replaced it, so that its children have ended.
    """

    id: str
    expires_us: int
    used_us: int
    revoked: bool = False
    tail: bytes | None = None
    is_child: bool = False
    is_rotated: bool = False

    def pack(self) -> bytes:
        """Return the record as stored in Redis."""
        flags = FLAG_REVOKED * self.revoked + FLAG_BOUND * (self.tail is not None)
        flags += FLAG_CHILD * self.is_child + FLAG_ROTATED * self.is_rotated
        record = struct.pack(
            RECORD_FORMAT, self.expires_us, self.used_us, flags, self.id.encode("ascii")
        )
        return record + (self.tail or b"")

    @classmethod
    def unpack(cls, data: bytes) -> TokenRecord:
        """Unpack a record that `pack` or a guard wrote.

        A guard accepts no token whose record is too short or has no expiry. Such a record is
        read as expired.
        """
        data = data.ljust(RECORD_BYTES, b"\0")
        expires_us, used_us, flags, token_id = struct.unpack_from(RECORD_FORMAT, data)
        id_text = token_id.decode("ascii", "backslashreplace")
        is_child, is_bound = bool(flags & FLAG_CHILD), bool(flags & FLAG_BOUND)
        # With other flags a guard takes it for revoked.
        is_corrupt = flags >= 2 * FLAG_ROTATED or (is_child and not is_bound)
        return cls(
            id_text,
            whole(expires_us),
            whole(used_us),
            revoked=bool(flags & FLAG_REVOKED) or is_corrupt,
            tail=data[RECORD_BYTES:] if is_bound and not is_corrupt else None,
            is_child=is_child and not is_corrupt,
            is_rotated=bool(flags & FLAG_ROTATED) and not is_corrupt,
        )


def use_noted_us(idle_s: int | None) -> int:
    """Return the minimum µs between updates of the last-used time, by the idle timeout."""
    return USE_NOTED_US if idle_s is None else USE_NOTED_IDLE_US


def new_token(identity: str) -> str:
    """Generate a token for *identity*: 192 random bits from the operating system."""
    return f"{TOKEN_START}{identity}_{secrets.token_urlsafe(24)}"


def new_token_id() -> str:
    """Generate a public token id: 12 characters, 60 bits, unique per identity."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))


def child_id(digest: str) -> str:
    """Return the id of the child token with a digest; no agent can choose it."""
    hashed = hashlib.sha1(digest.encode(), usedforsecurity=False).hexdigest()
    return "".join(
        ID_ALPHABET[int(hashed[at : at + 2], 16) % len(ID_ALPHABET)]
        for at in range(0, 2 * ID_CHARS, 2)
    )


def token_digest(token: str) -> str:
    """Return the SHA-1 of a token, in lower-case hex as in Redis."""
    return hashlib.sha1(token.encode(), usedforsecurity=False).hexdigest()


def reject_tokens(**texts: str | None) -> None:
    """Reject free text that contains a token, since it is stored and shown.

    Args:
        texts: The texts, by the caller's name for each.

    Raises:
        SecretInTextError: a text contains a token; the error does not contain the text.
    """
    for name, text in texts.items():
        if text and without_tokens(text) != text:
            raise SecretInTextError(
                f"`{name}` contains a token, and this text is stored and shown to others",
                help="leave the token out; revoke it if others have seen it",
            )


def bound_text(value: str | int | bytes) -> str:
    """Return the value of a binding as text; bytes that are no UTF-8 are surrogates in it."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def hint_of(token: str) -> str | None:
    """Return what to do about a text that is no token, if it shows what it is."""
    if not token:
        return "the token is empty; set it, or issue one with `keyleash token issue`"
    if ID_SHAPE.fullmatch(token):
        return "this is a token id, which only names a token; pass the token itself"
    if token != token.strip():
        return "white space is around the token: strip it, or use `keyleash.TokenFile`"
    return None


def identity_of(token: str) -> str:
    """Return the identity that a token names.

    Raises:
        TokenUnknownError: *token* is malformed; the error does not contain it.
    """
    shape, hint = _SHAPE.fullmatch(token), hint_of(token)
    if shape is None or len(token) > MAX_TOKEN_BYTES:
        default = "a token looks like `kl_<identity>_…`; issue one with `keyleash token issue`"
        raise TokenUnknownError(help=hint or default)
    if hint:
        raise TokenUnknownError(help=hint)
    return shape[1]
