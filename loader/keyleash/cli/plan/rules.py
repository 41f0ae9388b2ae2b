"""One rule in the words of a policy file."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.cli.text import printable
from keyleash.policy import Breaker, Budget, Grant, Pattern, Rate, SubjectKind
from keyleash.policy.diff import Change, Part
from keyleash.policy.limits import RATE_PERIODS_US
from keyleash.policy.quantities import format_duration

NOTHING = "none"
_PERIODS = {period_us: period for period, period_us in RATE_PERIODS_US.items()}


def rule_name(change: Change) -> str:
    """What a change is about: `grant`, `rate.writes`, `token.ttl`."""
    if change.part is Part.AUDIT and change.name == "image_bytes":
        return "audit.before_images"
    name = change.name.removesuffix("_s").removesuffix("_ms")
    return f"{change.part}.{name}" if name else str(change.part)


def rule_text(change: Change, value: object) -> str:
    """One side of a change on one line; `none` if there is nothing."""
    match value:
        case None:
            return NOTHING
        case Grant():
            return _grant(value)
        case Pattern():
            return _quoted((value,))
        case Rate():
            burst = "" if value.burst is None else f", burst {value.burst}"
            return f"{value.limit}/{_PERIODS[value.period_us]}{burst}{_subject(value)}"
        case Budget():
            zone = "" if value.timezone == "UTC" else f" {value.timezone}"
            return f"{value.limit}/{value.period}{zone}{_subject(value)}"
        case Breaker():
            suspend = format_duration(value.suspend_s)
            return f"{value.threshold}/{value.period}, suspend {suspend}"
        case bool():
            return "true" if value else "false"
        case int():
            return _number(change, value)
        case tuple():
            return _quoted(value) or NOTHING
        case _:
            return printable(str(value))


def _grant(grant: Grant) -> str:
    said = ", ".join(grant.allow)
    if grant.keys:
        said += f" on {_quoted(grant.keys)}"
    if grant.channels:
        said += f"; channels {_quoted(grant.channels)}"
    if grant.only is not None:
        said += f"; only {', '.join(grant.only)}"
    if grant.except_:
        said += f"; except {', '.join(grant.except_)}"
    if grant.image_bytes is not None:
        said += f"; before-images {_images(grant.image_bytes)}"
    if grant.value_bytes is not None:
        said += f"; values {_images(grant.value_bytes)}"
    return said


def _quoted(patterns: Iterable[Pattern]) -> str:
    return ", ".join(f"`{printable(one.source)}`" for one in patterns)


def _subject(limit: Rate | Budget) -> str:
    match limit.subject.kind:
        case SubjectKind.IDENTITY:
            return ""
        case SubjectKind.TOKEN:
            return " per token"
        case SubjectKind.CAPTURE:
            return f" per {{{limit.subject.capture}}}"


def _number(change: Change, value: int) -> str:
    if change.name.endswith("_s"):
        return format_duration(value)
    if change.name.endswith("_ms"):
        return f"{value}ms"
    return _images(value) if change.name == "image_bytes" else str(value)


def _images(size: int) -> str:
    return f"up to {size} bytes" if size else "off"
