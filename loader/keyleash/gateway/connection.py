"""One connection of an agent: its commands become calls of the guard, in order.

At most one call is under way at a time. Plain commands that have arrived by then are the next, as
one batch, whose replies pass without being parsed. All others take the way of the client library:
transactions, scripts, blocking commands, subscriptions, and whatever has to be recovered.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import select
import sys
import termios
import time
import traceback
import types
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias, cast

from redis.exceptions import ExecAbortError, ResponseError

from keyleash.client._redis_py import pack
from keyleash.client.actions import Words
from keyleash.client.batches import MAX_CHUNK_COMMANDS
from keyleash.client.caller import LOST
from keyleash.client.calls import Call
from keyleash.client.command_words import Role, role_of, upper
from keyleash.client.correlation import correlation
from keyleash.client.retries import is_sent
from keyleash.client.routing import is_redirect
from keyleash.errors import ArgsTooManyError, KeyleashError, LeashError
from keyleash.gateway import own
from keyleash.gateway.agent import Agent, source
from keyleash.gateway.channels import counted
from keyleash.gateway.resp import (
    LOGIN_BYTES,
    MAX_NAME,
    MAX_REQUEST_BYTES,
    WITHIN_MULTI,
    ProtocolError,
    Requests,
    Status,
    TooManyWords,
    encode,
    encoded,
    error_line,
    name_of,
    parse,
    passed,
    split,
)
from keyleash.gateway.shares import CALL_BYTES, Share
from keyleash.gateway.upstream import LARGE_BYTES
from keyleash.store.wire import MAX_ARGUMENTS, MAX_BATCH_COMMANDS, BatchMode

MAX_QUEUED, MAX_QUEUED_BYTES = 1024, 1 << 20
"""Commands that wait, and their size; then the connection is not read from until they ran."""
MAX_UNSENT = 1 << 20
"""Bytes of replies that wait; then no further command runs until the agent has read them."""
PIECE = 1 << 16
"""Bytes that the transport gets at once: that of TLS hides how many of them it still has."""
MAX_UNREAD = 8 << 20
"""Bytes that wait; then the connection is cut, replies once the agent reads nothing."""
PAUSE_S = 0.01
"""Seconds after which subscriptions are checked that no check has found allowed."""
MESSAGE_BYTES = 100
"""What a message that waits counts beside its text: a tuple, its place, the head of its bytes."""
UNREAD_S = 5.0
"""Seconds in which an agent with more than `MAX_UNREAD` must read something."""
LOGIN_S, STALL_S = 10.0, 30.0
"""Seconds until a connection must have authenticated, and in which an agent must go on to read, or
to send the rest of a request."""

Run: TypeAlias = Callable[[], Coroutine[Any, Any, list[bytes]]]
logger = logging.getLogger("keyleash.gateway")


class Connection(asyncio.Protocol):
    """The connection of an agent.

    Args:
        gateway: Where it was accepted.
        number: Its number.

    Attributes:
        agent: The holder of its token; None before it is authenticated.
        protocol: 2 or 3.
        name: As CLIENT SETNAME gave it.
        source: Its address, and the subject of its certificate.
        share: That of its agent, or of the last one.
        held: The guarded connection that it uses now, or has until a transaction ends.
        listener: The guarded connection that has its subscriptions.
    """

    def __init__(self, gateway: Any, number: int) -> None:
        self.gateway, self.number = gateway, number
        self.agent: Agent | None = None
        self.protocol = 2
        self.name = b""
        self.correlation = f"gw-{number}"
        self.source = ""
        self.share: Share = gateway.shares.strangers
        self.held: Any = None
        self.listener: Any = None
        self._listening: asyncio.Task[None] | None = None
        self._confirming: tuple[int, asyncio.Future[None]] | None = None
        self._requests = Requests()
        self._queue: deque[Any] = deque()
        self._backlog = bytearray()
        self._call: tuple[Call, Any] | None = None
        self._end_call = self.share.begin(0, waits=True)
        self._task: asyncio.Task[None] | None = None
        self._left: asyncio.Task[None] | None = None
        self._blocks = False
        self._is_paused = self._is_reading_paused = self._ends = False
        self._is_aborted = False
        self._own: dict[int, Words] = {}
        self._confirmed: list[bytes] | None = None
        self._messages: deque[tuple[bytes, bool]] = deque()
        self._message_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._moved_at = self._read_at = self._loop.time()
        self._written = self._read = self._sent_early = 0
        self._unsent = self._waiting_bytes = self._queued_bytes = 0
        self.transport: Any = None

    # Transport.

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT)
        self.source = own.source_of(transport)
        self.gateway.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """End what it has under way."""
        self._ends = True
        self._queue.clear()
        self.share.count(0, -len(self._backlog))
        self._backlog.clear()
        if self._task is not None:
            # After its first step: until then it would give nothing back.
            self._loop.call_soon(self._task.cancel)
        if self._task is None and self._call is None:
            self._let_go()
        self._unlisten()
        self._loop.call_soon(self.gateway.remove, self)

    def pause_writing(self) -> None:
        """Run no more commands until the agent has read."""
        self._is_paused = True

    def pause_reading(self) -> None:
        """Take no more from the agent."""
        if not self._is_reading_paused:
            self._is_reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if not self._ends:
            self._is_reading_paused = False
            self._moved_at = self._loop.time()
            self.transport.resume_reading()

    def resume_writing(self) -> None:
        """Go on."""
        self._is_paused = False
        self._flush()
        self.go_on()

    def data_received(self, data: bytes) -> None:
        """Queue the commands that have arrived."""
        if self._ends:
            return
        if self.agent is None:
            self._sent_early += len(data)
        else:
            self._moved_at = self._loop.time()
        self._parse(data)
        is_full = len(self._queue) > MAX_QUEUED or self._waiting_bytes > MAX_QUEUED_BYTES
        is_large = self._requests.size > LARGE_BYTES
        if (is_full and self._queue) or (is_large and not self.gateway.take_large(self)):
            self.pause_reading()
        elif self._sent_early > LOGIN_BYTES and not (self.agent or self._task or self._queue):
            self.refuse(b"ERR Protocol error: too much before login")
        if self._call is None and self._task is None:
            self.go_on()
        if self._requests.has_more or self.share.is_resting:
            # The event loop would read for as long as the agent sends.
            self.pause_reading()
            self.share.may_call(self)

    def _parse(self, data: bytes = b"") -> None:
        """Queue commands that have arrived."""
        began_at = time.perf_counter()
        before = self._waiting_bytes if self._queue else self._requests.size
        self._waiting_bytes = before + len(data)
        if data and self.share.is_resting:
            # Other connections of its agent were read in this turn.
            self._requests.keep(data)
            return
        try:
            self._queue += self._requests.feed(data)
        except ProtocolError as error:
            self.refuse(b"ERR Protocol error: " + b" ".join(str(error).encode("latin-1").split()))
        self.share.spend(began_at)

    def check(self, now: float) -> None:
        """Cut the connection if it stands still where it must not."""
        self._unsent = self.transport.get_write_buffer_size() + len(self._backlog)
        read = self._written - self._unsent - (self._in_kernel() if self._unsent else 0)
        if read > self._read or not self._unsent:
            self._read, self._read_at = read, now
        if self.agent is None:
            if now - self._moved_at > LOGIN_S + UNREAD_S:
                self.cut("unread")
            elif now - self._moved_at > LOGIN_S:
                self.refuse(b"ERR the connection was not authenticated in time")
        elif self._unsent > MAX_UNREAD and now - self._read_at > UNREAD_S:
            self.cut("unread")
        elif now - (self._read_at if self._unsent else self._moved_at) > STALL_S and (
            self._unsent or (self._requests.size and not self._is_reading_paused)
        ):
            self.cut("stalled")
        # Its end is not read. A command that is answered within a sweep has its reply, though.
        left = self._task if self._is_reading_paused and self._blocks and self._has_left() else None
        if left is not None and left is self._left:
            self._ends = True
            self.transport.abort()
        self._left = left

    def _has_left(self) -> bool:
        """Return whether the agent's side is closed, also while nothing is read from it."""
        poller = select.poll()
        with suppress(OSError, ValueError):
            # A system without POLLRDHUP still reports a reset.
            number = self.transport.get_extra_info("socket").fileno()
            poller.register(number, getattr(select, "POLLRDHUP", 0))
        return bool(poller.poll(0))

    def _in_kernel(self) -> int:
        """Return the bytes that the agent's side has not confirmed."""
        with suppress(OSError, ValueError):
            number = self.transport.get_extra_info("socket").fileno()
            return int.from_bytes(fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return 0

    def refuse(self, line: bytes) -> None:
        """Send an error, and close the connection."""
        if not self._ends:
            self.gateway.cuts["refused"] += 1
            self.write(b"-%b\r\n" % line)
            self.end()

    def cut(self, why: str) -> None:
        """Close the connection at once: what was sent may have run."""
        self.gateway.cuts[why] += 1
        self._ends = True
        self.transport.abort()

    def end(self) -> None:
        """Close the connection when all that was written is sent."""
        self._ends = True
        self._flush()

    @property
    def waiting_bytes(self) -> int:
        """The size of requests that wait or have not arrived whole, and of replies that wait."""
        arrived = self._waiting_bytes if self._queue else self._requests.size
        return arrived + self._queued_bytes + self._unsent + self._message_bytes

    # Commands.

    def go_on(self) -> None:
        """Start with the next commands, unless there are none or the agent does not read."""
        if self.gateway.is_draining and self.held is None and not (self._call or self._task):
            self.end()
        self._deliver()
        while (self._queue or self._requests.has_more) and not (
            self._is_paused or self._ends or self._call or self._task
        ):
            if not self.share.may_call(self):
                break
            if not self._queue:
                self._parse()
                continue
            words = self._queue[0]
            if not (_is_plain(words[0]) and self._takes_plain):
                self._queue.popleft()
                self._start(partial(self._replies_to, words), [words])
            else:
                commands = self._plain_commands()
                if not self._send_at_once(commands):
                    self._start(partial(self._run_plain, commands), commands)
        is_answered = not (self._call or self._task or self._queue)
        if self.gateway.large and is_answered and self._requests.size <= LARGE_BYTES:
            self.gateway.give_large(self)
        is_held = self._queue or self._requests.has_more or self in self.gateway.waiting
        if self._is_reading_paused and not is_held:
            # Also where a part of the next request has arrived, as the rest is still to come.
            self.resume_reading()

    @property
    def _takes_plain(self) -> bool:
        """Return whether plain commands have nothing to do with what else is under way."""
        return (
            self.agent is not None
            and self.held is None
            and (self.listener is None or self.protocol == 3)
        )

    def _plain_commands(self) -> list[Words]:
        """Take the next plain commands off the queue."""
        queue, most = self._queue, self.share.largest_batch
        if len(queue) == 1:
            return [queue.popleft()]
        if len(queue) <= most and all(map(_is_plain, {words[0] for words in queue})):
            commands = [*queue]
            queue.clear()
            return commands
        commands = [queue.popleft()]
        while queue and len(commands) < most and _is_plain(queue[0][0]):
            commands.append(queue.popleft())
        return commands

    def _send_at_once(self, commands: list[Words]) -> bool:
        """Send plain commands as one call, and pass its reply on when it comes.

        Returns:
            False, and nothing was sent, if they need more.
        """
        began_at, agent = time.perf_counter(), cast(Any, self.agent)
        connection = agent.take_for(commands) if self._waiting_bytes < LARGE_BYTES else None
        if connection is None:
            return False
        mode = BatchMode.EACH if len(commands) > 1 else None
        call = connection._dialogue.lone_call(commands, mode)
        if call is None or sum(map(len, commands)) > MAX_ARGUMENTS:
            agent.give_back(connection)
            return False
        call.correlation = self.correlation
        source.set(self.source)
        try:
            packet = b"".join(pack(connection._dialogue.caller.request(call)))
        except Exception:
            # The other way has the error of each command.
            agent.give_back(connection)
            return False
        self._call = call, connection
        self._end_call = self.share.begin(len(packet))
        connection._dialogue.due.append(call)
        connection.pipe.send(packet, self._reply_came)
        self.share.spend(began_at)
        self.gateway.calls += 1
        self.gateway.commands += len(commands)
        return True

    def _reply_came(self, frame: bytes | None) -> None:
        """Pass on the reply to the call that was sent at once."""
        assert self._call is not None  # noqa: S101 - it was sent
        began_at = time.perf_counter()
        (call, connection), self._call = self._call, None
        self._end_call(len(frame or b""), None if frame and frame[0] == 45 else True)
        if frame is None:
            # It may have run: the agent sees what it would see of a lost server.
            connection.abandon()
            connection.agent.give_back(connection)
            if not self._ends:
                self.cut("upstream")
            return
        if frame[0] == 45 and not self._ends:
            self._start(partial(self._recovered, call, connection, frame), call.commands)
            return
        connection._dialogue.due.clear()
        try:
            out = b"" if self._ends else self._passed(call, connection, frame)
        except Exception:
            # Not into the pipe, which would be closed for all.
            self._report_failure()
        connection.agent.keep(connection)
        connection.agent.wake(call.commands)
        if self._ends:
            return
        self.write(out)
        self.share.spend(began_at)
        self.go_on()

    def _passed(self, call: Call, connection: Any, frame: bytes) -> bytes:
        if call.mode is None:
            return self._counted(call.commands[0], passed(call.commands[0], frame, self.protocol))
        out, at, count = list[bytes](), 0, len(call.commands)
        for item, times in split(frame, call.shape or [1] * count):
            if item[0] == 45:
                for words in call.commands[at : at + times]:
                    error = connection._dialogue.caller._item(words, parse(item))
                    out.append(b"-%b\r\n" % error_line(error))
            else:
                out.append(
                    self._counted(call.commands[at], passed(call.commands[at], item, self.protocol))
                    * times
                )
            at += times
        size = len(frame)
        if size > MAX_UNSENT:
            self.share.largest_batch = max(1, count * MAX_UNSENT // size)
        elif size < MAX_UNSENT // 4:
            self.share.largest_batch = min(MAX_CHUNK_COMMANDS, 2 * self.share.largest_batch)
        return b"".join(out)

    async def _recovered(self, call: Call, connection: Any, frame: bytes) -> list[bytes]:
        """Return what to reply to a call whose first reply is an error."""
        try:
            flow = connection._dialogue.receive_all(undecoded=True)
            replies = await connection._drive(flow, {}, received=parse(frame))
            values = [reply.error or reply.value for reply in replies]
        finally:
            connection.agent.give_back(connection)
        if all(map(is_redirect, values)):
            return await self._run_plain(call.commands)
        return self._encoded(call.commands, values)

    def _encoded(self, commands: Sequence[Words], values: Sequence[Any]) -> list[bytes]:
        pairs = zip(commands, values, strict=True)
        return [self._reply(words, value) for words, value in pairs]

    def _reply(self, words: Words, value: Any) -> bytes:
        return self._counted(words, encoded(words, value, self.protocol))

    def _counted(self, words: Words, reply: bytes) -> bytes:
        more = self.gateway.upstream.more
        return counted(more, words, reply) if more else reply

    def _start(self, run: Run, commands: Sequence[Any]) -> None:
        """Run what takes more than one step."""
        size = self._queued_bytes + sum(len(word) for words in commands for word in words)
        first = commands[0]
        name = upper(first[3]) if first[0] == "KEYLEASH" and len(first) > 3 else first[0]
        self._blocks = role_of(name) is Role.BLOCKING
        waits = self._blocks or name in ("AUTH", "HELLO", "WAIT", "WAITAOF")
        self._end_call = self.share.begin(size, waits)
        self._task = self._loop.create_task(self._finish(run, commands))

    async def _finish(self, run: Run, commands: Sequence[Any]) -> None:
        replies, ends = list[bytes](), False
        try:
            source.set(self.source)
            with correlation(self.correlation):
                replies = await _timed(run(), self)
        except (ResponseError, KeyleashError) as error:
            # Whether a nested MULTI or WATCH aborts it, `held` knows.
            self._is_aborted |= self._is_queueing and commands[0][0] not in ("MULTI", "WATCH")
            replies = [b"-%b\r\n" % error_line(error)] * len(commands)
        except (*LOST, OSError) as error:
            # What follows must not run without its transaction.
            ends = self.held is not None or commands[0][0] == "MULTI"
            self._let_go()
            if is_sent(error):
                self.cut("upstream")
                return
            replies = [b"-%b\r\n" % error_line(error)] * len(commands)
        except Exception:
            self._report_failure()
        finally:
            self._task = None
            self._end_call(sum(map(len, replies)), not any(out[:1] == b"-" for out in replies))
            if self._ends:
                self._let_go()
        if self._ends:
            return
        self.write(b"".join(replies))
        if ends:
            self.gateway.cuts["refused"] += 1
            self.end()
        else:
            self.go_on()

    def _report_failure(self) -> None:
        """Log the exception that is handled, and close the connection."""
        # Neither message nor locals, which may have what the agent sent.
        kind, _, trace = sys.exc_info()
        where = traceback.extract_tb(trace)[-1]
        name = Path(where.filename).name
        logger.error("connection %d: %s in %s:%d", self.number, kind, name, where.lineno)
        self.cut("failed")

    def _let_go(self) -> None:
        held, self.held, self._is_aborted, self._queued_bytes = self.held, None, False, 0
        self._own, self._confirmed = {}, None
        if held is not None:
            held.agent.give_back(held)

    async def _run_plain(self, commands: Sequence[Words]) -> list[bytes]:
        assert self.agent is not None  # noqa: S101 - plain commands have one
        self.gateway.commands += len(commands)
        values = await self.agent.run_each(commands)
        self.agent.wake(commands)
        lost = next((at for at, value in enumerate(values) if is_sent(value)), None)
        replies = self._encoded(commands[:lost], values[:lost])
        if lost is None:
            return replies
        # One node of a cluster is lost; others have replied.
        self.write(b"".join(replies))
        self.gateway.cuts["upstream"] += 1
        self.end()
        return []

    async def _replies_to(self, words: Any) -> list[bytes]:
        return [await self._run_special(words)]

    async def _run_special(self, words: Any) -> bytes:
        """Run a command that is no plain call; return its reply."""
        self.gateway.commands += 1
        name: Any = words[0]
        if isinstance(words, TooManyWords):
            details = {"command": name_of(words[0][:MAX_NAME]), "max": str(MAX_ARGUMENTS)}
            raise ArgsTooManyError(details)
        if not own.is_one_word(name):
            raise ResponseError("unknown command")
        if self.agent is None and name not in own.BEFORE_LOGIN:
            raise ResponseError("Authentication required.", status_code="NOAUTH")
        handler: Any = own.COMMANDS.get(name)
        if name == "PING" and self.listener is not None and self.protocol == 2:
            handler = own.ping
        elif self._is_queueing or (self.held is not None and name in own.LOGIN):
            handler = handler if name in own.ALWAYS else None
        if handler is not None:
            own.require_count(words)
            return bytes(await handler(self, words))
        if role_of(name) is Role.SUBSCRIPTION and not self._is_queueing:
            return await self.subscribe(words)
        if self.listener is not None and self.protocol == 2:
            raise ResponseError(
                f"Can't execute '{name.lower()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING /"
                " QUIT / RESET are allowed in this context"
            )
        if self._blocks and self.agent is not None and not self._is_queueing:
            # Before its first try, which with many keys costs as much as those that wait.
            self.agent.require_room(words)
        return await self.run_held(words)

    @property
    def _is_queueing(self) -> bool:
        """Return whether commands wait for EXEC."""
        return self.held is not None and self.held.queued is not None

    async def run_held(self, words: Words) -> bytes:
        """Run a command on a guarded connection that is held while a transaction lasts."""
        if self.held is None:
            agent: Any = self.agent
            self.held = agent.hold()
        held, queued, answered = self.held, self.held.queued, self._own
        if queued is not None and words[0] != "EXEC":
            self._queued_bytes += sum(map(len, words))
            count = len(queued) + len(answered)
            if count >= MAX_BATCH_COMMANDS or self._queued_bytes > MAX_REQUEST_BYTES:
                raise ResponseError("the transaction is too large")
            if own.is_queued(words):
                answered[count] = words
                return b"+QUEUED\r\n"
        try:
            if words == ("EXEC",) and self._is_aborted:
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
                self._let_go()
        if words[0] == "EXEC" and isinstance(value, list) and queued is not None:
            commands = [(WITHIN_MULTI.get(upper(name), name), *rest) for name, *rest in queued]
            replies = self._encoded(commands, value)
            for at, command in answered.items():
                # Those of UNSUBSCRIBE are in their places, and no messages before.
                self._confirmed = []
                replies.insert(at, await own.answer(self, command) or b"".join(self._confirmed))
            self._confirmed = None
            return b"*%d\r\n" % len(replies) + b"".join(replies)
        is_status = queued is not None or role_of(words[0]) in (Role.TRANSACTION, Role.INFO)
        if value in (b"OK", b"QUEUED") and is_status:
            value = Status(value)
        return self._reply(words, value)

    async def subscribe(self, words: Words) -> bytes:
        """Begin or end subscriptions; return the confirmations, unless these come as messages."""
        assert self.agent is not None  # noqa: S101 - the caller looks
        is_end = words[0].endswith("UNSUBSCRIBE")
        own.require_count(words)
        name, listener = words[0].encode(), self.listener
        heard = listener.heard[name.startswith(b"SUNSUB")] if listener else set()
        due = len(words) - 1 or sum(key[0] == name.replace(b"UNSUB", b"SUB") for key in heard)
        if is_end and (listener is None or not due):
            out: list[bytes] = []
            head = b">" if self.protocol == 3 else b"*"
            for channel in words[1:] or (None,):
                encode([name.lower(), channel, len(heard)], self.protocol, out, head)
            return b"".join(out)
        if listener is None:
            self.listener = listener = self.agent.take()
            listener.sink = self._take_message
        active = listener._dialogue.subscriptions.active
        confirmed = self._loop.create_future()
        self._confirming = due, confirmed
        try:
            await listener.send_command(*words)
        except BaseException:
            if self.listener is not listener:
                listener.abandon()
            elif active:
                self._confirming = None
            else:
                self._unlisten()
            raise
        if self.listener is not listener:
            # The agent has left meanwhile.
            listener.abandon()
            return b""
        if self._listening is None:
            self._listening = self._loop.create_task(self._check_subscriptions(listener))
        # Replies to later commands come after the confirmations, which no other call is to prevent.
        self._end_call(0, None)
        self._end_call = self.share.begin(0, waits=True)
        await confirmed
        return b""

    def _unlisten(self) -> None:
        listener, self.listener, self._confirming = self.listener, None, None
        task, self._listening = self._listening, None
        if task is not None:
            task.cancel()
        self._messages.clear()
        self._message_bytes = 0
        if listener is not None:
            listener.agent.give_back(listener)

    def _take_message(self, message: bytes | None, is_due: bool = False) -> None:
        """Take a message, or a confirmation that is due; None if the server is lost."""
        if self._ends:
            return
        if message is None:
            self.cut("upstream")
            return
        self._messages.append((message, is_due))
        self._message_bytes += MESSAGE_BYTES + len(message)
        if self._message_bytes + self._unsent > MAX_UNREAD:
            self.cut("unread")
        elif len(self._messages) == 1:
            self._deliver()

    def _deliver(self) -> None:
        """Send messages, unless the subscriptions have to be checked first."""
        while self._messages and not (self._is_paused or self._ends):
            subscriptions = self.listener._dialogue.subscriptions
            is_check_due = subscriptions.active and subscriptions.is_check_due
            if is_check_due or not self.share.may_call(self):
                break
            began_at, (message, is_due) = time.perf_counter(), self._messages.popleft()
            end_call = self.share.begin(CALL_BYTES + len(message))
            self._message_bytes -= MESSAGE_BYTES + len(message)
            out = message if self.protocol == 2 else b">" + message[1:]
            if is_due and self._confirmed is not None:
                self._confirmed.append(out)
            else:
                self.write(out)
            end_call(0, None)
            self.share.spend(began_at)
            if is_due and self._confirming is not None:
                due, confirmed = self._confirming
                self._confirming = (due - 1, confirmed) if due > 1 else None
                if due == 1:
                    # A server counts sharded channels apart.
                    if not any(self.listener.heard):
                        self._unlisten()
                    if not confirmed.done():
                        confirmed.set_result(None)

    async def _check_subscriptions(self, listener: Any) -> None:
        subscriptions = listener._dialogue.subscriptions
        try:
            while True:
                await asyncio.sleep(next(subscriptions.pauses(None)) or PAUSE_S)
                await listener.can_read(timeout=0)
                self._deliver()
        except LeashError as denial:
            # Revoked, expired, frozen, or the policy has changed: the right has ended.
            self.refuse(error_line(denial))
        except (ResponseError, *LOST, OSError):
            if not self._ends:
                self.cut("upstream")

    def write(self, out: bytes) -> None:
        """Send a reply."""
        if out and not self.transport.is_closing():
            self._written += len(out)
            if self._backlog or self._is_paused or len(out) > PIECE:
                self._backlog += out
                self.share.count(0, len(out))
                self._flush()
            else:
                self.transport.write(out)

    def _flush(self) -> None:
        """Give the transport what it takes; close it after the last, if the connection ends."""
        while self._backlog and not (self._is_paused or self.transport.is_closing()):
            piece = self._backlog[:PIECE]
            del self._backlog[:PIECE]
            self.share.count(0, -len(piece))
            self.transport.write(piece)
        if self._ends and not self._backlog:
            self.transport.close()

    def authenticated(self, agent: Agent, protocol: int) -> None:
        """Act for an agent from now on."""
        self.gateway.enter(self, agent)
        self.agent, self.share, self.protocol = agent, agent.share, protocol
        self._requests.is_trusted = True

    def set_name(self, name: bytes) -> None:
        """Use a name as the correlation id of calls.

        Raises:
            ResponseError: no server takes it, or it is too long.
            SecretInTextError: it contains a token.
        """
        self.name, self.correlation = name, own.text_of_name(name) or f"gw-{self.number}"

    def reset(self) -> None:
        """Forget transaction, watch and subscriptions."""
        self._unlisten()
        if self.agent is not None:
            self.gateway.leave(self)
        self._requests.is_trusted = False
        self.protocol, self.name, self.correlation = 2, b"", f"gw-{self.number}"
        self._let_go()


@types.coroutine
def _timed(steps: Coroutine[Any, Any, Any], connection: Connection) -> Any:
    """Run a coroutine; the share of the connection spends the time of each step."""
    step: Callable[[], Any] = partial(steps.send, None)
    while True:
        began_at = time.perf_counter()
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        finally:
            connection.share.spend(began_at)
        try:
            yield awaited
            step = partial(steps.send, None)
        except BaseException as error:  # also CancelledError: the coroutine handles it
            step = partial(steps.throw, error)


@lru_cache(maxsize=1024)
def _is_plain(name: Any) -> bool:
    """Return whether commands are plain by their name, which is bytes if they are too long."""
    # redis-py allows arguments in a name, and servers do not. SCAN is one of several nodes.
    is_special = name in own.COMMANDS or role_of(name) is not None or name == "SCAN"
    return type(name) is str and not is_special and own.is_one_word(name)
