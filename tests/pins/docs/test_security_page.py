"""docs/explanation/threat-model.md, generated from the attempts of the red team."""

from __future__ import annotations

from pathlib import Path

from proofs.redteam.page import page

PAGE = Path(__file__).resolve().parents[3] / "docs" / "explanation" / "threat-model.md"


def test_generated_page_equals_the_stored_page() -> None:
    """A changed attempt needs a new page."""
    assert PAGE.read_text() == page(), "run `make docs`"
