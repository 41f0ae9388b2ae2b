"""Redis's Lua library `bit`: operations on signed integers of 32 bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from operator import and_, or_, xor

from keyleash.addons.testing.lua_struct import LibraryError, Value

BITS = 32
MASK = 2**BITS - 1


def _unsigned(value: Value) -> int:
    number = float(value)
    return round(number) & MASK if math.isfinite(number) else 0


def _signed(number: int) -> int:
    number &= MASK
    return number - 2**BITS if number >> (BITS - 1) else number


def _folded(operation: Callable[[int, int], int]) -> Callable[..., int]:
    def fold(first: Value, *more: Value) -> int:
        return _signed(reduce(operation, map(_unsigned, more), _unsigned(first)))

    return fold


def _shifted(operation: Callable[[int, int], int]) -> Callable[..., int]:
    def shift(value: Value, count: Value) -> int:
        return _signed(operation(_unsigned(value), _unsigned(count) % BITS))

    return shift


def _tobit(value: Value) -> int:
    return _signed(_unsigned(value))


def _bnot(value: Value) -> int:
    return _signed(~_unsigned(value))


def _bswap(value: Value) -> int:
    return _signed(int.from_bytes(_unsigned(value).to_bytes(BITS // 8), "little"))


def _tohex(value: Value, digits: Value = 8) -> bytes:
    count = int(digits)
    text = f"{_unsigned(value):08x}"[-min(abs(count), 8) :] if count else ""
    return (text.upper() if count < 0 else text).encode()


def _checked(function: Callable[..., int | bytes]) -> Callable[..., int | bytes]:
    def call(*arguments: Value) -> int | bytes:
        try:
            return function(*arguments)
        except (TypeError, ValueError):
            raise LibraryError("bad argument #1 to '?' (number expected)") from None

    return call


FUNCTIONS: dict[str, Callable[..., int | bytes]] = {
    "tobit": _checked(_tobit),
    "band": _checked(_folded(and_)),
    "bor": _checked(_folded(or_)),
    "bxor": _checked(_folded(xor)),
    "bnot": _checked(_bnot),
    "bswap": _checked(_bswap),
    "lshift": _checked(_shifted(lambda number, count: number << count)),
    "rshift": _checked(_shifted(lambda number, count: number >> count)),
    "arshift": _checked(_shifted(lambda number, count: _signed(number) >> count)),
    "rol": _checked(_shifted(lambda number, count: number << count | number >> (BITS - count))),
    "ror": _checked(_shifted(lambda number, count: number >> count | number << (BITS - count))),
    "tohex": _checked(_tohex),
}
"""The functions of the library by name."""
