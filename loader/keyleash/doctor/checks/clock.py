"""Whether clocks agree, and whether the server's was ahead once."""

from __future__ import annotations

import time
from collections.abc import Iterator

from keyleash.doctor.finding import Finding, Said, Severity
from keyleash.doctor.patient import Deployment, Server
from keyleash.doctor.words import named
from keyleash.policy import Identity
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.state import LimitState, SlotKind
from keyleash.status.identities import read_states

DIFFERS = "clock-differs"
AHEAD = "clock-was-ahead"
TOLERATED_S = 5.0
MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


def check_clock(server: Server) -> Iterator[Said]:
    """Compare the server's clock with this machine's."""
    before_s = time.time()
    seconds, micros = server.client.time()
    after_s = time.time()
    server_s = int(seconds) + int(micros) / 1_000_000
    # What the answer took on its way is nobody's fault.
    off_s = max(before_s - server_s, server_s - after_s, 0.0)
    if off_s > TOLERATED_S:
        way = "ahead of" if server_s > after_s else "behind"
        yield Finding(
            DIFFERS,
            Severity.WARNING,
            f"the server's clock is {off_s:.0f} s {way} that of this machine; expiries and windows"
            " go by the server's",
            "let NTP keep both; a clock that is set back lets agents wait as long as it was ahead",
            server.name,
        )


def check_moments(deployment: Deployment, keyspace: Keyspace) -> Iterator[Said]:
    """Look for moments that have not come yet in states and trails."""
    policy, client = deployment.policy, deployment.main.client
    if policy is None:
        return
    seconds, micros = client.time()
    now_us = int(seconds) * 1_000_000 + int(micros)
    names = [one.name for one in policy.identities]
    ahead = []
    states = read_states(client, keyspace, names)
    for identity, (state, _) in zip(policy.identities, states, strict=True):
        if state is not None and any(_is_ahead(identity, one, now_us) for one in state.limits):
            ahead.append(identity.name)
    if ahead:
        yield _ahead(f"limits of {named(ahead)} hold moments that have not come yet")
    trails = [keyspace.control, *map(keyspace.audit, names), *map(keyspace.denied, names)]
    with client.pipeline(transaction=False) as pipe:
        for trail in trails:
            pipe.xrevrange(trail, count=1)
        newest = pipe.execute()
    times_us = [int(one[0][0].partition(b"-")[0]) * 1000 for one in newest if one]
    if times_us and max(times_us) > now_us + MINUTE_US:
        ahead_s = (max(times_us) - now_us) // 1_000_000
        yield _ahead(f"the newest entry of a trail is of {ahead_s} s from now")


def _is_ahead(identity: Identity, held: LimitState, now_us: int) -> bool:
    slot = held.slot
    match slot.kind:
        case SlotKind.BUDGET:
            # Months differ, and so do days when clocks change.
            return held.ends_us > now_us + slot.period_us + 2 * DAY_US
        case SlotKind.RING:
            return max(held.calls_us, default=0) > now_us + MINUTE_US
        case SlotKind.GCRA:
            bursts = [one.burst for one in identity.rates if one.name == slot.name]
            burst = next((one for one in bursts if one), slot.limit)
            return held.tat_us > now_us + burst * slot.interval_us + MINUTE_US


def _ahead(what: str) -> Finding:
    return Finding(
        AHEAD,
        Severity.WARNING,
        f"{what}: the server's clock was ahead when they were written",
        "find out what set the clock; agents may be refused, and trails go on at their last time,"
        " until the clock has come there",
    )
