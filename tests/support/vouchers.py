"""Requests and vouchers of leases as a test reads and writes them; their form: `store.leases`."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from keyleash.doubles import MOST
from keyleash.store.leases import (
    FIRST_AMOUNT,
    GROWTH,
    REQUEST_START,
    REST_SHARES,
    VOUCHER_START,
    mac_pads,
)
from keyleash.store.placement import is_shard_tag

_RESTRICTIONS_START = ":-"
_REQUEST_FIELDS, _VOUCHER_FIELDS, _TOKEN_FIELDS, _LIMIT_FIELDS = 4, 8, 2, 3
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_DIGEST = re.compile(r"[0-9a-f]{40}")
_TOKEN_ID = re.compile(r"[0-9a-z]{12}(\.[0-9a-z]{12})*")


def grant_amount(rest: int, want: int, limit: int, *, shares: int, shards: int, last: int) -> int:
    """Return the units of one limit that the home grants a shard; 0 or less if there are none.

    Args:
        rest: The units that are granted to no shard.
        want: The units that the call needs, at least 1.
        limit: The units of a whole window.
        shares: `BUDGET_SHARES` or `RATE_SHARES`.
        shards: The number of shards that the home knows.
        last: The amount that the shard had before; 0 if none.
    """
    shards = max(1, shards)
    cap = max(1, limit // (shares * shards))
    share = max(1, rest // (REST_SHARES * shards))
    return min(rest, max(want, min(cap, share, GROWTH * last or FIRST_AMOUNT)))


def mac(key: bytes, text: str) -> str:
    """Return the signature of *text*, 40 lower-case hex digits: HMAC with its inner digest in hex.

    Redis offers scripts nothing but SHA-1 in hex.
    """
    inner, outer = mac_pads(key)
    return _sha1(outer + _sha1(inner + text.encode()).encode())


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class LimitRequest:
    """A shard's request for units of one limit.

    Attributes:
        want: The units that the call needs; 0 if it needs none.
        window_us: The end of the window that the shard knows; for rates the age of the asking.
        have: The units that the shard was granted in that window; for rates the time that the
            newest voucher took.
    """

    want: int = 0
    window_us: int = 0
    have: int = 0


@dataclass(frozen=True, slots=True)
class LimitVoucher:
    """The units of one limit that the home grants.

    Attributes:
        amount: The units.
        life_us: The time for which they may be used.
        window_us: The end of the window that they are of; for rates as requested.
    """

    amount: int = 0
    life_us: int = 0
    window_us: int = 0


@dataclass(frozen=True, slots=True)
class TokenAsking:
    """The asking of a shard for one token, beside that for the identity.

    Attributes:
        seq: The number of the grant that it waits for; 0 if it has no lease of the token yet.
        asked_us: The time of asking, by the shard's clock.
    """

    seq: int
    asked_us: int


@dataclass(frozen=True, slots=True)
class Request:
    """The text with which a shard asks the home for a lease.

    Attributes:
        tag: The shard.
        seq: The number of the grant that the shard waits for.
        asked_us: The time of asking, by the shard's clock.
        partial: Whether the call can use less than it wants.
        limits: The leased limits.
        token: The asking for the token; None without limits per token.
    """

    tag: str
    seq: int
    asked_us: int
    partial: bool = False
    limits: tuple[LimitRequest, ...] = ()
    token: TokenAsking | None = None

    def write(self, key: bytes) -> str:
        """Return the text, signed."""
        limits = ((item.want, item.window_us, item.have) for item in self.limits)
        fields = (self.tag, self.seq, self.asked_us, int(self.partial))
        return _sign(REQUEST_START, key, fields, self.token, limits)

    @classmethod
    def parse(cls, text: str) -> Request:
        """Read a request without its signature.

        Raises:
            ValueError: *text* is not a request.
        """
        (tag, seq, asked_us, partial), asking, limits = _split(text, _REQUEST_FIELDS)
        if partial not in {"0", "1"}:
            raise ValueError("a field of a request is neither 0 nor 1")
        return cls(
            _tag(tag),
            _number(seq),
            _number(asked_us),
            partial == "1",
            tuple(LimitRequest(*item) for item in limits),
            asking,
        )

    @classmethod
    def verify(cls, text: str, key: bytes) -> Request:
        """Read a request that was signed with *key*.

        Raises:
            ValueError: *text* is not a request, or not signed with it.
        """
        _check(REQUEST_START, key, text)
        return cls.parse(text)


@dataclass(frozen=True, slots=True)
class Voucher:
    """The text with which the home grants a shard a lease.

    Attributes:
        tag: The shard.
        seq: The number of the grant, as requested.
        asked_us: The time of asking, as requested.
        stamp: The stamp of the state at the home, which names the policy's guards.
        epoch: The identity's epoch at the home.
        token_digest: The SHA-1 of the token, hex.
        token_id: The token's id, behind those of its ancestors.
        token_life_us: The time for which the shard may accept the token.
        limits: The leased limits.
        token: The asking for the token, as requested.
        restrictions: The packed restrictions of the token, empty if it has none; None if tokens of
            the identity are never bound.
    """

    tag: str
    seq: int
    asked_us: int
    stamp: int
    epoch: int
    token_digest: str
    token_id: str
    token_life_us: int
    limits: tuple[LimitVoucher, ...] = ()
    token: TokenAsking | None = None
    restrictions: bytes | None = None

    def write(self, key: bytes) -> str:
        """Return the text, signed."""
        limits = ((item.amount, item.life_us, item.window_us) for item in self.limits)
        place = (self.tag, self.seq, self.asked_us, self.stamp, self.epoch)
        token = (self.token_digest, self.token_id, self.token_life_us)
        return _sign(VOUCHER_START, key, (*place, *token), self.token, limits, self.restrictions)

    @classmethod
    def parse(cls, text: str) -> Voucher:
        """Read a voucher without its signature.

        Raises:
            ValueError: *text* is not a voucher.
        """
        before, mark, digits = text.partition(_RESTRICTIONS_START)
        restrictions = None
        if mark:
            packed, _, signature = digits.rpartition(":")
            text, restrictions = f"{before}:{signature}", bytes.fromhex(packed)
        fields, asking, limits = _split(text, _VOUCHER_FIELDS)
        tag, seq, asked_us, stamp, epoch, digest, token_id, life_us = fields
        return cls(
            _tag(tag),
            _number(seq),
            _number(asked_us),
            _number(stamp),
            _number(epoch),
            _matching(_DIGEST, digest),
            _matching(_TOKEN_ID, token_id),
            _number(life_us),
            tuple(LimitVoucher(*item) for item in limits),
            asking,
            restrictions,
        )

    @classmethod
    def verify(cls, text: str, key: bytes) -> Voucher:
        """Read a voucher that was signed with *key*.

        Raises:
            ValueError: *text* is not a voucher, or not signed with it.
        """
        _check(VOUCHER_START, key, text)
        return cls.parse(text)


def _sign(
    start: str,
    key: bytes,
    fields: Iterable[str | int],
    token: TokenAsking | None,
    limits: Iterable[Sequence[int]],
    restrictions: bytes | None = None,
) -> str:
    asking = () if token is None else (token.seq, token.asked_us)
    words = (*fields, *asking, *(number for item in limits for number in item))
    text = ":".join(map(str, words))
    if restrictions is not None:
        text += _RESTRICTIONS_START + restrictions.hex()
    return f"{text}:{mac(key, start + text)}"


def _check(start: str, key: bytes, text: str) -> None:
    signed, _, signature = text.rpartition(":")
    try:
        expected = mac(key, start + signed)
    except UnicodeEncodeError:
        raise ValueError("the text has characters that cannot be signed") from None
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise ValueError("the signature is of another text or key")


def _split(text: str, count: int) -> tuple[list[str], TokenAsking | None, list[Sequence[int]]]:
    """Return the first *count* fields of a text, the asking for a token, and limits' numbers."""
    *fields, signature = text.split(":")
    numbers = list(map(_number, fields[count:]))
    first = len(numbers) % _LIMIT_FIELDS
    if len(fields) < count or first not in {0, _TOKEN_FIELDS}:
        raise ValueError("the text has a wrong number of fields")
    _matching(_DIGEST, signature)
    asking = TokenAsking(*numbers[:first]) if first else None
    return (
        fields[:count],
        asking,
        [
            numbers[place : place + _LIMIT_FIELDS]
            for place in range(first, len(numbers), _LIMIT_FIELDS)
        ],
    )


def _number(text: str) -> int:
    number = int(_matching(_NUMBER, text))
    if number >= MOST:
        raise ValueError("a number is too large for a double")
    return number


def _tag(text: str) -> str:
    if not is_shard_tag(text):
        raise ValueError("a field is not the tag of a shard")
    return text


def _matching(shape: re.Pattern[str], text: str) -> str:
    if not shape.fullmatch(text):
        raise ValueError(f"a field does not match `{shape.pattern}`")
    return text
