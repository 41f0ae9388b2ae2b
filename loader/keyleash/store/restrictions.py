"""The restrictions of a bound token, which its record has after the fields of every token."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from keyleash.commands import OperationClass
from keyleash.doubles import whole
from keyleash.limits.budget import BudgetCount
from keyleash.limits.calendar import PERIOD_US
from keyleash.limits.caps import CAP_COUNTERS, Cap
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import beginning, exactly, is_open, keys_under
from keyleash.results import Result
from keyleash.store.token import (
    CAP_BYTES,
    CAP_FORMAT,
    CHAIN_BYTES,
    ID_CHARS,
    MOST_TAIL_BYTES,
    RECORD_BYTES,
    TAIL_HEADER,
    TAIL_HEADER_BYTES,
    TokenRecord,
)
from keyleash.text import printable

MAX_TEXT_BYTES = 255
"""The length of a text is one byte."""

MAX_ITEMS = 16
"""The most bindings, keys or labels of a token."""
MAX_LABEL_NAME, MAX_LABEL_BYTES = 32, 64

_CLASSES = tuple(OperationClass)


class Ancestor(NamedTuple):
    """A token that made another one, or made one of its ancestors."""

    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Restrictions(Result):
    """The part of its identity's permissions that a token has, and its caps.

    Attributes:
        bind: The values of captures: only patterns with all of these are granted.
        allow: The allowed classes.
        keys: Keys, or prefixes with `*`; None for all keys.
        counts: What each cap has counted; its limit is the `Cap`.
        chain: The ancestors of a child token, from the issued token on; their caps count its
            calls too.
    """

    bind: Mapping[str, bytes] = field(default_factory=dict)
    allow: tuple[OperationClass, ...] = _CLASSES
    keys: tuple[Pattern, ...] | None = None
    counts: tuple[BudgetCount, ...] = field(default=(), compare=False)
    chain: tuple[Ancestor, ...] = ()

    @property
    def caps(self) -> list[Cap]:
        """The caps, without their counts."""
        return [count.limit for count in self.counts if isinstance(count.limit, Cap)]

    def pack(self) -> bytes:
        """Return the restrictions as stored in Redis.

        Raises:
            ValueError: They are too long.
        """
        caps = b"".join(
            struct.pack(
                CAP_FORMAT,
                1 + CAP_COUNTERS.index(count.limit.counter),
                count.limit.limit,
                count.limit.period_us,
                count.count,
                count.ends_us,
            )
            for count in self.counts
        )
        keys = b"".join(_packed(is_open(key), beginning(key)) for key in self.keys or ())
        bindings = b":".join(b"%s=%s" % (name.encode(), value) for name, value in self.bind.items())
        mask = sum(1 << _CLASSES.index(cls) for cls in self.allow)
        numbers = (mask, len(self.bind), len(self.keys or ()), len(self.counts))
        place = RECORD_BYTES + TAIL_HEADER_BYTES + len(caps) + len(keys) + 1
        parts = (struct.pack(TAIL_HEADER, *numbers, place), caps, keys, b":%s:" % bindings)
        packed = b"".join(parts)
        if self.chain:
            packed += "".join(map("".join, self.chain)).encode() + bytes([len(self.chain)])
        if len(packed) > MOST_TAIL_BYTES:
            raise ValueError(f"the restrictions are over {MOST_TAIL_BYTES} bytes")
        return packed

    def without_caps(self) -> Restrictions:
        """Return the same restrictions of a token that was issued, without caps."""
        return replace(self, counts=(), chain=())

    def lines(self, now_us: int | None = None) -> Iterator[tuple[str, str]]:
        """Yield the name and the text of each kind of restriction.

        Args:
            now_us: The time for which caps have what is left of them; None to leave that out.
        """
        if self.bind:
            yield (
                "bound to",
                ", ".join(f"{name}={printable(value)}" for name, value in self.bind.items()),
            )
        if self.allow != _CLASSES:
            yield "allow", ", ".join(self.allow)
        if self.keys is not None:
            yield "keys", " ".join(printable(key.source) for key in self.keys)
        if self.chain:
            yield "child of", " of ".join(item.id for item in reversed(self.chain))
        for count in self.counts:
            shown = count.limit.counter.rounded
            left = "" if now_us is None else f", {shown(count.left(now_us))} left"
            yield "cap", f"{count.limit.name}: {count.limit.describe()}{left}"

    def to_dict(self) -> dict[str, Any]:
        """Return the restrictions as `--json` prints them."""
        return {
            "bind": {name: printable(value) for name, value in self.bind.items()},
            "allow": None if self.allow == _CLASSES else list(map(str, self.allow)),
            "keys": None if self.keys is None else [key.source for key in self.keys],
            "budget": [
                {
                    "limit": count.limit.name,
                    "allows": count.limit.describe(),
                    "of": count.limit.limit,
                }
                for count in self.counts
            ],
            "chain": [item.id for item in self.chain],
        }


def _packed(is_prefix: bool, text: bytes) -> bytes:
    if len(text) > MAX_TEXT_BYTES:
        raise ValueError(f"`{printable(text[:20])}…` is over {MAX_TEXT_BYTES} bytes")
    return bytes([is_prefix, len(text)]) + text


def restrictions_of(record: TokenRecord) -> Restrictions | None:
    """Return the restrictions of a token; None if it has none.

    Raises:
        ValueError: The record is corrupt; guards deny every call of its token.
    """
    if record.tail is None:
        return None
    if len(record.tail) > MOST_TAIL_BYTES:
        raise ValueError("the restrictions of a token are corrupt")
    try:
        tail, chain = _chain(record.tail) if record.is_child else (record.tail, ())
        return replace(_unpacked(tail, record.expires_us), chain=chain)
    except (ValueError, IndexError, struct.error, StopIteration):
        raise ValueError("the restrictions of a token are corrupt") from None


def _chain(tail: bytes) -> tuple[bytes, tuple[Ancestor, ...]]:
    """Return the tail of a child without its ancestors, and these."""
    end = len(tail) - 1
    start = end - tail[end] * CHAIN_BYTES
    if not TAIL_HEADER_BYTES < start < end:
        raise IndexError
    text = tail.decode("ascii", "replace")
    ids = range(start, end, CHAIN_BYTES)
    return tail[:start], tuple(
        Ancestor(text[at : at + ID_CHARS], text[at + ID_CHARS : at + CHAIN_BYTES]) for at in ids
    )


def _unpacked(tail: bytes, expires_us: int) -> Restrictions:
    mask, bound, narrow, caps, place = struct.unpack_from(TAIL_HEADER, tail)
    at = TAIL_HEADER_BYTES + caps * CAP_BYTES
    counts = [
        _count(*struct.unpack_from(CAP_FORMAT, tail, start), expires_us=expires_us)
        for start in range(TAIL_HEADER_BYTES, at, CAP_BYTES)
    ]
    keys = []
    for _ in range(narrow):
        text = tail[at + 2 : at + 2 + tail[at + 1]]
        keys.append(keys_under(text) if tail[at] == 1 else exactly(text))
        at += 2 + tail[at + 1]
    first, *pairs, last = tail[place - RECORD_BYTES - 1 :].split(b":")
    names = [pair.partition(b"=") for pair in pairs if pair]
    if first or last or len(names) != bound or mask >> len(_CLASSES):
        raise IndexError
    bind = {name.decode(): value for name, _, value in names}
    allow = tuple(cls for place, cls in enumerate(_CLASSES) if mask >> place & 1)
    return Restrictions(bind, allow, tuple(keys) if narrow else None, tuple(counts))


def _count(
    counter: int, limit: float, period_us: float, used: float, ends_us: float, *, expires_us: int
) -> BudgetCount:
    is_for_life = period_us == 0
    period = next(item for item, length in PERIOD_US.items() if length == period_us or is_for_life)
    if counter < 1:
        raise IndexError
    cap = Cap(CAP_COUNTERS[counter - 1], whole(limit), period, is_for_life=is_for_life)
    numbers = (expires_us if is_for_life else ends_us, used)
    count = cap.count_of(BudgetCount.unpack(cap.slot(), numbers, b""))
    assert isinstance(count, BudgetCount)  # noqa: S101 - a cap is a budget
    return count
