"""Random walks through clusters that are too large to explore."""

from __future__ import annotations

import random
from typing import Any

import pytest

from proofs.model.budgets import Budgets
from proofs.model.explore import Model, walk
from proofs.model.rates import Rates
from support.thorough import FACTOR

WEIGHTS = {
    "use": 6,
    "ask": 3,
    "grant": 4,
    "take": 6,
    "tick": 1.2,
    "collect": 0.3,
    "return": 1,
    "fall back": 0.15,
    "lose": 0.1,
    "home falls back": 0.15,
}
"""Most events of a cluster are calls; faults are rare."""
SEED = 7


def some_budgets(rng: random.Random) -> Model[Any]:
    """Return a cluster with a budget and any number of shards and faults."""
    return Budgets(
        limit=rng.choice([5, 12, 20]),
        wants=rng.choice([(1,), (1, 3), (2, 8)]),
        shards=rng.choice([2, 3, 4]),
        ticks=20,
        window=rng.choice([3, 7, 20]),
        askings=60,
        falls=rng.choice([0, 1, 3]),
        home_falls=rng.choice([0, 0, 1]),
        losses=rng.random() < 0.3,
        collects=rng.choice([0, 4]),
    )


def some_rates(rng: random.Random) -> Model[Any]:
    """Return a cluster with a rate and any number of shards and faults."""
    return Rates(
        limit=rng.choice([3, 5, 8]),
        period=rng.choice([2, 4, 7]),
        lives=rng.choice([(1,), (3,), (4,), (1, 4)]),
        repeats=rng.random() < 0.5,
        has_burst=rng.random() < 0.5,
        wants=rng.choice([(1,), (1, 3)]),
        shards=rng.choice([1, 2, 3]),
        ticks=20,
        askings=30,
        falls=rng.choice([0, 1, 3]),
    )


def explore_some(kind: Any, walks: int) -> None:
    rng = random.Random(None if FACTOR > 1 else SEED)
    for _ in range(walks * FACTOR):
        model = kind(rng)
        found = walk(model, rng, length=250, weights=WEIGHTS)
        assert not found.violation, f"{model}\n{found}"


@pytest.mark.parametrize("kind", [some_budgets, some_rates])
def test_limits_hold_on_random_walks(kind: Any) -> None:
    """With more shards, askings and faults than can be explored."""
    explore_some(kind, walks=25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [some_budgets, some_rates])
def test_limits_hold_on_many_random_walks(kind: Any) -> None:
    """Refunds by clients passed all explorations, and failed after 600 walks."""
    explore_some(kind, walks=2000)
