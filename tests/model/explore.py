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
    seen: dict[W, tuple[W, Step] | None] = {start: None}
    queue = deque([start])
    while queue:
        world = queue.popleft()
        for step, following in model.steps(world):
            if following in seen:
                continue
            seen[following] = (world, step)
            if found := model.violation(following):
                return Exploration(len(seen), found, _path(seen, following))
            queue.append(following)
    return Exploration(len(seen))


def _path(seen: Mapping[W, tuple[W, Step] | None], world: W) -> tuple[Step, ...]:
    path = []
    while before := seen[world]:
        world, step = before
        path.append(step)
    return tuple(reversed(path))


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
