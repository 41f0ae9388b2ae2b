"""Every attempt becomes what docs/security.md says of it, at every tier and on every server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from redteam.attempt import Attempt, Tier
from redteam.attempts import ATTEMPTS
from redteam.stage import Stage, staged
from support.servers import find_server_binaries


@pytest.fixture(
    scope="module", params=[(label, tier) for label in find_server_binaries() for tier in Tier],
    ids=lambda param: f"{param[0]}-{param[1]}",
)  # fmt: skip
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """Every server at every tier."""
    label, tier = request.param
    binary = find_server_binaries()[label]
    with staged(binary, tier, tmp_path_factory.mktemp("redteam")) as stage:
        yield stage


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_attempt_becomes_what_the_page_says(stage: Stage, attempt: Attempt) -> None:
    """Nothing is possible but what is said to be, and nothing that is said to be is not."""
    outcome, told = stage.try_out(attempt)

    assert outcome is attempt.expected[stage.tier], told
