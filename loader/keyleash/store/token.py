"""Tokens: `kl_<identity>_<32 url-safe characters>`, and the packed record that stands for one.

Redis holds the SHA-1 of a token, never the token: 192 random bits need no slow hash. They
are more than the 160 of the digest, and few enough that a token fits into one block of
SHA-1, 55 bytes, if its identity's name has up to 19 characters.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import struct
from dataclasses import dataclass

from keyleash.errors import SecretInTextError, TokenUnknownError
from keyleash.limits.counters import whole

RECORD_FORMAT = "<ddB12s"
"""expires_us, used_us, revoked, id."""
RECORD_BYTES = struct.calcsize(RECORD_FORMAT)
REVOKED_OFFSET = 16
KEEP_AFTER_EXPIRY_MS = 7 * 86_400_000
"""So that an expired token can say that it is expired. A guard tells the time by it."""
USE_NOTED_US = 60_000_000
"""A guard writes down that a token is used at most so often: a write per call would be dear."""
USE_NOTED_IDLE_US = 1_000_000
"""The same where tokens have an idle time."""
MAX_TOKEN_BYTES = 160
"""The longest real token has 100 bytes; longer input is not even hashed."""

_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look alike
TOKEN_START = "kl_"
# In any case of letters: a token in the place of a command comes back in capitals.
_IN_TEXT = re.compile(r"(kl_[a-z0-9-]{1,64})_[a-z0-9_-]{16,}", re.IGNORECASE)
_SHAPE = re.compile(r"kl_([a-z0-9-]{1,64})_.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What a guard knows of a token; times in server µs, `expires_us` a whole millisecond.

    Its key expires `KEEP_AFTER_EXPIRY_MS` after `expires_us`, which is how a guard tells the time.
    """

    id: str
    expires_us: int
    used_us: int
    revoked: bool = False

    def pack(self) -> bytes:
        """The record as Redis holds it."""
        return struct.pack(
            RECORD_FORMAT, self.expires_us, self.used_us, self.revoked, self.id.encode("ascii")
        )

    @classmethod
    def unpack(cls, data: bytes) -> TokenRecord:
        """
        Read back what `pack`, or a guard, wrote.

        A record that is too short, or has no time of expiry, is of no live token to a guard. It
        is read as one that is expired.
        """
        data = data.ljust(RECORD_BYTES, b"\0")
        expires_us, used_us, revoked, token_id = struct.unpack_from(RECORD_FORMAT, data)
        said = token_id.decode("ascii", "backslashreplace")
        return cls(said, whole(expires_us), whole(used_us), bool(revoked))


def use_noted_us(idle_s: int | None) -> int:
    """How often, in µs, it is written down that a token is used, where that is its idle time."""
    return USE_NOTED_US if idle_s is None else USE_NOTED_IDLE_US


def new_token(identity: str) -> str:
    """Make a secret for *identity*: 192 bits from the operating system."""
    return f"{TOKEN_START}{identity}_{secrets.token_urlsafe(24)}"


def new_token_id() -> str:
    """Make a public name: 12 characters, 60 bits: no two tokens of an identity ever share one."""
    return "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))


def token_digest(token: str) -> str:
    """The SHA-1 of a token, as Redis computes it, in lower-case hex."""
    return hashlib.sha1(token.encode(), usedforsecurity=False).hexdigest()


def without_tokens(text: str) -> str:
    """Return *text* with the secret part of everything that looks like a token left out."""
    return _IN_TEXT.sub(r"\1_…", text)


def reject_tokens(**texts: str | None) -> None:
    """
    Reject free text that contains a token, since it is stored and repeated.

    Args:
        texts: Each text, by the name that the caller knows it by.

    Raises:
        SecretInTextError: one of them does. The text is not repeated.
    """
    for name, text in texts.items():
        if text and _IN_TEXT.search(text):
            raise SecretInTextError(
                f"`{name}` contains a token, and this text is stored and shown to others",
                help="leave the token out; revoke it if others have seen it",
            )


def identity_of(token: str) -> str:
    """The identity that a token names.

    Raises:
        TokenUnknownError: *token* has not the shape of a token. It is not repeated.
    """
    shape = _SHAPE.fullmatch(token)
    if shape is None or len(token) > MAX_TOKEN_BYTES:
        raise TokenUnknownError(
            help="a token looks like `kl_<identity>_…`; issue one with `keyleash token issue`"
        )
    return shape[1]
