"""Every attempt has the outcome that docs/explanation/threat-model.md lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redteam.attempt import Attempt, Tier
from redteam.attempts import ATTEMPTS
from redteam.stage import Stage, staged
from support.servers import find_server_binaries

STAGES = [(label, tier) for label in find_server_binaries() for tier in Tier]


@pytest.fixture(scope="module", params=STAGES, ids="-".join)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A stage per server and tier."""
    label, tier = request.param
    binary = find_server_binaries()[label]
    with staged(binary, tier, tmp_path_factory.mktemp("redteam")) as stage:
        yield stage


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_attempt_has_the_outcome_on_the_page(stage: Stage, attempt: Attempt) -> None:
    """The page lists exactly what is possible."""
    outcome, details = stage.try_out(attempt)

    assert outcome is attempt.expected[stage.tier], details
