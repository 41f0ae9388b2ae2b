"""The places of control keys on a cluster: slots of keys, and the tag of each node's shard.

A node is named by a hash tag, which every client computes from the node's slots alone. The control
slot of a node is the first of its slots in bit-reversed order (0, 8192, 4096, 12288, …), so it
rarely changes as slots move; its tag is the shortest, then first text of `[0-9a-z]` in that slot.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from keyleash.store.keyspace import HOME_TAG

__all__ = ["SLOTS", "control_slots", "control_tag", "is_shard_tag", "key_slot", "tag_of"]

SLOTS: Final = REDIS_CLUSTER_HASH_SLOTS
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MOST_DIGITS = 4
_SHAPE = re.compile(rf"[{_DIGITS}]{{1,{_MOST_DIGITS}}}")


def is_shard_tag(tag: str) -> bool:
    """Return whether a shard may have *tag*; that of the home names other keys."""
    return _SHAPE.fullmatch(tag) is not None and tag != HOME_TAG


@cache
def tag_of(slot: int) -> str:
    """Return the tag of the shard whose control slot is *slot*."""
    for digit in _DIGITS:
        if key_slot(digit.encode()) == slot:
            return digit
    endings = _endings()
    for length in range(_MOST_DIGITS - 1):
        for digits in product(_DIGITS, repeat=length):
            beginning = "".join(digits)
            # A CRC is linear: that of a text is the XOR of those of its parts, each in its place.
            ending = endings.get(slot ^ key_slot(beginning.encode() + b"\0\0"), "")
            if ending and beginning + ending != HOME_TAG:
                return beginning + ending
    raise ValueError(f"{slot} is not a slot")


@cache
def _endings() -> dict[int, str]:
    """Return the first text of two digits in each slot that has any."""
    texts = ["".join(digits) for digits in product(_DIGITS, repeat=2)]
    return {key_slot(text.encode()): text for text in reversed(texts)}


def control_slots(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """Yield a node's slots in the order in which they are preferred as its control slot.

    Args:
        ranges: The first and last slot of each of its ranges.
    """
    return _bit_reversed(tuple(ranges), 0, 1)


def _bit_reversed(ranges: Sequence[tuple[int, int]], first: int, step: int) -> Iterator[int]:
    """Yield the slots of *ranges* that are *first* plus a multiple of *step*."""
    inside = [(low, high) for low, high in ranges if low + (first - low) % step <= high]
    if inside and step == SLOTS:
        yield first
    elif inside:
        yield from _bit_reversed(inside, first, 2 * step)
        yield from _bit_reversed(inside, first + step, 2 * step)


def control_tag(ranges: Iterable[tuple[int, int]], skip: Collection[int] = ()) -> str | None:
    """Return the tag of a node's shard; None if the node has no slot for one.

    Args:
        ranges: The first and last slot of each of the node's ranges.
        skip: Slots that cannot be used, such as those that are moving.
    """
    return next((tag_of(slot) for slot in control_slots(ranges) if slot not in skip), None)
