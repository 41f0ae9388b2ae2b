"""Server cost of one element inside a script, next to its weight in guards.

    python -m benchmarks.work [--quick] [--server NAME]

A weight is in units of 0.1 µs (`keyleash.commands.work`). Each call handles many elements; the
least main-thread CPU of several runs counts. Commands that cost more than their weight are marked,
with exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from benchmarks.support.servers import EMBEDDED, choose_servers

from keyleash.addons.servers import EmbeddedServer
from keyleash.commands import work

ELEMENTS, QUICK_ELEMENTS = 50_000, 500
RUNS, QUICK_RUNS = 5, 1

UNITS_PER_MS = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """A call of a command, with its number of elements.

    Attributes:
        per: Elements of the call for each element of its key.
        extra: Elements that do not depend on the key.
    """

    name: str
    argv: tuple[object, ...]
    per: float = 1
    extra: float = 0
    weight: float | None = None

    def elements(self, count: int) -> float:
        return self.per * count + self.extra

    @property
    def counted(self) -> float:
        """Return the weight of one element."""
        return work.WORK[self.name].weight if self.weight is None else self.weight


def cases(count: int) -> Iterator[Case]:
    """Yield the measured calls, on keys of *count* elements."""
    for name in ("HGETALL", "HKEYS", "HVALS"):
        yield Case(name, (name, "h"))
    yield Case("SMEMBERS", ("SMEMBERS", "s"))
    yield Case("COPY", ("COPY", "z", "copied", "REPLACE"))
    yield Case("DUMP", ("DUMP", "z"))
    for name, words in (("LREM", ("0", "x")), ("LPOS", ("x",)), ("LINSERT", ("BEFORE", "x", "y"))):
        yield Case(name, (name, "l", *words))
    yield Case("LRANGE", ("LRANGE", "l", "0", "-1"))
    for name in ("BITCOUNT", "BITPOS"):
        yield Case(name, (name, "b", *("0",) * (name == "BITPOS")), per=100)
    yield Case("SORT", ("SORT", "l", "ALPHA", "LIMIT", "0", "1"))
    for name in ("SUNION", "SDIFF"):
        yield Case(name, (name, "s", "s2"), per=2)
        yield Case(f"{name}STORE", (f"{name}STORE", "stored", "s", "s2"), per=2)
    yield Case("SINTER", ("SINTER", "s", "s2"), per=2)
    yield Case("SINTERSTORE", ("SINTERSTORE", "stored", "s", "s2"), per=2)
    yield Case("SINTERCARD", ("SINTERCARD", "2", "s", "s2"), per=2)
    for name in ("ZUNION", "ZDIFF", "ZINTER", "ZINTERCARD"):
        yield Case(name, (name, "2", "z", "z2"), per=2)
    for name in ("ZUNIONSTORE", "ZDIFFSTORE", "ZINTERSTORE"):
        yield Case(name, (name, "stored", "2", "z", "z2"), per=2)
    yield Case("BITOP", ("BITOP", "AND", "stored", "b", "b"), per=200)
    yield Case("LCS", ("LCS", "c", "d"), per=0, extra=2_000 * 2_000)
    yield Case("MGET", ("MGET", "b", "b", "b"), per=300)
    yield Case("ZRANGE", ("ZRANGE", "z", "0", "-1", "WITHSCORES"))
    yield Case("ZRANGESTORE", ("ZRANGESTORE", "stored", "z", "0", "-1"))
    yield Case(
        "GEOSEARCH", ("GEOSEARCH", "g", "FROMLONLAT", "0", "0", "BYRADIUS", "999", "km", "ASC")
    )
    for name, key in (("SRANDMEMBER", "s"), ("HRANDFIELD", "h"), ("ZRANDMEMBER", "z")):
        yield Case(name, (name, key, str(-count // 10)), per=0.1)
    for name, key in (("HSCAN", "h"), ("SSCAN", "s"), ("ZSCAN", "z")):
        yield Case(name, (name, key, "0", "COUNT", str(count)))
    yield Case("MEMORY USAGE", ("MEMORY", "USAGE", "s", "SAMPLES", "0"))
    yield Case("XRANGE", ("XRANGE", "x", "-", "+"))
    yield Case("XREAD", ("XREAD", "STREAMS", "x", "0"))
    yield Case("XRANGE", ("XRANGE", "w", "-", "+"), per=0, extra=100 * 1000, weight=work.WORD_WORK)
    yield Case("XINFO GROUPS", ("XINFO", "GROUPS", "xg"), per=0.1)
    yield Case("XINFO CONSUMERS", ("XINFO", "CONSUMERS", "xg", "g1"), per=0.1)


def fill(client: redis.Redis, count: int) -> None:
    """Create the keys of the cases."""
    script = """
        local n = tonumber(ARGV[1])
        for i = 1, n do
          redis.call('HSET', 'h', 'f' .. i, i)
          redis.call('RPUSH', 'l', 'e' .. i)
          redis.call('SADD', 's', 'm' .. i)
          redis.call('SADD', 's2', 'm' .. i + 1)
          redis.call('ZADD', 'z', i, 'm' .. i)
          redis.call('ZADD', 'z2', i, 'm' .. i)
          redis.call('GEOADD', 'g', i % 200 / 1e4, i / 200 / 1e4, 'm' .. i)
          redis.call('XADD', 'x', i .. '-1', 'f', 'v')
        end
        redis.call('XGROUP', 'CREATE', 'xg', 'g1', '0', 'MKSTREAM')
        for i = 2, n / 10 do redis.call('XGROUP', 'CREATE', 'xg', 'g' .. i, '0') end
        for i = 1, n / 10 do redis.call('XGROUP', 'CREATECONSUMER', 'xg', 'g1', 'c' .. i) end
        local words = {}
        for i = 1, 1000 do words[i] = 'w' .. i end
        for i = 1, 100 do redis.call('XADD', 'w', i .. '-1', unpack(words)) end
        redis.call('SET', 'b', string.rep('\\255', 100 * n))
        redis.call('SET', 'c', string.rep('a', 2000))
        redis.call('SET', 'd', string.rep('b', 2000))
    """
    client.eval(script, 0, count)


def units_of(client: Any, case: Case, count: int, runs: int) -> float:
    """Return the units of work that one element of a case costs."""
    best = min(_cpu_ms(client, case.argv) for _ in range(runs))
    return best * UNITS_PER_MS / case.elements(count)


def _cpu_ms(client: Any, argv: Sequence[object]) -> float:
    before = _main_thread_ms(client)
    client.eval("redis.call(unpack(ARGV)) return 1", 0, *argv)
    return _main_thread_ms(client) - before


def _main_thread_ms(client: Any) -> float:
    found = client.info("cpu")
    parts = ("used_cpu_user_main_thread", "used_cpu_sys_main_thread")
    return 1000 * sum(float(found[part]) for part in parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit status 1 if a weight is too low."""
    parser = argparse.ArgumentParser(prog="work", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few elements: no figures to quote")
    parser.add_argument("--server", default=EMBEDDED, help="default: %(default)s")
    options = parser.parse_args(argv)
    count, runs = (QUICK_ELEMENTS, QUICK_RUNS) if options.quick else (ELEMENTS, RUNS)
    low = 0
    for server in choose_servers([options.server]):
        print(f"{'command':<20}{'measured':>10}{'weight':>10}  units of 0.1 µs for an element")
        with EmbeddedServer(binary=server.binary) as process:
            client = redis.Redis.from_url(process.url, socket_timeout=120)
            with contextlib.closing(client):
                fill(client, count)
                for case in cases(count):
                    measured = units_of(client, case, count, runs)
                    is_low = measured > case.counted and not options.quick
                    low += is_low
                    mark = "  too low" if is_low else ""
                    print(f"{case.name:<20}{measured:>10.3f}{case.counted:>10.3f}{mark}")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
