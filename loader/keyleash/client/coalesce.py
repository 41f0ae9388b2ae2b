"""Coalesce commands of several tasks into one batch."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from redis.exceptions import ConnectionError, DataError, NoScriptError, ResponseError

from keyleash.client._redis_py import InHand, Unreplicated, encoded, packed
from keyleash.client.blocking import may_block
from keyleash.client.correlation import given_correlation, new_correlation
from keyleash.client.flow import Queued, chunks
from keyleash.client.replication import commands_of
from keyleash.client.session import Session
from keyleash.commands.facts import KEYLESS_PASSES
from keyleash.errors import GuardLostError, NotReplicatedError, PolicyStaleError
from keyleash.store.wire import Argument, BatchMode

if TYPE_CHECKING:
    from keyleash.client.asyncio import Redis


Answer: TypeAlias = "asyncio.Future[InHand | None]"
"""What a command was answered; None tells it to go alone."""

Raised = TypeVar("Raised", bound=BaseException)


def another(error: Raised) -> Raised:
    """A copy, since each task raises one of its own; the error itself if it cannot be copied."""
    try:
        twin = copy.copy(error)
        # A class with a signature of its own may be made anew of the wrong arguments.
        return twin if type(twin) is type(error) and str(twin) == str(error) else error
    except Exception:
        return error


@dataclass(slots=True)
class Together:
    """Commands of one correlation id, and where their answers go.

    Attributes:
        is_one: Whether it is a plain guard call, of one command, and not a batch.
        was_sent: Whether anything of it may have reached the server.
        answered: The answers themselves, once they are there.
    """

    correlation: str | None
    commands: list[Queued] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    is_one: bool = False
    was_sent: bool = False
    answered: Sequence[InHand | Exception] = ()

    def calls(self) -> Iterator[Together]:
        """What is still wanted, parted by what one call may carry."""
        wanted = [index for index, answer in enumerate(self.answers) if not answer.done()]
        for chunk in chunks(self.commands, wanted):
            yield Together(
                new_correlation() if self.correlation is None else self.correlation,
                [self.commands[index] for index in chunk],
                [self.answers[index] for index in chunk],
                len(chunk) == 1,
            )

    def halves(self) -> list[Together]:
        """Two calls instead of this one, which has four commands at least."""
        middle = len(self.commands) // 2
        return [
            Together(self.correlation, self.commands[part], self.answers[part])
            for part in (slice(middle), slice(middle, None))
        ]

    def is_wanted(self) -> bool:
        """Leave out the commands whose tasks were cancelled; whether there are others."""
        wanted = [index for index, answer in enumerate(self.answers) if not answer.done()]
        if len(wanted) < len(self.answers):
            self.commands = [self.commands[index] for index in wanted]
            self.answers = [self.answers[index] for index in wanted]
        return bool(wanted)

    def tell(self) -> None:
        """Tell each command its answer, if there is one, but those whose task was cancelled."""
        for future, answer in zip(self.answers, self.answered, strict=False):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def mark(self, short: NotReplicatedError, session: Session) -> None:
        """Have each command that may have written say that replicas lack it."""
        self.answered = [
            Unreplicated(answer, short)
            if isinstance(answer, InHand) and session.may_write(words)
            else answer
            # Of a call of which nothing ran there is no answer.
            for answer, (words, _) in zip(self.answered, self.commands, strict=False)
        ]

    def fail(self, error: BaseException) -> None:
        """Tell all that have no answer yet."""
        for future in self.answers:
            if isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif not future.done():
                future.set_exception(another(error))

    def part(self) -> None:
        """Tell each command to go alone."""
        for future in self.answers:
            if not future.done():
                future.set_result(None)

    def parted(self, encoder: Any) -> Iterator[Together]:
        """Let each command that cannot be encoded go alone; the others, if there are any."""
        rest = Together(self.correlation)
        for queued, future in zip(self.commands, self.answers, strict=True):
            try:
                for word in (self.correlation, *queued[0]):
                    encoder.encode(word)
            except Exception:
                Together(None, [queued], [future]).part()
            else:
                rest.commands.append(queued)
                rest.answers.append(future)
        if rest.commands:
            rest.is_one = len(rest.commands) == 1
            yield rest


# Commands that tasks issue in one turn of the event loop travel together.
#
# They are gathered until all tasks that could run have run, and leave in one packet on one
# connection: a batch for the commands of each correlation id, since a batch is one audit event,
# or a plain guard call where there is but one. No more than `MOST_UNDER_WAY` packets are under
# way at once; what is issued meanwhile gathers for the next. Where none is under way, many
# commands leave in two: the server has one of them while the tasks have the answers of the other.
# So commands of different tasks have no order, as with redis.asyncio, where each task has a
# connection of its own.

MOST_UNDER_WAY = 2
"""More make batches smaller, and so calls slower; with one, a slow reply would hold up all."""

MANY = 32
"""So many commands are worth two packets."""


class UnsendableError(DataError):
    """Some command of a packet cannot be encoded, or none is wanted; nothing was sent."""


@lru_cache(maxsize=512)
def goes_alone(name: str | bytes) -> bool:
    """Whether a command is never sent in a batch. Every call asks."""
    word = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    # A batch takes the null of a blocking command for an answer, and charges it.
    return may_block(name) or not KEYLESS_PASSES.isdisjoint(word.upper().split(None, 1)[:1])


class Coalescing:
    """The commands of one client on one event loop."""

    def __init__(self, client: Redis, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._client = client
        # One is left for a command that goes alone.
        spare = 0 if client.single_connection_client else client.connection_pool.max_connections - 1
        self._most_under_way = max(1, min(MOST_UNDER_WAY, spare))
        self._gathered: dict[str | None, Together] = {}
        self._leaving = False
        self._under_way = 0
        self._travels: set[asyncio.Task[None]] = set()

    def join(self, words: tuple[Argument, ...], options: dict[str, Any]) -> Answer:
        """Let a command travel with those of the same turn."""
        answer: Answer = self.loop.create_future()
        given = given_correlation()
        together = self._gathered.get(given)
        if together is None:
            together = self._gathered[given] = Together(given)
        together.commands.append((words, options))
        together.answers.append(answer)
        self._leave_soon()
        return answer

    async def alone(self, words: tuple[Argument, ...], options: dict[str, Any]) -> Any:
        """Make the call of a command that was told to go alone."""
        self._under_way += 1
        try:
            return await self._client._connected("digest", self._client._call, words, options)
        finally:
            self._arrive()

    def close(self) -> None:
        """Fail what was not sent."""
        gathered, self._gathered = self._gathered, {}
        for together in gathered.values():
            together.fail(ConnectionError("the client was closed before the command was sent"))

    def _leave_soon(self) -> None:
        if not self._leaving and self._under_way < self._most_under_way:
            self._leaving = True
            self.loop.call_soon(self._leave)

    def _leave(self) -> None:
        """Send what was gathered, at the end of the turn."""
        self._leaving = False
        gathered, self._gathered = self._gathered, {}
        calls = [call for together in gathered.values() for call in together.calls()]
        if len(calls) == 1 and calls[0].is_one:
            calls[0].part()
        elif calls:
            for packet in self._packets(calls):
                self._under_way += 1
                is_spare = self._under_way > 1
                travel = self.loop.create_task(self._travel(packet, is_spare))
                # The loop itself holds it weakly.
                self._travels.add(travel)
                travel.add_done_callback(self._travels.discard)

    def _packets(self, calls: Sequence[Together]) -> Sequence[Sequence[Together]]:
        """What leaves at once: two packets where many wait for an idle connection.

        In one, tasks that go on when they are answered stay in step with each other, and the
        server and this process wait for each other by turns.
        """
        commands = sum(len(call.commands) for call in calls)
        if self._under_way or self._most_under_way == 1 or commands < MANY:
            return [calls]
        if len(calls) == 1:
            calls = calls[0].halves()
        cut = first = 0
        while first * 2 < commands and cut < len(calls) - 1:
            first += len(calls[cut].commands)
            cut += 1
        return [calls[:cut], calls[cut:]]

    def _arrive(self) -> None:
        self._under_way -= 1
        if self._gathered:
            self._leave_soon()

    async def _travel(self, calls: Sequence[Together], is_spare: bool) -> None:
        try:
            await self._carry(calls, is_spare=is_spare)
        finally:
            self._arrive()

    async def _carry(
        self, calls: Sequence[Together], *, is_spare: bool = False
    ) -> Exception | None:
        """Make calls on one connection, and tell every command what became of it.

        Args:
            is_spare: Whether others are under way, so that these may follow if they find no
                connection.

        Returns:
            The error that all of them were told, if there was one.
        """
        script = "digest" if calls[0].is_one else "batch_digest"
        try:
            lost = await self._connected(script, calls)
        except UnsendableError:
            await self._carry_rest(calls)
        except BaseException as error:
            sent = any(call.was_sent for call in calls)
            if is_spare and isinstance(error, ConnectionError) and not sent:
                self._gather_again(calls)
                return None
            for call in calls:
                call.fail(error)
            if not isinstance(error, Exception):
                raise
            return error
        else:
            await self._carry_lost(lost)
        return None

    def _gather_again(self, calls: Sequence[Together]) -> None:
        # For good: whoever has the other connections will want them again.
        self._most_under_way = 1
        # redis-py gives out what came back last, also if that could not be connected.
        free = self._client.connection_pool._available_connections
        free.sort(key=lambda connection: connection.is_connected)
        for call in calls:
            together = self._gathered.setdefault(call.correlation, Together(call.correlation))
            together.commands += call.commands
            together.answers += call.answers

    async def _carry_lost(self, calls: Sequence[Together]) -> None:
        """Make calls again, one by one, since each may have to be healed."""
        for number, call in enumerate(calls, start=1):
            error = await self._carry([call])
            if isinstance(error, GuardLostError):
                # The others have waited as long for somebody to load the script.
                for other in calls[number:]:
                    other.fail(error)
                return

    async def _connected(self, script: str, calls: Sequence[Together]) -> Sequence[Together]:
        """Make calls on one connection; those come back whose answer says that nothing ran."""
        client = self._client
        try:
            lost: Sequence[Together] = await client._connected(script, self._exchange, calls)
        except NotReplicatedError as short:
            lost = short.reply
            for call in calls:
                call.mark(short, client._session)
        except BaseException:
            # What was answered before is done, and a replica may or may not have it.
            guard = client._session.waits_for(commands_of(calls))
            for call in calls:
                if guard is not None:
                    unknown = NotReplicatedError(None, None, guard.wait_replicas, guard.wait_ms)
                    call.mark(unknown, client._session)
                call.tell()
            raise
        for call in calls:
            call.tell()
        return lost

    async def _carry_rest(self, calls: Sequence[Together]) -> None:
        """Make calls without the commands that cannot be sent; alone, these hear why."""
        encoder = self._client._encoder()
        rest = [item for call in calls for item in call.parted(encoder)]
        if sum(len(call.commands) for call in rest) < sum(len(call.commands) for call in calls):
            if rest:
                await self._carry(rest)
        else:
            for call in calls:
                call.part()

    async def _exchange(self, connection: Any, calls: Sequence[Together]) -> Sequence[Together]:
        """Send calls in one packet and read their answers, in order.

        Returns:
            The calls whose answer says that nothing ran. If there is one call, that is raised,
            and healed where this was called.

        Raises:
            UnsendableError: nothing was sent.
        """
        # Finding a connection, or a lost script, may have taken long.
        calls = [call for call in calls if call.is_wanted()]
        if not calls:
            raise UnsendableError
        try:
            parts = [part for call in calls for part in self._packed(connection, call)]
        except Exception:
            # Without its cause, which would show the token.
            raise UnsendableError from None
        for call in calls:
            call.was_sent = True
        await connection.send_packed_command(parts)
        lost = []
        for call in calls:
            try:
                await self._read(connection, call)
            except (NoScriptError, PolicyStaleError):
                if len(calls) == 1:
                    raise
                lost.append(call)
        return lost

    def _packed(self, connection: Any, call: Together) -> list[bytes]:
        session, protocol = self._client._session, connection.get_protocol()
        words = encoded([words for words, _ in call.commands], connection.encoder)
        request = (
            session.request(words[0], protocol, call.correlation)
            if call.is_one
            else session.batch_request(BatchMode.EACH, words, protocol, call.correlation)
        )
        return packed(request, connection.encoder)

    async def _read(self, connection: Any, call: Together) -> None:
        session = self._client._session
        # A reply that cannot be decoded is the fault of one command, and decoded by its task.
        encoder = connection.encoder if connection.encoder.decode_responses else None
        try:
            reply = await connection.read_response(disable_decoding=True)
        except ResponseError as error:
            lost = session.lost(error)
            if lost is not None:
                raise lost from None
            refused = session.refused(error)
            if isinstance(refused, PolicyStaleError):
                raise refused from None
            if call.is_one:
                call.answered = [refused]
            else:
                whole = refused if isinstance(refused, Exception) else error
                call.answered = [another(whole) for _ in call.commands]
        else:
            if call.is_one:
                call.answered = [InHand(reply, encoder)]
            else:
                call.answered = session.answers(len(call.commands), reply, encoder)
