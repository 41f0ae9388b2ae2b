"""The names that the sandbox of approved scripts has, and those that written texts call."""

from __future__ import annotations

LIBRARIES: dict[str, frozenset[str]] = {
    name: frozenset(members.split())
    for name, members in {
        "redis": "call pcall sha1hex status_reply error_reply log setresp replicate_commands"
        " LOG_DEBUG LOG_VERBOSE LOG_NOTICE LOG_WARNING",
        "string": "byte char find format gmatch gsub len lower match rep reverse sub upper",
        "table": "concat getn insert maxn remove sort",
        "math": "abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log"
        " log10 max min mod modf pi pow rad random sin sinh sqrt tan tanh",
        "bit": "arshift band bnot bor bswap bxor lshift rol ror rshift tobit tohex",
        "cjson": "decode encode null",
        "cmsgpack": "pack unpack",
        "struct": "pack size unpack",
    }.items()
}
"""The libraries of the sandbox, and their members."""

LATER_MEMBERS = {"table": frozenset({"pack", "unpack"})}
"""Members of later versions of Lua, for which a text may ask: they are nil, as on a server."""

FUNCTIONS = frozenset((
    "assert", "error", "ipairs", "next", "pairs", "pcall", "rawequal", "select", "tonumber",
    "tostring", "type", "unpack",
))  # fmt: skip
"""The global functions of the sandbox."""

TICK, TICKS, JOIN, METHOD, BASE, LEFT = "__t", "__v", "__c", "__m", "__b", "__l"
NUMBER, KEY = "__n", "__k"
"""Functions of the sandbox that written texts call: one round and its units; `...` and its units;
`a .. b`; `a:name()`; a value whose member is read; the left side of a comparison; what is used as a
number; the key of a member that is written."""
OWN = (TICK, TICKS, JOIN, METHOD, BASE, LEFT, NUMBER, KEY)

FLAGS = frozenset({"no-writes", "allow-oom", "allow-stale", "no-cluster", "allow-cross-slot-keys"})
"""The flags in the first line of a text. Only `no-writes` has an effect in the sandbox."""

RESP3 = "redis.setresp(3)"
"""A call that fails: guards run scripts under RESP2."""

STRING_MEMBERS = LIBRARIES["string"] | {"dump", "gfind"}
