"""
Redis's Lua `struct` library, in Python, on byte strings.

The formats are those of lua_struct.c as Redis builds it on 64 bits: `<` `>` byte
order, `!n` alignment, `x` padding, `b` `h` `l` `i[n]` signed and `B` `H` `L` `T`
`I[n]` unsigned integers, `f` `d` floats, `c[n]` n bytes, `s` bytes up to a zero.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Value = bytes | int | float
ByteOrder = Literal["little", "big"]

INTEGER_SIZES = {"b": 1, "h": 2, "l": 8, "t": 8}
FLOAT_SIZES = {"f": 4, "d": 8}
INT_SIZE = 4
MAX_INT_SIZE = 32
MAX_ALIGNMENT = 8
U64 = (1 << 64) - 1
DIGITS = tuple("0123456789")


class StructError(Exception):
    """What the Lua function raises; the text is the library's own."""


@dataclass(frozen=True, slots=True)
class _Item:
    option: str
    size: int
    padding: int
    order: ByteOrder


def pack(fmt: Value | None = None, *values: Value) -> bytes:
    """`struct.pack(fmt, …)`."""
    fmt = require_text(fmt, 1, "pack")
    packed = bytearray()
    rest = iter((*enumerate(values, start=2), (len(values) + 2, None)))
    for item in _items(fmt, packed, "pack"):
        packed += b"\0" * item.padding
        if item.option == "x":
            packed += b"\0"
            continue
        position, value = next(rest)
        if item.option in "cs":
            packed += _pack_bytes(item, position, value)
        else:
            packed += _pack_number(item, position, value)
    return bytes(packed)


def unpack(
    fmt: Value | None = None, data: Value | None = None, position: Value | None = None
) -> tuple[Value, ...]:
    """`struct.unpack(fmt, data, position)`: the values, and the position after the last."""
    fmt = require_text(fmt, 1, "unpack")
    data = require_text(data, 2, "unpack")
    start = 1 if position is None else int(_require_number(position, 3, "unpack"))
    if start < 1:
        raise StructError("bad argument #3 to 'unpack' (offset must be 1 or greater)")
    reader = _Reader(data, start - 1)
    values: list[Value] = []
    for item in _items(fmt, reader, "unpack"):
        reader.take(item.padding)
        if item.option == "x":
            reader.take(1)
        elif item.option == "s":
            values.append(reader.take_to_zero())
        elif item.option == "c" and item.size == 0:
            if not values or isinstance(values[-1], bytes):
                raise StructError("format 'c0' needs a previous size")
            values.append(reader.take(int(values.pop())))
        elif item.option == "c":
            values.append(reader.take(item.size))
        else:
            values.append(_number(item, reader.take(item.size)))
    return *values, reader.position + 1


def size(fmt: Value | None = None) -> int:
    """`struct.size(fmt)`."""
    fmt = require_text(fmt, 1, "size")
    length = bytearray()
    for item in _items(fmt, length, "size"):
        if item.size == 0:
            option = "c0" if item.option == "c" else item.option
            raise StructError(f"bad argument #1 to 'size' (option '{option}' has no fixed size)")
        length += bytes(item.padding + item.size)
    return len(length)


def require_text(value: object, position: int, function: str) -> bytes:
    """As luaL_checklstring: a number is as good as its text."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value:.14g}".encode()
    raise _bad_type(position, function, "string", value)


def _require_number(value: object, position: int, function: str) -> float:
    """As luaL_checknumber: a text that is a number is as good as the number."""
    try:
        if isinstance(value, (bytes, int, float)) and not isinstance(value, bool):
            return float(value)
    except ValueError:
        pass
    raise _bad_type(position, function, "number", value)


def _bad_type(position: int, function: str, expected: str, value: object) -> StructError:
    names = {bytes: "string", bool: "boolean", type(None): "nil"}
    found = names.get(type(value), "table")
    return StructError(
        f"bad argument #{position} to '{function}' ({expected} expected, got {found})"
    )


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def __len__(self) -> int:
        return self.position

    def take(self, count: int) -> bytes:
        if count < 0 or self.position + count > len(self._data):
            raise StructError("bad argument #2 to 'unpack' (data string too short)")
        self.position += count
        return self._data[self.position - count : self.position]

    def take_to_zero(self) -> bytes:
        end = self._data.find(b"\0", self.position)
        if end < 0:
            raise StructError("unfinished string in data")
        taken = self.take(end - self.position)
        self.position += 1
        return taken


def _items(fmt: bytes, written: bytearray | _Reader, function: str) -> Iterator[_Item]:
    """Read a format; *written* is looked at item by item, since padding depends on its length."""
    order: ByteOrder = sys.byteorder
    alignment = 1
    text = fmt.decode("latin-1")
    at = 0
    while at < len(text):
        option = text[at]
        at += 1
        digits = ""
        while option in "ciI!" and text[at : at + 1] in DIGITS:
            digits += text[at]
            at += 1
        if option in "<>":
            order = "little" if option == "<" else "big"
        elif option == "!":
            alignment = int(digits or MAX_ALIGNMENT)
            if alignment == 0 or alignment & (alignment - 1):
                raise StructError(f"alignment {alignment} is not a power of 2")
        elif option != " ":
            width = _width(option, digits, function)
            yield _Item(option, width, _padding(option, width, alignment, len(written)), order)


def _width(option: str, digits: str, function: str) -> int:
    if option == "x":
        return 1
    if option == "s":
        return 0
    if option == "c":
        return int(digits or 1)
    if option in FLOAT_SIZES:
        return FLOAT_SIZES[option]
    if option in "iI":
        width = int(digits or INT_SIZE)
        if width > MAX_INT_SIZE:
            raise StructError(f"integral size {width} is larger than limit of {MAX_INT_SIZE}")
        return width
    if option in "bBhHlLT":
        return INTEGER_SIZES[option.lower()]
    raise StructError(f"bad argument #1 to '{function}' (invalid format option '{option}')")


def _padding(option: str, width: int, alignment: int, length: int) -> int:
    boundary = min(width, alignment)
    if option == "c" or boundary <= 1:
        return 0
    return (boundary - (length & (boundary - 1))) & (boundary - 1)


def _pack_bytes(item: _Item, position: int, value: object) -> bytes:
    text = require_text(value, position, "pack")
    if item.option == "s":
        return text + b"\0"
    if len(text) < item.size:
        # Counted one too far by the library itself.
        raise StructError(f"bad argument #{position + 1} to 'pack' (string too short)")
    return text[: item.size] if item.size else text


def _pack_number(item: _Item, position: int, value: object) -> bytes:
    number = _require_number(value, position, "pack")
    if item.option in FLOAT_SIZES:
        return struct.pack(_python_format(item), number)
    # A C integer of 64 bits, cut or filled with zeros to the width.
    kept = int(number) & U64 & ((1 << 8 * item.size) - 1)
    return kept.to_bytes(item.size, item.order)


def _number(item: _Item, raw: bytes) -> int | float:
    if item.option in FLOAT_SIZES:
        value: float = struct.unpack(_python_format(item), raw)[0]
        return value
    return int.from_bytes(raw, item.order, signed=item.option.islower())


def _python_format(item: _Item) -> str:
    return ("<" if item.order == "little" else ">") + item.option
