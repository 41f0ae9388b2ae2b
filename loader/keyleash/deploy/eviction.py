"""Whether a server may throw away what guards rely on when its memory is full."""

from __future__ import annotations

from dataclasses import dataclass

from redis.exceptions import ResponseError

from keyleash.errors import EvictionError, Problem, Span
from keyleash.protocol.active import Client

SAFE = "noeviction"
ADVICE = f"set `maxmemory-policy {SAFE}`"
CODE = EvictionError.code


@dataclass(frozen=True, slots=True)
class EvictionRisk:
    """
    What a server would evict.

    Attributes:
        policy: Its `maxmemory-policy`, any but `noeviction`; None if it does not say.
        has_bound: Whether `maxmemory` is set: without it, nothing is ever evicted.
        reason: Why the server does not say.
    """

    policy: str | None
    has_bound: bool = False
    reason: str = ""

    @property
    def message(self) -> str:
        """What may happen, in a sentence."""
        if self.policy is None:
            return f"cannot tell whether the server evicts keys: {self.reason}"
        # Token records and counters per token or segment are keys that expire; states are none.
        lost = (
            "token records, and counters per token or segment, which then start anew"
            if self.policy.startswith("volatile-")
            else "states, tokens and events, so that limits are forgotten and agents refused"
        )
        when = "when its memory is full" if self.has_bound else "once a `maxmemory` is set"
        return f"with `maxmemory-policy {self.policy}` the server evicts, {when}, {lost}"


def find_eviction_risk(client: Client) -> EvictionRisk | None:
    """
    Ask a server for its `maxmemory-policy`; None if it evicts nothing.

    By INFO, which managed servers answer where they refuse CONFIG.
    """
    try:
        memory = client.info("memory")
    except ResponseError as error:
        return EvictionRisk(None, reason=str(error))
    policy = memory.get("maxmemory_policy")
    if policy is None:
        return EvictionRisk(None, reason="INFO does not say")
    if policy == SAFE:
        return None
    # What is not told may well be set.
    return EvictionRisk(str(policy), has_bound=memory.get("maxmemory") != 0)


def check_eviction(client: Client, file: str, *, allowed: bool) -> tuple[Problem, ...]:
    """
    Warn of a server that evicts keys, or refuse it.

    Args:
        client: The server's.
        file: The policy file's name; the warning is about all of it.
        allowed: Whether also a server that evicts keys is to do.

    Raises:
        EvictionError: a `maxmemory` is set, keyleash's own keys may be evicted, and that
            was not allowed.
    """
    risk = find_eviction_risk(client)
    if risk is None:
        return ()
    if risk.has_bound and not allowed:
        raise EvictionError(risk.message, help=f"{ADVICE}; `--allow-eviction` loads all the same")
    return (Problem(CODE, risk.message, Span(file, 1, 1), ADVICE),)
