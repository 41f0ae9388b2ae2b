"""The part of Redis's Lua library `cmsgpack` that guards use, on byte strings."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
from fakeredis.commands_mixins.scripting_mixin import LUA_MODULE

from keyleash.addons.testing.lua_struct import LibraryError

# Deeper tables are packed as nil.
MAX_NESTING = 16

Tables = Callable[[dict[Any, Any]], Any]


def pack(*values: Any) -> bytes:
    """Implement `cmsgpack.pack(…)`."""
    if not values:
        raise LibraryError("bad argument #0 to '?' (MessagePack pack needs input.)")
    return b"".join(part for value in values for part in _parts(value, 0))


def unpacker(make_table: Tables) -> Callable[..., tuple[Any, ...]]:
    """Return `cmsgpack.unpack(data)`: the values in it.

    Args:
        make_table: Returns a Lua table with the entries of a dict.
    """

    def unpack(data: Any = None) -> tuple[Any, ...]:
        if not isinstance(data, bytes):
            raise LibraryError("bad argument #1 to '?' (string expected)")
        # Maps as pairs: their keys may be tables.
        reader = msgpack.Unpacker(
            raw=True,
            object_pairs_hook=_Pairs,
            max_buffer_size=max(len(data), 1),
            strict_map_key=False,
        )
        reader.feed(data)
        values = []
        while reader.tell() < len(data):
            try:
                values.append(_to_lua(reader.unpack(), make_table))
            except msgpack.OutOfData:
                raise LibraryError("Missing bytes in input.") from None
            except ValueError:
                raise LibraryError("Bad data format in input.") from None
        return tuple(values)

    return unpack


class _Pairs(list[tuple[Any, Any]]):
    """The entries of a map."""


def _parts(value: Any, depth: int) -> Iterator[bytes]:
    if LUA_MODULE.lua_type(value) == "table":
        if depth == MAX_NESTING:
            yield msgpack.packb(None)
            return
        entries = list(value.items())
        header = msgpack.Packer()
        if all(type(key) is int and 0 < key <= len(entries) for key, _ in entries):
            yield header.pack_array_header(len(entries))
            for at in range(1, len(entries) + 1):
                yield from _parts(value[at], depth + 1)
            return
        yield header.pack_map_header(len(entries))
        for entry in entries:
            for word in entry:
                yield from _parts(word, depth + 1)
    elif isinstance(value, bytes):
        # cmsgpack writes strings as text, of any bytes.
        text = value.decode(errors="surrogateescape")
        yield msgpack.packb(text, unicode_errors="surrogateescape")
    elif isinstance(value, float):
        yield _packed_number(value)
    else:
        yield msgpack.packb(value if isinstance(value, bool | int) else None)


def _packed_number(value: float) -> bytes:
    """Pack an integer as such, and what a float of 32 bits holds as that."""
    if value.is_integer() and -(2**63) <= value < 2**63:
        return bytes(msgpack.packb(int(value)))
    try:
        is_short = struct.unpack("<f", struct.pack("<f", value))[0] == value
    except OverflowError:
        is_short = False
    return bytes(msgpack.packb(value, use_single_float=is_short))


def _to_lua(value: Any, make_table: Tables) -> Any:
    if isinstance(value, _Pairs):
        return make_table(
            {_to_lua(key, make_table): _to_lua(entry, make_table) for key, entry in value}
        )
    if isinstance(value, list):
        return make_table({at: _to_lua(item, make_table) for at, item in enumerate(value, 1)})
    if isinstance(value, msgpack.ExtType | msgpack.Timestamp):
        raise msgpack.FormatError
    return value
