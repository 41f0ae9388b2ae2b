"""The share of each agent in a gateway: connections, bytes under way, and time.

An agent is a root token: one that was issued, with all that were delegated from it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.exceptions import ResponseError

MAX_CONNECTIONS = 9_000
"""Connections with a token; one more ends the newest of the agent with most."""
WINDOW, WIDE_WINDOW, CALL_BYTES = 32 << 10, 1 << 20, 4 << 10
"""Bytes of calls under way from which an agent begins no more, while several make calls and while
one does; and what a call counts beside its request and the reply that is expected."""
REST, SLOWEST, MAX_CALL_S = 4, 5e6, 1.0
"""After a call above `WINDOW` an agent rests for its duration by the first number: at most that of
such bytes at 5 MB/s, or a second, since beyond that it has waited for others."""
MAX_ERRORS = 5
"""Of errors in a row that reply to such calls, each doubles the duration; at most to a second."""
SLICE_S = 1e-3
"""Seconds of the event loop that an agent has in each turn; it rests for what it takes beyond."""
FIRST_BATCH = 16
"""Commands of the first batch; the next are larger while their replies are small."""
MAX_UNREAD = 64 << 20
"""Bytes of unread replies from which an agent begins no calls."""


class Share:
    """The connections, calls, unread replies and time of one agent.

    Attributes:
        identity: Of the token.
        connections: Those that are open, the newest last.
        under_way: The bytes that its calls count.
        largest_batch: The most commands of its next call.
        spent_s: The seconds of the event loop that it has taken, until it has rested for them.
    """

    def __init__(
        self, identity: str, callers: Counter[Any], rest: float = REST, caller: Any = None
    ) -> None:
        self.identity, self._caller = identity, caller or self
        self.connections: dict[Any, None] = {}
        self.under_way = self._unread = 0
        self.largest_batch = FIRST_BATCH
        self.spent_s, self._rest = 0.0, rest
        self._callers, self._expected, self._errors = callers, 0, 0
        self._waiting: dict[Any, None] = {}

    def beside(self) -> Share:
        """Return a share for what an identity causes; as a caller it is this one."""
        return Share(self.identity, self._callers, caller=self._caller)

    @property
    def is_resting(self) -> bool:
        """Return whether it has taken so much time that others come first."""
        return self.spent_s >= SLICE_S and len(self._callers) > 1

    def may_call(self, connection: Any) -> bool:
        """Return whether a connection may make a call; otherwise it goes on later."""
        self._callers[self._caller] = 2
        window = WINDOW if len(self._callers) > 1 else WIDE_WINDOW
        is_full = self.under_way >= window or self._unread >= MAX_UNREAD
        if is_full := is_full or self.is_resting:
            self._waiting[connection] = None
        return not is_full

    def spend(self, began_at: float) -> None:
        """Count the time of the event loop since, by `time.perf_counter`."""
        if not self.spent_s:
            asyncio.get_running_loop().call_soon(self._take_rest)
        self.spent_s += time.perf_counter() - began_at

    def _take_rest(self, rested_s: float = 0.0) -> None:
        """Rest for what was spent, beside what it has rested for."""
        self.spent_s -= rested_s
        if self.is_resting:
            rest_s = min(self._rest * (self.spent_s - SLICE_S), MAX_CALL_S)
            asyncio.get_running_loop().call_later(rest_s, self._take_rest, self.spent_s)
        else:
            self.spent_s = 0.0
            if self._waiting:
                self.count(0)

    def begin(self, request: int, waits: bool = False) -> Callable[[int, bool | None], None]:
        """Count a call, unless it waits; return what ends it, with the reply's size and success."""
        weight = 0 if waits else CALL_BYTES + request + self._expected
        self.under_way += weight
        return partial(self._end, weight, request, time.monotonic())

    def _end(self, weight: int, request: int, began: float, reply: int, ok: bool | None) -> None:
        size, rest_s = max(request, reply), 0.0
        self._expected = max(reply, self._expected - (self._expected >> 4))
        if size > WINDOW and len(self._callers) > 1:
            if ok is not None:  # None: another call recovers from its error
                self._errors = 0 if ok else min(self._errors + 1, MAX_ERRORS)
            taken_s = size / SLOWEST
            if not self._errors:
                taken_s = min(taken_s, time.monotonic() - began)
            rest_s = REST * min(2**self._errors * taken_s, MAX_CALL_S)
        self.under_way += size - weight
        asyncio.get_running_loop().call_later(rest_s, self.count, -size)

    def count(self, calls: int, unread: int = 0) -> None:
        """Add to the bytes of calls under way, and of unread replies; let those that wait go on."""
        self.under_way += calls
        self._unread += unread
        while self._waiting and self.may_call(first := next(iter(self._waiting))):
            del self._waiting[first]
            first.go_on()


class Shares:
    """The shares of all agents.

    Attributes:
        strangers: That of connections that are not authenticated.
    """

    def __init__(self) -> None:
        # Agents that made calls within the last second or two.
        self._callers = Counter[Share]()
        # Half of the time: a thousand agents may come at once.
        self.strangers = Share("", self._callers, rest=1)
        self._shares: dict[str, Share] = {}
        self._count = 0

    def share(self, identity: str, root: str) -> Share:
        """Return the share of a root token, by its id."""
        return self._shares.setdefault(root, Share(identity, self._callers))

    def enter(self, connection: Any, share: Share) -> None:
        """Count a connection; if there are too many, close one of the agent that has most.

        Raises:
            ResponseError: that is this one.
        """
        share.connections[connection] = None
        self._count += 1
        if self._count <= MAX_CONNECTIONS:
            return
        sizes = Counter[str]()
        for each in self._shares.values():
            sizes[each.identity] += len(each.connections)
        most = max(
            self._shares.values(), key=lambda each: (sizes[each.identity], len(each.connections))
        )
        newest = next(reversed(most.connections))
        self.leave(newest, most)
        if newest is connection:
            raise ResponseError("max number of clients reached")
        newest.cut("share")

    def leave(self, connection: Any, share: Share) -> None:
        """Count a connection no more."""
        self._count -= share.connections.pop(connection, share) is None

    def sweep(self) -> None:
        """Forget agents that have left; once a second."""
        self._callers -= Counter([*self._callers])
        for root, share in [*self._shares.items()]:
            if not (share.connections or share.under_way):
                del self._shares[root]
