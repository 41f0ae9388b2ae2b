"""The circuit breaker: an identity's own `on_denials`, or the document's default."""

from __future__ import annotations

from keyleash.policy.limits import RATE_PERIODS_US
from keyleash.policy.model import Breaker
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, quote
from keyleash.policy.quantities import parse_count_per_period, parse_duration

MAX_THRESHOLD = 1000
"""The time of each refusal is kept, for as many as count."""
MAX_SUSPEND_DAYS = 30
OFF = "off"


def read_breaker(node: Node | None, base: Breaker | None, problems: Problems) -> Breaker | None:
    """What `on_denials` says; *base* if it is not there, None if it is off or has problems."""
    if node is None:
        return base
    if not isinstance(node.value, dict):
        if node.source != OFF:
            problems.add(
                "bad-on-denials",
                f"{quote(node.source)} is neither `off` nor a mapping",
                node.span,
                "write `on_denials: {threshold: 50/minute, suspend: 10m}`, or `on_denials: off`",
            )
        return None
    threshold, suspend = node.get("threshold"), node.get("suspend")
    count = None if threshold is None else _read_threshold(threshold, problems)
    suspend_s = None if suspend is None else _read_suspend(suspend, problems)
    if count is None or suspend_s is None:
        return None
    return Breaker(count[0], count[1], suspend_s)


def _read_threshold(node: Node, problems: Problems) -> tuple[int, str] | None:
    quantity = problems.attempt(
        lambda: parse_count_per_period(node.source, RATE_PERIODS_US.keys(), node.span)
    )
    if quantity is not None and quantity[0] > MAX_THRESHOLD:
        problems.add(
            "threshold-out-of-range",
            f"the threshold {quote(str(quantity[0]))} is over {MAX_THRESHOLD}",
            node.span,
            "write fewer refusals, in a shorter period",
        )
    return quantity


def _read_suspend(node: Node, problems: Problems) -> int | None:
    because = "for longer, somebody ought to look at it"
    return problems.attempt(
        lambda: parse_duration(node.source, node.span, MAX_SUSPEND_DAYS, because)
    )
