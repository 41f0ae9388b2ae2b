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
    """Every server at every tier, and guards as functions too."""
    label, tier, transport = request.param
    binary = find_server_binaries()[label]
    with staged(binary, tier, tmp_path_factory.mktemp("redteam"), transport) as stage:
        yield stage


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_attempt_becomes_what_the_page_says(stage: Stage, attempt: Attempt, protocol: int) -> None:
    """Nothing is possible but what is said to be, and nothing that is said to be is not."""
    stage.speak(protocol)
    outcome, told = stage.try_out(attempt)

    assert outcome is attempt.expected[stage.tier], told
