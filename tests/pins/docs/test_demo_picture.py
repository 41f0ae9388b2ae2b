"""The picture of the demo in README, which `make docs` draws."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools.demo_picture import SCENES, drawing, printed_lines, shown_lines

from keyleash.addons.demo import story
from keyleash.cli import demo
from support.command_line import Cli

PICTURE = Path(__file__).resolve().parents[3] / "docs" / "images" / "demo.svg"


def test_picture_shows_what_the_demo_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for numbers and ids, which differ in each run; later scenes are not in it."""
    monkeypatch.setattr(demo, "SCENES", story.SCENES[: max(SCENES)])
    output = Cli("redis://127.0.0.1:1").ok("demo")

    assert len(printed_lines(output)) > 20
    assert shown_lines(PICTURE.read_text("utf-8")) == printed_lines(output)
    assert shown_lines(drawing(output)) == printed_lines(output)


def test_picture_asks_no_other_host_and_ends_below_its_last_line() -> None:
    """Browsers cut off what is drawn below the last line's base, such as an underscore."""
    svg = drawing("\n\n 2  a scene\n    agent  GET k\n           TOKEN_REVOKED  ok\n")

    assert shown_lines(svg)[-1] == "TOKEN_REVOKED ok"
    assert "url(http" not in svg + PICTURE.read_text("utf-8")
    assert "line-5" in svg
