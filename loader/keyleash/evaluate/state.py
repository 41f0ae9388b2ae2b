"""The state of an identity, as stored and as a reload migrates it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from keyleash.errors import ReplyCode
from keyleash.limits import BaseCount, Limit
from keyleash.limits.budget import BudgetCount
from keyleash.policy import Identity
from keyleash.store.restrictions import Restrictions
from keyleash.store.state import Layout, unpack_state

if TYPE_CHECKING:
    from keyleash.commands import CommandSpec
    from keyleash.evaluate.access import RuledCommand
    from keyleash.evaluate.trace import Decision, Trace


class DataChecks(Protocol):
    """The checks of a guard that depend on what keys hold, by a server that has them."""

    def judge_index(
        self,
        identity: Identity,
        command: RuledCommand,
        spec: CommandSpec,
        argv: Sequence[bytes],
        state: ModelState,
        trace: Trace,
    ) -> Iterator[Decision]:
        """Yield the verdicts on the search index of a call, as `IndexCall.checks` does."""

    def judge(
        self,
        identity: Identity,
        spec: CommandSpec,
        argv: Sequence[bytes],
        keys: Sequence[bytes],
        now_us: int,
        trace: Trace,
    ) -> Iterator[Decision]:
        """Yield the verdicts on the work of a call, the sizes of strings, and values."""


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
        data: The checks that depend on what keys hold; None for a policy alone.
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
    data: DataChecks | None = None
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
