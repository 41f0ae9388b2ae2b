"""Every mistake in a policy: `bad_documents.txt` has the documents and their reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from keyleash.errors import PolicyError
from keyleash.policy import Policy
from support.errors import golden_reports

GOLDEN = Path(__file__).with_name("bad_documents.txt")

TEN_MISTAKES = """\
version: 1
defaults:
  token: {ttl: 12 hours}
identities:
  Agent-Reader:
    kind: machine
    grants: [{allow: [raed], keys: ["agents:*:context"]}]
    rate: {requests: 3000/fortnight}
  agent-runner:
    kind: robot
    grants: [{allow: [write], keys: ["agents:jobs:{job_id"], only: [FLUSHALL]}]
    budget: {writes: {limit: 20000/day, timezone: Europe/Berlni}}
    audit: {retian: 100}
"""


def problems_of(text: str, parse: Callable[[str], Policy]) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize(("document", "report"), golden_reports(GOLDEN))
def test_bad_document_is_reported(
    document: str, report: str, parse: Callable[[str], Policy]
) -> None:
    """The report has place, code, message and help of each problem, in file order."""
    error = problems_of(document, parse)

    assert report == "\n".join(
        f"{problem.span.line}:{problem.span.column} {problem.code}: {problem.message}\n"
        f"  {problem.help}"
        for problem in error.problems
    )


def test_ten_mistakes_are_reported_at_once_in_file_order(parse: Callable[[str], Policy]) -> None:
    """One run reports all mistakes."""
    error = problems_of(TEN_MISTAKES, parse)

    assert [(problem.span.line, problem.code) for problem in error.problems] == [
        (3, "bad-duration"),
        (5, "bad-identity-name"),
        (7, "unknown-class"),
        (7, "misplaced-wildcard"),
        (8, "unknown-period"),
        (10, "unknown-kind"),
        (11, "unbalanced-brace"),
        (11, "ungrantable-command"),
        (12, "unknown-timezone"),
        (13, "unknown-field"),
    ]


def test_messages_follow_the_style_guide() -> None:
    """Messages begin with lower case or a quotation, end without a period, and have help."""
    messages = re.findall(r"^\d+:\d+ [a-z0-9-]+: (.+)\n  (.+)$", GOLDEN.read_text("utf-8"), re.M)

    assert len(messages) > 100
    for line in (line for pair in messages for line in pair):
        assert re.match(r"[a-z`]", line), line
        assert not line.endswith("."), line


def test_character_that_yaml_forbids_is_located(parse: Callable[[str], Policy]) -> None:
    """PyYAML reports the place in characters, not in lines."""
    error = problems_of("version: 1\n# bell: \a\n", parse)

    assert str(error) == (
        "p.yaml:2:9: cannot read the document: the character `\\x07` is not allowed in YAML\n"
        '  help: remove it, or write it as an escape in double quotes, such as "\\u0007"'
    )


def test_alias_bomb_is_rejected_without_expansion(parse: Callable[[str], Policy]) -> None:
    """Ten levels of ten aliases would be ten billion values."""
    levels = "\n".join(
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 11)
    )
    error = problems_of(f"l0: &l0 [x]\n{levels}\n", parse)

    codes = {problem.code for problem in error.problems}
    assert codes == {"yaml-alias", "unknown-field", "missing-field"}


def test_tabs_in_broken_json_are_a_located_problem(parse: Callable[[str], Policy]) -> None:
    """Tabs are allowed in valid JSON only."""
    error = problems_of('{\n\t"version": 1,\n\t"identities": }\n', parse)

    assert str(error.problems[0].span) == "p.yaml:2:1"
    assert error.problems[0].code == "bad-yaml"
