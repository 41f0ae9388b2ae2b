"""Leases: a node's right to act for an identity, granted by the home of a cluster.

A shard that lacks a token or credit returns a signed *request*; the client takes it to the home,
and the *voucher* that the home returns back to the shard. Both are fields of text between colons:

    request   tag:seq:asked_us:partial[:token_seq:token_asked_us] {:want:window:have} :mac
    voucher   tag:seq:asked_us:stamp:epoch:token_sha1:token_id:token_life_us
              [:token_seq:token_asked_us] {:amount:life_us:window} [:-restrictions] :mac

The part in braces is there for each leased limit: those of the identity itself, then those per
token, in the order of the policy. The part in brackets is there if some are per token: their units
have a number of grants and an asking for each token. Restrictions, in hexadecimal digits, are there
if tokens of the identity may be bound, and are empty for a token that is not. Times in vouchers are
durations from `asked_us`, or `token_asked_us`, by the clock of the shard. The constants of this
module are compiled into the scripts.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from keyleash.doubles import DOUBLE, MOST, whole
from keyleash.policy.model import ClusterRules
from keyleash.store.placement import is_shard_tag
from keyleash.store.state import STAMP_BYTES, Layout, read_suspended

_T = TypeVar("_T")

DEFAULT_LEASE_US: Final = ClusterRules().lease_s * 1_000_000
"""The life of a token at a shard, unless the policy sets it."""
REFRESH_US: Final = 1_000_000
"""The time for which all requests of a shard are for one asking."""
FIRST_AMOUNT: Final = 4
"""The most that the first lease of a shard has, if the call does not need more."""
GROWTH: Final = 2
"""The most by which a lease is larger than the one before, as a factor."""
USED_SHARES: Final = 4
"""Below an ancestor with a cap, a lease has beyond the call at most `FIRST_AMOUNT` units, or what
the shard had before divided by this."""
REST_SHARES: Final = 2
"""A lease is at most the rest of the limit divided by this, for each shard."""
BUDGET_SHARES: Final = 50
"""A lease of a budget is at most the limit divided by this, for each shard."""
RATE_LIFE_PARTS: Final = 10
"""Units of a rate live for its period divided by this, but at least `MIN_RATE_LIFE_US`."""
MIN_RATE_LIFE_US: Final = 100_000
SHORT_LIFE_US: Final = 10_000
"""Where units live for less than `MIN_RATE_LIFE_US` because of a short burst: their least life."""
SHORT_LIFE_PARTS: Final = 4
"""They live for what the newest voucher of the shard took, times this."""
CLOCK_BACK_US: Final = 1_000_000
"""A shard whose clock goes back by more than this asks for everything again."""
KEEP_LEASED_TOKEN_MS: Final = 60_000
"""The time for which a shard stores the record of a token after its lease ended."""
MAX_SHARDS: Final = 1024
"""The most shards that the home of an identity knows."""
MASTER_KEY_BYTES: Final = 32
EPOCH_FIELD: Final = "epoch"
"""The field of the hash of leases that is not a tag."""

REQUEST_START: Final = "r:"
VOUCHER_START: Final = "v:"
"""The text that is signed begins with one of these, so that neither passes for the other."""
_RESTRICTIONS_START = ":-"
_BLOCK_BYTES = 64
_REQUEST_FIELDS, _VOUCHER_FIELDS, _TOKEN_FIELDS, _LIMIT_FIELDS = 4, 8, 2, 3
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_DIGEST = re.compile(r"[0-9a-f]{40}")
_TOKEN_ID = re.compile(r"[0-9a-z]{12}(\.[0-9a-z]{12})*")

_SHARD_NUMBERS, _ENTRY_NUMBERS, _PAIR = 8, 5, 2

PLACES: Final = {
    "shard_bytes": _SHARD_NUMBERS * DOUBLE,
    "entry_bytes": _ENTRY_NUMBERS * DOUBLE,
    "leased_bytes": 2 * _PAIR * DOUBLE,
    "pair_bytes": _PAIR * DOUBLE,
    "seq_at": 3 * DOUBLE,
    "asked_at": 4 * DOUBLE,
    "born_at": 5 * DOUBLE,
    "sequence_at": 6 * DOUBLE,
}
"""The form of a shard's state and of an entry of the home, for scripts: bytes before the limits,
bytes of each limit and of two of its numbers, and places in a state."""


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


def rate_life_us(period_us: int, burst_us: int | None = None, took_us: int = 0) -> int:
    """Return the time for which the units of a rate may be used once they are granted.

    Args:
        period_us: The period of the rate.
        burst_us: The time that earns back a burst; None for a rate without burst.
        took_us: The time that the newest voucher of the shard took; 0 if that is not known.
    """
    life_us, least_us = period_us // RATE_LIFE_PARTS, MIN_RATE_LIFE_US
    if burst_us is not None:
        life_us = min(life_us, burst_us // 2)
        if took_us:
            least_us = min(least_us, max(SHORT_LIFE_US, SHORT_LIFE_PARTS * took_us))
    return max(life_us, least_us)


def leased_layout(layout: Layout) -> int:
    """Return the number by which a shard knows whether its credit is for these limits.

    A double holds it exactly; it is never 0, the number of a state without credit.
    """
    digest = hashlib.sha256(layout.to_json().encode()).digest()
    return int.from_bytes(digest[:STAMP_BYTES], "big") | 1


def identity_key(master: bytes, identity: str) -> bytes:
    """Return the key by which the requests and vouchers of an identity are signed."""
    return hmac.digest(master, identity.encode(), "sha256")


def mac_pads(key: bytes) -> tuple[bytes, bytes]:
    """Return the inner and outer block of `mac`, which scripts contain instead of the key.

    Raises:
        ValueError: *key* is longer than a block.
    """
    if len(key) > _BLOCK_BYTES:
        raise ValueError(f"a key has at most {_BLOCK_BYTES} bytes")
    block = key.ljust(_BLOCK_BYTES, b"\0")
    return bytes(byte ^ 0x36 for byte in block), bytes(byte ^ 0x5C for byte in block)


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
    return fields[:count], asking, _groups(numbers[first:], _LIMIT_FIELDS)


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


@dataclass(frozen=True, slots=True)
class LimitEntry:
    """The newest grant of one limit, as the home stores it.

    Attributes:
        amount: The units.
        window_us: The end of their window; 0 for rates.
        have: All units that the shard was granted in that window; for a rate with burst their life.
        last: The units of the newest grant that had any, by which the next one grows; below an
            ancestor with a cap those beyond the call.
    """

    amount: int
    window_us: int
    have: int
    last: int


@dataclass(frozen=True, slots=True)
class LeaseEntry:
    """The newest grant to one shard, as the home stores it.

    Attributes:
        seq: The number of the grant.
        asked_us: The newest asking, by the shard's clock.
        granted_us: The time of the grant, by the home's clock.
        stamp: The stamp of the guards that it was granted to.
        epoch: The identity's epoch at that time.
        limits: The leased limits.
    """

    seq: int
    asked_us: int
    granted_us: int
    stamp: int
    epoch: int
    limits: tuple[LimitEntry, ...] = ()


def unpack_entry(data: bytes) -> LeaseEntry:
    """Read an entry of the hash of leases.

    Raises:
        ValueError: *data* has another length than any entry.
    """
    numbers = [*map(whole, _doubles(data, _ENTRY_NUMBERS, 2 * _PAIR))]
    limits = tuple(LimitEntry(*item) for item in _groups(numbers[_ENTRY_NUMBERS:], 2 * _PAIR))
    seq, asked_us, granted_us, stamp, epoch = numbers[:_ENTRY_NUMBERS]
    return LeaseEntry(seq, asked_us, granted_us, stamp, epoch, limits)


@dataclass(frozen=True, slots=True)
class LimitCredit:
    """The units of one limit that a shard may use.

    Attributes:
        credit: The units.
        until_us: The end of their life, by the shard's clock.
        window_us: The end of their window, by the home's clock; 0 for rates.
        have: All units that the shard was granted in that window; for rates as requested.
    """

    credit: int
    until_us: int
    window_us: int
    have: int


@dataclass(frozen=True, slots=True)
class ShardState:
    """The state of an identity at one shard; times by the shard's clock.

    Attributes:
        layout: The limits that the credit is for (`leased_layout`); 0 if there was none yet.
        suspended: As in the state at the home (`store.state`), by this shard's circuit breaker.
        min_epoch: Tokens and vouchers of an earlier epoch are not accepted.
        seq: The number of the grant that it waits for.
        asked_us: The time of asking; 0 if it does not wait.
        born_us: The time at which the state began; earlier askings are not accepted.
        sequence: The number of the newest event in the shard's audit stream.
        last_us: The latest time that the shard has seen.
        limits: The leased limits.
    """

    layout: int
    suspended: int
    min_epoch: int
    seq: int
    asked_us: int
    born_us: int
    sequence: int
    last_us: int
    limits: tuple[LimitCredit, ...] = ()


def unpack_shard(data: bytes) -> ShardState:
    """Read the packed state of a shard.

    Its numbers are followed by `credit` of each limit, `until_us` of each, then `window · have` of
    each.

    Raises:
        ValueError: *data* has another length than any state.
    """
    doubles = _doubles(data, _SHARD_NUMBERS, 2 * _PAIR)
    layout, _, min_epoch, seq, asked_us, born_us, sequence, last_us, *numbers = map(whole, doubles)
    count = len(numbers) // (2 * _PAIR)
    credits, ends = numbers[:count], numbers[count : 2 * count]
    windows = _groups(numbers[2 * count :], _PAIR)
    return ShardState(
        layout,
        read_suspended(doubles[1]),
        min_epoch,
        seq,
        asked_us,
        born_us,
        sequence,
        last_us,
        tuple(map(LimitCredit, credits, ends, *zip(*windows, strict=True))) if count else (),
    )


def _doubles(data: bytes, first: int, per_limit: int) -> tuple[float, ...]:
    """Return the numbers of a record that has *first* of them and some for each limit."""
    count, odd = divmod(len(data), DOUBLE)
    if odd or count < first or (count - first) % per_limit:
        raise ValueError(f"no record has {len(data)} bytes")
    return struct.unpack(f"<{count}d", data)


def _groups(items: Sequence[_T], size: int) -> list[Sequence[_T]]:
    return [items[place : place + size] for place in range(0, len(items), size)]
