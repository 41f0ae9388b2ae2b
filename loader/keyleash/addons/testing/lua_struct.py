"""The part of Redis's Lua `struct` library that guards use, on byte strings.

Formats are little-endian: `d` doubles, `B` `H` `I` `I4` unsigned integers, `cN` N bytes.
"""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache

Value = bytes | int | float

_FORMAT = re.compile(rb"<(?:[dBHI]|I4|c[1-9][0-9]*)*")
_MASKS = {b"B": 0xFF, b"H": 0xFFFF, b"I": 0xFFFFFFFF}
_OPTION = re.compile(rb"([dBHIc])([0-9]*)")


class LibraryError(Exception):
    """An error that a function of a Lua library raises."""


@lru_cache
def _layout(fmt: object) -> tuple[struct.Struct, list[bytes]]:
    if not isinstance(fmt, bytes) or not _FORMAT.fullmatch(fmt):
        raise LibraryError(f"the fake server does not support the struct format {fmt!r}")
    options = _OPTION.findall(fmt)
    python_format = "<" + "".join(
        f"{size.decode()}s" if option == b"c" else option.decode() for option, size in options
    )
    return struct.Struct(python_format), [option for option, _ in options]


def _truncated(value: Value, mask: int) -> int:
    """Convert a number to an unsigned integer as Redis does: a fraction and high bits are lost."""
    return int(value) & mask if math.isfinite(float(value)) else 0


def pack(fmt: Value | None = None, *values: Value) -> bytes:
    """Implement `struct.pack(fmt, …)`."""
    layout, options = _layout(fmt)
    try:
        return layout.pack(
            *(
                _truncated(value, _MASKS[option]) if option in _MASKS else value
                for option, value in zip(options, values, strict=True)
            )
        )
    except (struct.error, ValueError, TypeError) as error:
        raise LibraryError(f"bad argument to 'pack' ({error})") from None


def unpack(
    fmt: Value | None = None, data: Value | None = None, position: int | float = 1
) -> tuple[Value, ...]:
    """Implement `struct.unpack(fmt, data, position)`: the values, then the next position."""
    layout, _ = _layout(fmt)
    if not isinstance(data, bytes):
        raise LibraryError("bad argument #2 to 'unpack' (string expected)")
    start = int(position) - 1
    if start < 0:
        raise LibraryError("bad argument #3 to 'unpack' (offset must be 1 or greater)")
    if start + layout.size > len(data):
        raise LibraryError("bad argument #2 to 'unpack' (data string too short)")
    return *layout.unpack_from(data, start), start + layout.size + 1
