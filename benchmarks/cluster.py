"""Cost of a cluster: a call at a shard, leases on several nodes, and a revocation.

    python -m benchmarks --section cluster

A shard has units for a whole run when it is compared with a single server. Leases are part of the
cost on several nodes, where keyleash's client calls keys of all slots in one loop.
"""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from benchmarks.ladder import GUARDED_GET, GUARDED_SET, MANY
from benchmarks.support.bars import Bar, Side, Spread, ratios, spread_of
from benchmarks.support.bench import Bench, Contender, Plan, bench_on
from benchmarks.support.load import Generator, Load
from benchmarks.support.measure import (
    REQUESTS_BUDGET,
    CpuClock,
    MiscountError,
    cpu_clock,
    fill_keys,
)
from benchmarks.support.policy import (
    IDENTITY,
    Target,
    load_target,
    load_targets,
    operator_of,
    raised_document,
)
from benchmarks.support.report import BUSY
from benchmarks.support.section import Figure, Section, Setting, joined
from benchmarks.support.servers import Cores, ServerChoice, pinned, version_of
from benchmarks.support.variants import CALLS_PER_CONNECTION, KEY, VALUE, Variant, exchanges

import keyleash
from keyleash.addons.servers import EmbeddedCluster
from keyleash.doubles import DOUBLE
from keyleash.store.keyspace import Keyspace
from keyleash.store.leases import ShardState, unpack_shard
from keyleash.store.placement import SLOTS, control_tag, key_slot
from keyleash.store.token import token_digest

NAME = "cluster"
COST_BAR, KEYLESS_COST_BAR = 1.08, 1.12
"""Guards for Redis have a keyless command before the data."""
GROWTH_BAR = 1.05
TRIPS_BAR = 20.0
REVOKE_BAR_MS = 60.0

NODES = (1, 3, 6)
SHARDS = 3
"""The number of nodes of which round trips and a revocation are measured."""
BUDGET = 50_000
RAISED_BUDGET = "requests: 1000000000000000/day"
FAR_US = 3_600_000_000
UNITS = 1e9
IDLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rounds and calls.

    Attributes:
        rounds: The rounds in which single server and shard, or clusters, take turns.
        calls: The calls of a sample at a shard.
        in_loop: The calls of a sample of the client.
        in_all: The calls of which extra round trips are counted, the loop's included.
    """

    rounds: int
    calls: int
    in_loop: int
    in_all: int


FULL = Sizes(rounds=7, calls=8_000, in_loop=2_000, in_all=20_000)
QUICK = Sizes(rounds=2, calls=500, in_loop=200, in_all=1_000)


def measure(setting: Setting) -> Section:
    """Measure every server in turn."""
    with Generator(setting.cores.client) as generator:
        return joined(NAME, [_measure_on(item, setting, generator) for item in setting.servers])


def _measure_on(choice: ServerChoice, setting: Setting, generator: Generator) -> Section:
    sizes = QUICK if setting.quick else FULL
    version, costs, noisy = _costs(choice, sizes, setting.cores, generator)
    looped, extra, revoke_ms = _on_nodes(choice, sizes, setting.cores)
    keyless = version.startswith("redis ")
    lines, figures, bars = [f"{version} ({choice.name})"], [], []
    for name, (alone, shard) in costs.items():
        ratio = ratios(shard, alone)
        lines.append(f"  {name}, one server   {spread_of(alone).median:6.2f} µs of server CPU")
        lines.append(
            f"  {name}, shard        {spread_of(shard).median:6.2f} µs  {ratio} × one server"
        )
        figures += [
            Figure(name, "µs of server CPU", spread_of(shard), version, {"clients": MANY}),
            Figure(name, "× one server, server CPU", ratio, version, {"clients": MANY}),
        ]
        bound = KEYLESS_COST_BAR if keyless else COST_BAR
        what = f"{name} at a shard, server CPU at {MANY} clients"
        bars.append(Bar(what, Side.AT_MOST, bound, "one server", ratio.median))
    for nodes, values in looped.items():
        ratio = ratios(values, looped[NODES[0]])
        lines.append(
            f"  SETs over {nodes} nodes {spread_of(values).median:8.2f} µs  {ratio} × one node"
        )
        figures.append(
            Figure("guarded SET", "× one node, CPU of all nodes", ratio, version, {"nodes": nodes})
        )
        if nodes > NODES[0]:
            what = f"guarded SET over {nodes} nodes, CPU of all nodes"
            bars.append(Bar(what, Side.AT_MOST, GROWTH_BAR, "one node", ratio.median))
    lines.append(f"  extra round trips per 1,000 calls, {SHARDS} nodes  {extra:.1f}")
    lines.append(f"  revocation, {SHARDS} nodes  {revoke_ms} ms")
    at: Mapping[str, float | str] = {"nodes": SHARDS}
    figures += [
        Figure("extra round trips", "per 1,000 calls", Spread(extra, extra, extra), version, at),
        Figure("revocation", "ms", revoke_ms, version, at),
    ]
    trips = f"extra round trips for 1,000 calls, budget of {BUDGET:,}, {SHARDS} nodes"
    bars += [
        Bar(trips, Side.AT_MOST, TRIPS_BAR, "1", extra),
        Bar(f"revocation, {SHARDS} nodes", Side.AT_MOST, REVOKE_BAR_MS, "1 ms", revoke_ms.median),
    ]
    return Section(
        NAME, "\n".join(lines), tuple(figures), tuple((version, bar) for bar in bars), noisy=noisy
    )


@contextlib.contextmanager
def cluster_on(choice: ServerChoice, primaries: int, core: int | None) -> Iterator[EmbeddedCluster]:
    """Run a cluster of the server during the block, all of its nodes on one core."""
    cluster = EmbeddedCluster(primaries, binary=choice.binary)
    with pinned(core):
        cluster.start()
    with cluster:
        yield cluster


# One call, at a shard that has units.


@dataclass(frozen=True, slots=True)
class Shard:
    """The only node of a cluster, with a lease."""

    bench: Bench
    target: Target
    keys: Keyspace

    def sample(self, variant: Variant, calls: int, connections: int = MANY) -> tuple[float, float]:
        """Make calls; return the µs of server CPU per call, and the busiest side's share."""
        bench = self.bench
        self._lease()
        load = Load(
            bench.server.port,
            calls,
            exchanges(variant, self.target, connections=connections),
            bench.cores.of_clients(connections),
        )
        bench.generator.prepare(load)
        before, used_s = self._units(), bench.clock.used_s()
        seen = bench.generator.run()
        server_s = bench.clock.used_s() - used_s
        if before - self._units() != calls:
            raise MiscountError(f"`{variant.name}` at a shard: {calls} units were expected")
        return server_s / calls * 1e6, max(server_s / seen.wall_s, seen.busy)

    def _lease(self) -> None:
        """Give the shard units and the token's lease for an hour."""
        bench, state = self.bench, self._state()
        seconds, _ = bench.admin.time()
        until_us = seconds * 1_000_000 + FAR_US
        name = self.keys.state(IDENTITY)
        size, limits = bench.admin.strlen(name), len(state.limits)
        # Credits and ends come before `window · have` of each limit.
        packed = struct.pack(f"<{2 * limits}d", *[UNITS] * limits, *[until_us] * limits)
        bench.admin.setrange(name, size - 4 * limits * DOUBLE, packed)
        token = self.keys.token(IDENTITY, token_digest(self.target.token))
        bench.admin.setrange(token, 0, struct.pack("<d", until_us))
        bench.admin.pexpireat(token, until_us // 1000)

    def _units(self) -> int:
        slots = [slot.name for slot in self.target.guard.layout.slots]
        return self._state().limits[slots.index(REQUESTS_BUDGET)].credit

    def _state(self) -> ShardState:
        found = self.bench.admin.get(self.keys.state(IDENTITY))
        assert isinstance(found, bytes)  # noqa: S101 - a call has made it
        return unpack_shard(found)


@contextlib.contextmanager
def shard_on(choice: ServerChoice, bench: Bench) -> Iterator[Shard]:
    """Run a cluster of one node beside the server of *bench*, on the same core."""
    with (
        cluster_on(choice, 1, bench.cores.server) as cluster,
        redis.Redis.from_url(cluster.url) as admin,
    ):
        (target,) = load_targets(admin, raised_document(), IDENTITY)
        with keyleash.RedisCluster.from_url(cluster.url, token=target.token) as client:
            client.set(KEY.format(job=0), VALUE)
        tag = control_tag([(0, SLOTS - 1)])
        assert tag is not None  # noqa: S101 - it has slots
        beside = replace(bench, server=cluster.nodes[0], admin=admin, clock=cpu_clock(admin))
        fill_keys(admin, MANY * CALLS_PER_CONNECTION)
        yield Shard(beside, replace(target, tag=tag), Keyspace().at_shard(tag))


def _costs(
    choice: ServerChoice, sizes: Sizes, cores: Cores, generator: Generator
) -> tuple[str, dict[str, tuple[list[float], list[float]]], bool]:
    """Return the version, server CPU per call alone and at a shard, and whether it was noisy."""
    plan = Plan(rounds=sizes.rounds, requests=sizes.calls, connections=(MANY,))
    variants = (GUARDED_SET, GUARDED_GET)
    costs: dict[str, tuple[list[float], list[float]]] = {item.name: ([], []) for item in variants}
    shares = []
    with bench_on(choice, plan, cores, generator) as bench, shard_on(choice, bench) as shard:
        alone = load_target(bench.admin)
        fill_keys(bench.admin, MANY * CALLS_PER_CONNECTION)
        for number in range(-1, sizes.rounds):
            for variant in variants if number % 2 else variants[::-1]:
                sampled = bench.sample(Contender(variant, alone), MANY, sizes.calls)
                us, share = shard.sample(variant, sizes.calls)
                if number < 0:
                    continue  # the first one warms up
                costs[variant.name][0].append(sampled.server_us)
                costs[variant.name][1].append(us)
                shares += [share, max(sampled.server_busy, sampled.client_busy)]
        version = version_of(bench.admin)
    return version, costs, spread_of(shares).median < BUSY


# Calls over several nodes, with the leases that they need.


@dataclass(frozen=True, slots=True)
class Loop:
    """A client that SETs keys of all slots of a cluster, one call after the other.

    Attributes:
        idle: The CPU that all nodes use when idle, as a share of a core.
    """

    client: keyleash.RedisCluster
    clocks: Sequence[CpuClock]
    idle: float

    def cpu_us(self, calls: int) -> float:
        """Make calls; return the µs of CPU per call, of all nodes together, beyond idling."""
        # In the order of slots: calls that alternate between processes of one core measure how
        # it fills its caches again.
        keys = sorted((KEY.format(job=number) for number in range(calls)), key=_slot)
        begun_s, before_s = time.perf_counter(), _used_s(self.clocks)
        for key in keys:
            self.client.set(key, VALUE)
        idle_s = self.idle * (time.perf_counter() - begun_s)
        return (_used_s(self.clocks) - before_s - idle_s) / calls * 1e6

    def round_trips(self) -> int:
        """Return the number of all script calls so far."""
        return sum(
            clock.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
            for clock in self.clocks
        )


def _slot(key: str) -> int:
    return key_slot(key.encode())


def _used_s(clocks: Sequence[CpuClock]) -> float:
    return sum(clock.used_s() for clock in clocks)


def _idle(clocks: Sequence[CpuClock]) -> float:
    before_s = _used_s(clocks)
    time.sleep(IDLE_S)
    return (_used_s(clocks) - before_s) / IDLE_S


def _on_nodes(
    choice: ServerChoice, sizes: Sizes, cores: Cores
) -> tuple[dict[int, list[float]], float, Spread]:
    """Return the CPU per call by nodes, extra round trips per 1,000 calls, and ms to revoke."""
    document = raised_document().replace(RAISED_BUDGET, f"requests: {BUDGET}/day")
    looped: dict[int, list[float]] = {nodes: [] for nodes in NODES}
    with contextlib.ExitStack() as stack:
        loops, urls = {}, {}
        for nodes in NODES:
            cluster = stack.enter_context(cluster_on(choice, nodes, cores.server))
            admins = [stack.enter_context(redis.Redis(port=node.port)) for node in cluster.nodes]
            (target,) = load_targets(admins[0], document, IDENTITY)
            client = keyleash.RedisCluster.from_url(cluster.url, token=target.token)
            clocks = [cpu_clock(admin) for admin in admins]
            loops[nodes] = Loop(stack.enter_context(client), clocks, _idle(clocks))
            urls[nodes] = cluster.url
        stack.enter_context(pinned(cores.client))
        begun = loops[SHARDS].round_trips()
        for number in range(sizes.rounds):
            for nodes in NODES if number % 2 else NODES[::-1]:
                looped[nodes].append(loops[nodes].cpu_us(sizes.in_loop))
        loops[SHARDS].cpu_us(sizes.in_all - sizes.rounds * sizes.in_loop)
        extra = loops[SHARDS].round_trips() - begun - sizes.in_all
        operator = stack.enter_context(operator_of(loops[SHARDS].clocks[0].client))
        operator.limits.reset(IDENTITY, reason="benchmark")
        revoked = [_revoke_ms(operator, urls[SHARDS]) for _ in range(sizes.rounds)]
    return looped, 1_000 * extra / sizes.in_all, spread_of(revoked)


def _revoke_ms(operator: keyleash.Operator, url: str) -> float:
    """Use a token at every node, and return the duration of its revocation."""
    issued = operator.tokens.issue(IDENTITY)
    with keyleash.RedisCluster.from_url(url, token=issued.token) as client:
        for number in range(20):
            client.set(KEY.format(job=number), VALUE)
        begun_s = time.perf_counter()
        operator.tokens.revoke(issued.id)
        return (time.perf_counter() - begun_s) * 1000


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw nothing."""
    del section, folder
    return []
