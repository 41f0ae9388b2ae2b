"""Lint rules about leases, for policies of clusters."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.errors import Problem
from keyleash.limits import SubjectKind
from keyleash.limits.rate import PERIOD_NAMES, RATE_SHARES
from keyleash.policy.lint.findings import Finding
from keyleash.policy.model import Identity, Policy
from keyleash.policy.patterns import NOWHERE
from keyleash.policy.problems import quote
from keyleash.policy.quantities import format_duration
from keyleash.text import counted

PRIMARIES = 3
"""The fewest primaries of a cluster."""
IDLE_PARTS = 4
"""A lease is at most the idle timeout divided by this."""


def long_lease(identity: Identity, _: int = PRIMARIES) -> Iterator[Finding]:
    """Find idle timeouts that are short beside the leases of a cluster."""
    lease_s, idle_s = identity.cluster.lease_s, identity.token.idle_s
    if idle_s is None or IDLE_PARTS * lease_s <= idle_s:
        return
    idle = format_duration(idle_s)
    effect = "even while it is used"
    if lease_s < idle_s:
        effect = f"after `{format_duration(idle_s - lease_s)}` without a call"
    help = f"write `token: {{idle: {format_duration(IDLE_PARTS * lease_s)}}}` or more"
    if idle_s >= IDLE_PARTS:
        help += f", or `cluster: {{lease: {format_duration(idle_s // IDLE_PARTS)}}}` or less"
    yield Finding(
        f"a lease of {quote(identity.name)} lasts `{format_duration(lease_s)}`, more than a quarter"
        f" of `idle`; since a cluster notes the use of a token once a lease, a token with"
        f" `idle: {idle}` may expire {effect}",
        identity.cluster.span or identity.token.spans.get("idle"),
        help,
    )


ENOUGH_UNITS = 3
"""The units of a lease from which it costs less than a round trip a call."""


def small_rate(identity: Identity, primaries: int = PRIMARIES) -> Iterator[Finding]:
    """Find rates of which a lease of a cluster has so few units that calls wait for more."""
    for rate in identity.rates:
        if rate.subject.kind is SubjectKind.CAPTURE:
            # Its counter is beside the key.
            continue
        units = rate.limit // (RATE_SHARES * primaries)
        if rate.burst is not None:
            units = min(units, rate.burst)
        if units >= ENOUGH_UNITS:
            continue
        units = max(1, units)
        trips = counted(2 // units, "more round trip")
        period = PERIOD_NAMES[rate.period_us]
        enough = f"{ENOUGH_UNITS * RATE_SHARES * primaries}/{period}"
        if rate.burst is not None:
            enough += f" and a burst of {ENOUGH_UNITS}"
        yield Finding(
            f"on a cluster with {primaries} primaries a lease has at most"
            f" {counted(units, 'call')} of `{rate.name}`, so a call takes {trips}",
            rate.span,
            f"from {enough} on it takes less; allow as much in a longer period, or raise the limit",
        )


RULES = {"long-lease": long_lease, "small-rate": small_rate}
"""The rules by code. Lint applies them to identities whose policy sets `cluster`."""


def cluster_warnings(policy: Policy, primaries: int) -> Iterator[Problem]:
    """Yield the findings in a policy for a cluster with *primaries*, but for accepted ones."""
    for identity in policy.identities:
        accepted = {item.code for item in identity.accepted}
        for code, rule in RULES.items():
            for item in rule(identity, primaries) if code not in accepted else ():
                yield Problem(code, item.message, item.span or identity.span or NOWHERE, item.help)
