"""The subscriptions of a connection, which are checked again while they last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from redis.exceptions import RedisError

from keyleash.client.actions import CheckSubscriptions, Flow, SendUnguarded, Words
from keyleash.client.batches import chunks
from keyleash.client.caller import Caller
from keyleash.store.records import GuardRecord
from keyleash.store.wire import BatchMode, as_bytes


class Subscriptions:
    """The channels and patterns of a connection, and when they were checked.

    Args:
        clock: Returns the seconds of a clock that never goes back.
        every_s: The seconds after which they are checked again.

    Attributes:
        active: Each as a command with one channel.
        guard: The guard that checked them last.
    """

    def __init__(self, clock: Callable[[], float], every_s: float) -> None:
        self.active: dict[Words, None] = {}
        self.guard: GuardRecord | None = None
        self._clock = clock
        self._every_s = every_s
        self._checked_at = -math.inf

    def send(self, words: Words, *, is_idle: bool) -> Flow:
        """Check and send SUBSCRIBE and the like, or send UNSUBSCRIBE and the like.

        Args:
            is_idle: Whether nothing else is still to be read.
        """
        name, *channels = words[0], *map(as_bytes, words[1:])
        joined = name.replace("UNSUBSCRIBE", "SUBSCRIBE")
        named = [(joined, channel) for channel in channels]
        if not is_idle:
            raise RedisError("replies to earlier commands are to be read first")
        if joined == name and named:
            yield CheckSubscriptions(named)
        yield SendUnguarded(words)
        if joined == name:
            self.active |= dict.fromkeys(named)
            return
        for left in named or [item for item in self.active if item[0] == joined]:
            self.active.pop(left, None)

    @property
    def is_check_due(self) -> bool:
        """Return whether they are to be checked again."""
        return self._clock() >= self._checked_at + self._every_s

    def note_check(self, guard: GuardRecord) -> None:
        """Note that *guard* has checked all of them now."""
        self.guard, self._checked_at = guard, self._clock()

    def pauses(self, timeout_s: float | None) -> Iterator[float]:
        """Yield the seconds to wait for a message until the next check.

        Args:
            timeout_s: The seconds to wait in all; None for no limit.
        """
        deadline = math.inf if timeout_s is None else self._clock() + timeout_s
        while True:
            next_at = min(deadline, self._checked_at + self._every_s)
            yield max(0.0, next_at - self._clock())
            if self._clock() >= deadline:
                return


def check(caller: Caller, subscriptions: Sequence[Words], checked_by: GuardRecord | None) -> Flow:
    """Check subscriptions; return the guard that did.

    Args:
        caller: That of another connection.
        checked_by: The guard that checked them before. While it is active, only the token and the
            state of the identity are checked, which charges and records nothing.
    """
    if checked_by is not None:
        yield from caller.about_token(caller.new_call((), BatchMode.WHOAMI))
        # If another connection has fetched a newer guard, it checks the channels too.
        if caller.session.guard == checked_by:
            return checked_by
    for part in chunks(subscriptions, range(len(subscriptions))):
        call = caller.new_call([subscriptions[at] for at in part], BatchMode.ALL)
        yield from caller.reply_to(call)
        checked_by = call.guard
    return checked_by
