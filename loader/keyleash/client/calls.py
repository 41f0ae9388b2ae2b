"""Calls of guards, and what redis-py is still to read on a connection."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from keyleash.client._redis_py import BufferedReply
from keyleash.client.actions import Flow, Pause, Send, Words
from keyleash.client.command_words import ScriptCall
from keyleash.client.delegation import Delegation
from keyleash.client.once import CallId, check_id
from keyleash.errors import NotReplicatedError, RateLimitedError
from keyleash.store.records import GuardRecord
from keyleash.store.wire import BatchMode, with_source


def longest_wait(wait: bool | float) -> float:
    """Return the longest total sleep of one call, in seconds; 0 disables sleeping.

    Raises:
        TypeError: *wait* is no number.
        ValueError: it is negative or `nan`.
    """
    if wait is True:
        return math.inf
    if not isinstance(wait, int | float):
        raise TypeError(f"`wait` must be a bool or a number of seconds, not {type(wait).__name__}")
    if not wait >= 0:
        raise ValueError("`wait` must be True, False or a number of seconds")
    return float(wait)


class RateWait:
    """The time that one call may still sleep for rate limits.

    It never waits for a budget, whose next window may be a month away.
    """

    def __init__(self, bound_s: float) -> None:
        self._left_s = bound_s

    def pause(self, denials: Sequence[RateLimitedError], times: int = 1) -> Pause:
        """Return the sleep after which the first of *denials* is allowed, or several such sleeps.

        Raises:
            RateLimitedError: it exceeds the remaining time.
        """
        first = min(denials, key=lambda item: item.retry_after_ms)
        seconds = times * first.retry_after_ms / 1000
        if seconds > self._left_s:
            raise first
        self._left_s -= seconds
        return Pause(seconds)


NO_WAIT = RateWait(0)


@dataclass(slots=True)
class PipelineCalls:
    """The batches of a pipeline.

    Attributes:
        last: The last of them.
        replies: The replies to commands so far.
        short: Says that too few replicas have the writes of a batch. It takes the place of the last
            reply, since redis-py raises it at once.
    """

    last: Call | None = None
    replies: list[BufferedReply] = field(default_factory=list)
    short: NotReplicatedError | None = None


class Call:
    """A call of a guard.

    No dataclass, which would set every attribute of every call.

    Args:
        commands: Its commands; one without a mode.
        mode: The mode of a batch.

    Attributes:
        commands, mode: As given.
        is_lone: Whether its reply is read at once, as nothing else is due.
        is_watched: Whether MULTI and EXEC of the server surround it. It is never repeated, since
            EXEC ends the watch: its reply is null, redis-py raises WatchError, and callers that
            repeat a transaction read its keys again.
        script: The script to call instead of commands.
        has_scripts: Whether commands of the batch call scripts.
        places: Those of its commands in their transaction, if that has calls of KEYS, too.
        delegation: The child token to make instead of commands.
        guard: The guard that was called last.
        shape: For a batch with runs, the number of commands of each reply; see `wire.replies_of`.
        waits_for: The same guard, if its policy waits for replicas of this call.
        correlation: One id for all times that it is made.
        origin: The source of the call, where the guard takes one; see `Caller`.
        once: The same for its idempotency id; `NO_ID` for none, None before it is made.
        waiting: The time that it may still sleep for rate limits.
        deadline: Until when it is polled; None if it does not block.
        is_later: Whether it is not the first of its pipeline: others have run when it is read.
        pipeline: The calls that redis-py sent together with it.
        flow: Returns the reply, undecoded, of a command that takes several calls, or no guard.
        number: Its number among the calls that repeat what a rate denied of the first.
    """

    is_lone: bool = False
    is_watched: bool = False
    script: ScriptCall | None = None
    has_scripts: bool = False
    places: Sequence[int] = ()
    delegation: Delegation | None = None
    guard: GuardRecord | None = None
    shape: Sequence[int] = ()
    waits_for: GuardRecord | None = None
    correlation: str = ""
    origin: str = ""
    once: CallId | None = None
    waiting: RateWait = NO_WAIT
    deadline: float | None = None
    is_later: bool = False
    pipeline: PipelineCalls | None = None
    flow: Flow | None = None
    number: int = 1

    def __init__(self, commands: Sequence[Words], mode: BatchMode | None = None) -> None:
        self.commands = commands
        self.mode = mode

    def rest(self, places: Sequence[int]) -> Call:
        """Return the call that repeats the commands at *places*: itself, if these are all.

        Another has the id of the first with `~2`, `~3`, …, so that later calls have the same ids as
        without a wait.
        """
        if len(places) == len(self.commands):
            return self
        rest = Call([self.commands[at] for at in places], self.mode)
        rest.waiting, rest.number = self.waiting, self.number + 1
        if self.once:
            first = self.once if self.number == 1 else self.once.rpartition("~")[0]
            rest.once = CallId(check_id(f"{first}~{rest.number}"))
        return rest

    def traced(self, guard: GuardRecord) -> str:
        """Return the correlation argument of its call of *guard*."""
        return (
            with_source(self.correlation, self.origin) if guard.takes_source else self.correlation
        )

    @property
    def kind(self) -> str:
        """The field of the guard record that names the script."""
        if self.script or (self.has_scripts and self.guard and self.guard.approved_digest):
            return "approved_digest"
        return "batch_digest" if self.mode else "digest"


class Queue(deque[Call | BufferedReply]):
    """The calls and replies that redis-py is still to read, in order; see `dialogue`.

    Args:
        caller: That of the connection.
    """

    def __init__(self, caller: Any) -> None:
        super().__init__()
        self._caller = caller

    @property
    def next_pending(self) -> Call | None:
        """The first call that has no reply yet."""
        return next((item for item in self if not isinstance(item, BufferedReply)), None)

    def add_reply(self, reply: Any) -> None:
        """Add a reply, or an error that reading it raises."""
        self.append(BufferedReply(reply, self._caller.encoder()))

    def defer(self, flow: Flow) -> None:
        """Add a command that *flow* carries out when its reply is read."""
        call = Call(())
        call.flow, call.is_later = flow, self.next_pending is not None
        self.append(call)

    def add(self, calls: Sequence[Call]) -> Flow:
        """Add calls; send the first if nothing else is pending."""
        if not calls:
            return
        yield from self._caller.guard()
        is_first = self.next_pending is None
        if is_first:
            yield Send(calls[:1], is_due=True)
        for call in calls[is_first:]:
            call.is_later = True
            self.append(call)

    def send_next(self) -> Flow:
        """Send the next call, after the reply to the one before it."""
        pending = self.next_pending
        if pending is not None and pending.flow is None:
            yield Send([pending])
