"""Fields of test files, and every mistake in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from keyleash.addons.policy_tests.model import Expected
from keyleash.addons.policy_tests.parse import parse_cases
from keyleash.errors import PolicyError, ReplyCode
from keyleash.operator.tokens.restrict import Scope
from keyleash.policy.quantities import iso_ms
from support.errors import golden_reports

GOLDEN = Path(__file__).with_name("bad_cases.txt")
SECOND_US = 1_000_000


@pytest.mark.parametrize(("document", "report"), golden_reports(GOLDEN))
def test_bad_test_file_is_reported(document: str, report: str) -> None:
    """The report has place, code, message and help of each problem, in file order."""
    with pytest.raises(PolicyError) as caught:
        parse_cases(document, "t.yaml")

    assert report == "\n".join(
        f"{problem.span.line}:{problem.span.column} {problem.code}: {problem.message}\n"
        f"  {problem.help}"
        for problem in caught.value.problems
    )


def test_messages_follow_the_style_guide() -> None:
    """Messages begin with lower case or a quotation, end without a period, and have help."""
    messages = re.findall(r"^\d+:\d+ [a-z0-9-]+: (.+)\n  (.+)$", GOLDEN.read_text("utf-8"), re.M)

    assert len(messages) > 30
    for line in (line for pair in messages for line in pair):
        assert re.match(r"[a-z`]", line), line
        assert not line.endswith("."), line


def test_steps_move_the_clock_of_a_case() -> None:
    """`advance` counts from the previous step, `at: +…` from the start of the case."""
    start_us = iso_ms("2026-03-02T12:00:00Z") * 1000
    cases = parse_cases(
        """\
policy: agents.yaml
clock: 2026-03-02T12:00Z
cases:
  - identity: a
    steps:
      - {command: PING, expect: allow}
      - {advance: 250ms, command: PING, expect: allow}
      - {advance: 1m}
      - {advance: 1h30m, command: PING, expect: allow}
      - {at: +3h, command: PING, expect: allow}
      - {at: 2026-03-03T00:00:00+01:00, command: PING, expect: allow}
  - {identity: a, command: PING, expect: allow}
""",
        "t.yaml",
    ).cases

    assert [(step.at_us - start_us) / SECOND_US for step in cases[0].steps] == [
        0,
        0.25,
        60.25 + 5400,
        3 * 3600,
        11 * 3600,
    ]
    assert cases[1].steps[0].at_us == start_us


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("GET a:1", [b"GET", b"a:1"]),
        ("set a:1 'two words'", [b"SET", b"a:1", b"two words"]),
        ("xgroup create s g $", [b"XGROUP", b"create", b"s", b"g", b"$"]),
        ('[SET, "a:1", ""]', [b"SET", b"a:1", b""]),
        ("[INCRBY, k, 7]", [b"INCRBY", b"k", b"7"]),
        ("[SET, k, true]", [b"SET", b"k", b"true"]),
        ("[xgroup create, s, g]", [b"XGROUP", b"create", b"s", b"g"]),
        ("SET schlüssel ü", [b"SET", "schlüssel".encode(), "ü".encode()]),
    ],
)
def test_command_is_a_line_or_a_list(command: str, argv: list[bytes]) -> None:
    """A list has the exact words; a line is split as by a shell."""
    text = f"policy: p\ncases: [{{identity: a, expect: allow, command: {command}}}]\n"
    if not command.startswith("["):
        text = f"policy: p\ncases:\n- identity: a\n  expect: allow\n  command: {command}\n"

    (case,) = parse_cases(text, "t.yaml").cases

    assert list(case.steps[0].argv) == argv


def test_expectation_may_have_details_of_the_denial() -> None:
    """A time in ISO 8601 is compared with the milliseconds of the denial."""
    (case,) = parse_cases(
        """\
policy: agents.yaml
cases:
  - identity: a
    command: PING
    expect: {code: BUDGET_EXHAUSTED, limit: budget.requests, resets_at: 2026-01-02T00:00:00Z}
""",
        "t.yaml",
    ).cases

    expected = case.steps[0].expected
    assert expected == Expected(
        ReplyCode.BUDGET_EXHAUSTED, {"limit": "budget.requests", "resets_at_ms": "1767312000000"}
    )
    assert str(expected) == "BUDGET_EXHAUSTED limit=budget.requests resets_at_ms=1767312000000"


def test_token_of_a_case_is_the_default_of_its_steps() -> None:
    """A step may name another token, for limits per token."""
    (case,) = parse_cases(
        """\
policy: agents.yaml
cases:
  - identity: a
    token: one
    steps:
      - {command: PING, expect: allow}
      - {command: PING, expect: allow, token: two}
""",
        "t.yaml",
    ).cases

    assert [step.token for step in case.steps] == ["one", "two"]


def test_restrictions_name_the_token() -> None:
    """Equal ones are one token, so that its caps count all of its calls."""
    (case,) = parse_cases(
        """\
policy: agents.yaml
cases:
  - identity: a
    token: {bind: {job_id: 42}, allow: [read], keys: ["k:*"], budget: {reads: 5, writes: 2/hour}}
    steps:
      - {command: PING, expect: allow}
      - {command: PING, expect: allow, token: two}
      - {command: PING, expect: allow, token: {bind: {job_id: "43"}}}
      - {command: PING, expect: allow, token: {bind: {job_id: 43}}}
""",
        "t.yaml",
    ).cases

    first, second, *others = [step.token for step in case.steps]
    assert second == "two"
    assert len({first, *others}) == 2
    assert [token.scope for token in case.bound.values()] == [
        Scope({"job_id": "42"}, ["read"], ["k:*"], {"reads": "5", "writes": "2/hour"}),
        Scope({"job_id": "43"}),
    ]
