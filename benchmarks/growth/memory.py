"""What keyleash's own data takes of a server's memory."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import redis
from benchmarks.growth.shape import Curve, Growth, Point

from keyleash.store.keyspace import Keyspace

BYTES = "bytes"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory that a server has in use.

    Attributes:
        data: Keys, and the texts of scripts; `used_memory`.
        lua: The Lua machine, where compiled scripts are; `used_memory` leaves it out.
    """

    data: int
    lua: int

    @property
    def total(self) -> int:
        """Both."""
        return self.data + self.lua

    def minus(self, before: Footprint) -> Footprint:
        """What was added since *before*."""
        return Footprint(self.data - before.data, self.lua - before.lua)


def footprint(admin: redis.Redis) -> Footprint:
    """What the server uses now, without the slow log and with no garbage of Lua's that matters."""
    admin.slowlog_reset()
    info = admin.info("memory")
    return Footprint(int(info["used_memory"]), int(info["used_memory_vm_eval"]))


def growth_of(
    name: str, grows: str, curves: Mapping[str, Mapping[int, int]], remarks: tuple[str, ...] = ()
) -> Growth:
    """Bytes by size, each measured once, as what grows; the first remark is bytes per unit."""
    drawn = tuple(
        Curve(curve, tuple(Point(size, (float(item),)) for size, item in sorted(taken.items())))
        for curve, taken in curves.items()
    )
    each = "; ".join(f"{curve.name} {curve.per_unit:,.0f}" for curve in drawn)
    return Growth(name, grows, BYTES, drawn, remarks=(f"bytes for one more: {each}", *remarks))


def keys_remark(admin: redis.Redis, identities: list[str]) -> str:
    """What the keys of one identity take, by `MEMORY USAGE`: medians."""
    keyspace = Keyspace()
    kinds = {
        "state": keyspace.state,
        "guard record": keyspace.guard,
        "source texts": keyspace.source,
    }
    taken = {
        kind: statistics.median(
            admin.memory_usage(key(name), samples=0) or 0 for name in identities
        )
        for kind, key in kinds.items()
    }
    return "of an identity's keys: " + "; ".join(f"{kind} {n:,.0f}" for kind, n in taken.items())
