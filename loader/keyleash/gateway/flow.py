"""Flow control of a connection: the requests that have arrived, and the replies that wait."""

from __future__ import annotations

import fcntl
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from keyleash.gateway.resp import Requests
from keyleash.gateway.shares import Share

MAX_QUEUED, MAX_QUEUED_BYTES = 1024, 1 << 20
"""Commands that wait, and their size; then the connection is not read from until they ran."""
MAX_UNSENT = 1 << 20
"""Bytes of replies that wait; then no further command runs until the agent has read them."""
PIECE = 1 << 16
"""Bytes that the transport gets at once: that of TLS hides how many of them it still has."""
MAX_UNREAD = 8 << 20
"""Bytes that wait; then the connection is cut, replies once the agent reads nothing."""
UNREAD_S = 5.0
"""Seconds in which an agent with more than `MAX_UNREAD` must read something."""
LOGIN_S, STALL_S = 10.0, 30.0
"""Seconds until a connection must have authenticated, and in which an agent must go on to read, or
to send the rest of a request."""


class Inbox:
    """The requests of an agent.

    Attributes:
        queue: The commands that have arrived and wait.
        parser: Has what was not parsed.
        moved_at: When something arrived last, by the clock of the loop; before login, when the
            connection began.
        early_bytes: The bytes that arrived before login.
        arrived_bytes: The size of what waited after the last `take`.
        is_paused: Whether nothing is read from the agent.
    """

    def __init__(self, now: float) -> None:
        self.queue: deque[Any] = deque()
        self.parser = Requests()
        self.moved_at = now
        self.early_bytes = self.arrived_bytes = 0
        self.is_paused = False

    def take(self, data: bytes, share: Share) -> None:
        """Parse data and what was not parsed before; nothing yet if the agent rests.

        Raises:
            ProtocolError: it breaks the protocol.
        """
        began_at = time.perf_counter()
        before = self.arrived_bytes if self.queue else self.parser.size
        self.arrived_bytes = before + len(data)
        if data and share.is_resting:
            # Other connections of its agent were read in this turn.
            self.parser.keep(data)
            return
        try:
            self.queue += self.parser.feed(data)
        finally:
            share.spend(began_at)

    @property
    def size(self) -> int:
        """The bytes of what waits, or has not arrived whole."""
        return self.arrived_bytes if self.queue else self.parser.size

    @property
    def is_full(self) -> bool:
        """Return whether so much waits that no more is read."""
        most = MAX_QUEUED_BYTES
        return len(self.queue) > MAX_QUEUED or (bool(self.queue) and self.arrived_bytes > most)


class Outbox:
    """The replies to an agent.

    Args:
        count: Called with the bytes that are added to those that wait here.

    Attributes:
        transport: Takes them.
        unsent: The bytes that waited at the last `look`.
        read_at: When the agent had last read something by then.
        is_paused: Whether the agent has to read first.
        ends: Whether the connection is closed when all is sent.
    """

    def __init__(self, count: Callable[[int], None], now: float) -> None:
        self.transport: Any = None
        self._count = count
        self._backlog = bytearray()
        self._written = self._read = self.unsent = 0
        self.read_at = now
        self.is_paused = self.ends = False

    def write(self, out: bytes) -> None:
        """Send a reply."""
        if out and not self.transport.is_closing():
            self._written += len(out)
            if self._backlog or self.is_paused or len(out) > PIECE:
                self._backlog += out
                self._count(len(out))
                self.flush()
            else:
                self.transport.write(out)

    def flush(self) -> None:
        """Give the transport what it takes; close it after the last, if the connection ends."""
        while self._backlog and not (self.is_paused or self.transport.is_closing()):
            piece = self._backlog[:PIECE]
            del self._backlog[:PIECE]
            self._count(-len(piece))
            self.transport.write(piece)
        if self.ends and not self._backlog:
            self.transport.close()

    def end(self) -> None:
        """Close the connection when all is sent."""
        self.ends = True
        self.flush()

    def clear(self) -> None:
        """Forget what waits: the connection is closed."""
        self.ends = True
        self._count(-len(self._backlog))
        self._backlog.clear()

    def look(self, now: float) -> None:
        """Look whether the agent has read something."""
        self.unsent = self.transport.get_write_buffer_size() + len(self._backlog)
        read = self._written - self.unsent - (self._in_kernel() if self.unsent else 0)
        if read > self._read or not self.unsent:
            self._read, self.read_at = read, now

    def _in_kernel(self) -> int:
        """Return the bytes that the agent's side has not confirmed."""
        with suppress(OSError, ValueError):
            number = self.transport.get_extra_info("socket").fileno()
            return int.from_bytes(fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return 0


def reason_to_cut(inbox: Inbox, outbox: Outbox, now: float) -> str:
    """Return why an agent is cut off that stands still where it must not; "" if it is not."""
    if outbox.unsent > MAX_UNREAD and now - outbox.read_at > UNREAD_S:
        return "unread"
    is_arriving = inbox.parser.size and not inbox.is_paused
    stands_since = outbox.read_at if outbox.unsent else inbox.moved_at
    stands = (outbox.unsent or is_arriving) and now - stands_since > STALL_S
    return "stalled" if stands else ""
