"""Token rules: an identity's own fields over the document's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from keyleash.errors import Span
from keyleash.policy.model import TokenRules
from keyleash.policy.node import Node
from keyleash.policy.problems import Problems, quote
from keyleash.policy.quantities import format_duration, parse_duration


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


def read_token_settings(node: Node | None, origin: Origin, problems: Problems) -> Settings | None:
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


def _read_duration(node: Node, problems: Problems) -> int | None:
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
