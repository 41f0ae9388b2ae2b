"""The state of an identity, as stored and as a reload migrates it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keyleash.commands import CommandSpec
from keyleash.errors import ReplyCode
from keyleash.limits import BaseCount, Limit
from keyleash.limits.budget import BudgetCount
from keyleash.policy import Identity
from keyleash.store.restrictions import Restrictions
from keyleash.store.state import Layout, unpack_state


class Sizes(Protocol):
    """A server that returns the sizes of keys, by the names that the agent uses."""

    def length(self, key: bytes) -> int:
        """Return the length of a string in bytes; 0 for a key of another type."""

    def ask(self, head: Sequence[str], keys: Sequence[bytes], words: Sequence[bytes]) -> Any:
        """Return the reply to a command that only reads; None after an error.

        Args:
            head: Its name, and the words before its keys.
            keys: Its keys.
            words: The words after them.
        """

    def work(
        self,
        spec: CommandSpec,
        argv: Sequence[bytes],
        keys: Sequence[bytes],
        left: float,
        string_units: float,
    ) -> float:
        """Return the units of work of a call; more than *left* if it is not known."""


@dataclass(slots=True)
class ModelState:
    """
    The counts of an identity, by limit and subject.

    A reload moves what the identity itself has counted. Counters of a token or a
    segment are moved when they are next seen, if they have not expired by then.

    Attributes:
        refuses: The code that denies every call, if the identity has no state.
        suspended: 0; 1 until an operator resumes the identity; or the end of the suspension, µs.
        reason: The reason of the suspension, as denials repeat it.
        refused_us: The times of the newest denials that count towards its circuit breaker.
        sizes: The server whose keys a call is about; None if there is none to ask.
        restrictions: Those of the token, with the counts of its caps; None for a token without.
        ancestors: The counts of the caps of its ancestors, if a token made it.
        is_full: Whether the audit stream has no room because events wait for their export.
    """

    counts: dict[tuple[str, bytes], BaseCount] = field(default_factory=dict)
    refuses: ReplyCode | None = None
    suspended: int = 0
    reason: str = ""
    refused_us: list[int] = field(default_factory=list)
    is_full: bool = False
    sizes: Sizes | None = None
    restrictions: Restrictions | None = None
    ancestors: tuple[BudgetCount, ...] = ()

    def count(self, limit: Limit, subject: bytes, now_us: int) -> BaseCount:
        count = self.counts.get((limit.name, subject))
        if count is None or (subject and count.expires_ms < now_us // 1000):
            count = limit.new_count()
        elif count.limit != limit:
            count = count.migrated(limit, now_us)
        self.counts[limit.name, subject] = count
        return count


def stored_state(
    identity: Identity, packed: bytes | None, layout: Layout | None, reason: str = ""
) -> ModelState:
    """
    Return the counts of the limits of an identity, without those per token or segment.

    Args:
        packed: The identity's state, or None if there is none.
        reason: The reason in the record of its suspension, if there is one.
    """
    model = ModelState()
    try:
        state = unpack_state(packed, layout) if packed and layout is not None else None
    except struct.error:
        # Shorter than its layout: an agent wrote to it. The guard denies every call as well.
        state = None
    if state is None:
        model.refuses = ReplyCode.NOT_ACTIVE
        return model
    model.suspended, model.reason = state.suspended, reason
    stored = {item.slot.name: item for item in state.limits}
    for limit in identity.limits:
        if limit.name in stored:
            model.counts[limit.name, b""] = limit.count_of(stored[limit.name])
    return model
