"""
What keyleash knows of commands beyond what servers say of them.

COMMAND tells flags and key specs. It does not tell why a command is not for agents, what
an option changes, or what a blocking command waits for; that is here, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from keyleash.commands.spec import (
    KeyRange,
    KeySearch,
    Needs,
    OperationClass,
    OptionKey,
    Variant,
    Waits,
)

READ, WRITE, DELETE = OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE

CONTAINER = "name its sub-command"
NO_SUBCOMMAND = "agents may call none of its sub-commands"
NO_KEY = "it has no key"
UNPLACED = "its keys cannot be placed"
SERVERS_DIFFER = "servers place its keys differently"
ABSENT = "it may be called without one of its keys"
NOT_ONE_WALK = "its keys do not follow each other"
LEAVES_DATABASE = "it reaches into another database"
LEAVES_SERVER = "it sends keys to another server"
ABOUT_THE_CONNECTION = "it is about the connection, which a script does not have"
SUBSCRIBES = "a subscription outlives the call, so no guard would see what it delivers"
SCRIPTS = "a script or function may touch any key"
TRANSACTS = "a guard's call is atomic by itself; use a batch instead of WATCH and MULTI"

REFUSING_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "noscript": "it cannot run inside a script",
        "admin": "it administers the server",
        "pubsub": "it tells who listens to which channels",
        "asking": "it belongs to cluster migration",
    }
)
"""Command flags that refuse, in the order in which their reasons are given."""

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "MOVE": LEAVES_DATABASE,
        "MIGRATE": LEAVES_SERVER,
        **dict.fromkeys(("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"), SUBSCRIBES),
        **dict.fromkeys(("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"), SUBSCRIBES),
        **dict.fromkeys(("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO"), SCRIPTS),
        **dict.fromkeys(("FCALL", "FCALL_RO"), SCRIPTS),
        **dict.fromkeys(("WATCH", "UNWATCH", "MULTI", "EXEC", "DISCARD"), TRANSACTS),
        "MONITOR": "it shows everybody's commands",
        "KEYS": "it lists all keys at once; use SCAN",
        **dict.fromkeys(("AUTH", "HELLO", "QUIT", "RESET"), ABOUT_THE_CONNECTION),
        **dict.fromkeys(("SELECT", "READONLY", "READWRITE"), ABOUT_THE_CONNECTION),
    }
)
"""Commands refused by name. A grant is for the keys of the database that the guard is in."""

REFUSED_CONTAINERS: Mapping[str, str] = MappingProxyType(
    {
        "CLIENT": ABOUT_THE_CONNECTION,
        "SCRIPT": SCRIPTS,
        "FUNCTION": SCRIPTS,
    }
)
"""Likewise, with all their sub-commands."""

REFUSED_IF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "COPY": ("DB",),
        # Both name patterns of keys that are made up from the values that are sorted.
        "SORT": ("BY", "GET"),
        "SORT_RO": ("BY", "GET"),
    }
)
"""Commands refused if they carry one of these option words."""

KEYLESS_PASSES = frozenset({"PING", "ECHO", "TIME"})
"""They touch no data, and clients cannot do without them."""

CHANNELS: Mapping[str, int] = MappingProxyType({"PUBLISH": 1, "SPUBLISH": 1})
"""Commands that publish, and the place of the channel."""

SCANS = frozenset({"SCAN"})

VECTOR_SETS = frozenset(
    {"VADD", "VCARD", "VDIM", "VEMB", "VGETATTR", "VINFO"}
    | {"VISMEMBER", "VLINKS", "VRANDMEMBER", "VREM", "VSETATTR", "VSIM"}
)
"""The commands of Redis's own module, which were looked at: they touch the keys they name.

Of any other module's commands nobody here knows that. A search index reads keys that its
queries do not name, and the key specs of most modules are made up by the server.
"""

NAMED_ONLY = frozenset({"RESTORE"})
"""Commands that a grant gives only if its `only` names them.

RESTORE stores a payload as it is. A server that does not validate payloads aborts when it reads
a corrupt one, whichever client reads it.
"""

NOT_NAMED = "no grant names it in `only`"
"""Why a command of `NAMED_ONLY` is denied."""

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "SET": Variant("GET", (READ, WRITE)),
        "BITFIELD": Variant(None, (READ,)),
    }
)
"""What these commands need instead in some calls, as their `variable_flags` announce."""

UNFLAGGED_NEEDS: Mapping[str, Needs] = MappingProxyType(
    {
        # Without the option GET no value is told.
        "SET": (WRITE,),
        # Both reply with the content of entries and change who owns them, but no
        # server flags ACCESS: a write-only identity could read a stream with them.
        "XAUTOCLAIM": (READ, WRITE),
        "XCLAIM": (READ, WRITE),
    }
)
"""What a command does to its keys where its key-spec flags say less, or too much."""

STORES: Mapping[str, tuple[KeySearch, ...]] = MappingProxyType(
    {
        "SORT": (KeyRange(1, 1, 1, (READ,)), OptionKey(("STORE",), 2, (WRITE,))),
        "SORT_RO": (KeyRange(1, 1, 1, (READ,)),),
    }
)
"""The key searches of commands whose key specs say `unknown`; see `sortGetKeys` in Redis."""

STREAM_OPTIONS: Mapping[str, tuple[tuple[str, int], ...]] = MappingProxyType(
    {
        "XREAD": (("COUNT", 1), ("BLOCK", 1)),
        "XREADGROUP": (("GROUP", 2), ("COUNT", 1), ("BLOCK", 1), ("NOACK", 0), ("CLAIM", 1)),
    }
)
"""The options before STREAMS: a group may bear that name, so they must be skipped exactly."""

WAITS: Mapping[str, Waits] = MappingProxyType(
    {
        **dict.fromkeys(("BLPOP", "BRPOP", "BLMPOP"), Waits.ANY_KEY),
        **dict.fromkeys(("BZPOPMIN", "BZPOPMAX", "BZMPOP"), Waits.ANY_KEY),
        **dict.fromkeys(("BLMOVE", "BRPOPLPUSH"), Waits.FIRST_KEY),
        **dict.fromkeys(("XREAD", "XREADGROUP"), Waits.BLOCK),
    }
)
"""Blocking commands that clients poll."""

CLASS_OF_FLAG: Mapping[str, OperationClass] = MappingProxyType(
    {"access": READ, "insert": WRITE, "update": WRITE, "delete": DELETE}
)
