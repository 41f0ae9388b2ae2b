"""Where calls go on a cluster, and what follows from each answer, without I/O.

Only answers that say that nothing ran are followed by another attempt, and lost connections if the
call has an idempotency id. A connection repeats what its node can recover from: a lost script, an
outdated policy, a missing lease (`client/node_calls.py`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)

from keyleash.client.actions import Words
from keyleash.client.command_words import script_call_of
from keyleash.client.once import Ids
from keyleash.client.retries import is_lost, is_sent, mark_final, mark_run
from keyleash.commands import CommandTable
from keyleash.commands.facts import SCRIPT_CALLS
from keyleash.errors import CrossSlotError, LeaseNeededError, SlotNotServedError
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.placement import SLOTS, control_slots, key_slot, tag_of
from keyleash.store.wire import declared_keys, split_name

HOME_SLOT = key_slot(HOME_TAG.encode())
MAX_REDIRECTS = 16
"""Of one call, without a pause."""
ROUTE_PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.3, *(0.5,) * 6)
"""3.6 s: a failover takes longer only if nodes may be silent for long."""

_NOT_SERVED = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    SlotNotCoveredError,
)
"""Errors that last until this client has read the slots of the nodes again."""
_NON_LOCAL = ("ttempted to access a non local key", "accessed during rehashing of the slot")


def retry_pauses(clock: Callable[[], float] = time.monotonic) -> Iterator[float]:
    """Yield the pauses between attempts, as long as pauses and attempts take no longer together.

    Args:
        clock: Returns the seconds of a clock that never goes back.
    """
    end_s = clock() + sum(ROUTE_PAUSES_S)
    for pause_s in ROUTE_PAUSES_S:
        if clock() > end_s:
            return
        yield pause_s


def is_redirect(error: Exception | None) -> bool:
    """Return whether an error reply says that a call is to be made again, elsewhere or later."""
    if isinstance(error, (AskError, LeaseNeededError, TryAgainError, *_NOT_SERVED)):
        return True
    return isinstance(error, ResponseError) and any(text in str(error) for text in _NON_LOCAL)


def is_unanswered(error: Exception) -> bool:
    """Return whether a call ended with an error without an answer of its guard."""
    return isinstance(error, SlotNotServedError) or is_redirect(error) or is_lost(error)


def is_answer(error: Exception) -> bool:
    """Return whether an error is the outcome of a call, and none of the client or its caller."""
    return isinstance(error, ResponseError) or is_unanswered(error)


@dataclass(frozen=True, slots=True)
class Step:
    """The preparation of the next attempt to make a call.

    Attributes:
        moved: Says which node has a slot by now, if any.
        refreshes: Whether to read the slots of all nodes again.
        failed: The name of the node that is to be asked last, if any.
        final: The error with which the call then ends, if any.
        pause_s: Seconds to sleep.
        ask: The ASK that leads to the node of the attempt, if any.
    """

    moved: MovedError | None = None
    refreshes: bool = False
    failed: str | None = None
    final: Exception | None = None
    pause_s: float = 0.0
    ask: AskError | None = None


class Tags:
    """The tags of the nodes of a cluster.

    Args:
        slots: Returns the nodes of each slot, its primary first.
    """

    def __init__(self, slots: Callable[[], Mapping[int, Sequence[Any]]]) -> None:
        self._slots = slots
        self._map = slots()
        self._tags: dict[str, tuple[int, str]] = {}
        self._skipped: dict[str, set[int]] = defaultdict(set)

    def tag(self, node: str) -> str:
        """Return the tag of the node with the name *node*.

        Raises:
            TryAgainError: it has no slot for control keys yet.
        """
        slots = self._slots()
        if slots is not self._map:
            # redis-py has read them again.
            self._map, self._tags = slots, {}
        slot, tag = self._tags.get(node, (-1, ""))
        nodes = slots.get(slot)
        if not nodes or nodes[0].name != node:
            slot = self._control_slot(node)
            tag = tag_of(slot)
            self._tags[node] = slot, tag
        return tag

    def _control_slot(self, node: str) -> int:
        slots = self._slots()
        skipped = self._skipped[node]
        for slot in control_slots([(0, SLOTS - 1)]):
            nodes = slots.get(slot)
            if not nodes or nodes[0].name != node:
                # It may come back.
                skipped.discard(slot)
            elif slot not in skipped:
                return slot
        raise TryAgainError(f"{node} has no slot in which control keys could be")

    def has_tag(self, node: str) -> bool:
        """Return whether a node has a slot for control keys."""
        try:
            return bool(self.tag(node))
        except TryAgainError:
            return False

    def skip(self, node: str) -> None:
        """Use the node's next control slot, as keys of this one are moving away."""
        self._skipped[node].add(key_slot(self.tag(node).encode()))
        del self._tags[node]


class Route:
    """The attempts to make one call: what follows from each answer.

    Args:
        ids: The idempotency ids of the call, if any.
        is_home: Whether the call changes the home, where ASK is never followed: after it, missing
            keys look empty while the slot moves.
        pauses: The pauses that are left, if other calls share them.

    Attributes:
        step: The preparation of the current attempt.
    """

    def __init__(
        self,
        tags: Tags,
        ids: Ids | None = None,
        *,
        is_home: bool = False,
        pauses: Iterator[float] | None = None,
    ) -> None:
        self.step = Step()
        self._tags = tags
        self._ids = ids
        self._is_home = is_home
        self._pauses = retry_pauses() if pauses is None else pauses
        self._lost: Exception | None = None
        self._redirects = 0
        self._was_non_local = False

    def after(self, error: Exception, node: Any) -> Step:
        """Return what follows from the error of an attempt.

        Args:
            node: The node of the attempt; None if none serves the slot.

        Raises:
            Exception: *error*, if the call is not made again.
        """
        may_have_run = is_sent(error)
        if self._ids is not None:
            if may_have_run and self._ids.may_repeat:
                self._ids.lose(error)
                may_have_run = False
            self._lost = self._ids.lost
        self.step = self._following(error, node and node.name, may_have_run=may_have_run)
        return self.step

    def _following(self, error: Exception, name: str | None, *, may_have_run: bool) -> Step:
        is_asking = self.step.ask is not None
        match error:
            case _ if getattr(error, "is_final", False):
                pass
            case MovedError():
                return self._redirected(error, moved=error)
            case AskError() if not self._is_home:
                return self._redirected(error, ask=error)
            case AskError() | TryAgainError() | LeaseNeededError():
                return self._paused(error)
            case _ if isinstance(error, _NOT_SERVED):
                return self._paused(error, refreshes=True, failed=name)
            case ResponseError() if is_redirect(error) and (is_asking or self._is_home):
                # The slot is moving key by key, and a key of it has not arrived.
                return self._paused(error)
            case ResponseError() if is_redirect(error):
                if self._was_non_local and name is not None:
                    self._tags.skip(name)
                self._was_non_local = True
                return self._redirected(error, refreshes=True)
            case _ if may_have_run:
                return Step(refreshes=True, failed=name, final=self._explained(error))
            case _ if is_lost(error):
                return self._paused(error, refreshes=True, failed=name)
        # Without the errors of earlier attempts.
        raise error from error.__cause__

    def _redirected(self, error: Exception, **step: Any) -> Step:
        self._redirects += 1
        return Step(**step) if self._redirects <= MAX_REDIRECTS else self._paused(error, **step)

    def _paused(self, error: Exception, **step: Any) -> Step:
        seconds = next(self._pauses, None)
        if seconds is None:
            return Step(**step, final=self._explained(error))
        return Step(**step, pause_s=seconds)

    def _explained(self, error: Exception) -> Exception:
        """Return the error with which a call ends."""
        if self._lost is not None and error is not self._lost:
            mark_final(self._lost).__cause__ = error
            return self._lost
        is_unsettled = isinstance(error, AskError) or any(text in str(error) for text in _NON_LOCAL)
        if is_sent(error) or not (self._is_home or is_unsettled):
            return error
        what = "its home" if self._is_home else "the slot of the call"
        final = SlotNotServedError(what, f"{type(error).__name__}: {error}")
        final.__cause__ = error
        mark_run(final)
        return final


def keys_of(table: CommandTable, words: Words) -> Sequence[Any]:
    """Return the keys of a call."""
    place = table.key_slices.get(words[0])
    if place is not None:
        return words[place]
    name, *arguments = split_name(words)
    if name in SCRIPT_CALLS:
        script = script_call_of(name, arguments)
        return script.keys if script else ()
    return declared_keys(table, [name, *arguments])


def slot_of(table: CommandTable, encode: Callable[[Any], bytes], words: Words) -> int | None:
    """Return the slot of a call's first key; None if it has no key.

    Keys of several slots are left to the server, which denies them.
    """
    keys = keys_of(table, words)
    return key_slot(encode(keys[0])) if keys else None


def one_slot(slots: Iterable[int | None]) -> int:
    """Return the only slot of several calls, or that of the home if none has a key.

    Raises:
        CrossSlotError: there are several.
    """
    distinct = {slot for slot in slots if slot is not None}
    if len(distinct) > 1:
        raise CrossSlotError
    return distinct.pop() if distinct else HOME_SLOT
