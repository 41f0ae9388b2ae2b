"""Excerpts of output on the pages: what no test runs as written must still be what is printed."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyleash
from support.command_line import Cli
from support.servers import RealServer

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HELP = re.compile(r"^ *help: (.*)$", re.M)
WORDS = 3
"""The fewest words of a part that is looked up: shorter ones are anywhere."""


def parts(text: str) -> list[str]:
    """Return the parts of a help that have words of their own, without names and values."""
    found = re.split(r"[;:,] (?:so that )?", re.sub(r"`[^`]*`", "``", text))
    return [part for part in found if len(re.findall(r"[a-z]{2,}", part)) >= WORDS]


def templates() -> Iterator[str]:
    """Yield the lines of all texts in the source, with a NUL for a value."""
    for file in (ROOT / "loader" / "keyleash").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                values = [getattr(value, "value", "") for value in node.values]
                yield "".join(value if isinstance(value, str) else "\0" for value in values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                # A continued line, and a value, of the catalog of denials.
                text = re.sub(r"\n {6}", " ", node.value)
                yield from re.sub(r"\{\w+\}|\$[A-Z]+|agent: |operator: ", "\0", text).split("\n")


def test_help_on_the_pages_is_one_that_the_source_has() -> None:
    """A reader compares it with what the command prints."""
    shown = {(page.name, part) for page in PAGES for help_ in HELP.findall(page.read_text())
             for part in parts(help_)}  # fmt: skip
    known = {part.strip(" ;:,") for text in templates() for part in parts(text)}
    pattern = re.compile("|".join(".*".join(map(re.escape, part.split("\0"))) for part in known))

    assert len(shown) > 15
    assert [(page, part) for page, part in sorted(shown) if not pattern.fullmatch(part)] == []


def test_status_on_the_page_has_the_columns_and_the_legend_of_the_command(
    embedded: RealServer,
) -> None:
    """The same denials lead to the same numbers."""
    cli = Cli(embedded.url)
    cli.ok("load", ROOT / "examples" / "agents.yaml", "--yes")
    agent = keyleash.Redis.from_url(embedded.url, token=cli.token("agent-runner"))
    # Those of one minute share an entry.
    while (left_s := 60 - int(embedded.client().time()[0]) % 60) < 5:
        time.sleep(left_s)
    for key in ("elsewhere", "agents:jobs:1:lock"):
        for _ in range(7):
            with pytest.raises(keyleash.LeashError):
                agent.get(key)
    page = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
    _, _, excerpt = page.partition("$ keyleash status\n")

    def lines(text: str) -> list[str]:
        """The lines without a time of their own."""
        found = [" ".join(line.split()) for line in text.splitlines()]
        found = [re.sub(r" (\d+s ago|now)$", "", line) for line in found]
        return [line for line in found if re.match(r"identity |denied |\S+ KEY_", line)]

    assert lines(excerpt.partition("\n| ")[0]) == lines(cli.ok("status"))
