"""The values that commands write: elements and expiry, which a guard checks under rules.

The values of `Writes` are their letters in the Lua sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from keyleash.commands.spec import CommandSpec, OperationClass
from keyleash.commands.work import each


class Writes(StrEnum):
    """The values that a call leaves under the keys that it writes."""

    NOTHING = "-"  # no new element, or a string, whose length `Lengthening` checks
    NUMBER = "n"  # an integer
    FLOAT = "f"  # a floating-point number
    SKETCH = "y"  # a HyperLogLog
    WORDS = "w"  # texts that replace others
    LIST = "l"  # a list's elements
    SET = "s"  # a set's members
    PAIRS = "h"  # fields and values
    FIELDS = "e"  # fields and values after FIELDS and their number
    FIELD_NUMBER = "c"  # a field with an integer
    FIELD_FLOAT = "d"  # a field with a floating-point number
    SCORES = "z"  # options, then scores and members
    PLACES = "g"  # options, then longitudes, latitudes and members
    MEMBER = "q"  # a member of a sorted set
    ENTRY = "t"  # an entry of a stream
    VECTOR = "v"  # an element of a vector set
    MOVED = "m"  # an element from the end of another list
    RESULT = "o"  # the reply of the read command in `READ_FORMS`
    WHOLE = "a"  # the value of another key
    PAYLOAD = "r"  # the value in a payload of DUMP
    DELETED = "x"  # no value: the keys are deleted
    UNKNOWN = "?"


class Target(StrEnum):
    """The keys that a call writes."""

    FIRST = "1"
    SECOND = "2"  # if it has one
    ALL = "a"


@dataclass(frozen=True, slots=True)
class Written:
    """The effect of a call: the values, the place of the first one, and the keys."""

    how: Writes
    place: int = 0
    target: Target = Target.FIRST


_SECOND, _ALL = Target.SECOND, Target.ALL

WRITTEN: Mapping[str, Written] = {
    **each(
        "APPEND BITFIELD BITOP EXPIRE EXPIREAT GETEX GETSET HEXPIRE HEXPIREAT HGETEX HPERSIST"
        " HPEXPIRE HPEXPIREAT PERSIST PEXPIRE PEXPIREAT PSETEX SET SETBIT SETEX SETNX SETRANGE"
        " VREM XACK XAUTOCLAIM XCLAIM XSETID",
        Written(Writes.NOTHING),
    ),
    **dict.fromkeys(
        ("XGROUP CREATE", "XGROUP CREATECONSUMER", "XGROUP SETID"), Written(Writes.NOTHING)
    ),
    **each("MSET MSETEX MSETNX", Written(Writes.NOTHING, target=_ALL)),
    **each("INCR INCRBY DECR DECRBY", Written(Writes.NUMBER)),
    "INCRBYFLOAT": Written(Writes.FLOAT, 2),
    **each("PFADD PFMERGE", Written(Writes.SKETCH)),
    **each("LSET VSETATTR", Written(Writes.WORDS, 3)),
    **each("LPUSH RPUSH LPUSHX RPUSHX", Written(Writes.LIST, 2)),
    "LINSERT": Written(Writes.LIST, 4),
    "SADD": Written(Writes.SET, 2),
    "SMOVE": Written(Writes.SET, 3, _SECOND),
    **each("HSET HMSET HSETNX", Written(Writes.PAIRS, 2)),
    "HSETEX": Written(Writes.FIELDS, 2),
    "HINCRBY": Written(Writes.FIELD_NUMBER, 2),
    "HINCRBYFLOAT": Written(Writes.FIELD_FLOAT, 2),
    "ZADD": Written(Writes.SCORES, 2),
    "GEOADD": Written(Writes.PLACES, 2),
    "ZINCRBY": Written(Writes.MEMBER, 3),
    "XADD": Written(Writes.ENTRY, 2),
    "VADD": Written(Writes.VECTOR, 2),
    **each("LMOVE BLMOVE", Written(Writes.MOVED, 3, _SECOND)),
    **each("RPOPLPUSH BRPOPLPUSH", Written(Writes.MOVED, 0, _SECOND)),
    **each(
        "SDIFFSTORE SINTERSTORE SUNIONSTORE ZDIFFSTORE ZINTERSTORE ZUNIONSTORE ZRANGESTORE"
        " GEOSEARCHSTORE",
        Written(Writes.RESULT),
    ),
    **each("SORT GEORADIUS GEORADIUSBYMEMBER", Written(Writes.RESULT, 2, _SECOND)),
    **each("COPY RENAME RENAMENX", Written(Writes.WHOLE, target=_SECOND)),
    "RESTORE": Written(Writes.PAYLOAD, 3),
    **each("DEL UNLINK", Written(Writes.DELETED, target=_ALL)),
}
"""The effect of each command on values."""

READ_FORMS: Mapping[str, str] = {
    name: name.removesuffix("STORE") if name.endswith("STORE") else f"{name}_RO"
    for name, written in WRITTEN.items()
    if written.how is Writes.RESULT
}
"""For commands that store a result, the command that returns it."""

NUMBER_BYTES = 20
"""The longest text of an integer."""
FLOAT_BYTES = 5_120
"""The longest text of a floating-point number: `1e4931` is written out."""
FLOAT_MORE_BYTES = 20
"""The bytes by which a sum may be longer than the longer of two numbers without an exponent."""
SKETCH_BYTES = 12_304
"""The bytes of a HyperLogLog that is no longer sparse."""


class Expiry(StrEnum):
    """The form of an expiry in the words of a call."""

    SECONDS = "s"
    MILLISECONDS = "m"
    AT_SECONDS = "S"  # a Unix time
    AT_MILLISECONDS = "M"
    OPTIONS = "o"  # an option of `EXPIRY_OPTIONS` with its number, or PERSIST
    BEHIND_PAIRS = "p"  # the same after pairs of keys and values
    PAYLOAD = "r"  # milliseconds, or with ABSTTL a Unix time; 0 for none
    NONE = "-"  # the expiry is removed


EXPIRIES: Mapping[str, tuple[Expiry, int]] = {
    "EXPIRE": (Expiry.SECONDS, 2),
    "PEXPIRE": (Expiry.MILLISECONDS, 2),
    "EXPIREAT": (Expiry.AT_SECONDS, 2),
    "PEXPIREAT": (Expiry.AT_MILLISECONDS, 2),
    "SETEX": (Expiry.SECONDS, 2),
    "PSETEX": (Expiry.MILLISECONDS, 2),
    "SET": (Expiry.OPTIONS, 3),
    "GETEX": (Expiry.OPTIONS, 2),
    "MSETEX": (Expiry.BEHIND_PAIRS, 2),
    "RESTORE": (Expiry.PAYLOAD, 2),
    "PERSIST": (Expiry.NONE, 0),
}
"""The expiry that commands set, and its place."""

EXPIRY_OPTIONS: Mapping[str, Expiry] = {
    "EX": Expiry.SECONDS,
    "PX": Expiry.MILLISECONDS,
    "EXAT": Expiry.AT_SECONDS,
    "PXAT": Expiry.AT_MILLISECONDS,
}


class Idle(StrEnum):
    """The reply of a call that changed nothing, unless it is an error."""

    NULL = "n"
    ZERO = "0"  # or a negative number
    EACH = "e"  # an array of nulls, zeros and negative numbers
    OF_SET = "s"  # null; with NX and GET the present value
    OF_SCORES = "z"  # null with INCR; zero with CH or NX
    ANY = "a"  # any reply: it changes the expiry alone, which is checked before


IDLE: Mapping[str, Idle] = {
    **each("JSON.SET LMOVE BLMOVE RPOPLPUSH BRPOPLPUSH XADD", Idle.NULL),
    **each(
        "COPY HSETEX HSETNX LINSERT LPUSHX MSETEX MSETNX PFADD RENAMENX RPUSHX SADD SETNX SMOVE"
        " VREM VSETATTR XACK",
        Idle.ZERO,
    ),
    "XGROUP CREATECONSUMER": Idle.ZERO,
    **each("HEXPIRE HEXPIREAT HGETEX HPERSIST HPEXPIRE HPEXPIREAT", Idle.EACH),
    "SET": Idle.OF_SET,
    **each("GEOADD ZADD", Idle.OF_SCORES),
    **each("EXPIRE EXPIREAT GETEX PERSIST PEXPIRE PEXPIREAT", Idle.ANY),
}
"""The replies after which a key gets no expiry by default.

Those of other commands say nothing: HSET replies 0 also when it overwrites, and BITFIELD null when
it made a string but could change no field.
"""


def written_by(spec: CommandSpec) -> Written | None:
    """Return what a command writes; None if it writes and deletes no whole key."""
    if "readonly" in spec.flags:
        # The server invents the key specs of a module.
        return None
    known = WRITTEN.get(spec.name)
    needed = {cls for search in spec.keys for cls in search.needs}
    if OperationClass.WRITE in needed:
        # A command of a module, or of a later server.
        return known or Written(Writes.UNKNOWN, target=_ALL)
    return known if known and known.how is Writes.DELETED else None
