"""Parse and format durations, sizes and counts per period."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from keyleash.errors import PolicyError, Span
from keyleash.limits.counters import BYTES
from keyleash.policy.problems import did_you_mean, fail, listing, quote

N = TypeVar("N", int, float, int | None, float | None)

Duration = str | timedelta
"""A duration as text, such as `90s` or `1h30m`, or as a `timedelta`."""

Moment = str | timedelta | datetime
"""A time: an aware `datetime`, ISO 8601, or how long before now: `10m` or a `timedelta`."""

UNITS_S = {"w": 604_800, "d": 86_400, "h": 3600, "m": 60, "s": 1}
MAX_DAYS = 366
MAX_DURATION_S = MAX_DAYS * UNITS_S["d"]
UNITS_BYTES = {"b": 1, "kb": 1024, "mb": 1024**2}
"""The units of sizes; those of amounts per period are `limits.counters.BYTES`."""
MAX_SIZE_BYTES = 16 * UNITS_BYTES["mb"]
MAX_VALUE_BYTES = 512 * UNITS_BYTES["mb"]
"""The longest string of a server whose `proto-max-bulk-len` is not changed."""
MAX_REPLY_BYTES = 64 * UNITS_BYTES["kb"]
"""The longest reply that a guard stores with an idempotency id."""
UNITS_MS = {"ms": 1, "s": 1000}
MAX_WAIT_MS = 60_000

# The number of digits keeps arithmetic small; every bound is far below it.
_NUMBER = r"[0-9]{1,64}"
_DURATION = re.compile("(-?)" + "".join(f"(?:({_NUMBER}){unit})?" for unit in UNITS_S))
_AMOUNT = re.compile(rf"({_NUMBER})({'|'.join(BYTES)})")
_COUNT_PER_PERIOD = re.compile(rf"(-?{_NUMBER})/([A-Za-z]+)")


def is_duration(text: str) -> bool:
    """Return whether *text* has the form of a duration, in or out of bounds."""
    return _as_duration(text) is not None


def _as_duration(text: str) -> re.Match[str] | None:
    match = _DURATION.fullmatch(text)
    return match if match and any(match.groups()[1:]) else None


def parse_duration(
    text: str,
    span: Span,
    max_s: int = MAX_DURATION_S,
    because: str = "a token that outlives that is a password",
) -> int:
    """
    Read a duration such as `30s`, `15m`, `12h`, `3d`, `2w` or `1h30m`.

    Args:
        max_s: The longest duration, in seconds.
        because: The reason for that bound, for the help.

    Returns:
        Seconds, at least 1; by default at most `MAX_DURATION_S`.

    Raises:
        PolicyError: It is not a duration, not over zero, or too long.
    """
    match = _as_duration(f"{text}s" if re.fullmatch("0+", text) else text)
    if match is None:
        help = (
            f"write a unit, such as `{text}s`"
            if re.fullmatch(_NUMBER, text)
            else "write a number and a unit, such as `30s`, `15m`, `12h`, `3d`, `2w` or `1h30m`"
        )
        raise fail("bad-duration", f"{quote(text)} is not a duration", span, help)
    sign, *numbers = match.groups()
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
    if seconds > max_s:
        longest = format_duration(max_s)
        raise fail(
            "duration-out-of-range",
            f"{quote(text)} is longer than `{longest}`",
            span,
            f"write `{longest}` or less; {because}",
        )
    return seconds


def parse_moment(text: str, now_ms: int) -> int:
    """
    Read a time: a duration before *now_ms* such as `10m`, or ISO 8601, in UTC by default.

    Returns:
        Unix milliseconds, at least 0.

    Raises:
        ValueError: It is neither.
    """
    try:
        return max(0, now_ms - parse_duration(text, Span("", 1, 1)) * 1000)
    except PolicyError as error:
        if error.problems[0].code == "duration-out-of-range":
            raise ValueError(error.problems[0].message) from None
    try:
        return max(0, iso_ms(text))
    except (ValueError, OverflowError):
        raise ValueError(
            f"`{text}` is not a time; write a duration ago, such as `10m`, or a time, such as"
            " `2026-01-31T12:00Z`"
        ) from None


def iso_ms(text: str) -> int:
    """Return a time in ISO 8601, in UTC by default, as Unix milliseconds.

    Raises:
        ValueError: It is not a time.
        OverflowError: It is out of range.
    """
    time = datetime.fromisoformat(text)
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def time_ms_of(name: str, value: Moment, now_ms: int) -> int:
    """Return the value of the parameter *name*, a time, in Unix milliseconds.

    Raises:
        TypeError: it has another type.
        ValueError: it is a naive `datetime`, or text that is neither a duration nor a time.
    """
    match value:
        case datetime():
            if value.tzinfo is None:
                raise ValueError(f"`{name}` must be an aware datetime; give it a `tzinfo`")
            return max(0, round(value.timestamp() * 1000))
        case timedelta():
            return max(0, now_ms - round(value.total_seconds() * 1000))
        case str():
            try:
                return parse_moment(value, now_ms)
            except ValueError as error:
                raise ValueError(f"`{name}`: {error}") from None
    raise TypeError(f"`{name}` must be a str, timedelta or datetime, not {type(value).__name__}")


def _in_units(
    text: str, units: Mapping[str, int], code: str, noun: str, span: Span, help: str
) -> int:
    """Return a number with a unit in the first of *units*; negative numbers are out of range."""
    pattern = rf"(-?{_NUMBER})({'|'.join(units)})"
    match = re.fullmatch(pattern, text)
    if match is not None:
        return int(match[1]) * units[match[2]]
    if re.fullmatch(_NUMBER, text):
        help = f"write a unit, such as `{text}{next(iter(units))}`"
    elif re.fullmatch(pattern, text.lower()):
        help = f"write `{text.lower()}`"
    raise fail(code, f"{quote(text)} is not {noun}", span, help)


def parse_wait(text: str, span: Span) -> int:
    """
    Read a time to wait such as `50ms` or `2s`.

    Returns:
        Milliseconds, from 1 to `MAX_WAIT_MS`.

    Raises:
        PolicyError: It is not a time to wait, or out of bounds.
    """
    help = "write milliseconds or seconds up to `60s`, such as `50ms` or `2s`"
    milliseconds = _in_units(text, UNITS_MS, "bad-timeout", "a time to wait", span, help)
    if not 1 <= milliseconds <= MAX_WAIT_MS:
        raise fail(
            "timeout-out-of-range",
            f"{quote(text)} is not between `1ms` and `60s`",
            span,
            "write `60s` or less"
            if milliseconds > 0
            else "write `1ms` or more; `wait_replicas: 0` waits for none",
        )
    return milliseconds


def format_duration(seconds: int) -> str:
    """Return seconds as `parse_duration` reads them: `5400` as `1h30m`, 30 days as `30d`."""
    text, units_s = "", dict(UNITS_S)
    if seconds % units_s["w"]:
        del units_s["w"]
    for unit, unit_s in units_s.items():
        count, seconds = divmod(seconds, unit_s)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def format_expiry(seconds: int) -> str:
    """Return seconds like `format_duration`, but in days rather than weeks, as denials do."""
    days, rest = divmod(seconds, UNITS_S["d"])
    return format_duration(seconds) if rest else f"{days}d"


def format_size(count: int) -> str:
    """Return bytes as `parse_size` reads them: `65536` as `64kb`."""
    unit = next(unit for unit in ("mb", "kb", "b") if count % UNITS_BYTES[unit] == 0)
    return f"{count // UNITS_BYTES[unit]}{unit}"


def parse_size(
    text: str,
    span: Span,
    max_bytes: int = MAX_SIZE_BYTES,
    *,
    because: str = "",
    instead_of_none: str = "",
) -> int:
    """
    Read a size such as `512b`, `64kb` or `1mb`.

    Args:
        max_bytes: The largest size.
        because: The reason for that bound, for the help.
        instead_of_none: What to write for a size of zero, for the help.

    Returns:
        Bytes, from 1 to *max_bytes*.

    Raises:
        PolicyError: It is not a size, or out of bounds.
    """
    largest = f"`{format_size(max_bytes)}`"
    help = f"write a number and a unit, such as `512b`, `64kb` or `1mb`, up to {largest}"
    size = _in_units(text, UNITS_BYTES, "bad-size", "a size", span, help)
    if not 1 <= size <= max_bytes:
        help, reason = f"write {largest} or less", because
        if size <= 0:
            help, reason = "write `1b` or more", instead_of_none
        message = f"{quote(text)} is not between `1b` and {largest}"
        raise fail("size-out-of-range", message, span, f"{help}; {reason}" if reason else help)
    return size


def parse_size_per_period(text: str, periods: Collection[str], span: Span) -> tuple[int, str]:
    """
    Read an amount of bytes per period such as `1gb/day`, like `parse_count_per_period`.

    Raises:
        PolicyError: It is not an amount of bytes per period, or the period is unknown.
    """
    amount, _, period = text.partition("/")
    match = _AMOUNT.fullmatch(amount)
    if match is None:
        raise fail(
            "bad-quantity",
            f"{quote(text)} is not an amount of bytes per period",
            span,
            "write digits, a unit, a slash and a period, such as `64kb/minute` or `1gb/day`",
        )
    count, period = parse_count_per_period(f"{match[1]}/{period}", periods, span)
    return count * BYTES[match[2]], period


def parse_amount(text: str) -> int | None:
    """Return the bytes of an amount such as `10mb`, any number of them; None if it is none."""
    match = _AMOUNT.fullmatch(text)
    return int(match[1]) * BYTES[match[2]] if match else None


def parse_count_per_period(text: str, periods: Collection[str], span: Span) -> tuple[int, str]:
    """
    Read a count per period such as `600/minute`.

    Returns:
        The count, at least 1, and the period, one of *periods*.

    Raises:
        PolicyError: It is not a count per period, the period is unknown, or the count below 1.
    """
    match = _COUNT_PER_PERIOD.fullmatch(text)
    if match is None:
        help = (
            f"add a period, as in `{text}/minute`"
            if re.fullmatch(_NUMBER, text)
            else "write digits, a slash and a period, such as `600/minute`"
        )
        raise fail("bad-quantity", f"{quote(text)} is not a count per period", span, help)
    count, period = int(match[1]), match[2]
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


def seconds_of(name: str, value: str | timedelta | None, *, least: int = 1) -> int | None:
    """Return the value of the parameter *name*, a duration, in whole seconds; None for None.

    Args:
        least: The shortest that is allowed: a second, or 0 as `timedelta(0)`.

    Raises:
        TypeError: it has another type.
        ValueError: it is too short or too long, not in whole seconds or not a duration.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        if seconds != int(seconds):
            raise ValueError(f"`{name}` must be a number of whole seconds, not {value}")
    elif isinstance(value, str):
        try:
            seconds = parse_duration(value, Span("", 1, 1))
        except PolicyError as error:
            problem = error.problems[0]
            raise ValueError(f"`{name}`: {problem.message}; {problem.help}") from None
    else:
        raise TypeError(f"`{name}` must be a str or a timedelta, not {type(value).__name__}")
    if seconds < least:
        raise ValueError(f"`{name}` must be longer than 0 seconds")
    if seconds > MAX_DURATION_S:
        raise ValueError(f"`{name}` must be at most {MAX_DAYS} days")
    return int(seconds)


def positive(name: str, value: N) -> N:
    """Return a number or None.

    Raises:
        ValueError: it is not over 0.
    """
    if value is not None and value <= 0:
        raise ValueError(f"`{name}` must be over 0")
    return value
