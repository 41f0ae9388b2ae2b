"""A run of commands in a batch has the effect of its commands, sent one by one."""

from __future__ import annotations

import random

import pytest

from proofs.fuzz.runs import RULES, Twins
from support.servers import RealServer

BATCHES = 40
"""Per policy; `make runs` compares thousands."""


@pytest.mark.parametrize("rules", RULES)
def test_random_batch_as_runs_has_the_effect_of_its_commands(
    server: RealServer, rules: str
) -> None:
    """Replies, counters, events, denials and data are the same, also near the end of limits."""
    twins = Twins(server.client(), RULES[rules])
    draws = random.Random(rules)

    for _ in range(BATCHES):
        twins.compare(draws)

    assert twins.ran_as_one > 0
