"""What an activation does to each identity: the words that `activate.lua` reads."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from keyleash.compiler import CompiledGuard
from keyleash.compiler.calendar import window_end_us
from keyleash.compiler.emit import POLICY_DIGITS
from keyleash.deploy.moves import Moves, moves_of
from keyleash.deploy.standing import Standing
from keyleash.protocol.state import EMPTY_LAYOUT, Layout
from keyleash.protocol.transport import Transport


class How(StrEnum):
    """How an identity's state changes."""

    KEPT = "kept"
    """Its guard stays as it is, and so does its state."""
    FRESH = "fresh"
    """There was no state."""
    STAMPED = "stamped"
    """Another guard counts in the same places."""
    MOVED = "moved"
    """It is moved beforehand, and again at the activation if it was called since."""
    STAGED = "staged"
    """The same of a state with rings, which is kept on the server meanwhile."""
    REMOVED = "removed"
    """The identity leaves the policy."""


class Seen(NamedTuple):
    """
    A state as `stage.lua` saw it, and by which it is seen to have changed; empty if none was.

    Attributes:
        header: Its numbers.
        marks: The newest call of each of its rings.
        moved: What becomes of it; empty if that is kept on the server.
    """

    header: bytes = b""
    marks: bytes = b""
    moved: bytes = b""


@dataclass(frozen=True, slots=True)
class Change:
    """
    What happens to one identity.

    Attributes:
        guard: Its guard from then on; None if it is removed.
        moves: How its state is moved to that guard's layout; None if it is removed or kept.
    """

    identity: str
    how: How
    guard: CompiledGuard | None = None
    moves: Moves | None = None

    def words(self, seen: Seen | None = None) -> tuple[str | bytes, ...]:
        """How it changes and the words of `activate.lua` for it, given what was staged."""
        if self.guard is None or self.moves is None:
            return (self.how, self.identity)
        moves = self.moves
        match self.how:
            case How.FRESH:
                state = moves.stamp.ljust(self.guard.layout.header_bytes, b"\0")
                return (How.FRESH, self.identity, state)
            case How.STAMPED:
                return (How.STAMPED, self.identity, moves.stamp)
        seen = seen or Seen()
        if seen.moved:
            return (How.MOVED, self.identity, moves.packed, seen.header, seen.moved)
        return (How.STAGED, self.identity, moves.packed, seen.header, seen.marks)


def activation_plan(
    guards: Sequence[CompiledGuard],
    standings: Mapping[str, Standing],
    layouts: Mapping[str, Layout],
    now_us: int,
    commands: str = "",
    transport: Transport = Transport.EVALSHA,
) -> tuple[Change, ...]:
    """
    Say what the activation of *guards* changes.

    Args:
        guards: The new policy's guards.
        standings: How identities stand, those of the active policy among them.
        layouts: The layouts of the states as they are, by identity.
        now_us: Server time, to find the windows that are open.
        commands: What the guard records tell wrappers; see `protocol.learned`.
        transport: How wrappers are to call the guards.
    """
    names = {guard.identity for guard in guards}
    removed = sorted(
        name for name, one in standings.items() if one.record is not None and name not in names
    )
    changes = []
    for guard in guards:
        standing = standings.get(guard.identity, Standing())
        if standing.is_of(guard, commands, transport):
            changes.append(Change(guard.identity, How.KEPT, guard))
        else:
            layout = layouts.get(guard.identity, EMPTY_LAYOUT)
            changes.append(_change(guard, standing, layout, now_us))
    return (*changes, *(Change(name, How.REMOVED) for name in removed))


def activation_words(changes: Sequence[Change], seen: Mapping[str, Seen]) -> Iterator[str | bytes]:
    """The words of all *changes* for `activate.lua`, given what was staged, by identity."""
    by_how: dict[str | bytes, list[Sequence[str | bytes]]] = defaultdict(list)
    for change in changes:
        how, *words = change.words(seen.get(change.identity))
        by_how[how].append(words)
    for how, some in by_how.items():
        yield how
        yield str(len(some))
        for one in some:
            yield from one


def layouts_after(layouts: Mapping[str, Layout], changes: Sequence[Change]) -> dict[str, Layout]:
    """The layouts of all states once *changes* have happened; no state is forgotten."""
    return {**layouts, **{one.identity: one.guard.layout for one in changes if one.guard}}


def summary_of(changes: Sequence[Change]) -> str:
    """For the control stream: the new policy's identities and digests of their rules, JSON."""
    guards = [change.guard for change in changes if change.guard is not None]
    return json.dumps({one.identity: one.policy_digest[:POLICY_DIGITS] for one in guards})


def _change(guard: CompiledGuard, standing: Standing, layout: Layout, now_us: int) -> Change:
    if standing.stamp == guard.stamp:
        layout = guard.layout  # whatever is recorded, a stamp names the one guard
    ends_us = {
        plan.slot.name: window_end_us(plan.runs, now_us) for plan in guard.plan.limits if plan.runs
    }
    moves = moves_of(layout, guard.layout, guard.stamp, ends_us)
    if standing.size == 0:
        return Change(guard.identity, How.FRESH, guard, moves)
    # That of a removed identity expires, and that of a damaged one is to be refused.
    if moves.in_place and standing.record is not None and standing.size >= layout.header_bytes:
        return Change(guard.identity, How.STAMPED, guard, moves)
    return Change(guard.identity, How.MOVED, guard, moves)
