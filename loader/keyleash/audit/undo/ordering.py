"""Steps of several trails in the order in which they happened.

Ids of one trail say it; two trails share no numbers, so what happened in one millisecond is told
by the states alone: each step begins where the one before it ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby

from keyleash.audit.undo.steps import State, Step

MAX_PLACES = 5000
"""Ways to go that are tried for the steps of one millisecond; with more, ids decide."""


def in_order(steps: Iterable[Step], end: State, end_ms: int) -> list[Step]:
    """
    Put the steps of one key in order.

    Args:
        steps: Of any trails.
        end: What the key held behind the last of them.
        end_ms: When it was seen to hold that, Unix milliseconds.

    Returns:
        Oldest first. Of the orders that the ids allow, the one in which the states follow each
        other best.
    """
    found: list[Step] = []
    by_time = sorted(steps, key=place, reverse=True)
    for _, group in groupby(by_time, key=lambda step: step.time_ms):
        ordered = _merged(list(group)[::-1], end, end_ms)
        end, end_ms = ordered[0].was, ordered[0].time_ms
        found[:0] = ordered
    return found


def place(step: Step) -> tuple[int, int, str]:
    """Where a step stands in time, as far as ids say it."""
    return step.time_ms, int(step.id.partition("-")[2]), step.identity


def _merged(steps: list[Step], end: State, end_ms: int) -> list[Step]:
    """The steps of one millisecond."""
    by_trail: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        by_trail[step.identity].append(step)
    trails = list(by_trail.values())
    places = 1
    for trail in trails:
        places *= len(trail) + 1
    if len(trails) == 1 or places > MAX_PLACES:
        return steps
    return _best(trails, end, end_ms)


def _best(trails: Sequence[Sequence[Step]], end: State, end_ms: int) -> list[Step]:
    """Of all ways to merge *trails*, one with the fewest breaks, told from the end."""

    @cache
    def best(left: tuple[int, ...], after: int) -> tuple[int, tuple[int, ...]]:
        """Breaks and trails of the *left* first steps, if one of trail *after* follows."""
        if not any(left):
            return 0, ()
        state, at_ms = end, end_ms
        if after >= 0:
            following = trails[after][left[after]]
            state, at_ms = following.was, following.time_ms
        tried = []
        for number, count in enumerate(left):
            if count:
                rest = (*left[:number], count - 1, *left[number + 1 :])
                breaks, order = best(rest, number)
                same = trails[number][count - 1].became.is_same(state, at_ms)
                cost = {True: 0, None: 1, False: 2}[same]
                tried.append((breaks + cost, (*order, number)))
        return min(tried)

    _, order = best(tuple(map(len, trails)), -1)
    heads = [iter(trail) for trail in trails]
    return [next(heads[number]) for number in order]
