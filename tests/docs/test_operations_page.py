"""The page on operations: a section for each code of the doctor."""

from __future__ import annotations

import re
from pathlib import Path

from keyleash.doctor import CODES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text("utf-8")


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    """Whoever meets a code finds what it means, in the order of the checks."""
    assert re.findall(r"^### (.*)$", PAGE, re.MULTILINE) == list(CODES)


def test_every_section_says_something() -> None:
    """A heading alone helps nobody."""
    sections = re.split(r"^### .*$", PAGE, flags=re.MULTILINE)[1:]

    assert all(len(text.split()) >= 10 for text in sections)
