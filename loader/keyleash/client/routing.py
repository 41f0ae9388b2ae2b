"""Where calls go on a cluster, and what follows from each answer, without I/O.

Only answers that say that nothing ran are followed by another attempt. A connection repeats what
its node can recover from: a lost script, an outdated policy, a missing lease (`client/shards.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)

from keyleash.client.actions import Flow, Pause, Words
from keyleash.client.retries import is_lost
from keyleash.client.scripts import script_call_of
from keyleash.commands import CommandTable
from keyleash.commands.facts import SCRIPT_CALLS
from keyleash.errors import CrossSlotError, LeaseNeededError
from keyleash.store.keyspace import HOME_TAG
from keyleash.store.placement import SLOTS, control_slots, key_slot, tag_of
from keyleash.store.wire import declared_keys, split_name

HOME_SLOT = key_slot(HOME_TAG.encode())
MAX_REDIRECTS = 16
PAUSES_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.3, *(0.5,) * 6)
"""3.6 s: a failover takes longer only if nodes may be silent for long."""

_NOT_SERVED = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    ReadOnlyError,
    SlotNotCoveredError,
)
"""Errors of a node, or of this client's map, that lasts until the slots of nodes are read again."""
_NON_LOCAL = ("ttempted to access a non local key", "accessed during rehashing of the slot")


def is_redirect(error: Exception | None) -> bool:
    """Return whether an error reply says that a call is to be made again, elsewhere or later."""
    if isinstance(error, (AskError, LeaseNeededError, TryAgainError, *_NOT_SERVED)):
        return True
    return isinstance(error, ResponseError) and any(text in str(error) for text in _NON_LOCAL)


def is_answer(error: Exception) -> bool:
    """Return whether an error is the outcome of a call, and none of the client or its caller."""
    return isinstance(error, ResponseError) or is_redirect(error) or is_lost(error)


@dataclass(frozen=True, slots=True)
class Locate:
    """Return the node that serves the slot of a call, or the node to which ASK led."""

    asked: AskError | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """Make the call on a node.

    Attributes:
        is_asking: Whether ASKING comes before it.
    """

    node: Any
    is_asking: bool


@dataclass(frozen=True, slots=True)
class MoveSlot:
    """Note the new node of a slot."""

    error: MovedError


@dataclass(frozen=True, slots=True)
class Refresh:
    """Read the slots of all nodes again; one that failed is asked last."""

    failed: str | None


class Shards:
    """The tags of the nodes of a cluster.

    Args:
        slots: Returns the nodes of each slot, its primary first.
    """

    def __init__(self, slots: Callable[[], Mapping[int, Sequence[Any]]]) -> None:
        self._slots = slots
        self._tags: dict[str, str] = {}
        self._skipped: dict[str, set[int]] = defaultdict(set)

    def tag(self, node: str) -> str:
        """Return the tag of the node with the name *node*.

        Raises:
            TryAgainError: it has no slot for control keys yet.
        """
        tag = self._tags.get(node)
        if tag is None:
            tag = self._tags[node] = tag_of(self._control_slot(node))
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

    def forget(self) -> None:
        """Forget all tags: slots have moved."""
        self._tags = {}

    def skip(self, node: str) -> None:
        """Use the node's next control slot, as keys of this one are moving away."""
        self._skipped[node].add(key_slot(self.tag(node).encode()))
        self.forget()


class Route:
    """The attempts to make one call: what follows from each answer.

    Args:
        is_home: Whether the call changes the home, where ASK is never followed: behind it missing
            keys look empty while the slot moves.
    """

    def __init__(self, shards: Shards, *, is_home: bool = False) -> None:
        self._shards = shards
        self._is_home = is_home
        self._pauses = iter(PAUSES_S)
        self._redirects = 0
        self._was_non_local = False

    def run(self, failed: tuple[Any, Exception] | None = None) -> Flow:
        """Return the result of the call.

        Args:
            failed: The node and the error of an attempt that was made before.
        """
        node, asked = None, None
        if failed is not None:
            node, error = failed
            asked = yield from self._after(error, node, asked)
        while True:
            try:
                node = yield Locate(asked)
                return (yield Attempt(node, asked is not None))
            except Exception as error:
                asked = yield from self._after(error, node, asked)

    def _after(self, error: Exception, node: Any, asked: AskError | None) -> Flow:
        """Do what an error asks for; return the ASK to follow, if any."""
        match error:
            case MovedError():
                self._count(error)
                yield MoveSlot(error)
                self._shards.forget()
            case AskError() if not self._is_home:
                self._count(error)
                return error
            case AskError() | TryAgainError() | LeaseNeededError():
                yield self._pause(error)
            case _ if isinstance(error, _NOT_SERVED):
                yield from self._refresh(node)
                yield self._pause(error)
            case ResponseError() if is_redirect(error):
                yield from self._after_non_local(error, node, asked)
            case _ if is_lost(error):
                yield from self._refresh(node)
                if getattr(error, "has_run", False):
                    raise error
                yield self._pause(error)
            case _:
                raise error
        return None

    def _after_non_local(self, error: Exception, node: Any, asked: AskError | None) -> Flow:
        if asked is not None or self._is_home:
            # The slot is moving key by key, and a key of it has not arrived.
            yield self._pause(error)
            return
        self._count(error)
        yield from self._refresh(None)
        if self._was_non_local and node is not None:
            self._shards.skip(node.name)
        self._was_non_local = True

    def _refresh(self, node: Any) -> Flow:
        # If no node answers, or some slots have none: later again.
        with suppress(RedisClusterException):
            yield Refresh(node and node.name)
        self._shards.forget()

    def _count(self, error: Exception) -> None:
        self._redirects += 1
        if self._redirects > MAX_REDIRECTS:
            raise error

    def _pause(self, error: Exception) -> Pause:
        seconds = next(self._pauses, None)
        if seconds is None:
            raise error
        return Pause(seconds)


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
    found = {slot for slot in slots if slot is not None}
    if len(found) > 1:
        raise CrossSlotError
    return found.pop() if found else HOME_SLOT
