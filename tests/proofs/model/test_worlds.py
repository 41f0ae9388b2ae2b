"""Every order of events in small clusters: limits hold, and each rule that is left out is found."""

from __future__ import annotations

from typing import Any

import pytest

from proofs.model import authority, budgets, rates
from proofs.model.authority import Authority
from proofs.model.budgets import Budgets
from proofs.model.explore import Model, explore
from proofs.model.rates import Rates

SMALL: dict[str, Model[Any]] = {
    "no-faults": Budgets(limit=3, wants=(2,), askings=4, lossless=True),
    "windows": Budgets(wants=(2,), shards=1, askings=3, ticks=3, window=1),
    "shard-falls-back": Budgets(wants=(2,), askings=3, falls=1),
    "shard-falls-back-twice": Budgets(wants=(2,), shards=1, askings=4, falls=2),
    "state-is-lost": Budgets(wants=(2,), askings=3, falls=1, losses=True),
    "home-falls-back": Budgets(wants=(2,), askings=3, home_falls=1),
    "units-are-collected": Budgets(wants=(2,), askings=3, collects=1),
    "collected-and-falls-back": Budgets(wants=(2,), shards=1, askings=3, falls=1, collects=2),
    "limit-is-reset": Budgets(wants=(2,), shards=1, askings=3, resets=1),
    "tokens": Budgets(wants=(2,), tokens=2, askings=4, lossless=True),
    "rate": Rates(shards=1, ticks=4, askings=2),
    "burst": Rates(has_burst=True, ticks=4, askings=2),
    "burst-with-lives": Rates(
        has_burst=True, repeats=True, lives=(1, 2), limit=1, shards=1, askings=2
    ),
    "authority": Authority(shards=2, ticks=2, life=1, events=3),
    "authority-state-is-lost": Authority(ticks=3, events=3, losses=1),
}

LARGE: dict[str, Model[Any]] = {
    "no-faults": Budgets(limit=3, wants=(1, 2), askings=5, lossless=True),
    "windows": Budgets(wants=(2,), askings=3, ticks=4, window=2),
    "shard-falls-back": Budgets(wants=(2,), askings=4, falls=1),
    "shard-falls-back-between-windows": Budgets(
        wants=(2,), shards=1, askings=4, falls=1, ticks=3, window=1
    ),
    "shard-falls-back-twice": Budgets(wants=(1, 2), shards=1, askings=4, falls=2),
    "shard-falls-back-three-times": Budgets(limit=4, wants=(3,), shards=1, askings=4, falls=3),
    "state-is-lost": Budgets(wants=(2,), askings=4, falls=1, losses=True),
    "home-falls-back": Budgets(wants=(2,), askings=4, home_falls=1),
    "both-fall-back": Budgets(wants=(2,), askings=3, falls=1, home_falls=1),
    "units-are-collected": Budgets(limit=3, wants=(1, 2), askings=4, collects=2),
    "collected-between-windows": Budgets(
        wants=(2,), shards=1, askings=3, collects=1, ticks=3, window=1
    ),
    "collected-and-reset": Budgets(wants=(2,), askings=4, collects=1, resets=1),
    "collected-and-both-fall-back": Budgets(
        wants=(2,), askings=3, falls=1, home_falls=1, collects=1
    ),
    "limit-is-reset": Budgets(wants=(2,), askings=4, falls=1, resets=1),
    "tokens": Budgets(wants=(2,), shards=4, tokens=2, askings=4),
    "tokens-fall-back": Budgets(wants=(2,), tokens=2, askings=4, falls=1, losses=True),
    "tokens-and-all-faults": Budgets(
        wants=(2,), tokens=2, askings=4, falls=1, collects=1, resets=1
    ),
    "rate": Rates(),
    "rate-falls-back": Rates(lives=(2,), wants=(1, 2), askings=2, falls=1),
    "burst": Rates(has_burst=True, lives=(2,), ticks=5, shards=1, wants=(1, 2)),
    "burst-with-lives": Rates(has_burst=True, repeats=True, lives=(1, 2), shards=1),
    "rate-asked-again": Rates(repeats=True, lives=(2,), shards=1),
    "authority": Authority(shards=2, ticks=3, events=4, losses=1),
    "authority-falls-back": Authority(ticks=4, events=3, losses=1, falls=1),
}

BROKEN: list[Any] = [
    Budgets(broken=budgets.Broken.SEQ),
    Budgets(broken=budgets.Broken.NEW_SEQ, shards=1, falls=1, losses=True),
    Budgets(broken=budgets.Broken.WINDOW, wants=(2,), shards=1, ticks=2, window=1),
    Budgets(broken=budgets.Broken.SAME_WINDOW, wants=(2,), shards=1, ticks=2, window=1),
    Budgets(broken=budgets.Broken.LIFE, wants=(2,), shards=1, ticks=2, window=1),
    Budgets(broken=budgets.Broken.REPEAT, lossless=True),
    Budgets(broken=budgets.Broken.REFUND, wants=(1, 2), askings=3),
    Budgets(broken=budgets.Broken.RETURN_SEQ, wants=(2,), collects=1),
    Budgets(broken=budgets.Broken.RETURN_EPOCH, wants=(2,), askings=3, collects=1, resets=1),
    pytest.param(
        Budgets(broken=budgets.Broken.BEHIND, wants=(2,), falls=1, collects=1),
        marks=pytest.mark.slow,
    ),
    Budgets(broken=budgets.Broken.TOKEN, tokens=2, wants=(1, 2)),
    Budgets(broken=budgets.Broken.BIRTH, shards=1, resets=1),
    Budgets(broken=budgets.Broken.EPOCH, shards=1, wants=(2,), askings=5, resets=1),
    Rates(broken=rates.Broken.SEQ, limit=1, shards=1),
    Rates(broken=rates.Broken.LIFE, limit=1, lives=(2,), ticks=5, shards=1, askings=2),
    Rates(broken=rates.Broken.REPEATED_LIFE, limit=1, lives=(2,), ticks=5, shards=1),
    Rates(broken=rates.Broken.PLACES, limit=1, lives=(2,), ticks=5, shards=1),
    Rates(broken=rates.Broken.OLD_UNITS, limit=1, lives=(1,), ticks=4, shards=1, askings=2),
    Rates(broken=rates.Broken.PLACES, has_burst=True, limit=1, lives=(2,), shards=1),
    pytest.param(
        Rates(
            broken=rates.Broken.LATEST_LIFE,
            has_burst=True,
            repeats=True,
            limit=1,
            lives=(1, 3),
            shards=1,
        ),
        marks=pytest.mark.slow,
    ),
    Authority(broken=authority.Broken.LEASE_EPOCH),
    Authority(broken=authority.Broken.BIRTH, losses=1),
    Authority(broken=authority.Broken.LEASE_BIRTH, losses=1),
    Authority(broken=authority.Broken.LIFE),
]


def name_of(model: Any) -> str:
    return f"{type(model).__name__}-{model.broken.name}".lower()


@pytest.mark.parametrize("name", SMALL)
def test_limits_hold_in_small_worlds(name: str) -> None:
    """Whatever is lost, repeated, reordered or forgotten."""
    found = explore(SMALL[name])
    assert not found.violation, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_limits_hold_in_large_worlds(name: str) -> None:
    """The same with more askings, faults and time."""
    found = explore(LARGE[name])
    assert not found.violation, str(found)


@pytest.mark.parametrize("model", BROKEN, ids=name_of)
def test_broken_rule_is_found(model: Model[Any]) -> None:
    """A model that finds nothing shows nothing."""
    assert explore(model).violation


@pytest.mark.slow
def test_units_that_live_as_long_as_newer_ones_are_found() -> None:
    """Their places are free before they are used."""
    model = Rates(broken=rates.Broken.LATER_END, lives=(3,), ticks=6, shards=1)
    assert explore(model).violation


def test_vouchers_for_any_asking_are_safe() -> None:
    """The binding of a voucher to its asking protects nothing that the seq does not."""
    model = Budgets(broken=budgets.Broken.ASKED, wants=(2,), askings=3, falls=1)
    assert not explore(model).violation
