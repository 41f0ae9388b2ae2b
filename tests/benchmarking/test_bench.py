"""A run on a real server: that it is what it says, and fails if it is not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from benchmarks import ladder
from benchmarks.support.bench import Bench, Contender, Plan, bench_on
from benchmarks.support.load import Generator
from benchmarks.support.measure import MiscountError, audited_commands, fill_keys
from benchmarks.support.policy import Target, load_target
from benchmarks.support.report import figures_of, rows_of
from benchmarks.support.servers import EMBEDDED, Cores, ServerChoice
from benchmarks.support.variants import Counts

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler"
)

CORES = Cores(None, None)
EMBEDDED_SERVER = ServerChoice(EMBEDDED, None)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A bench whose runs are as short as can be."""
    plan = Plan(rounds=2, requests=40, connections=(5, 1))
    with Generator(None) as generator, bench_on(EMBEDDED_SERVER, plan, CORES, generator) as made:
        yield made


@pytest.fixture(scope="module")
def target(bench: Bench) -> Target:
    """The guard that all runs call."""
    return load_target(bench.admin)


def test_every_rung_of_the_ladder_is_measured_and_counted(bench: Bench) -> None:
    """Each with the exact replies and counts that it says, at each number of connections."""
    contenders = ladder.contenders_on(bench.admin)
    fill_keys(bench.admin, 5 * 8 * ladder.SIZE)
    samples = bench.rounds(contenders)
    rows = rows_of(samples, ladder.VARIANTS)

    assert {len(taken) for taken in samples.values()} == {2}
    assert len(rows) == len(ladder.VARIANTS) * 2
    assert all(figure.value.least > 0 for figure in figures_of(rows, "valkey"))


@pytest.mark.parametrize(
    "counts", [Counts(), Counts(passed=1), Counts(passed=1, audited=2), Counts(1, 1, denied=1)]
)
def test_run_that_counts_otherwise_than_it_says_fails(
    bench: Bench, target: Target, counts: Counts
) -> None:
    """A call that was not charged, not audited or refused unseen would be a fast one."""
    wrong = replace(ladder.GUARDED_SET, counts=counts)

    with pytest.raises(MiscountError, match="guarded SET"):
        bench.sample(Contender(wrong, target), 1, 10)


def test_commands_of_a_batch_are_counted_in_its_one_event(bench: Bench, target: Target) -> None:
    """So that coalesced commands can be checked: as many audited as were made."""
    bench.sample(Contender(ladder.BATCH, target), 1, 3)

    assert audited_commands(bench.admin, target, 2) == 2 * ladder.SIZE
    assert audited_commands(bench.admin, target, 0) == 0
