"""The calls and replies that redis-py is still to read on a connection."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from keyleash.client._redis_py import BufferedReply
from keyleash.client.actions import Flow, Send
from keyleash.client.caller import Caller
from keyleash.client.calls import Call, Deferred


class Queue(deque[Call | Deferred | BufferedReply]):
    """Calls and replies that are due, in order.

    The first call is on the wire, unless something deferred comes before it.
    """

    def __init__(self, caller: Caller) -> None:
        super().__init__()
        self._caller = caller

    @property
    def next_pending(self) -> Call | Deferred | None:
        """The first that has no reply yet."""
        return next((item for item in self if not isinstance(item, BufferedReply)), None)

    def add_reply(self, reply: Any) -> None:
        """Add a reply, or an error that reading it raises."""
        self.append(BufferedReply(reply, self._caller.encoder()))

    def defer(self, flow: Flow) -> None:
        """Add a command that *flow* carries out when its reply is read."""
        self.append(Deferred(flow, is_later=self.next_pending is not None))

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
        if isinstance(pending, Call):
            yield Send([pending])
