"""Every mistake a policy can have: `bad_documents.txt` has the documents and what is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from keyleash.errors import PolicyError
from keyleash.policy import Policy

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


def cases() -> list[object]:
    """One parameter set per case: the document, and the block that is expected."""
    _, *texts = GOLDEN.read_text(encoding="utf-8").split("=== ")
    found: list[object] = []
    for text in texts:
        title, _, rest = text.partition("\n")
        document, _, said = rest.partition(">>>\n")
        found.append(pytest.param(document, said.strip("\n"), id=title))
    return found


def problems_of(text: str, parse: Callable[[str], Policy]) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize(("document", "said"), cases())
def test_bad_document_says_what_is_wrong_and_where(
    document: str, said: str, parse: Callable[[str], Policy]
) -> None:
    """Place, code, message and help of every problem, in file order, and nothing else."""
    error = problems_of(document, parse)

    assert said == "\n".join(
        f"{problem.span.line}:{problem.span.column} {problem.code}: {problem.message}\n"
        f"  {problem.help}"
        for problem in error.problems
    )


def test_ten_mistakes_are_reported_at_once_in_file_order(parse: Callable[[str], Policy]) -> None:
    """Nobody should fix one mistake to be told of the next."""
    error = problems_of(TEN_MISTAKES, parse)

    assert [(problem.span.line, problem.code) for problem in error.problems] == [
        (3, "bad-duration"),
        (5, "bad-identity-name"),
        (7, "unknown-class"),
        (7, "misplaced-wildcard"),
        (8, "unknown-period"),
        (10, "unknown-kind"),
        (11, "unbalanced-brace"),
        (11, "refused-command"),
        (12, "unknown-timezone"),
        (13, "unknown-field"),
    ]


def test_every_message_keeps_the_style() -> None:
    """Lower case or a quotation first, no final period, and always a help."""
    said = re.findall(r"^\d+:\d+ [a-z0-9-]+: (.+)\n  (.+)$", GOLDEN.read_text("utf-8"), re.M)

    assert len(said) > 100
    for line in (line for pair in said for line in pair):
        assert re.match(r"[a-z`]", line), line
        assert not line.endswith("."), line


def test_character_that_yaml_forbids_is_located(parse: Callable[[str], Policy]) -> None:
    """PyYAML counts such a place in characters, not in lines."""
    error = problems_of("version: 1\n# bell: \a\n", parse)

    assert str(error) == (
        "p.yaml:2:9: cannot read the document: the character `\\x07` is not allowed in YAML\n"
        '  help: remove it, or write it as an escape in double quotes, such as "\\u0007"'
    )


def test_alias_bomb_is_refused_without_being_expanded(parse: Callable[[str], Policy]) -> None:
    """Ten levels of ten aliases would be ten billion values."""
    levels = "\n".join(
        f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]" for level in range(1, 11)
    )
    error = problems_of(f"l0: &l0 [x]\n{levels}\n", parse)

    codes = {problem.code for problem in error.problems}
    assert codes == {"alias-refused", "unknown-field", "missing-field"}


def test_tabs_in_broken_json_are_a_located_problem(parse: Callable[[str], Policy]) -> None:
    """Tabs pass in valid JSON only; otherwise PyYAML's word on them stands."""
    error = problems_of('{\n\t"version": 1,\n\t"identities": }\n', parse)

    assert str(error.problems[0].span) == "p.yaml:2:1"
    assert error.problems[0].code == "bad-yaml"
