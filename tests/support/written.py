"""Random writes, and a look at what they left under rules for values."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import inf
from typing import Any

BYTES, ELEMENTS, DEFAULT_MS, MAX_MS = 24, 5, 3_600_000, 86_400_000
LENGTHS = (BYTES - 4, BYTES, BYTES + 1, 3 * BYTES - 4, 3 * BYTES, 3 * BYTES + 1)
"""Near the bounds, and a number below them."""

Rules = Mapping[str, Mapping[str, Any]]
"""The rules of grants by the pattern of their keys."""

RULES: Rules = {
    "v:*": {
        "max_bytes": f"{BYTES}b",
        "max_elements": ELEMENTS,
        "ttl": {"default": f"{DEFAULT_MS // 1000}s", "max": f"{MAX_MS // 1000}s"},
    },
    "w:*": {"max_bytes": f"{3 * BYTES}b", "max_elements": 2 * ELEMENTS},
    "f:*": {},
    "o:*": {"only": "absent"},
}


def drawn_rules(draws: random.Random) -> Rules:
    """Return rules of the keys that a `Writer` writes; two grants match some of them."""
    patterns = ("v:{{d}}{n}", draws.choice(("w:*", "w:{{d}}{n}")), "f:*", "o:{{d}}{n}")
    rules = {pattern: _drawn_rule(draws) for pattern in patterns}
    if draws.random() < 0.5:
        rules[f"{{p}}:{{{{d}}}}{draws.randrange(4)}"] = _drawn_rule(draws)
    return rules


def _drawn_rule(draws: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if draws.random() < 0.6:
        found["max_bytes"] = f"{draws.choice((2, BYTES, BYTES, 3 * BYTES))}b"
    if draws.random() < 0.5:
        found["max_elements"] = draws.choice((1, ELEMENTS, 2 * ELEMENTS))
    if draws.random() < 0.3:
        longest = draws.choice((3600, MAX_MS // 1000))
        ttls = {"default": f"{draws.choice((600, longest))}s", "max": f"{longest}s"}
        for name in draws.choice(((), (), ("default",), ("max",))):
            del ttls[name]
        found["ttl"] = ttls
    if draws.random() < 0.1:
        found["only"] = "absent"
    return found


def grants(rules: Rules = RULES) -> list[dict[str, Any]]:
    """Return grants with the rules."""
    allowed = [
        {"allow": ["read", "write", "delete"], "keys": [pattern], "values": dict(found)}
        for pattern, found in rules.items()
    ]
    return [*allowed, {"allow": ["write"], "keys": ["*"], "only": ["RESTORE"]}]


@dataclass(frozen=True)
class Bounds:
    """The bounds by the strictest rules of a key; `life_ms` is None if it need not expire."""

    length: float
    elements: float
    life_ms: float | None

    @classmethod
    def of(cls, key: bytes, rules: Rules) -> Bounds:
        """Return the bounds of a key."""
        found = [rule for pattern, rule in rules.items() if _matches(pattern, key.decode())]
        ttls = [rule["ttl"] for rule in found if "ttl" in rule]
        return cls(
            min(
                (int(rule["max_bytes"][:-1]) for rule in found if "max_bytes" in rule), default=inf
            ),
            min((rule["max_elements"] for rule in found if "max_elements" in rule), default=inf),
            min(int(ttl["max"][:-1]) * 1000 if "max" in ttl else inf for ttl in ttls)
            if ttls
            else None,
        )


def _matches(pattern: str, key: str) -> bool:
    glob = re.sub(r"(?<!\{)\{\w\}(?!\})", "*", pattern)
    return fnmatchcase(key, glob.replace("{{", "{").replace("}}", "}"))


_SIZES = """
local found = {}
for _, key in ipairs(redis.call('KEYS', '[vwfo]:*')) do
  local kind = redis.call('TYPE', key).ok
  local words, width = {}, 1
  if kind == 'string' then words, width = { redis.call('GET', key) }, 0 end
  if kind == 'list' then words = redis.call('LRANGE', key, 0, -1) end
  if kind == 'set' then words = redis.call('SMEMBERS', key) end
  if kind == 'zset' then words = redis.call('ZRANGE', key, 0, -1) end
  if kind == 'hash' then words, width = redis.call('HGETALL', key), 2 end
  if kind == 'stream' then
    for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) do
      for _, word in ipairs(entry[2]) do words[#words + 1] = word end
    end
  end
  local longest = 0
  for _, word in ipairs(words) do longest = math.max(longest, #word) end
  local count = width == 0 and 0 or #words / width
  if kind == 'stream' then count = redis.call('XLEN', key) end
  found[#found + 1] = { key, kind, count, longest, redis.call('PTTL', key) }
end
return found
"""
"""Each key with its type, its number of elements, the bytes of the longest one, and its expiry."""


def violations(client: Any, rules: Rules = RULES, *, expiry: bool = True) -> Iterator[str]:
    """Yield what no write may have left, by key."""
    for key, kind, count, longest, left_ms in client.eval(_SIZES, 0):
        bounds = Bounds.of(key, rules)
        if count > bounds.elements:
            yield f"{key!r}: {kind} of {count} elements"
        if longest > bounds.length:
            yield f"{key!r}: {kind} with {longest} bytes"
        life_ms = bounds.life_ms
        if life_ms is not None and (left_ms > life_ms or (expiry and left_ms == -1)):
            yield f"{key!r}: lives for {left_ms} ms"


@dataclass
class Writer:
    """
    Draws calls of all commands that write.

    Attributes:
        now_s: The server's time.
        payloads: Some for RESTORE.
        some_keys: If there are any, no others are written.
    """

    random: random.Random
    now_s: int
    payloads: list[bytes]
    some_keys: list[str] = field(default_factory=list)

    def key(self) -> str:
        if self.some_keys:
            return self.random.choice(self.some_keys)
        name = self.random.choice("vvvwwfo")
        # In one slot, as a cluster wants the keys of a call.
        return f"{name}:{{d}}{self.random.randrange(40 if name == 'o' else 4)}"

    def word(self) -> str:
        length = self.random.choice((1, 1, 1, 2, BYTES // 2, *LENGTHS))
        return self.random.choice("abcdefgh") * length

    def words(self, most: int = 4) -> list[str]:
        return [self.word() for _ in range(self.random.randint(1, most))]

    def number(self) -> str:
        return self.random.choice(("0", "1", "2", "-1", "7", "1.5", "1e30", "1e400"))

    def seconds(self) -> int:
        return self.random.choice((600, 3600, MAX_MS // 1000, MAX_MS // 1000 + 1, 10**7))

    def pairs(self) -> list[str]:
        return [word for name in dict.fromkeys(self.words()) for word in (name, self.word())]

    def scored(self) -> list[str]:
        return [word for name in self.words() for word in (self.random.choice("123"), name)]

    def call(self) -> tuple[Any, ...]:
        """Return a call."""
        draw, key, other, word = self.random.choice, self.key(), self.key(), self.word()
        third = self.key()
        now = self.now_s
        makers: tuple[Any, ...] = (
            lambda: ("SET", key, word, *draw(((), ("EX", self.seconds()), ("KEEPTTL",), ("NX",)))),
            lambda: ("SET", key, word, "PXAT", (now + self.seconds()) * 1000),
            lambda: ("SET", key, word, draw(("PX", "EXAT")), now + self.seconds()),
            lambda: ("SETEX", key, self.seconds(), word),
            lambda: ("PSETEX", key, self.seconds() * 1000, word),
            lambda: ("SETNX", key, word),
            lambda: ("GETSET", key, word),
            lambda: ("GETEX", key, *draw(((), ("PERSIST",), ("EX", self.seconds())))),
            lambda: ("MSET", key, word, other, self.word()),
            lambda: ("MSETEX", 2, key, word, other, self.word(), "EX", self.seconds()),
            lambda: ("MSETNX", key, word, other, self.word()),
            lambda: ("APPEND", key, word),
            lambda: ("SETRANGE", key, draw((0, 20, 30)), word),
            lambda: ("SETBIT", key, draw((7, 8 * BYTES, 1000)), 1),
            lambda: ("BITFIELD", key, "SET", "u8", draw(("#1", "#30", 300)), 7),
            lambda: ("BITOP", draw(("OR", "XOR")), key, other, third),
            lambda: (draw(("INCR", "DECR")), key),
            lambda: ("INCRBY", key, draw((1, 10**18))),
            lambda: ("INCRBYFLOAT", key, self.number()),
            lambda: ("EXPIRE", key, self.seconds()),
            lambda: ("PEXPIRE", key, self.seconds() * 1000),
            lambda: ("EXPIREAT", key, now + self.seconds()),
            lambda: ("EXPIRE", key, self.seconds(), draw(("NX", "XX", "GT", "LT"))),
            lambda: ("PEXPIREAT", key, (now + self.seconds()) * 1000),
            lambda: ("GETEX", key, draw(("PX", "EXAT")), now + self.seconds()),
            lambda: ("PERSIST", key),
            lambda: ("PFADD", key, word),
            lambda: ("PFMERGE", key, other),
            lambda: (draw(("LPUSH", "RPUSH", "LPUSHX", "RPUSHX")), key, *self.words()),
            lambda: ("LINSERT", key, "BEFORE", draw("abcdefgh"), word),
            lambda: ("LSET", key, draw((0, -1)), word),
            lambda: ("LMOVE", key, other, draw(("LEFT", "RIGHT")), draw(("LEFT", "RIGHT"))),
            lambda: ("RPOPLPUSH", key, other),
            lambda: (draw(("LPOP", "RPOP", "SPOP", "ZPOPMIN")), key),
            lambda: ("SADD", key, *self.words()),
            lambda: ("SREM", key, *self.words()),
            lambda: ("SMOVE", key, other, word),
            lambda: (draw(("SUNIONSTORE", "SINTERSTORE", "SDIFFSTORE")), key, other, third),
            lambda: ("HSET", key, *self.pairs()),
            lambda: ("HMSET", key, *self.pairs()),
            lambda: ("HSETNX", key, *self.pairs()[:2]),
            lambda: ("HSETEX", key, "EX", 100, "FIELDS", 1, *self.pairs()[:2]),
            lambda: ("HINCRBY", key, word, draw((1, 10**18))),
            lambda: ("HINCRBYFLOAT", key, word, self.number()),
            lambda: ("HDEL", key, *self.words()),
            lambda: ("HSETEX", key, "FNX", "FIELDS", 2, word, word, draw("ab"), word),
            lambda: ("HEXPIRE", key, self.seconds(), "FIELDS", 1, word),
            lambda: ("HGETEX", key, "EX", self.seconds(), "FIELDS", 1, word),
            lambda: ("HPERSIST", key, "FIELDS", 1, word),
            lambda: ("ZADD", key, *draw(((), ("XX",), ("NX", "CH"), ("GT",))), *self.scored()),
            lambda: ("ZADD", key, "INCR", "1", word),
            lambda: ("ZINCRBY", key, 1, word),
            lambda: ("ZREM", key, *self.words()),
            lambda: ("GEOADD", key, *[w for name in self.words() for w in ("1", "2", name)]),
            lambda: (
                draw(("ZUNIONSTORE", "ZINTERSTORE", "ZDIFFSTORE")), key, 2, other, third,
            ),
            lambda: ("ZUNIONSTORE", key, 2, other, third, "WEIGHTS", 1, 2, "AGGREGATE", "MAX"),
            lambda: ("ZRANGESTORE", key, other, 0, draw((2, -1))),
            lambda: ("ZRANGESTORE", key, other, "-inf", "+inf", "BYSCORE", "LIMIT", 0, 3),
            lambda: (
                "GEOSEARCHSTORE", key, other, "FROMLONLAT", 1, 2, "BYRADIUS", 9, "km",
                *draw(((), ("COUNT", 3), ("STOREDIST",))),
            ),
            lambda: ("GEORADIUS", other, 1, 2, 9, "km", draw(("STORE", "STOREDIST")), key),
            lambda: ("GEORADIUSBYMEMBER", other, word, 9, "km", "STORE", key),
            lambda: ("SORT", other, *draw(((), ("LIMIT", 0, 3))), "ALPHA", "STORE", key),
            lambda: ("SORT", other, "ALPHA", "GET", "f:{d}*", "GET", "#", "STORE", key),
            lambda: ("SORT", other, "ALPHA"),
            lambda: ("XADD", key, *draw(((), ("MAXLEN", ELEMENTS), ("NOMKSTREAM",))), "*",
                     *self.pairs()),
            lambda: ("XADD", key, "MAXLEN", "=", draw((1, 100)), "*", *self.pairs()[:2]),
            lambda: ("XGROUP", "CREATE", key, "g", "$", "MKSTREAM"),
            lambda: ("XTRIM", key, "MAXLEN", 2),
            lambda: ("XADD", key, draw(("MAXLEN", "MINID")), "~", 1, "*", *self.pairs()[:2]),
            lambda: (draw(("LTRIM", "ZREMRANGEBYRANK")), key, 0, draw((0, 1, -2))),
            lambda: ("VADD", key, "VALUES", 2, 1, 2, word),
            lambda: ("VSETATTR", key, word, "{}"),
            lambda: ("COPY", other, key, *draw(((), ("REPLACE",)))),
            lambda: ("RENAME", other, key),
            lambda: ("RENAMENX", other, key),
            lambda: (
                "RESTORE", key, draw((0, 10**6, 10**9, 10**12)), draw(self.payloads), "REPLACE",
            ),
            lambda: (draw(("DEL", "UNLINK")), key, other),
            lambda: ("GETDEL", key),
        )  # fmt: skip
        return tuple(draw(makers)())


def payloads(client: Any) -> list[bytes]:
    """Return payloads of small and large values; a long string is compressed."""
    names = [f"{{d}}{name}" for name in "pqrst"]
    client.set(names[0], "x" * 5000)
    client.rpush(names[1], *"abc")
    client.rpush(names[2], *"abcdefgh")
    client.sadd(names[3], "a" * 30)
    client.hset(names[4], mapping={"a": "b", "c": "d" * 80})
    found = [client.dump(name) for name in names]
    client.delete(*names)
    return found
