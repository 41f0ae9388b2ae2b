"""Coalesce commands of several tasks into one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import lru_cache
from typing import Any, TypeAlias

from redis.asyncio import ConnectionPool
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError, DataError

from keyleash.client._redis_py import BufferedReply, copy_error
from keyleash.client.actions import Words
from keyleash.client.batches import chunks
from keyleash.client.calls import Call
from keyleash.client.command_words import role_of
from keyleash.client.correlation import given_correlation, new_correlation
from keyleash.client.once import current_block
from keyleash.client.session import Session
from keyleash.commands.facts import KEYLESS_PASSES
from keyleash.store.wire import BatchMode

Answer: TypeAlias = "asyncio.Future[BufferedReply | None]"
"""The reply to a command; None if the command must be sent alone."""

UNSENDABLE = (DataError, TypeError, UnicodeError)
"""Errors of encoding, which come before anything is sent."""


class CoalescedCall(Call):
    """Commands of several tasks under one correlation id, and the futures for their replies.

    Args:
        correlation: The id; empty or None for a new one of each call.
        slot: On a cluster, the slot of their keys.
    """

    commands: list[Words]

    def __init__(
        self, correlation: str | None, slot: int | None, mode: BatchMode | None = None
    ) -> None:
        super().__init__([], mode)
        self.correlation = correlation or ""
        self.slot = slot
        self.answers: list[Answer] = []

    def calls(self) -> Iterator[CoalescedCall]:
        """Split the commands that tasks still await into calls of permitted size."""
        for chunk in chunks(self.commands, self._awaited()):
            part = self.part(chunk)
            part.mode = BatchMode.EACH if len(chunk) > 1 else None
            part.correlation = self.correlation or new_correlation()
            yield part

    def part(self, indexes: Sequence[int]) -> CoalescedCall:
        """Return a call of some of the commands."""
        part = CoalescedCall(self.correlation, self.slot, self.mode)
        part.commands = [self.commands[index] for index in indexes]
        part.answers = [self.answers[index] for index in indexes]
        return part

    def _awaited(self) -> list[int]:
        return [at for at, answer in enumerate(self.answers) if not answer.done()]

    def wanted(self) -> CoalescedCall:
        """Return a call without the commands whose tasks were cancelled."""
        awaited = self._awaited()
        return self if len(awaited) == len(self.answers) else self.part(awaited)

    def deliver(self, replies: Sequence[BufferedReply]) -> None:
        """Resolve the future of each command that was not cancelled."""
        for future, reply in zip(self.answers, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    def fail(self, error: BaseException) -> None:
        """Fail all commands that have no reply yet."""
        for future in self.answers:
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif not future.done():
                future.set_exception(copy_error(error))

    def split_off(self) -> None:
        """Have each command sent alone."""
        for future in self.answers:
            if not future.done():
                future.set_result(None)

    def encodable(self, encoder: Any) -> CoalescedCall:
        """Split off each command that cannot be encoded; return a call of the others."""
        sent = []
        for at, words in enumerate(self.commands):
            try:
                for word in (self.correlation, *words):
                    encoder.encode(word)
            except Exception:
                self.part([at]).split_off()
            else:
                sent.append(at)
        return self.part(sent)


MAX_IN_FLIGHT = 2
"""Packets. More make batches smaller and calls slower; with one, a slow reply blocks all."""

SPLIT_FROM = 32
"""Number of commands from which two packets are faster than one."""


def goes_alone(name: str | bytes, options: Mapping[str, Any]) -> bool:
    """Return whether a command is never sent with those of other tasks: it has an id, or must."""
    return "once" in options or current_block() is not None or _is_special(name)


@lru_cache(maxsize=512)
def _is_special(name: str | bytes) -> bool:
    if role_of(name) is not None:
        # A batch counts the null of a blocking command as a reply, and charges it.
        return True
    word = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    return not KEYLESS_PASSES.isdisjoint(word.upper().split(None, 1)[:1])


class Coalescer:
    """Coalesces the commands that the tasks of one event loop issue in one iteration.

    It collects commands until all tasks that could run have run, and sends them in one packet on
    one connection: a batch per correlation id, since a batch is one audit event, or a plain guard
    call for a single command. At most `MAX_IN_FLIGHT` packets are in flight; later commands wait
    for the next. If none is in flight, many commands leave in two packets, so that the server
    works on one while the tasks handle the replies of the other. Commands of different tasks have
    no order, as with redis.asyncio, where each task has its own connection.
    """

    def __init__(
        self,
        session: Session,
        pool: ConnectionPool | ClusterNode,
        connected: Callable[[], AbstractAsyncContextManager[Any]],
        has_one_connection: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self._session = session
        self.pool = pool
        self._connected = connected
        # One connection is left for a command that is sent alone.
        spare = 0 if has_one_connection else pool.max_connections - 1
        self._max_in_flight = max(1, min(MAX_IN_FLIGHT, spare))
        self._pending: dict[tuple[str | None, int | None], CoalescedCall] = {}
        self._flush_is_due = False
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, words: Words, slot: int | None = None) -> Answer:
        """Add a command to those of the same event-loop iteration.

        Args:
            slot: On a cluster, the slot of its keys; those of other slots are in other batches.
        """
        answer: Answer = self.loop.create_future()
        key = given_correlation(self._session.correlation), slot
        pending = self._pending.get(key)
        if pending is None:
            pending = self._pending[key] = CoalescedCall(*key)
        pending.commands.append(words)
        pending.answers.append(answer)
        if not self._flush_is_due:
            self._schedule_flush()
        return answer

    async def alone(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Send one command that was split off."""
        self._in_flight += 1
        try:
            return await call
        finally:
            self._call_ended()

    def close(self) -> None:
        """Fail the commands that were not sent."""
        gathered, self._pending = self._pending, {}
        for pending in gathered.values():
            pending.fail(ConnectionError("the client was closed before the command was sent"))

    def _schedule_flush(self) -> None:
        if not self._flush_is_due and self._in_flight < self._max_in_flight:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send the pending commands, at the end of the iteration."""
        self._flush_is_due = False
        gathered, self._pending = self._pending, {}
        calls = [call for pending in gathered.values() for call in pending.calls()]
        if len(calls) == 1 and calls[0].mode is None:
            calls[0].split_off()
        elif calls:
            for packet in self._packets(calls):
                self._in_flight += 1
                is_spare = self._in_flight > 1
                travel = self.loop.create_task(self._send(packet, is_spare))
                # The event loop itself holds only a weak reference.
                self._tasks.add(travel)
                travel.add_done_callback(self._tasks.discard)

    def _packets(self, calls: Sequence[CoalescedCall]) -> Sequence[Sequence[CoalescedCall]]:
        """Split the calls into two packets if many commands wait and nothing is in flight.

        With one packet, tasks that continue at each reply stay in step with each other, and the
        server and this process take turns waiting for each other.
        """
        commands = sum(len(call.commands) for call in calls)
        if self._in_flight or self._max_in_flight == 1 or commands < SPLIT_FROM:
            return [calls]
        if len(calls) == 1:
            middle = commands // 2
            calls = [calls[0].part(range(middle)), calls[0].part(range(middle, commands))]
        cut = first = 0
        while first * 2 < commands and cut < len(calls) - 1:
            first += len(calls[cut].commands)
            cut += 1
        return [calls[:cut], calls[cut:]]

    def _call_ended(self) -> None:
        self._in_flight -= 1
        if self._pending:
            self._schedule_flush()

    async def _send(self, calls: Sequence[CoalescedCall], is_spare: bool) -> None:
        try:
            await self._call(calls, is_spare=is_spare)
        finally:
            self._call_ended()

    async def _call(self, calls: Sequence[CoalescedCall], *, is_spare: bool = False) -> None:
        """Make calls on one connection, and resolve the future of every command.

        Args:
            is_spare: Whether other packets are in flight, so that this one may wait for them if it
                gets no connection.
        """
        has_connection = False
        try:
            async with self._connected() as connection:
                has_connection = True
                # Getting a connection may have taken long.
                wanted = [part for part in (call.wanted() for call in calls) if part.commands]
                if wanted:
                    await connection.exchange(wanted, CoalescedCall.deliver)
        except UNSENDABLE:
            await self._send_encodable(calls)
        except BaseException as error:
            if is_spare and isinstance(error, ConnectionError) and not has_connection:
                self._requeue(calls)
                return
            for call in calls:
                call.fail(error)
            if not isinstance(error, Exception):
                raise

    def _requeue(self, calls: Sequence[CoalescedCall]) -> None:
        # Permanently: the holders of the other connections will use them again.
        self._max_in_flight = 1
        # redis-py hands out the connection that came back last, even if it is not connected.
        free = getattr(self.pool, "_available_connections", [])
        free.sort(key=lambda connection: connection.is_connected)
        for call in calls:
            key = call.correlation, call.slot
            pending = self._pending.setdefault(key, CoalescedCall(*key))
            pending.commands += call.commands
            pending.answers += call.answers

    async def _send_encodable(self, calls: Sequence[CoalescedCall]) -> None:
        """Make calls without the commands that cannot be encoded; sent alone, those raise."""
        encoder = self.pool.get_encoder()
        rest = [part for part in (call.encodable(encoder) for call in calls) if part.commands]
        if sum(len(call.commands) for call in rest) < sum(len(call.commands) for call in calls):
            if rest:
                await self._call(rest)
        else:
            for call in calls:
                call.split_off()
