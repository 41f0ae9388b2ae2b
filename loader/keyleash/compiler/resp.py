"""Preserve replies across the conversion between RESP and Lua.

A caller that speaks RESP3 has maps, doubles and the like in replies, so the guard runs the
command under RESP3 too. That costs a call, and under RESP3 a null is a Lua nil, at which
Lua's arrays end: MGET of a missing key would lose everything after it. So the commands
whose replies are the same under both protocols are run under RESP2, where a null is
`false` and stays in its place. In the replies of the others the guard puts nulls back.

COMMAND does not report this. A test compares the replies of every command with those of a raw call,
under both protocols.
"""

from __future__ import annotations

from keyleash.commands import CommandSpec

UNTYPED = frozenset((
    "APPEND", "BITCOUNT", "BITFIELD", "BITFIELD_RO", "BITOP", "BITPOS", "COPY", "DECR",
    "DECRBY", "DEL", "DELIFEQ", "DUMP", "EXISTS", "EXPIRE", "EXPIREAT", "EXPIRETIME", "GEOADD",
    "GEOHASH", "GET", "GETBIT", "GETDEL", "GETEX", "GETRANGE", "GETSET", "HDEL", "HEXISTS",
    "HEXPIRE", "HEXPIREAT", "HEXPIRETIME", "HGET", "HGETDEL", "HGETEX", "HINCRBY",
    "HINCRBYFLOAT", "HKEYS", "HLEN", "HMGET", "HMSET", "HPERSIST", "HPEXPIRE", "HPEXPIREAT",
    "HPEXPIRETIME", "HPTTL", "HSET", "HSETEX", "HSETNX", "HSTRLEN", "HTTL", "HVALS", "INCR",
    "INCRBY", "INCRBYFLOAT", "LINDEX", "LINSERT", "LLEN", "LMOVE", "LPOP", "LPOS", "LPUSH",
    "LPUSHX", "LRANGE", "LREM", "LSET", "LTRIM", "MGET", "MSET", "MSETEX", "MSETNX", "PERSIST",
    "PEXPIRE", "PEXPIREAT", "PEXPIRETIME", "PFADD", "PFCOUNT", "PFMERGE", "PSETEX",
    "PSUBSCRIBE", "PTTL", "PUBLISH", "RENAME", "RENAMENX", "RESTORE", "RPOP", "RPOPLPUSH",
    "RPUSH", "RPUSHX", "SADD", "SCARD", "SDIFFSTORE", "SET", "SETBIT", "SETEX", "SETNX",
    "SETRANGE", "SINTERCARD", "SINTERSTORE", "SISMEMBER", "SMISMEMBER", "SMOVE", "SPUBLISH",
    "SREM", "SSUBSCRIBE", "STRLEN", "SUBSCRIBE", "SUBSTR", "SUNIONSTORE", "TOUCH", "TTL",
    "TYPE", "UNLINK", "XACK", "XADD", "XAUTOCLAIM", "XCLAIM", "XDEL", "XLEN", "XPENDING",
    "XRANGE", "XREVRANGE", "XSETID", "XTRIM", "ZCARD", "ZCOUNT", "ZLEXCOUNT", "ZRANGEBYLEX",
    "ZREM", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE", "ZREVRANGEBYLEX",
))  # fmt: skip
"""Commands whose replies are the same under RESP2 and RESP3, whatever the arguments: status,
integers, strings, nulls and arrays of these."""

_NULLS = {
    "GEOPOS": "arguments",
    "ZMSCORE": "arguments",
    "XREADGROUP": "entries",
    "XINFO STREAM": "info",
    "XINFO GROUPS": "info",
}
"""Where nulls may stand: an array of one element for each argument after the key, `entries`
of streams, `info` on one."""


_NAMED = {
    **dict.fromkeys(
        ("BLPOP", "BRPOP", "LMPOP", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "ZMPOP", "BZMPOP"), "named"
    ),
    "XREAD": "streams",
    # "entries" also covers the names of streams.
    "XREADGROUP": "entries",
}
"""Replies that name keys: as the first word, or with the entries of each stream."""


def names_widths(spec: CommandSpec) -> bool:
    """Return whether arguments like `u63` give the width of integers in the reply."""
    return spec.name in {"BITFIELD", "BITFIELD_RO"}


def restoration_of(spec: CommandSpec, *, sealed: bool = False) -> str | None:
    """Return the way in which the command's reply is restored; None if it is complete.

    From the reply of a scan, keys that are not granted are removed. Where keys are in a vault, its
    prefix is removed from names; a command of a module may have them anywhere.
    """
    if spec.scans:
        return "scan"
    if sealed and spec.named_only and spec.name not in UNTYPED:
        return "anywhere"
    return (sealed and _NAMED.get(spec.name)) or _NULLS.get(spec.name)
