"""The sections of an identity's rules: token, on_denials, durability, limits.work, accept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from keyleash.errors import Span
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy.model import Acceptance, Breaker, Durability, TokenRules
from keyleash.policy.problems import Problems, quote
from keyleash.policy.quantities import (
    format_duration,
    parse_count_per_period,
    parse_duration,
    parse_wait,
)
from keyleash.policy.schema_errors import FIELDS
from keyleash.policy.yaml import YamlNode


class Origin(IntEnum):
    """Who set a duration; of two that do not go together, the greater is to blame."""

    BUILT_IN = 0
    DEFAULTS = 1
    IDENTITY = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """A duration, who set it and where; a built-in one stands nowhere."""

    field: str
    seconds: int
    written: str
    origin: Origin = Origin.BUILT_IN
    span: Span | None = None

    def __str__(self) -> str:
        return f"{self.field} {quote(self.written)}"


Settings = dict[str, Setting]
_BUILT_IN: Settings = {
    field: Setting(field, seconds, format_duration(seconds))
    for field, seconds in (("ttl", TokenRules().ttl_s), ("max_ttl", TokenRules().max_ttl_s))
}


def read_token_settings(
    node: YamlNode | None, origin: Origin, problems: Problems
) -> Settings | None:
    """
    Read the durations of one `token` mapping.

    Returns:
        Durations by field; None if one has a problem, so that none can be judged
        together.
    """
    if node is None:
        return {}
    settings = {
        field: Setting(field, seconds, below.source, origin, below.span)
        for field, below in node.fields.items()
        if (seconds := _read_duration(below, problems)) is not None
    }
    return None if problems.any_between(node.span, node.end) else settings


def _read_duration(node: YamlNode, problems: Problems) -> int | None:
    return problems.attempt(lambda: parse_duration(node.source, node.span))


def merge_token_rules(
    default: Settings | None, own: Settings | None, problems: Problems
) -> TokenRules:
    """The rules that hold for an identity; reports durations that do not go together."""
    if default is None or own is None:
        return TokenRules()
    merged = {**_BUILT_IN, **default, **own}
    _check_at_most(merged["ttl"], merged["max_ttl"], problems)
    if "idle" in merged:
        _check_at_most(merged["idle"], merged["ttl"], problems)
    seconds = {field: setting.seconds for field, setting in merged.items()}
    return TokenRules(
        ttl_s=seconds["ttl"],
        max_ttl_s=seconds["max_ttl"],
        rotate_after_s=seconds.get("rotate_after"),
        idle_s=seconds.get("idle"),
        spans={field: setting.span for field, setting in own.items() if setting.span},
    )


def _check_at_most(lower: Setting, upper: Setting, problems: Problems) -> None:
    blamed = max(lower, upper, key=lambda setting: setting.origin)
    if lower.seconds > upper.seconds and blamed.span is not None:
        problems.add(
            f"{lower.field}-over-{upper.field}".replace("_", "-"),
            f"{lower} is longer than {upper}",
            blamed.span,
            f"shorten `{lower.field}` or lengthen `{upper.field}`",
        )


MAX_THRESHOLD = 1000
"""The time of each refusal is kept, for as many as count."""
MAX_SUSPEND_DAYS = 30
OFF = "off"


def read_breaker(node: YamlNode | None, base: Breaker | None, problems: Problems) -> Breaker | None:
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


def _read_threshold(node: YamlNode, problems: Problems) -> tuple[int, str] | None:
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


def _read_suspend(node: YamlNode, problems: Problems) -> int | None:
    because = "for longer, somebody ought to look at it"
    return problems.attempt(
        lambda: parse_duration(node.source, node.span, MAX_SUSPEND_DAYS, because)
    )


MAX_REPLICAS = 100

Changes = dict[str, Any]
"""Fields of `Durability` with what the document says of them."""


def read_durability(node: YamlNode | None, base: Durability, problems: Problems) -> Durability:
    """What the `durability` mapping *node* makes of *base*, field by field."""
    changes: Changes = {}
    for field, read in _READERS.items():
        below = node.get(field) if node else None
        if below is not None:
            changes |= read(below, problems)
    return replace(base, **changes)


def _read_replicas(node: YamlNode, problems: Problems) -> Changes:
    count = int(node.source)
    if not 0 <= count <= MAX_REPLICAS:
        problems.add(
            "wait-replicas-out-of-range",
            f"{quote(node.source)} is not between 0 and {MAX_REPLICAS}",
            node.span,
            "write how many replicas must have a write, such as `wait_replicas: 1`;"
            " with `0` nothing is waited for",
        )
        return {}
    return {"wait_replicas": count}


def _read_timeout(node: YamlNode, problems: Problems) -> Changes:
    timeout_ms = problems.attempt(lambda: parse_wait(node.source, node.span))
    return {} if timeout_ms is None else {"timeout_ms": timeout_ms}


_READERS: dict[str, Callable[[YamlNode, Problems], Changes]] = {
    "wait_replicas": _read_replicas,
    "timeout": _read_timeout,
}


MIN_WORK, MAX_WORK = 1_000, 1_000_000_000


def read_work(node: YamlNode | None, base: int, problems: Problems) -> int:
    """Return `work` of the `limits` mapping *node* in units of work; *base* if it sets none."""
    work = node.get("work") if node else None
    if work is None:
        return base
    count = int(work.source)
    if MIN_WORK <= count <= MAX_WORK:
        return count
    problems.add(
        "work-out-of-range",
        f"{quote(work.source)} is not between {MIN_WORK} and {MAX_WORK}",
        work.span,
        "write how many units of work one call may be, such as `work: 250000`;"
        " a unit is about 0.1 µs of the server's time",
    )
    return base


def read_acceptances(node: YamlNode | None, problems: Problems) -> tuple[Acceptance, ...]:
    """
    The entries of an `accept` mapping, in file order.

    Whether there is such a finding is lint's to say: a policy goes on being valid where a
    rule is gone.
    """
    found = []
    for code, reason in node.fields.items() if node else ():
        if not reason.source.strip():
            problems.add(
                "empty-reason",
                f"{quote(code)} is accepted without a reason",
                reason.span,
                "write why it may stand, for whoever reads the policy next",
            )
        found.append(Acceptance(code, reason.source, reason.label))
    return tuple(found)


def check_not_empty(field: str, node: YamlNode, problems: Problems) -> None:
    """Report the list of that field if it has no entry."""
    if not (node.entries or node.partial):
        problems.add(
            "empty-list",
            f"`{field}` is empty",
            node.span,
            f"write at least one entry, such as `{FIELDS[field][1]}`",
        )


def check_distinct(entries: Iterable[tuple[str, YamlNode]], problems: Problems) -> None:
    """Report each entry whose meaning, which comes with it, an earlier one has too."""
    seen: set[str] = set()
    for meaning, entry in entries:
        if meaning in seen:
            problems.add(
                "repeated-entry", f"{quote(entry.source)} stands twice", entry.span, "remove one"
            )
        seen.add(meaning)
