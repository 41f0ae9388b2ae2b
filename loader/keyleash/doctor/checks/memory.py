"""Whether the server may throw keyleash's own keys away when its memory is full."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.deploy.eviction import ADVICE, find_eviction_risk
from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Server

CODE = "eviction"


def check_memory(server: Server) -> Iterator[Said]:
    """Ask for `maxmemory-policy`."""
    risk = find_eviction_risk(server.client)
    if risk is None:
        return
    if risk.policy is None:
        yield Skipped("eviction", risk.message, server.name)
        return
    severity = Severity.ERROR if risk.has_bound else Severity.WARNING
    yield Finding(CODE, severity, risk.message, ADVICE, server.name)
