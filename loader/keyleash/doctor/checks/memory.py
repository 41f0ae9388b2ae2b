"""Whether memory is full, and whether keyleash's own keys may be thrown away when it is."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.deploy.eviction import ADVICE, find_eviction_risk
from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Server

EVICTION = "eviction"
FULL = "memory-full"
NEARLY = 0.9
"""Of `maxmemory`: from there on it is told before it is too late."""


def check_eviction(server: Server) -> Iterator[Said]:
    """Ask for `maxmemory-policy`."""
    risk = find_eviction_risk(server.client)
    if risk is None:
        return
    if risk.policy is None:
        yield Skipped("eviction", risk.message, server.name)
        return
    severity = Severity.ERROR if risk.has_bound else Severity.WARNING
    yield Finding(EVICTION, severity, risk.message, ADVICE, server.name)


def check_room(server: Server) -> Iterator[Finding]:
    """Compare what is used with `maxmemory`."""
    said = server.client.info("memory")
    bound = int(said.get("maxmemory", 0))
    # What evicts has room whenever it wants.
    if not bound or said.get("maxmemory_policy") != "noeviction":
        return
    # Buffers of replicas and of the append-only file do not count.
    used = int(said["used_memory"]) - int(said.get("mem_not_counted_for_evict", 0))
    if used < NEARLY * bound:
        return
    is_full = used >= bound
    yield Finding(
        FULL,
        Severity.ERROR if is_full else Severity.WARNING,
        f"{used * 100 // bound} % of `maxmemory` is used: "
        + ("every write is refused" if is_full else "at 100 % every write is refused"),
        "raise `maxmemory`, or make room: delete data, keep shorter trails",
        server.name,
    )
