"""Measure all peers on one server in turn."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import redis
from benchmarks.peers import by_limiters, by_redis_py, by_transaction
from benchmarks.peers.by_limiters import FIVE_TRIPS
from benchmarks.peers.by_upstash import node_peers
from benchmarks.peers.pace import Pace, busy_share, round_trips, take_turns
from benchmarks.peers.peer import Bed, Client, Peer
from benchmarks.peers.races import BUDGET, WORKERS, raced, revoked_in_between
from benchmarks.peers.report import Result, note, require_promises_kept, result_of, table
from benchmarks.peers.work import RETAIN, audit_stream, prepare
from benchmarks.support.bars import Bar, Side
from benchmarks.support.measure import cpu_clock, fill_audit, fill_stream
from benchmarks.support.policy import IDENTITY, RAISED_LIMITS, load_targets, raised_document
from benchmarks.support.section import Section, Setting
from benchmarks.support.servers import pinned, running, version_of

IN_PYTHON = (
    by_redis_py.PLAIN,
    by_redis_py.KEYLEASH,
    *by_limiters.PEERS,
    *by_transaction.PEERS,
    by_redis_py.ACL,
)
"""In the order of the report."""

ROOM = 10**15
"""The raised budget of agent-runner."""

SMALL = RAISED_LIMITS.replace(f"requests: {ROOM}/day", f"requests: {BUDGET}/day")
GRANT = '    grants: [{allow: [read, write], keys: ["agents:jobs:{job_id}:state"]}]\n'


def lay(
    url: str, admin: redis.Redis, clients: Iterable[Client], races: int
) -> tuple[Bed, dict[Client, tuple[Bed, ...]]]:
    """Activate agent-runner with raised limits, and identities for the races of each client.

    Each identity races once, with an unused budget.
    """
    names = {
        client: [f"racer-{client.name}-{number}" for number in range(races)] for client in clients
    }
    every = [name for own in names.values() for name in own]
    racers = "".join(f"  {name}:\n    kind: machine\n{GRANT}{SMALL}" for name in every)
    runner, *others = load_targets(admin, raised_document() + racers, IDENTITY, *every)
    made = {target.guard.identity: Bed(url, admin, target, BUDGET) for target in others}
    return (
        Bed(url, admin, runner, ROOM),
        {item: tuple(made[name] for name in own) for item, own in names.items()},
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of rounds, of calls per peer and round, and of races per peer."""

    rounds: int
    calls: int
    races: int


FULL, QUICK = Plan(7, 250, 5), Plan(3, 50, 1)
TRIPS = 20
"""Calls whose round trips are counted."""
WATCHED = 1000
"""Calls per round that measure the share of the core."""
AT_LEAST, AIM = 5, 6
"""Bounds of the p50 of five round trips, relative to keyleash's."""
BUSY = 0.95
"""Below this share of the core, other processes used it."""


def measured(name: str, setting: Setting) -> Section:
    """Measure on the first server; the client is on the server's core.

    On one core no time is lost in waking another core, which would be most of the time of a call
    and differs between machines.

    Raises:
        MiscountError: counts of a peer disagree, or it broke a guarantee.
        NodeError: a call in Node failed.
    """
    core, plan = setting.cores.server, QUICK if setting.quick else FULL
    in_node, left_out = node_peers()
    peers = (*IN_PYTHON, *in_node)
    with (
        running(setting.servers[0], core) as server,
        redis.Redis.from_url(server.url) as admin,
    ):
        bed, racers = lay(server.url, admin, {peer.client for peer in peers}, plan.races)
        with pinned(core):
            trips, rounds, busy = _turns(bed, peers, plan)
        results = [
            result_of(
                peer,
                trips[peer.name],
                raced(peer, racers[peer.client]),
                revoked_in_between(peer, bed, round(trips[peer.name])),
                rounds,
            )
            for peer in peers
        ]
        version = version_of(admin)
    for result in results:
        require_promises_kept(result)
    noisy = core is not None and busy < BUSY
    return Section(
        name=name,
        text=table(_heading(version, plan, core), results, _remarks(left_out, busy, noisy)),
        figures=tuple(figure for result in results for figure in result.figures(version)),
        bars=((version, _bar(results)),),
        notes={result.peer.name: note(result.peer) for result in results},
        noisy=noisy,
    )


def _turns(
    bed: Bed, peers: Sequence[Peer], plan: Plan
) -> tuple[dict[str, float], list[dict[str, Pace]], float]:
    """Return the round trips by peer, the rounds, and the share of the core."""
    prepare(bed)
    with ExitStack() as opened:
        callers = [(peer, opened.enter_context(peer.open(bed))) for peer in peers]
        take_turns(bed, callers, plan.calls)
        fill_audit(bed.admin, bed.target)
        fill_stream(bed.admin, audit_stream(bed), RETAIN)
        trips = {peer.name: round_trips(bed.admin, item, TRIPS) for peer, item in callers}
        rounds, busy = [], []
        for number in range(plan.rounds):
            # Every other round in reverse, so that a drift affects all peers equally.
            turns = callers if number % 2 == 0 else callers[::-1]
            rounds.append(take_turns(bed, turns, plan.calls))
            busy.append(busy_share(cpu_clock(bed.admin), callers[0][1], WATCHED))
    return trips, rounds, statistics.median(busy)


def _heading(version: str, plan: Plan, core: int | None) -> str:
    where = "not pinned" if core is None else f"client and server on core {core}"
    return (
        f"{version}; {plan.rounds} rounds of {plan.calls} calls each; {where};"
        f" races of {WORKERS} workers for {BUDGET} calls: the worst of {plan.races}"
    )


def _remarks(left_out: str, busy: float, noisy: bool) -> list[str]:
    remarks = [left_out] if left_out else []
    if noisy:
        remarks.append(
            f"NOISE: client and server had {busy:.0%} of their core; repeat this while nothing"
            " else runs"
        )
    return remarks


def _bar(results: Sequence[Result]) -> Bar:
    chain = next(result for result in results if result.peer is FIVE_TRIPS)
    return Bar(
        f"p50 of {FIVE_TRIPS.name} + budget + SET + XADD",
        Side.AT_LEAST,
        AT_LEAST,
        "keyleash's",
        chain.by_ours.median,
        aim=AIM,
    )
