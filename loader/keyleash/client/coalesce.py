"""Coalesce commands of several tasks into one batch."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError, DataError, ResponseError

from keyleash.client._redis_py import BufferedReply, UnreplicatedReply, encode_commands, pack
from keyleash.client.blocking import may_block
from keyleash.client.correlation import given_correlation, new_correlation
from keyleash.client.flow import Queued, chunks
from keyleash.client.replication import commands_of
from keyleash.client.session import GuardedTransport, Session
from keyleash.commands.facts import KEYLESS_PASSES
from keyleash.errors import GuardLostError, NotReplicatedError
from keyleash.store.wire import Argument, BatchMode

Answer: TypeAlias = "asyncio.Future[BufferedReply | None]"
"""The reply to a command; None if the command must be sent alone."""

ErrorT = TypeVar("ErrorT", bound=BaseException)


def copy_error(error: ErrorT) -> ErrorT:
    """Return a copy, since each task raises its own; the error itself if it cannot be copied."""
    try:
        duplicate = copy.copy(error)
    except Exception:
        return error
    # An exception class with its own signature may be rebuilt from wrong arguments.
    is_same = type(duplicate) is type(error) and str(duplicate) == str(error)
    return duplicate if is_same else error


@dataclass(slots=True)
class CoalescedCall:
    """Commands of several tasks under one correlation id, and the futures for their replies.

    Attributes:
        is_single: Whether it is a plain guard call of one command, not a batch.
        was_sent: Whether any part of it may have reached the server.
        answered: The replies, once they were read.
    """

    correlation: str | None
    commands: list[Queued] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    is_single: bool = False
    was_sent: bool = False
    answered: Sequence[BufferedReply | Exception] = ()

    def calls(self) -> Iterator[CoalescedCall]:
        """Split the commands that tasks still await into calls of permitted size."""
        wanted = [index for index, answer in enumerate(self.answers) if not answer.done()]
        for chunk in chunks(self.commands, wanted):
            yield CoalescedCall(
                new_correlation() if self.correlation is None else self.correlation,
                [self.commands[index] for index in chunk],
                [self.answers[index] for index in chunk],
                len(chunk) == 1,
            )

    def halves(self) -> list[CoalescedCall]:
        """Split this call, which has at least four commands, into two."""
        middle = len(self.commands) // 2
        return [
            CoalescedCall(self.correlation, self.commands[part], self.answers[part])
            for part in (slice(middle), slice(middle, None))
        ]

    def drop_cancelled(self) -> bool:
        """Drop the commands whose tasks were cancelled; return whether any remain."""
        wanted = [index for index, answer in enumerate(self.answers) if not answer.done()]
        if len(wanted) < len(self.answers):
            self.commands = [self.commands[index] for index in wanted]
            self.answers = [self.answers[index] for index in wanted]
        return bool(wanted)

    def deliver(self) -> None:
        """Resolve the future of each command that has a reply and was not cancelled."""
        for future, answer in zip(self.answers, self.answered, strict=False):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def mark_unreplicated(self, short: NotReplicatedError, session: Session) -> None:
        """Mark each reply of a command that may have written as not replicated."""
        self.answered = [
            UnreplicatedReply(answer, short)
            if isinstance(answer, BufferedReply) and session.may_write(words)
            else answer
            # A call that did not run has no replies.
            for answer, (words, _) in zip(self.answered, self.commands, strict=False)
        ]

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

    def encodable(self, encoder: Any) -> Iterator[CoalescedCall]:
        """Split off each command that cannot be encoded; yield a call of the others, if any."""
        rest = CoalescedCall(self.correlation)
        for queued, future in zip(self.commands, self.answers, strict=True):
            try:
                for word in (self.correlation, *queued[0]):
                    encoder.encode(word)
            except Exception:
                CoalescedCall(None, [queued], [future]).split_off()
            else:
                rest.commands.append(queued)
                rest.answers.append(future)
        if rest.commands:
            rest.is_single = len(rest.commands) == 1
            yield rest


MAX_IN_FLIGHT = 2
"""Packets. More make batches smaller and calls slower; with one, a slow reply blocks all."""

SPLIT_FROM = 32
"""Number of commands from which two packets are faster than one."""


class UnsendableError(DataError):
    """A command of a packet cannot be encoded, or all were cancelled; nothing was sent."""


@lru_cache(maxsize=512)
def goes_alone(name: str | bytes) -> bool:
    """Return whether a command is never sent in a batch."""
    word = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    # A batch counts the null of a blocking command as a reply, and charges it.
    return may_block(name) or not KEYLESS_PASSES.isdisjoint(word.upper().split(None, 1)[:1])


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
        transport: GuardedTransport,
        pool: ConnectionPool,
        has_one_connection: bool,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.loop = loop
        self._transport = transport
        self._pool = pool
        # One connection is left for a command that is sent alone.
        spare = 0 if has_one_connection else pool.max_connections - 1
        self._max_in_flight = max(1, min(MAX_IN_FLIGHT, spare))
        self._pending: dict[str | None, CoalescedCall] = {}
        self._flush_is_due = False
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, words: tuple[Argument, ...], options: dict[str, Any]) -> Answer:
        """Add a command to those of the same event-loop iteration."""
        answer: Answer = self.loop.create_future()
        given = given_correlation(self._transport.session.correlation)
        call = self._pending.get(given)
        if call is None:
            call = self._pending[given] = CoalescedCall(given)
        call.commands.append((words, options))
        call.answers.append(answer)
        self._schedule_flush()
        return answer

    async def alone(self, words: tuple[Argument, ...], options: dict[str, Any]) -> Any:
        """Send one command that was split off."""
        self._in_flight += 1
        try:
            return await self._transport.connected("digest", self._transport.call, words, options)
        finally:
            self._call_ended()

    def close(self) -> None:
        """Fail the commands that were not sent."""
        gathered, self._pending = self._pending, {}
        for call in gathered.values():
            call.fail(ConnectionError("the client was closed before the command was sent"))

    def _schedule_flush(self) -> None:
        if not self._flush_is_due and self._in_flight < self._max_in_flight:
            self._flush_is_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Send the pending commands, at the end of the iteration."""
        self._flush_is_due = False
        gathered, self._pending = self._pending, {}
        calls = [call for pending in gathered.values() for call in pending.calls()]
        if len(calls) == 1 and calls[0].is_single:
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
            calls = calls[0].halves()
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

    async def _call(
        self, calls: Sequence[CoalescedCall], *, is_spare: bool = False
    ) -> Exception | None:
        """Make calls on one connection, and resolve the future of every command.

        Args:
            is_spare: Whether other packets are in flight, so that this one may wait for them if it
                gets no connection.

        Returns:
            The error that all commands failed with, if any.
        """
        script = "digest" if calls[0].is_single else "batch_digest"
        try:
            lost = await self._connected(script, calls)
        except UnsendableError:
            await self._send_encodable(calls)
        except BaseException as error:
            sent = any(call.was_sent for call in calls)
            if is_spare and isinstance(error, ConnectionError) and not sent:
                self._requeue(calls)
                return None
            for call in calls:
                call.fail(error)
            if not isinstance(error, Exception):
                raise
            return error
        else:
            await self._retry_lost(lost)
        return None

    def _requeue(self, calls: Sequence[CoalescedCall]) -> None:
        # Permanently: the holders of the other connections will use them again.
        self._max_in_flight = 1
        # redis-py hands out the connection that came back last, even if it is not connected.
        free = self._pool._available_connections
        free.sort(key=lambda connection: connection.is_connected)
        for call in calls:
            pending = self._pending.setdefault(call.correlation, CoalescedCall(call.correlation))
            pending.commands += call.commands
            pending.answers += call.answers

    async def _retry_lost(self, calls: Sequence[CoalescedCall]) -> None:
        """Repeat calls one by one, since each may need a recovery of its own."""
        for number, call in enumerate(calls, start=1):
            error = await self._call([call])
            if isinstance(error, GuardLostError):
                # The other calls have waited as long for the script.
                for other in calls[number:]:
                    other.fail(error)
                return

    async def _connected(
        self, script: str, calls: Sequence[CoalescedCall]
    ) -> Sequence[CoalescedCall]:
        """Make calls on one connection; return those whose reply says that nothing ran."""
        try:
            lost: Sequence[CoalescedCall] = await self._transport.connected(
                script, self._exchange, calls
            )
        except NotReplicatedError as short:
            lost = short.reply
            for call in calls:
                call.mark_unreplicated(short, self._transport.session)
        except BaseException:
            # Calls that were answered before have run; it is unknown whether replicas have them.
            guard = self._transport.session.guard_awaiting_replicas(commands_of(calls))
            for call in calls:
                if guard is not None:
                    unknown = NotReplicatedError(None, None, guard.wait_replicas, guard.wait_ms)
                    call.mark_unreplicated(unknown, self._transport.session)
                call.deliver()
            raise
        for call in calls:
            call.deliver()
        return lost

    async def _send_encodable(self, calls: Sequence[CoalescedCall]) -> None:
        """Make calls without the commands that cannot be encoded; sent alone, those raise."""
        encoder = self._transport.encoder()
        rest = [item for call in calls for item in call.encodable(encoder)]
        if sum(len(call.commands) for call in rest) < sum(len(call.commands) for call in calls):
            if rest:
                await self._call(rest)
        else:
            for call in calls:
                call.split_off()

    async def _exchange(
        self, connection: Any, calls: Sequence[CoalescedCall]
    ) -> Sequence[CoalescedCall]:
        """Send calls in one packet and read their replies, in order.

        Returns:
            The calls whose reply says that nothing ran. For a single call, that is raised, and
            the caller recovers.

        Raises:
            UnsendableError: nothing was sent.
        """
        # Getting a connection, or recovering a script, may have taken long.
        calls = [call for call in calls if call.drop_cancelled()]
        if not calls:
            raise UnsendableError
        try:
            parts = [part for call in calls for part in self._packed(connection, call)]
        except Exception:
            # Without the cause, which would show the token.
            raise UnsendableError from None
        for call in calls:
            call.was_sent = True
        await connection.send_packed_command(parts)
        lost = []
        for call in calls:
            try:
                await self._read(connection, call)
            except self._transport.session.recoverable:
                if len(calls) == 1:
                    raise
                lost.append(call)
        return lost

    def _packed(self, connection: Any, call: CoalescedCall) -> list[bytes]:
        session, protocol = self._transport.session, connection.get_protocol()
        words = encode_commands([words for words, _ in call.commands], connection.encoder)
        request = (
            session.request(words[0], protocol, call.correlation)
            if call.is_single
            else session.batch_request(BatchMode.EACH, words, protocol, call.correlation)
        )
        return pack(request, connection.encoder)

    async def _read(self, connection: Any, call: CoalescedCall) -> None:
        session = self._transport.session
        # Each task decodes its own reply, so that an undecodable one fails only its command.
        encoder = connection.encoder if connection.encoder.decode_responses else None
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            lost = session.lost_script(error)
            if lost is not None:
                raise lost from None
            item = session.item_error(error)
            if isinstance(item, session.recoverable):
                raise item from None
            if call.is_single:
                call.answered = [item]
            else:
                whole = item if isinstance(item, Exception) else error
                call.answered = [copy_error(whole) for _ in call.commands]
        else:
            if call.is_single:
                call.answered = [BufferedReply(reply, encoder)]
            else:
                call.answered = session.batch_replies(len(call.commands), reply, encoder)
