"""Durations, sizes and counts per period."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyleash.errors import PolicyError, Span
from keyleash.policy.quantities import (
    MAX_DURATION_S,
    MAX_SIZE_BYTES,
    format_duration,
    parse_count_per_period,
    parse_duration,
    parse_size,
)

HERE = Span("p.yaml", 1, 1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("15m", 900),
        ("12h", 43_200),
        ("3d", 259_200),
        ("2w", 1_209_600),
        ("1h30m", 5400),
        ("1w1d1h1m1s", 694_861),
        ("090s", 90),
    ],
)
def test_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    """Units go from weeks to seconds, each at most once."""
    assert parse_duration(text, HERE) == seconds


@given(seconds=st.integers(1, MAX_DURATION_S))
def test_formatted_duration_reads_back(seconds: int) -> None:
    """Printed durations can be pasted into a policy."""
    assert parse_duration(format_duration(seconds), HERE) == seconds


@given(text=st.text(alphabet="0123456789-+. wdhmsé٣"))
def test_any_other_text_is_a_policy_error(text: str) -> None:
    """A duration is within its bounds or rejected."""
    try:
        seconds = parse_duration(text, HERE)
    except PolicyError:
        return
    assert 1 <= seconds <= MAX_DURATION_S


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1b", 1),
        ("512b", 512),
        ("64kb", 65_536),
        ("1mb", 1_048_576),
        ("16mb", 16_777_216),
        ("16777216b", 16_777_216),
        ("007kb", 7168),
    ],
)
def test_size_is_read_in_bytes(text: str, size: int) -> None:
    """A kilobyte is 1024 bytes, as Redis has it."""
    assert parse_size(text, HERE) == size


@given(text=st.text(alphabet="0123456789-+. kmgbKMé٣"))
def test_any_other_text_is_not_a_size(text: str) -> None:
    """A size is within its bounds or rejected."""
    try:
        size = parse_size(text, HERE)
    except PolicyError:
        return
    assert 1 <= size <= MAX_SIZE_BYTES


@pytest.mark.parametrize(
    "text",
    ["", "/", "5", "5/", "/day", "5 / day", "5/day ", "5.0/day", "+5/day", "5/day/day", "٣/day"],
)
def test_other_text_is_not_a_count_per_period(text: str) -> None:
    """Digits, a slash, a word."""
    with pytest.raises(PolicyError) as caught:
        parse_count_per_period(text, ["day"], HERE)

    assert caught.value.problems[0].code == "bad-quantity"
