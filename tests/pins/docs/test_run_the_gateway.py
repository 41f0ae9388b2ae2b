"""The page on the gateway: the command lines on it."""

from __future__ import annotations

import re
import shlex

import pytest

from support.deployment import IMAGE, ROOT, assert_accepted

PAGE = (ROOT / "docs" / "how-to" / "run-the-gateway.md").read_text(encoding="utf-8")
COMMAND = re.compile(
    rf"(?:^ +|=/opt/keyleash/bin/|\$\()keyleash ([^|)\n]*)|{IMAGE} (\w[^|\n]*)", re.M
)
LINES = [first or second for first, second in COMMAND.findall(PAGE)]


@pytest.mark.parametrize("line", LINES)
def test_command_of_the_page_has_options_of_the_program(line: str) -> None:
    """A reader copies it."""
    assert_accepted(shlex.split(line))


def test_page_has_commands_of_each_kind() -> None:
    """In a shell, within another command, in a unit and in a container."""
    assert len(LINES) == 7
