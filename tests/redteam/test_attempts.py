"""Every attempt has the outcome that docs/explanation/threat-model.md lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyleash.store.wire import Transport
from redteam.attempt import Attempt, Tier
from redteam.attempts import ATTEMPTS
from redteam.stage import Stage, staged
from support.servers import embedded_label, find_server_binaries

STAGES = [(label, tier, Transport.EVALSHA) for label in find_server_binaries() for tier in Tier]
STAGES += [(embedded_label(), tier, Transport.FUNCTION) for tier in (Tier.FENCED, Tier.SEALED)]


@pytest.fixture(scope="module", params=STAGES, ids="-".join)
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """A stage per server and tier, also with guards as functions."""
    label, tier, transport = request.param
    binary = find_server_binaries()[label]
    with staged(binary, tier, tmp_path_factory.mktemp("redteam"), transport) as stage:
        yield stage


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_attempt_has_the_outcome_on_the_page(stage: Stage, attempt: Attempt) -> None:
    """The page lists exactly what is possible."""
    outcome, details = stage.try_out(attempt)

    assert outcome is attempt.expected[stage.tier], details
