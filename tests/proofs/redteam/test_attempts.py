"""Every attempt has the outcome that docs/explanation/threat-model.md lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proofs.redteam.attempt import Attempt, Tier
from proofs.redteam.attempts import ATTEMPTS
from proofs.redteam.behind_gateway import staged_behind_gateway
from proofs.redteam.stage import Stage, staged
from support.servers import find_server_binaries

CASES = [
    pytest.param((label, tier), attempt, id=f"{label}-{tier}-{attempt.name}")
    for label in find_server_binaries()
    for tier in Tier
    for attempt in ATTEMPTS
    if tier in attempt.expected
]


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A stage per server and tier."""
    label, tier = request.param
    binary, folder = find_server_binaries()[label], tmp_path_factory.mktemp("redteam")
    is_behind = tier is Tier.GATEWAY
    with staged_behind_gateway(binary, folder) if is_behind else staged(binary, folder) as it:
        yield it


@pytest.mark.parametrize(("stage", "attempt"), CASES, indirect=["stage"], scope="module")
def test_attempt_has_the_outcome_on_the_page(stage: Stage, attempt: Attempt) -> None:
    """The page lists exactly what is possible."""
    outcome, details = stage.try_out(attempt)

    assert outcome is attempt.expected[stage.tier], details
