"""Any bytes and any counts behind EVALSHA: a reply, the command's error or a LEASH line."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofs.fuzz.arena import Arena, documents
from proofs.fuzz.calls import raw_call
from support.servers import RealServer, embedded_label
from support.thorough import thorough

CALLS = 4
"""Per example, so that one finds what another left."""
EXAMPLES, EXAMPLES_ELSEWHERE = 450, 225

# Hypothesis prefers repeated bytes; those of a seeded generator cover all commands.
WRITTEN = st.binary(max_size=120) | st.integers(0, 2**32).map(
    lambda seed: random.Random(seed).randbytes(120)
)


@pytest.mark.parametrize("policy", documents())
def test_raw_call_breaks_no_script_and_changes_nothing_outside_its_grants(
    server: RealServer, policy: str
) -> None:
    """This holds also for calls that no client makes: other tokens, wrong counts, bad arguments."""
    arena = Arena(server.client(), documents()[policy])
    examples = EXAMPLES if server.label == embedded_label() else EXAMPLES_ELSEWHERE

    @thorough(examples)
    @given(st.lists(WRITTEN, min_size=CALLS, max_size=CALLS))
    def compare(written: list[bytes]) -> None:
        for data in written:
            arena.fire(raw_call(data, arena.supply))

    compare()
    arena.end_round()

    # Otherwise it would be about refusals alone.
    assert arena.ran > arena.calls // 50, (arena.ran, arena.allowed, arena.calls)
