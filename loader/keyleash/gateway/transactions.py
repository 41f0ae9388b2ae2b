"""Commands that are no plain calls: transactions, scripts, blocking commands."""

from __future__ import annotations

from typing import Any

from redis.exceptions import ExecAbortError, ResponseError

from keyleash.client.actions import Words
from keyleash.client.command_words import Role, role_of, upper
from keyleash.gateway import own
from keyleash.gateway.resp import MAX_REQUEST_BYTES, WITHIN_MULTI, Status, error_line
from keyleash.store.wire import MAX_BATCH_COMMANDS


class Transaction:
    """The commands of a connection from its first WATCH or MULTI to its EXEC.

    Attributes:
        held: The guarded connection that it uses now; None outside of a transaction.
        queued_bytes: The size of the commands that wait for EXEC.
        is_aborted: Whether EXEC runs nothing, as a command could not be queued.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.held: Any = None
        self.end()

    def end(self) -> None:
        """Give the guarded connection back; what was left unfinished ends."""
        held, self.held, self.is_aborted, self.queued_bytes = self.held, None, False, 0
        # Commands that the gateway answers itself, by their places.
        self._own = dict[int, Words]()
        self._connection.subscriptions.collected = None
        if held is not None:
            held.agent.give_back(held)

    @property
    def is_queueing(self) -> bool:
        """Return whether commands wait for EXEC."""
        return self.held is not None and self.held.queued is not None

    async def run(self, words: Words) -> bytes:
        """Return the reply to a command; queue it within MULTI."""
        connection = self._connection
        if self.held is None:
            self.held = connection.agent.hold()
        held, queued = self.held, self.held.queued
        if queued is not None and words[0] != "EXEC":
            self.queued_bytes += sum(map(len, words))
            count = len(queued) + len(self._own)
            if count >= MAX_BATCH_COMMANDS or self.queued_bytes > MAX_REQUEST_BYTES:
                raise ResponseError("the transaction is too large")
            if own.is_queued(words):
                self._own[count] = words
                return b"+QUEUED\r\n"
        answered = self._own
        try:
            if words == ("EXEC",) and self.is_aborted:
                await held.run(("DISCARD",))
                raise ExecAbortError("Transaction discarded because of previous errors.")
            value = await held.run(words)
            held.agent.wake([] if value is None else queued or [words])
        except ResponseError as error:
            line = error_line(error).decode("latin-1")
            if queued is None or not line.startswith(("OOM ", "NOREPLICAS ")):
                raise
            raise ExecAbortError(f"Transaction discarded because of: {line}") from None
        finally:
            if held.is_idle:
                self.end()
        if words[0] == "EXEC" and isinstance(value, list) and queued is not None:
            commands = [(WITHIN_MULTI.get(upper(name), name), *rest) for name, *rest in queued]
            return await self._replies(connection.encoded(commands, value), answered)
        is_status = queued is not None or role_of(words[0]) in (Role.TRANSACTION, Role.INFO)
        if value in (b"OK", b"QUEUED") and is_status:
            value = Status(value)
        return bytes(connection.encoded([words], [value])[0])

    async def _replies(self, replies: list[bytes], answered: dict[int, Words]) -> bytes:
        """Return the reply to EXEC, with the answers of the gateway in their places."""
        subscriptions = self._connection.subscriptions
        for at, command in answered.items():
            # Those of UNSUBSCRIBE are in their places, and no messages before.
            subscriptions.collected = []
            reply = await own.answer(self._connection, command)
            replies.insert(at, reply or b"".join(subscriptions.collected))
        subscriptions.collected = None
        return b"*%d\r\n" % len(replies) + b"".join(replies)
