"""Keys of up to 40 MB in the shapes that cost a server most, built by the server itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from redis.exceptions import ResponseError

from keyleash.commands import CommandTable
from keyleash.store.server_check import Client
from support.collisions import colliding_words

MIB = 1024 * 1024

PREFIX, MASTER = b"k:", b"m:"
"""The keys that calls name, and the unchanged copies that they are restored from."""

FILLERS = 30_000
"""Small keys beside them, for SCAN."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One key of a kind.

    Attributes:
        kind: Its word in the grammar of calls.
        script: Lua that makes `KEYS[1]`; `fill(n, size, make, command, …)` calls a command with
            what `make` returns for 1 to n, *size* at a time.
    """

    kind: str
    script: str


_FILL = """
local function fill(n, size, make, ...)
  local head = { ... }
  for first = 1, n, size do
    local words = { unpack(head) }
    for i = first, math.min(first + size - 1, n) do
      for _, word in ipairs({ make(i) }) do words[#words + 1] = word end
    end
    redis.call(unpack(words))
  end
end
local function many(n) return math.floor(n * {scale}) end
local key, megabyte = KEYS[1], string.rep('a', 1024 * 1024 - 128)
local function wide(i) return string.rep('a', 204000) .. i end
local function array(n)
  redis.call('JSON.SET', key, '$', '[' .. string.rep('1,', n - 1) .. '1]')
end
"""

SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "str:one": Shape("str", "redis.call('SET', key, '1')"),
        "str:long": Shape("str", "redis.call('SET', key, string.rep('a', 10485000))"),
        "str:other": Shape("str", "redis.call('SET', key, string.rep('b', 10485000))"),
        "str:ones": Shape("str", r"redis.call('SET', key, string.rep('\255', 10485000))"),
        "str:most": Shape("str", "redis.call('SET', key, string.rep('a', 16777216))"),
        "str:mid": Shape("str", "redis.call('SET', key, string.rep('ab', 5500))"),
        "str:mega": Shape("str", "redis.call('SET', key, megabyte)"),
        "str:bound": Shape("str", "redis.call('SET', key, string.rep('b', 2400))"),
        "hll:a": Shape("hll", "fill(many(20000), 1000, function(i) return i end, 'PFADD', key)"),
        "hll:b": Shape("hll", "fill(many(20000), 1000, function(i) return -i end, 'PFADD', key)"),
        "list:tiny": Shape(
            "list",
            "local words = {} for i = 1, 7000 do words[i] = 1 end"
            " for i = 1, many(640) do redis.call('RPUSH', key, unpack(words)) end",
        ),
        "list:words": Shape(
            "list",
            "fill(many(200000), 3000, function(i) return 'word' .. i .. '-' end, 'RPUSH', key)",
        ),
        "list:mega": Shape("list", "for i = 1, 9 do redis.call('RPUSH', key, megabyte) end"),
        "list:wide": Shape("list", "for i = 1, 200 do redis.call('RPUSH', key, wide(i)) end"),
        "list:similar": Shape(
            "list",
            "local text = string.rep('a', 600) fill(many(15000), 3000,"
            " function(i) return text .. i % 777 end, 'RPUSH', key)",
        ),
        "list:names": Shape(
            "list",
            "local names = {'long', 'mega', 'other', 'one', 'ones'} fill(many(3000), 3000,"
            " function(i) return names[i % 5 + 1] end, 'RPUSH', key)",
        ),
        "list:short": Shape("list", "for i = 1, 3 do redis.call('RPUSH', key, i) end"),
        "set:small": Shape("set", "fill(500, 500, function(i) return i end, 'SADD', key)"),
        "set:numbers": Shape(
            "set", "fill(many(250000), 7000, function(i) return i end, 'SADD', key)"
        ),
        "set:names": Shape(
            "set", "fill(many(190000), 7000, function(i) return 'm' .. i end, 'SADD', key)"
        ),
        "set:mega": Shape("set", "for i = 1, 9 do redis.call('SADD', key, i .. megabyte) end"),
        "set:few": Shape(
            "set",
            "fill(3000, 3000, function(i) return 'm' .. i end, 'SADD', key)"
            " redis.call('SADD', key, megabyte)",
        ),
        "set:wide": Shape("set", "for i = 1, 100 do redis.call('SADD', key, wide(i)) end"),
        "set:wider": Shape("set", "for i = 1, 200 do redis.call('SADD', key, wide(i)) end"),
        "set:sparse": Shape(
            "set",
            "fill(many(100000), 7000, function(i) return 'm' .. i end, 'SADD', key)"
            " fill(many(87000), 7000, function(i) return 'm' .. i end, 'SREM', key)",
        ),
        "hash:small": Shape(
            "hash", "fill(100, 100, function(i) return 'f' .. i, i end, 'HSET', key)"
        ),
        "hash:tiny": Shape(
            "hash", "fill(many(250000), 3000, function(i) return 'f' .. i, 1 end, 'HSET', key)"
        ),
        "hash:mega": Shape(
            "hash", "for i = 1, 9 do redis.call('HSET', key, 'f' .. i, megabyte) end"
        ),
        "hash:wide": Shape(
            "hash", "for i = 1, 50 do redis.call('HSET', key, wide(i), wide(i)) end"
        ),
        "hash:wider": Shape(
            "hash", "for i = 1, 200 do redis.call('HSET', key, 'f' .. i, wide(i)) end"
        ),
        "hash:one": Shape(
            "hash",
            "fill(4000, 3000, function(i) return 'f' .. i, 1 end, 'HSET', key)"
            " redis.call('HSET', key, 'f1', string.rep('a', 9437184))",
        ),
        "zset:small": Shape(
            "zset", "fill(100, 100, function(i) return i, 'm' .. i end, 'ZADD', key)"
        ),
        "zset:many": Shape(
            "zset", "fill(many(135000), 3000, function(i) return i, 'm' .. i end, 'ZADD', key)"
        ),
        "zset:level": Shape(
            "zset", "fill(many(135000), 3000, function(i) return 0, 'm' .. i end, 'ZADD', key)"
        ),
        "zset:mega": Shape(
            "zset", "for i = 1, 9 do redis.call('ZADD', key, i, 'm' .. i .. megabyte) end"
        ),
        "zset:wide": Shape("zset", "for i = 1, 200 do redis.call('ZADD', key, i, wide(i)) end"),
        "zset:similar": Shape(
            "zset",
            "local text = string.rep('a', 600) fill(many(14000), 1000,"
            " function(i) return 0, text .. i end, 'ZADD', key)",
        ),
        "geo:near": Shape(
            "geo",
            "fill(many(135000), 2000,"
            " function(i) return i % 300 / 1e4, i / 300 / 1e4, 'm' .. i end, 'GEOADD', key)",
        ),
        "geo:far": Shape(
            "geo",
            "fill(many(40000), 2000, function(i) return i % 360 - 180, i % 170 - 85, 'm' .. i end,"
            " 'GEOADD', key)",
        ),
        "stream:small": Shape(
            "stream",
            "for i = 1, 50 do redis.call('XADD', key, i .. '-1', 'f', 'v') end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')",
        ),
        "stream:tiny": Shape(
            "stream",
            "for i = 1, many(900000) do redis.call('XADD', key, i .. '-1', 'f', '1') end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')",
        ),
        "stream:wide": Shape(
            "stream",
            "local words = {} for i = 1, many(1000) do words[i] = i % 100 end"
            " for i = 1, many(3000) do redis.call('XADD', key, i .. '-1', unpack(words)) end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')",
        ),
        "stream:long": Shape(
            "stream",
            "for i = 1, 200 do redis.call('XADD', key, i .. '-1', 'f', wide(i)) end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')",
        ),
        "stream:mega": Shape(
            "stream",
            "for i = 1, 9 do redis.call('XADD', key, i .. '-1', 'f', megabyte) end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')",
        ),
        "stream:holes": Shape(
            "stream",
            "for i = 1, many(100000) do redis.call('XADD', key, i .. '-1', 'f', '1') end"
            " for i = 1, many(100000) do"
            " if i % 100 ~= 99 then redis.call('XDEL', key, i .. '-1') end end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')",
        ),
        "stream:groups": Shape(
            "stream",
            "for i = 1, 100 do redis.call('XADD', key, i .. '-1', 'f', '1') end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')"
            " for i = 1, many(20000) do redis.call('XGROUP', 'CREATE', key, 'g' .. i, '0') end",
        ),
        "stream:consumers": Shape(
            "stream",
            "for i = 1, 100 do redis.call('XADD', key, i .. '-1', 'f', '1') end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')"
            " for i = 1, many(20000) do"
            " redis.call('XGROUP', 'CREATECONSUMER', key, 'g', 'c' .. i) end",
        ),
        "stream:pending": Shape(
            "stream",
            "for i = 1, many(1010000) do redis.call('XADD', key, i .. '-1', 'f', '1') end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0') for i = 1, 20 do"
            " redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', many(50000),"
            " 'STREAMS', key, '>') end",
        ),
        "stream:gone": Shape(
            "stream",
            "for i = 1, many(60000) do redis.call('XADD', key, i .. '-1', 'f', '1') end"
            " redis.call('XGROUP', 'CREATE', key, 'g', '0')"
            " redis.call('XREADGROUP', 'GROUP', 'g', 'c', 'COUNT', many(60000),"
            " 'STREAMS', key, '>')"
            " redis.call('XTRIM', key, 'MAXLEN', 100)",
        ),
    }
)
"""By the name behind the prefix."""

VECTOR_SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "vset:flat": Shape(
            "vset",
            "for i = 1, many(5000) do redis.call('VADD', key, 'VALUES', 3, i % 7, i % 11, i % 13,"
            " 'm' .. i, 'SETATTR', '{\"n\":' .. i .. '}') end",
        ),
        "vset:deep": Shape(
            "vset",
            "for i = 1, 800 do local words = {} for n = 1, 500 do words[n] = (i * n) % 97 end"
            " words[501] = 'm' .. i redis.call('VADD', key, 'VALUES', 500, unpack(words)) end",
        ),
    }
)
"""Where a server has vector sets."""

HITS = b"hits"
"""An index of 500 hashes of 96 KB."""
_HITS = """
for i = 1, 500 do
  redis.call('HSET', ARGV[1] .. 'hit:' .. i, 't', string.rep('word ', 19600), 'n', i)
end
"""

MODULE_SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        "doc:many": Shape("doc", "array(many(900000))"),
        "doc:most": Shape("doc", "array(many(3000000))"),
        "doc:mixed": Shape(
            "doc",
            "local part = {l = {}, s = string.rep('s', 300000), o = {}} for i = 1, many(200000) do"
            " part.l[i], part.o['a' .. i % 20000] = i, i end"
            " redis.call('JSON.SET', key, '$', cjson.encode(part))",
        ),
        "doc:deep": Shape(
            "doc",
            "local deep = string.rep('{\"a\":', 90) .. '1' .. string.rep('}', 90)"
            " redis.call('JSON.SET', key, '$', deep)",
        ),
    }
)
"""Where a server has JSON, and search: those of Redis Stack."""


COLLIDING = MappingProxyType(
    {
        "list:colliding": Shape(
            "list", "for i = 1, #ARGV do redis.call('RPUSH', key, ARGV[i]) end"
        ),
        "set:colliding": Shape("set", "for i = 1, #ARGV do redis.call('SADD', key, ARGV[i]) end"),
        "hash:colliding": Shape(
            "hash", "for i = 1, #ARGV do redis.call('HSET', key, ARGV[i], ARGV[#ARGV - i + 1]) end"
        ),
        "zset:colliding": Shape(
            "zset", "for i = 1, #ARGV do redis.call('ZADD', key, i, ARGV[i]) end"
        ),
        "stream:colliding": Shape(
            "stream",
            "for i = 1, #ARGV, 100 do redis.call('XADD', key, '*',"
            " unpack(ARGV, i, i + 99)) end redis.pcall('XGROUP', 'CREATE', key, 'g', '0')",
        ),
    }
)
"""Keys of strings that have one hash in the Lua of the server, as many as a call may read."""
COLLIDING_WORDS = 9000


def shapes_of(table: CommandTable) -> dict[str, Shape]:
    """Return the shapes that a server with these commands can have."""
    vectors = VECTOR_SHAPES if "VADD" in table.commands else {}
    documents = MODULE_SHAPES if "JSON.SET" in table.commands else {}
    return {**SHAPES, **COLLIDING, **vectors, **documents}


def copy(client: Any, old: bytes, new: bytes) -> None:
    """Copy a key, also one of a module that cannot be copied."""
    try:
        client.copy(old, new, replace=True)
    except ResponseError:
        client.restore(new, 0, client.dump(old), replace=True)


def build(client: Client, table: CommandTable, label: str, scale: float = 1) -> dict[str, Shape]:
    """Make every key and its master on a server; return the shapes by name.

    Args:
        label: The server's, by which words collide.
        scale: How many of the elements of the largest keys are made.
    """
    shapes = shapes_of(table)
    for name, shape in shapes.items():
        master, key = MASTER + name.encode(), PREFIX + name.encode()
        words = colliding_words(label, int(COLLIDING_WORDS * scale)) if name in COLLIDING else ()
        script = f"{_FILL.replace('{scale}', str(scale))}\n{shape.script}"
        # In parts, since each word of a call is compared with those before it.
        for start in range(0, len(words) or 1, 1000):
            client.eval(script, 1, master, *words[start : start + 1000])
        copy(client, master, key)
    fillers = f"for i = 1, {FILLERS} do redis.call('SET', 'filler:' .. i, i) end"
    client.eval(fillers, 0)
    if "FT.SEARCH" in table.commands:
        schema = ("SCHEMA", "t", "TEXT", "n", "NUMERIC", "SORTABLE")
        client.execute_command("FT.CREATE", HITS, "PREFIX", 1, PREFIX + b"hit:", *schema)
        client.eval(_HITS, 0, PREFIX)
    return shapes
