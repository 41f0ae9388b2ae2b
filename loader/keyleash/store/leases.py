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
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from keyleash.doubles import DOUBLE, whole
from keyleash.policy.model import ClusterRules
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
_BLOCK_BYTES = 64

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
