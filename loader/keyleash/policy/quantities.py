"""Durations and counts per period, as people write them."""

from __future__ import annotations

import re
from collections.abc import Collection

from keyleash.errors import Span
from keyleash.policy.problems import did_you_mean, fail, listing, quote

UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
MAX_DURATION_S = 366 * UNITS_S["d"]

# The number of digits keeps arithmetic small; every bound is far below it.
_NUMBER = r"[0-9]{1,18}"
_DURATION = re.compile("(-?)" + "".join(f"(?:({_NUMBER}){unit})?" for unit in UNITS_S))
_COUNT_PER_PERIOD = re.compile(rf"(-?{_NUMBER})/([A-Za-z]+)")


def parse_duration(text: str, span: Span) -> int:
    """
    Read a duration such as `30s`, `15m`, `12h`, `3d`, `2w` or `1h30m`.

    Returns:
        Seconds, from 1 to `MAX_DURATION_S`.

    Raises:
        PolicyError: It is no duration, not over zero, or over 366 days.
    """
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()[1:]):
        help = (
            f"write a unit, such as `{text}s`"
            if re.fullmatch(_NUMBER, text)
            else "write a number and a unit, such as `30s`, `15m`, `12h`, `3d`, `2w` or `1h30m`"
        )
        raise fail("bad-duration", f"{quote(text)} is not a duration", span, help)
    sign, *numbers = found.groups()
    seconds = sum(
        int(number or 0) * unit_s for number, unit_s in zip(numbers, UNITS_S.values(), strict=True)
    )
    if sign or seconds == 0:
        raise fail(
            "duration-out-of-range",
            f"{quote(text)} is not longer than zero",
            span,
            "write a duration of `1s` or more",
        )
    if seconds > MAX_DURATION_S:
        raise fail(
            "duration-out-of-range",
            f"{quote(text)} is longer than `366d`",
            span,
            "write `366d` or less; a token that outlives that is a password",
        )
    return seconds


def format_duration(seconds: int) -> str:
    """Seconds as `parse_duration` reads them, in the fewest units: `5400` as `1h30m`."""
    said = ""
    for unit, unit_s in UNITS_S.items():
        count, seconds = divmod(seconds, unit_s)
        said += f"{count}{unit}" if count else ""
    return said or "0s"


def parse_count_per_period(text: str, periods: Collection[str], span: Span) -> tuple[int, str]:
    """
    Read a count per period such as `600/minute`.

    Args:
        text: What was written.
        periods: The periods that may stand after the slash.
        span: Where it stands.

    Returns:
        The count, at least 1, and the period.

    Raises:
        PolicyError: It is no such thing, the period is unknown, or the count below 1.
    """
    found = _COUNT_PER_PERIOD.fullmatch(text)
    if found is None:
        help = (
            f"add a period, as in `{text}/minute`"
            if re.fullmatch(_NUMBER, text)
            else "write digits, a slash and a period, such as `600/minute`"
        )
        raise fail("bad-quantity", f"{quote(text)} is not a count per period", span, help)
    count, period = int(found[1]), found[2]
    if period not in periods:
        raise fail(
            "unknown-period",
            f"unknown period {quote(period)}",
            span,
            did_you_mean(period, periods, f"the periods here are {listing(periods)}"),
        )
    if count < 1:
        raise fail(
            "limit-out-of-range",
            f"the limit {quote(str(count))} is below `1`",
            span,
            "write `1` or more; to allow nothing, grant nothing",
        )
    return count, period
