"""docs/explanation/threat-model.md says what the red team found."""

from __future__ import annotations

from pathlib import Path

from redteam.page import page

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "threat-model.md"


def test_security_page_is_what_the_attempts_say() -> None:
    """`make docs` writes it anew."""
    assert PAGE.read_text() == page()
