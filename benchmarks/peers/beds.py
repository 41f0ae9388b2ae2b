"""The policy on the server, and an identity for every peer's rounds and races."""

from __future__ import annotations

from collections.abc import Iterable

import redis
from benchmarks.peers.peer import Bed, Client
from benchmarks.peers.race import BUDGET
from benchmarks.support.policy import IDENTITY, RAISED_LIMITS, load_targets, raised_document

ROOM = 10**15
"""The raised budget of agent-runner."""

SMALL = RAISED_LIMITS.replace(f"requests: {ROOM}/day", f"requests: {BUDGET}/day")
GRANT = '    grants: [{allow: [read, write], keys: ["agents:jobs:{job_id}:state"]}]\n'


def lay(
    url: str, admin: redis.Redis, clients: Iterable[Client], races: int
) -> tuple[Bed, dict[Client, tuple[Bed, ...]]]:
    """Activate agent-runner with raised limits, and so many identities to race with per client.

    An identity of keyleash's races once: an operator cannot give a spent budget back.
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
