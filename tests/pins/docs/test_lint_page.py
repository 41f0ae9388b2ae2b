"""docs/reference/lint.md: a section for each rule, with an example of it and of its remedy."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent

import pytest

from keyleash.commands import CommandTable, load_table
from keyleash.policy import parse_policy
from keyleash.policy.lint import CODES, lint
from support.leash import with_files

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "reference" / "lint.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LUA = re.compile(r"^```lua\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INTRODUCTION = "Accepting a finding"
SECTIONS = {title: text for title, text in SECTION.findall(PAGE) if title != INTRODUCTION}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
(TAKE,) = LUA.findall((ROOT / "docs" / "reference" / "scripts.md").read_text(encoding="utf-8"))
OF_LIBRARIES = ("bullmq.md", "compatibility.md", "gateway-clients.md")
WHOLE = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    # The policies of libraries need these installed: their own tests load them.
    if "version: 1" in block and page.name not in OF_LIBRARIES
]


@pytest.fixture(scope="module")
def table() -> CommandTable:
    """The shipped table."""
    return load_table()


def codes_of(text: str, table: CommandTable) -> list[str]:
    """Return the codes of all warnings of a document."""
    policy = parse_policy(text, file="p.yaml", commands=table)
    return [warning.code for warning in (*policy.warnings, *lint(policy).warnings)]


def examples(code: str) -> list[str]:
    """Return the examples of a section as complete documents."""
    blocks = BLOCK.findall(SECTIONS[code])
    documents = [
        f"version: 1\n{block}"
        if block.startswith("scripts:")
        else "version: 1\nidentities:\n" + indent(block, "  ")
        for block in blocks
    ]
    scripts = LUA.findall(SECTIONS[code])
    if not scripts:
        return documents
    return [
        with_files(document, {"count.lua": text})
        for document, text in zip(documents, scripts, strict=True)
    ]


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """The page explains all codes, in the order of the rules."""
    assert list(SECTIONS) == [*CODES, "masked-images", "unused-script"]


@pytest.mark.parametrize("code", SECTIONS)
def test_bad_example_triggers_its_rule_alone_and_the_good_one_none(
    code: str, table: CommandTable
) -> None:
    """The remedy that the page shows removes the finding."""
    bad, good = examples(code)

    assert set(codes_of(bad, table)) == {code}
    assert codes_of(good, table) == []


@pytest.mark.parametrize("text", WHOLE)
def test_complete_policies_in_the_pages_have_no_findings(text: str, table: CommandTable) -> None:
    """Readers copy these policies, and the script that some name."""
    assert codes_of(with_files(text, {"take.lua": TAKE}), table) == []


def test_example_policy_has_no_findings(table: CommandTable) -> None:
    """The example has no findings except one that it accepts."""
    text = (ROOT / "examples" / "agents.yaml").read_text(encoding="utf-8")
    policy = parse_policy(text, file="agents.yaml", commands=table)
    report = lint(policy)

    assert report.findings == ()
    assert [(item.identity, item.problem.code) for item in report.accepted] == [
        ("agent-runner", "idle-deny")
    ]
