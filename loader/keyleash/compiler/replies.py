"""Commands whose array replies may hold nulls.

Under RESP3 a null becomes a Lua nil, and Lua's arrays end at the first nil: MGET of
a missing key would lose everything after it. The guard puts the nulls back, for
which it must know how long the reply is. COMMAND does not tell; this list does, and
a test compares every command's replies with those of a raw call.
"""

from __future__ import annotations

from keyleash.commands import CommandSpec

_LENGTHS = {
    "MGET": "keys",
    "HMGET": "arguments",
    "ZMSCORE": "arguments",
    "GEOPOS": "arguments",
    "GEOHASH": "arguments",
    "HGETDEL": "fields",
    "HGETEX": "fields",
    "XPENDING": "summary",
    "BITFIELD": "operations",
    "BITFIELD_RO": "operations",
}
"""`keys`: one element a key; `arguments`: one for each argument after the key; `fields`:
one for each after the count that follows the word FIELDS; `summary`: four; `operations`:
one for each GET, SET and INCRBY."""


def null_length(spec: CommandSpec) -> str | None:
    """How to find the length of the command's reply, or None if it never holds a null."""
    return _LENGTHS.get(spec.name)
