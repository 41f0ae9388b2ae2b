"""Calls at a shard are guarded ones that have a lease."""

from __future__ import annotations

import os
import shutil

import pytest
from benchmarks.cluster import shard_on
from benchmarks.ladder import DENIED_SET, GUARDED_SET
from benchmarks.support.bench import Plan, bench_on
from benchmarks.support.load import Generator
from benchmarks.support.measure import MiscountError
from benchmarks.support.servers import EMBEDDED, Cores, ServerChoice

CHOICE = ServerChoice(EMBEDDED, None)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler")
def test_call_at_a_shard_takes_a_unit() -> None:
    """A denied call does not, and would be a cheap one."""
    plan = Plan(rounds=1, requests=20, connections=(5,))
    with (
        Generator(None) as generator,
        bench_on(CHOICE, plan, Cores(None, None), generator) as bench,
        shard_on(CHOICE, bench) as shard,
    ):
        cost_us, _ = shard.sample(GUARDED_SET, 20, 5)
        with pytest.raises(MiscountError, match="20 units"):
            shard.sample(DENIED_SET, 20, 5)

    assert cost_us > 0
