"""The how-to pages, whose policies and programs run as written."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import Cli
from support.how_to import HowTo
from support.servers import RealServer


@pytest.fixture
def how_to(
    request: pytest.FixtureRequest,
    embedded: RealServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> HowTo:
    """The page that `PAGE` of the test's module names, on the embedded server."""
    monkeypatch.setenv("KEYLEASH_URL", embedded.url)
    monkeypatch.delenv("KEYLEASH_TOKEN", raising=False)
    return HowTo(request.module.PAGE, Cli(embedded.url), tmp_path)
