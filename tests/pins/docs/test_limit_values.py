"""The policy and the program of the page on values, run as written."""

from __future__ import annotations

import re

import pytest

from support.how_to import HowTo

PAGE = "limit-values"


def test_page_on_values_works_as_written(how_to: HowTo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule denies what the page says, and the denial has the numbers."""
    how_to.load()
    monkeypatch.setenv("KEYLEASH_TOKEN", how_to.cli.token("agent-runner"))

    *rules, read, written = how_to.run()

    assert rules == [
        "True",
        "agents:jobs:42:log 100000 over 65536",
        "max_elements 1000 1001",
        "only absent present",
    ]
    assert re.fullmatch(r"budget\.bytes_written [1-9]\d+ bytes used", written)
    assert read == "budget.bytes_read 0 bytes used"
