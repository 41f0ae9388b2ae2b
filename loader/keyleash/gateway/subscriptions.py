"""The subscriptions of a connection: confirmations, messages, and the check of their right."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

from redis.exceptions import ResponseError

from keyleash.client.actions import Words
from keyleash.client.caller import LOST
from keyleash.errors import LeashError
from keyleash.gateway import flow
from keyleash.gateway.resp import encode, error_line
from keyleash.gateway.shares import CALL_BYTES

PAUSE_S = 0.01
"""Seconds after which subscriptions are checked that no check has found allowed."""
MESSAGE_BYTES = 100
"""What a message that waits counts beside its text: a tuple, its place, the head of its bytes."""


class Subscriptions:
    """The subscriptions of a connection.

    Args:
        connection: Gets messages by `write`, if its share `may_call`; says how it ends by `cut` and
            `refuse`.

    Attributes:
        listener: The guarded connection that has them; None without any.
        message_bytes: The size of messages that wait.
        collected: Takes confirmations in place of the connection, if it is a list.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.listener: Any = None
        self._checking: asyncio.Task[None] | None = None
        self._confirming: tuple[int, asyncio.Future[None]] | None = None
        self._messages: deque[tuple[bytes, bool]] = deque()
        self.message_bytes = 0
        self.collected: list[bytes] | None = None

    async def subscribe(self, words: Words) -> bytes:
        """Begin or end subscriptions; return the confirmations, unless these come as messages."""
        is_end = words[0].endswith("UNSUBSCRIBE")
        connection, name, listener = self._connection, words[0].encode(), self.listener
        heard = listener.heard[name.startswith(b"SUNSUB")] if listener else set()
        due = len(words) - 1 or sum(key[0] == name.replace(b"UNSUB", b"SUB") for key in heard)
        if is_end and (listener is None or not due):
            out: list[bytes] = []
            head = b">" if connection.protocol == 3 else b"*"
            for channel in words[1:] or (None,):
                encode([name.lower(), channel, len(heard)], connection.protocol, out, head)
            return b"".join(out)
        if listener is None:
            self.listener = listener = connection.agent.take()
            listener.sink = self._take
        active = listener._dialogue.subscriptions.active
        confirmed = asyncio.get_running_loop().create_future()
        self._confirming = due, confirmed
        try:
            await listener.send_command(*words)
        except BaseException:
            if self.listener is not listener:
                listener.abandon()
            elif active:
                self._confirming = None
            else:
                self.end()
            raise
        if self.listener is not listener:
            # The agent has left meanwhile.
            listener.abandon()
            return b""
        if self._checking is None:
            self._checking = asyncio.ensure_future(self._check(listener))
        # Replies to later commands come after the confirmations, which no other call is to prevent.
        connection.wait_uncounted()
        await confirmed
        return b""

    def end(self) -> None:
        """End all of them."""
        listener, self.listener, self._confirming = self.listener, None, None
        task, self._checking = self._checking, None
        if task is not None:
            task.cancel()
        self._messages.clear()
        self.message_bytes = 0
        if listener is not None:
            listener.agent.give_back(listener)

    def _take(self, message: bytes | None, is_due: bool = False) -> None:
        """Take a message, or a confirmation that is due; None if the server is lost."""
        connection = self._connection
        if connection.outbox.ends:
            return
        if message is None:
            connection.cut("upstream")
            return
        self._messages.append((message, is_due))
        self.message_bytes += MESSAGE_BYTES + len(message)
        if self.message_bytes + connection.outbox.unsent > flow.MAX_UNREAD:
            connection.cut("unread")
        elif len(self._messages) == 1:
            self.deliver()

    def deliver(self) -> None:
        """Send messages, unless the subscriptions have to be checked first."""
        connection = self._connection
        while self._messages and not (connection.outbox.is_paused or connection.outbox.ends):
            subscriptions, share = self.listener._dialogue.subscriptions, connection.share
            is_check_due = subscriptions.active and subscriptions.is_check_due
            if is_check_due or not share.may_call(connection):
                break
            began_at, (message, is_due) = time.perf_counter(), self._messages.popleft()
            end_call = share.begin(CALL_BYTES + len(message))
            self.message_bytes -= MESSAGE_BYTES + len(message)
            out = message if connection.protocol == 2 else b">" + message[1:]
            if is_due and self.collected is not None:
                self.collected.append(out)
            else:
                connection.outbox.write(out)
            end_call(0, None)
            share.spend(began_at)
            if is_due and self._confirming is not None:
                self._confirm(*self._confirming)

    def _confirm(self, due: int, confirmed: asyncio.Future[None]) -> None:
        self._confirming = (due - 1, confirmed) if due > 1 else None
        if due == 1:
            # A server counts sharded channels apart.
            if not any(self.listener.heard):
                self.end()
            if not confirmed.done():
                confirmed.set_result(None)

    async def _check(self, listener: Any) -> None:
        subscriptions, connection = listener._dialogue.subscriptions, self._connection
        try:
            while True:
                await asyncio.sleep(next(subscriptions.pauses(None)) or PAUSE_S)
                await listener.can_read(timeout=0)
                self.deliver()
        except LeashError as denial:
            # Revoked, expired, frozen, or the policy has changed: the right has ended.
            connection.refuse(error_line(denial))
        except (ResponseError, *LOST, OSError):
            if not connection.outbox.ends:
                connection.cut("upstream")
