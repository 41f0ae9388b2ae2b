"""One connection of an agent: its commands become calls of the guard, in order.

At most one call is under way at a time. Plain commands that have arrived by then are the next, as
one batch (`batches`). All others take the way of the client library: transactions, scripts and
blocking commands (`transactions`), subscriptions (`subscriptions`), and whatever has to be
recovered. `flow` bounds what waits in both directions.
"""

from __future__ import annotations

import asyncio
import logging
import select
import sys
import time
import traceback
import types
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from redis.exceptions import ResponseError

from keyleash.client.actions import Words
from keyleash.client.caller import LOST
from keyleash.client.command_words import Role, role_of, upper
from keyleash.client.correlation import correlation
from keyleash.client.retries import is_sent
from keyleash.errors import ArgsTooManyError, KeyleashError
from keyleash.gateway import flow, own
from keyleash.gateway.agent import Agent, source
from keyleash.gateway.batches import Batches, is_plain, take_plain
from keyleash.gateway.channels import counted
from keyleash.gateway.flow import Inbox, Outbox
from keyleash.gateway.resp import (
    LOGIN_BYTES,
    MAX_NAME,
    ProtocolError,
    TooManyWords,
    encoded,
    error_line,
    name_of,
)
from keyleash.gateway.shares import Share
from keyleash.gateway.subscriptions import Subscriptions
from keyleash.gateway.transactions import Transaction
from keyleash.gateway.upstream import LARGE_BYTES
from keyleash.store.wire import MAX_ARGUMENTS

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
        correlation: The correlation id of its calls.
        source: Its address, and the subject of its certificate.
        share: That of its agent, or of the last one.
        inbox, outbox, batches, transaction, subscriptions: Its parts.
        under_way: The call of a batch, or the task of another command; None if there is none.
    """

    def __init__(self, gateway: Any, number: int) -> None:
        self.gateway, self.number = gateway, number
        self.agent: Agent | None = None
        self.protocol = 2
        self.name = b""
        self.correlation = f"gw-{number}"
        self.source = ""
        self.share: Share = gateway.shares.strangers
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self.inbox = Inbox(now)
        self.outbox = Outbox(lambda size: self.share.count(0, size), now)
        self.batches = Batches(self)
        self.subscriptions = Subscriptions(self)
        self.transaction = Transaction(self)
        self.under_way: Any = None
        self._left: Any = None
        self._end_call = self.share.begin(0, waits=True)
        self._blocks = False
        self.transport: Any = None

    # Transport.

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self.transport = self.outbox.transport = transport
        transport.set_write_buffer_limits(high=flow.MAX_UNSENT)
        self.source = own.source_of(transport)
        self.gateway.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        """End what it has under way."""
        self.inbox.queue.clear()
        self.outbox.clear()
        if isinstance(self.under_way, asyncio.Task):
            # After its first step: until then it would give nothing back.
            self._loop.call_soon(self.under_way.cancel)
        elif self.under_way is None:
            self.transaction.end()
        self.subscriptions.end()
        self._loop.call_soon(self.gateway.remove, self)

    def pause_writing(self) -> None:
        """Run no more commands until the agent has read."""
        self.outbox.is_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self.outbox.is_paused = False
        self.outbox.flush()
        self.go_on()

    def pause_reading(self) -> None:
        """Take no more from the agent."""
        if not self.inbox.is_paused:
            self.inbox.is_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        if not self.outbox.ends:
            self.inbox.is_paused = False
            self.inbox.moved_at = self._loop.time()
            self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Queue the commands that have arrived."""
        inbox = self.inbox
        if self.outbox.ends:
            return
        if self.agent is None:
            inbox.early_bytes += len(data)
        else:
            inbox.moved_at = self._loop.time()
        self._parse(data)
        is_large = inbox.parser.size > LARGE_BYTES
        if inbox.is_full or (is_large and not self.gateway.take_large(self)):
            self.pause_reading()
        elif inbox.early_bytes > LOGIN_BYTES and not (self.agent or self.under_way or inbox.queue):
            self.refuse(b"ERR Protocol error: too much before login")
        if self.under_way is None:
            self.go_on()
        if inbox.parser.has_more or self.share.is_resting:
            # The event loop would read for as long as the agent sends.
            self.pause_reading()
            self.share.may_call(self)

    def _parse(self, data: bytes = b"") -> None:
        try:
            self.inbox.take(data, self.share)
        except ProtocolError as error:
            self.refuse(b"ERR Protocol error: " + b" ".join(str(error).encode("latin-1").split()))

    def check(self, now: float) -> None:
        """Cut the connection if it stands still where it must not."""
        self.outbox.look(now)
        if self.agent is None:
            late_s = now - self.inbox.moved_at - flow.LOGIN_S
            if late_s > flow.UNREAD_S:
                self.cut("unread")
            elif late_s > 0:
                self.refuse(b"ERR the connection was not authenticated in time")
        elif reason := flow.reason_to_cut(self.inbox, self.outbox, now):
            self.cut(reason)
        # Its end is not read. A command that is answered within a sweep has its reply, though.
        is_left = self.inbox.is_paused and self._blocks and self._has_left()
        left = self.under_way if is_left else None
        if left is not None and left is self._left:
            self.outbox.ends = True
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

    def refuse(self, line: bytes) -> None:
        """Send an error, and close the connection."""
        if not self.outbox.ends:
            self.gateway.cuts["refused"] += 1
            self.outbox.write(b"-%b\r\n" % line)
            self.outbox.end()

    def cut(self, why: str) -> None:
        """Close the connection at once: what was sent may have run."""
        self.gateway.cuts[why] += 1
        self.outbox.ends = True
        self.transport.abort()

    @property
    def waiting_bytes(self) -> int:
        """The size of requests that wait or have not arrived whole, and of replies that wait."""
        queued = self.inbox.size + self.transaction.queued_bytes
        return queued + self.outbox.unsent + self.subscriptions.message_bytes

    # Commands.

    def go_on(self) -> None:
        """Start with the next commands, unless there are none or the agent does not read."""
        inbox, outbox = self.inbox, self.outbox
        if self.gateway.is_draining and self.transaction.held is None and self.under_way is None:
            outbox.end()
        self.subscriptions.deliver()
        while (inbox.queue or inbox.parser.has_more) and not (
            outbox.is_paused or outbox.ends or self.under_way
        ):
            if not self.share.may_call(self):
                break
            if not inbox.queue:
                self._parse()
                continue
            words = inbox.queue[0]
            if not (is_plain(words[0]) and self._takes_plain):
                inbox.queue.popleft()
                self.start(partial(self._replies_to, words), [words])
            else:
                commands = take_plain(inbox.queue, self.share.largest_batch)
                if not self.batches.send(commands):
                    self.start(partial(self.run_plain, commands), commands)
        is_answered = not (self.under_way or inbox.queue)
        if self.gateway.large and is_answered and inbox.parser.size <= LARGE_BYTES:
            self.gateway.give_large(self)
        is_held = inbox.queue or inbox.parser.has_more or self in self.gateway.waiting
        if inbox.is_paused and not is_held:
            # Also where a part of the next request has arrived, as the rest is still to come.
            self.resume_reading()

    @property
    def _takes_plain(self) -> bool:
        """Return whether plain commands have nothing to do with what else is under way."""
        return (
            self.agent is not None
            and self.transaction.held is None
            and (self.subscriptions.listener is None or self.protocol == 3)
        )

    def encoded(self, commands: Sequence[Words], values: Sequence[Any]) -> list[bytes]:
        """Return the replies to commands."""
        return [
            self.counted(words, encoded(words, value, self.protocol))
            for words, value in zip(commands, values, strict=True)
        ]

    def counted(self, words: Words, reply: bytes) -> bytes:
        """Return a reply, with the listeners of which the server does not know."""
        more = self.gateway.upstream.more
        return counted(more, words, reply) if more else reply

    def start(self, run: Run, commands: Sequence[Any]) -> None:
        """Run what takes more than one step."""
        size = sum(len(word) for words in commands for word in words)
        size, first = size + self.transaction.queued_bytes, commands[0]
        name = upper(first[3]) if first[0] == "KEYLEASH" and len(first) > 3 else first[0]
        self._blocks = role_of(name) is Role.BLOCKING
        waits = self._blocks or name in ("AUTH", "HELLO", "WAIT", "WAITAOF")
        self._end_call = self.share.begin(size, waits)
        self.under_way = self._loop.create_task(self._finish(run, commands))

    def wait_uncounted(self) -> None:
        """Count the command that is under way no more, since it waits."""
        self._end_call(0, None)
        self._end_call = self.share.begin(0, waits=True)

    async def _finish(self, run: Run, commands: Sequence[Any]) -> None:
        replies, ends, transaction = list[bytes](), False, self.transaction
        try:
            source.set(self.source)
            with correlation(self.correlation):
                replies = await _timed(run(), self)
        except (ResponseError, KeyleashError) as error:
            # Whether a nested MULTI or WATCH aborts it, `held` knows.
            is_nested = commands[0][0] in ("MULTI", "WATCH")
            transaction.is_aborted |= transaction.is_queueing and not is_nested
            replies = [b"-%b\r\n" % error_line(error)] * len(commands)
        except (*LOST, OSError) as error:
            # What follows must not run without its transaction.
            ends = transaction.held is not None or commands[0][0] == "MULTI"
            transaction.end()
            if is_sent(error):
                self.cut("upstream")
                return
            replies = [b"-%b\r\n" % error_line(error)] * len(commands)
        except Exception:
            self.report_failure()
        finally:
            self.under_way = None
            self._end_call(sum(map(len, replies)), not any(out[:1] == b"-" for out in replies))
            if self.outbox.ends:
                transaction.end()
        if self.outbox.ends:
            return
        self.outbox.write(b"".join(replies))
        if ends:
            self.gateway.cuts["refused"] += 1
            self.outbox.end()
        else:
            self.go_on()

    def report_failure(self) -> None:
        """Log the exception that is handled, and close the connection."""
        # Neither message nor locals, which may have what the agent sent.
        kind, _, trace = sys.exc_info()
        where = traceback.extract_tb(trace)[-1]
        name = Path(where.filename).name
        logger.error("connection %d: %s in %s:%d", self.number, kind, name, where.lineno)
        self.cut("failed")

    async def run_plain(self, commands: Sequence[Words]) -> list[bytes]:
        """Return the replies to plain commands, by the way of the client library."""
        assert self.agent is not None  # noqa: S101 - plain commands have one
        self.gateway.commands += len(commands)
        values = await self.agent.run_each(commands)
        self.agent.wake(commands)
        lost = next((at for at, value in enumerate(values) if is_sent(value)), None)
        replies = self.encoded(commands[:lost], values[:lost])
        if lost is None:
            return replies
        # One node of a cluster is lost; others have replied.
        self.outbox.write(b"".join(replies))
        self.gateway.cuts["upstream"] += 1
        self.outbox.end()
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
        is_queueing, listener = self.transaction.is_queueing, self.subscriptions.listener
        if name == "PING" and listener is not None and self.protocol == 2:
            handler = own.ping
        elif is_queueing or (self.transaction.held is not None and name in own.LOGIN):
            handler = handler if name in own.ALWAYS else None
        if handler is not None:
            own.require_count(words)
            return bytes(await handler(self, words))
        if role_of(name) is Role.SUBSCRIPTION and not is_queueing:
            own.require_count(words)
            return await self.subscriptions.subscribe(words)
        if listener is not None and self.protocol == 2:
            raise ResponseError(
                f"Can't execute '{name.lower()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING /"
                " QUIT / RESET are allowed in this context"
            )
        if self._blocks and self.agent is not None and not is_queueing:
            # Before its first try, which with many keys costs as much as those that wait.
            self.agent.require_room(words)
        return await self.transaction.run(words)

    def authenticated(self, agent: Agent, protocol: int) -> None:
        """Act for an agent from now on."""
        self.gateway.enter(self, agent)
        self.agent, self.share, self.protocol = agent, agent.share, protocol
        self.inbox.parser.is_trusted = True

    def set_name(self, name: bytes) -> None:
        """Use a name as the correlation id of calls.

        Raises:
            ResponseError: no server takes it, or it is too long.
            SecretInTextError: it contains a token.
        """
        self.name, self.correlation = name, own.text_of_name(name) or f"gw-{self.number}"

    def reset(self) -> None:
        """Forget token, transaction, watch and subscriptions."""
        self.subscriptions.end()
        if self.agent is not None:
            self.gateway.leave(self)
        self.inbox.parser.is_trusted = False
        self.protocol, self.name, self.correlation = 2, b"", f"gw-{self.number}"
        self.transaction.end()


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
