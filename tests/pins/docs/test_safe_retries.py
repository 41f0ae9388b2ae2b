"""The policy and the program of the page on safe retries, run as written."""

from __future__ import annotations

import pytest

from support.how_to import HowTo

PAGE = "safe-retries"


def test_page_on_safe_retries_works_as_written(
    how_to: HowTo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second step gets the replies of the first, and status counts it."""
    how_to.load()
    monkeypatch.setenv("KEYLEASH_TOKEN", how_to.cli.token("agent-runner"))

    assert how_to.run() == ["[1, 7] [1, 7]", "8", "job-42/step-3 belongs to another call"]
    (identity,) = how_to.cli.json("status")["identities"]
    assert identity["replays"] == 2
    assert 'keyleash_replays_total{identity="agent-runner"} 2.0' in how_to.cli.ok("metrics")
