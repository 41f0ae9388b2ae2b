"""Strings of which the Lua of a server computes the same hash.

Lua 5.1 keeps each string once, in chains by hash: to make one more, it is compared with all of its
chain. No server has a secret in its hash. That of Redis goes over a string from its end: pairs of
short blocks that lead from one state to the same next one make any number of strings. That of
Valkey has a last block for every state before it.
"""

from __future__ import annotations

import itertools
import struct
from functools import cache

_MASK = 0xFFFFFFFF
_BLOCK = 3


def colliding_words(server: str, count: int, prefix: bytes = b"") -> list[bytes]:
    """Return different words that begin with *prefix*, all with one hash.

    Args:
        server: Its label, such as `redis-8.0.2`.
    """
    if server.startswith("redis"):
        bits = (count - 1).bit_length()
        pairs = _pairs(len(prefix) + bits * _BLOCK, bits)
        ends = itertools.product(*pairs)
        return [prefix + b"".join(end)[::-1] for end in itertools.islice(ends, count)]
    return list(itertools.islice(map(prefix.__add__, _blocks(prefix)), count))


@cache
def _pairs(length: int, count: int) -> list[tuple[bytes, bytes]]:
    """Return pairs of blocks, last first, that take the hash from one state to another."""
    state, pairs = length, []
    for _ in range(count):
        seen: dict[int, bytes] = {}
        for block in map(bytes, itertools.product(range(256), repeat=_BLOCK)):
            after = state
            for byte in block:
                after ^= ((after << 5) + (after >> 2) + byte) & _MASK
            if after in seen:
                pairs.append((seen[after], block))
                state = after
                break
            seen[after] = block
    return pairs


def _blocks(prefix: bytes) -> itertools.chain[bytes]:
    """Yield ends of eight bytes for a prefix of whole blocks of four."""
    length = len(prefix) + 8
    state = length
    for (block,) in struct.iter_unpack("<I", prefix):
        state = _next(state, block)
    return itertools.chain.from_iterable(
        [struct.pack("<II", first, _unmixed(_next(state, first)))] for first in range(1 << 32)
    )


def _turned(number: int, by: int) -> int:
    return (number << by | number >> 32 - by) & _MASK


def _next(state: int, block: int) -> int:
    mixed = _turned(block * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK
    return (_turned(state ^ mixed, 13) * 5 + 0xE6546B64) & _MASK


def _unmixed(mixed: int) -> int:
    """Return the block that makes this state 0 before it is turned."""
    turned = _turned(mixed * pow(0x1B873593, -1, 1 << 32) & _MASK, 17)
    return turned * pow(0xCC9E2D51, -1, 1 << 32) & _MASK


def hash_of(server: str, word: bytes) -> int:
    """Return the hash of a word; on Valkey of whole blocks of four bytes."""
    state = len(word)
    if server.startswith("redis"):
        for byte in reversed(word):
            state ^= ((state << 5) + (state >> 2) + byte) & _MASK
        return state
    for (block,) in struct.iter_unpack("<I", word):
        state = _next(state, block)
    state ^= len(word)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        state = (state ^ state >> shift) * factor & _MASK
    return state
