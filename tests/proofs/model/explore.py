"""Exploration of a model: of all its worlds, or of some by random walks."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

W = TypeVar("W", bound=Hashable)


class Step(NamedTuple):
    """An event: its kind, and what it is about."""

    kind: str
    subject: object = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


class Model(Protocol[W]):
    """Worlds, the events that lead from one to others, and what must hold in each."""

    def start(self) -> W:
        """Return the world at the beginning."""

    def steps(self, world: W) -> Iterator[tuple[Step, W]]:
        """Yield each event that may happen, and the world after it."""

    def violation(self, world: W) -> str:
        """Return what must hold and does not; empty if all holds."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """The result of exploring a model.

    Attributes:
        worlds: The number of worlds that were seen.
        violation: What does not hold in some world; empty if all holds in every one.
        path: The events that lead there.
    """

    worlds: int
    violation: str = ""
    path: tuple[Step, ...] = ()

    def __str__(self) -> str:
        lines = (f"  {step}" for step in self.path)
        return "\n".join([f"{self.worlds} worlds, {self.violation or 'no violation'}", *lines])


def explore(model: Model[W]) -> Exploration:
    """Explore all worlds in the order of their distance, up to the first violation."""
    start = model.start()
    # Worlds that were seen are stored as hashes of 64 bits, or they would take gigabytes. In
    # millions of worlds, the chance that two have the same hash is below one in a million.
    before = {hash(start): hash(start)}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        for _, following in model.steps(world):
            number = hash(following)
            if number in before:
                continue
            before[number] = hash(world)
            if found := model.violation(following):
                return Exploration(len(before), found, _path(model, before, number))
            queue.append(following)
    return Exploration(len(before))


def _path(model: Model[W], before: Mapping[int, int], number: int) -> tuple[Step, ...]:
    """Return the events that lead to the world with a hash."""
    numbers = []
    while before[number] != number:
        numbers.append(number)
        number = before[number]
    world, path = model.start(), []
    for number in reversed(numbers):
        step, world = next(item for item in model.steps(world) if hash(item[1]) == number)
        path.append(step)
    return tuple(path)


def walk(
    model: Model[W], rng: random.Random, *, length: int, weights: Mapping[str, float]
) -> Exploration:
    """Follow random events: first their kind, by *weights* (1 for others), then one of the kind."""
    world, path = model.start(), []
    for _ in range(length):
        kinds: dict[str, list[tuple[Step, W]]] = {}
        for step, following in model.steps(world):
            kinds.setdefault(step.kind, []).append((step, following))
        if not kinds:
            break
        (kind,) = rng.choices(list(kinds), [weights.get(kind, 1) for kind in kinds])
        step, world = rng.choice(kinds[kind])
        path.append(step)
        if found := model.violation(world):
            return Exploration(len(path), found, tuple(path))
    return Exploration(len(path))
