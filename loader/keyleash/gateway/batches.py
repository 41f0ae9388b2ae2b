"""Plain commands of a connection: those that have arrived are one call, whose reply passes."""

from __future__ import annotations

import time
from collections import deque
from functools import lru_cache, partial
from typing import Any

from keyleash.client._redis_py import pack
from keyleash.client.actions import Words
from keyleash.client.batches import MAX_CHUNK_COMMANDS
from keyleash.client.calls import Call
from keyleash.client.command_words import role_of
from keyleash.client.routing import is_redirect
from keyleash.gateway import own
from keyleash.gateway.agent import source
from keyleash.gateway.flow import MAX_UNSENT
from keyleash.gateway.resp import error_line, parse, passed, split
from keyleash.gateway.upstream import LARGE_BYTES
from keyleash.store.wire import MAX_ARGUMENTS, BatchMode


@lru_cache(maxsize=1024)
def is_plain(name: Any) -> bool:
    """Return whether commands are plain by their name, which is bytes if they are too long."""
    # redis-py allows arguments in a name, and servers do not. SCAN is one of several nodes.
    is_special = name in own.COMMANDS or role_of(name) is not None or name == "SCAN"
    return type(name) is str and not is_special and own.is_one_word(name)


def take_plain(queue: deque[Any], most: int) -> list[Words]:
    """Take the plain commands off the front of a queue; the first one is plain."""
    if len(queue) == 1:
        return [queue.popleft()]
    if len(queue) <= most and all(map(is_plain, {words[0] for words in queue})):
        commands = [*queue]
        queue.clear()
        return commands
    commands = [queue.popleft()]
    while queue and len(commands) < most and is_plain(queue[0][0]):
        commands.append(queue.popleft())
    return commands


class Batches:
    """The calls of plain commands, one at a time.

    Args:
        connection: Its agent makes the calls.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._end_call: Any = None

    def send(self, commands: list[Words]) -> bool:
        """Send commands as one call, and pass its reply on when it comes.

        Returns:
            False, and nothing was sent, if they need more.
        """
        began_at, owner = time.perf_counter(), self._connection
        agent, share = owner.agent, owner.share
        connection = agent.take_for(commands) if owner.inbox.arrived_bytes < LARGE_BYTES else None
        if connection is None:
            return False
        mode = BatchMode.EACH if len(commands) > 1 else None
        call = connection._dialogue.lone_call(commands, mode)
        if call is None or sum(map(len, commands)) > MAX_ARGUMENTS:
            agent.give_back(connection)
            return False
        call.correlation = owner.correlation
        source.set(owner.source)
        try:
            packet = b"".join(pack(connection._dialogue.caller.request(call)))
        except Exception:
            # The other way has the error of each command.
            agent.give_back(connection)
            return False
        owner.under_way = call
        self._end_call = share.begin(len(packet))
        connection._dialogue.due.append(call)
        connection.pipe.send(packet, partial(self._came, call, connection))
        share.spend(began_at)
        owner.gateway.calls += 1
        owner.gateway.commands += len(commands)
        return True

    def _came(self, call: Call, connection: Any, frame: bytes | None) -> None:
        """Pass on the reply to a call."""
        began_at, owner = time.perf_counter(), self._connection
        owner.under_way = None
        self._end_call(len(frame or b""), None if frame and frame[0] == 45 else True)
        if frame is None:
            # It may have run: the agent sees what it would see of a lost server.
            connection.abandon()
            connection.agent.give_back(connection)
            if not owner.outbox.ends:
                owner.cut("upstream")
            return
        if frame[0] == 45 and not owner.outbox.ends:
            owner.start(partial(self._recovered, call, connection, frame), call.commands)
            return
        connection._dialogue.due.clear()
        try:
            out = b"" if owner.outbox.ends else self._passed(call, connection, frame)
        except Exception:
            # Not into the pipe, which would be closed for all.
            owner.report_failure()
        connection.agent.keep(connection)
        connection.agent.wake(call.commands)
        if owner.outbox.ends:
            return
        owner.outbox.write(out)
        owner.share.spend(began_at)
        owner.go_on()

    def _passed(self, call: Call, connection: Any, frame: bytes) -> bytes:
        owner, commands = self._connection, call.commands
        if call.mode is None:
            return bytes(owner.counted(commands[0], passed(commands[0], frame, owner.protocol)))
        out, at, count = list[bytes](), 0, len(commands)
        for item, times in split(frame, call.shape or [1] * count):
            if item[0] == 45:
                for words in commands[at : at + times]:
                    error = connection._dialogue.caller._item(words, parse(item))
                    out.append(b"-%b\r\n" % error_line(error))
            else:
                reply = passed(commands[at], item, owner.protocol)
                out.append(owner.counted(commands[at], reply) * times)
            at += times
        share, size = owner.share, len(frame)
        if size > MAX_UNSENT:
            share.largest_batch = max(1, count * MAX_UNSENT // size)
        elif size < MAX_UNSENT // 4:
            share.largest_batch = min(MAX_CHUNK_COMMANDS, 2 * share.largest_batch)
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
            return list(await self._connection.run_plain(call.commands))
        return list(self._connection.encoded(call.commands, values))
