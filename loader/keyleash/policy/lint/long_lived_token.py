"""Tokens that live so long that they are passwords."""

from __future__ import annotations

from collections.abc import Iterator

from keyleash.policy.lint.finding import Finding, finding
from keyleash.policy.model import Identity, Kind, Policy
from keyleash.policy.problems import quote
from keyleash.policy.quantities import format_duration

CODE = "long-lived-token"

MAX_S = {Kind.MACHINE: 7 * 86_400, Kind.HUMAN: 8 * 3600}
"""A week between deploys; a working day."""


def long_lived_token(policy: Policy) -> Iterator[Finding]:
    """Find identities whose tokens live, or may be made to live, longer than their kind should."""
    for identity in policy.identities:
        most_s, rules = MAX_S[identity.kind], identity.token
        most = format_duration(most_s)
        # `ttl` is never over `max_ttl`, so whoever shortens it has to shorten both.
        if rules.ttl_s > most_s:
            yield _finding(identity, "ttl", rules.ttl_s, "lives", f"ttl: {most}, max_ttl: {most}")
        elif rules.max_ttl_s > most_s:
            how = "can be made to live"
            yield _finding(identity, "max_ttl", rules.max_ttl_s, how, f"max_ttl: {most}")


def _finding(identity: Identity, field: str, seconds: int, how: str, instead: str) -> Finding:
    return finding(
        identity,
        CODE,
        f"a token of the {identity.kind} identity {quote(identity.name)} {how} for"
        f" `{format_duration(seconds)}`",
        identity.token.spans.get(field),
        f"write `token: {{{instead}}}` or less; another one is quickly issued",
    )
