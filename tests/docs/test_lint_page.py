"""The page on lint: a section for each rule, with examples that are what they are said to be."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import pytest

from keyleash.commands import CommandTable, load_table
from keyleash.policy import parse_policy
from keyleash.policy.lint import CODES, lint

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "lint.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTRODUCTION = "Accepting a finding"
SECTIONS = {title: text for title, text in SECTION.findall(PAGE) if title != INTRODUCTION}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WHOLE = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    if "version: 1" in block
]


@pytest.fixture(scope="module")
def table() -> CommandTable:
    """The shipped table."""
    return load_table()


def found(text: str, table: CommandTable) -> list[str]:
    """The codes of all that is said of a document."""
    policy = parse_policy(text, file="p.yaml", commands=table)
    return [warning.code for warning in (*policy.warnings, *lint(policy).warnings)]


def examples(code: str) -> list[str]:
    """The whole documents of a section's examples."""
    blocks = BLOCK.findall(SECTIONS[code])
    return ["version: 1\nidentities:\n" + indent(block, "  ") for block in blocks]


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """Whoever meets a code finds what it means, in the order of the rules."""
    assert list(SECTIONS) == [*CODES, "masked-images"]


@pytest.mark.parametrize("code", SECTIONS)
def test_bad_example_triggers_its_rule_alone_and_the_good_one_none(
    code: str, table: CommandTable
) -> None:
    """What a page shows as mended is mended."""
    bad, good = examples(code)

    assert set(found(bad, table)) == {code}
    assert found(good, table) == []


@pytest.mark.parametrize("text", WHOLE)
def test_whole_policies_in_the_pages_are_clean(text: str, table: CommandTable) -> None:
    """People copy what they read first."""
    assert found(text, table) == []


def test_example_policy_is_clean(table: CommandTable) -> None:
    """What it accepts, it accepts with a reason."""
    text = (ROOT / "examples" / "agents.yaml").read_text(encoding="utf-8")
    policy = parse_policy(text, file="agents.yaml", commands=table)
    report = lint(policy)

    assert report.findings == ()
    assert [(item.identity, item.problem.code) for item in report.accepted] == [
        ("agent-runner", "idle-deny")
    ]
