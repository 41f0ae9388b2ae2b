"""The state of a guarded connection, without I/O.

redis-py sends commands on a connection, and reads a reply to each. Here a command becomes a call
of the guard, the commands of a pipeline become batches, and MULTI … EXEC one batch; their replies
are then read one by one. One call is on the wire at a time, so that a call whose reply says that
nothing ran can be repeated in its place.

What is due, in `Dialogue.due`, is in one of these states:

                 others are pending
    send() --------------------------> QUEUED: it `is_later`
      |                                   | the one before is answered
      |          nothing is pending       v
      +--------------------------------> SENT <--+ nothing ran, or no data yet: it is
      |                                   |  |---+ sent again, see `Caller._reply`
      |          not one guarded call     |
      +--------------> DEFERRED           | receive()
      |                    | receive()    v
      |          known     +---------> BUFFERED ----> read_response() of redis-py
      +-----------------------------------^

If the connection is closed while anything is due, it `is_cut`, and all of that is lost. An error
after which nothing may be sent again `has_run`: one that was lost while SENT, and each of a call
that `is_later`. A call `is_lone` if it is sent alone and never waits: the connection reads its
reply without a flow, unless that is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hiredis import ProtocolError, Reader
from redis.exceptions import RedisError, ResponseError

from keyleash.client import answers
from keyleash.client._redis_py import BufferedReply
from keyleash.client._redis_py import pack as encode
from keyleash.client.actions import Flow, Unguarded, Words
from keyleash.client.batches import chunks, fits_chunk
from keyleash.client.blocking import pin_ids, timeout_of
from keyleash.client.caller import Caller, for_each
from keyleash.client.calls import Call, PipelineCalls, Queue, RateWait
from keyleash.client.command_words import Role, role_of, split_words, upper
from keyleash.client.retries import mark_run
from keyleash.client.script_calls import send_script
from keyleash.client.subscriptions import Subscriptions
from keyleash.client.transactions import Transaction
from keyleash.client.unsupported import foreign_bytes, subscription_in_pipeline
from keyleash.commands.facts import OF_THE_CONNECTION, SCANNED
from keyleash.store.wire import BatchMode


class Packed(list[Words]):
    """Commands that redis-py packed: they become bytes when they are sent.

    Attributes:
        is_pipeline: Whether they were packed as a pipeline.
    """

    is_pipeline = False


def unpacked(packed: Any) -> Packed:
    """Return the commands in bytes that another client packed.

    Raises:
        CommandRefusedError: they are no whole commands.
    """
    commands, reader = Packed(), Reader(notEnoughData=Packed)
    try:
        for part in [packed] if isinstance(packed, bytes) else packed:
            reader.feed(part)
        while (words := reader.gets()) is not Packed:
            if not (words and isinstance(words, list) and {*map(type, words)} == {bytes}):
                raise foreign_bytes()
            commands.append(tuple(words))
    except (ProtocolError, TypeError):
        raise foreign_bytes() from None
    if reader.has_data() or not commands:
        raise foreign_bytes()
    commands.is_pipeline = len(commands) > 1
    return commands


class Dialogue:
    """The state of one connection.

    Attributes:
        due: What is still to be read.
        transaction, subscriptions: Those of the connection.
        is_answered: Whether a call was answered since commands were last sent.
        is_cut: Whether the connection was closed before all replies were read.
    """

    def __init__(self, caller: Caller, check_every_s: float) -> None:
        self.caller = caller
        self.session = caller.session
        self.due = Queue(caller)
        self.transaction = Transaction(caller, self.due)
        self.subscriptions = Subscriptions(caller.clock, check_every_s)
        self.is_answered = False
        self.is_cut = False

    def clear(self) -> None:
        """Forget everything: the connection was closed."""
        self.is_cut = bool(self.due)
        self.due.clear()
        self.transaction.clear()
        self.subscriptions.active.clear()

    @property
    def has_leftovers(self) -> bool:
        """Return whether the next user of the connection would get what another one left."""
        return bool(self.due) or self.transaction.held is not None

    @property
    def is_idle(self) -> bool:
        """Return whether the connection may be replaced by a new one."""
        return not (self.due or self.transaction.held is not None or self.transaction.is_watching)

    def lone_call(self, commands: Sequence[Words], mode: BatchMode | None = None) -> Call | None:
        """Return a call that is sent at once and alone; None if one of *commands* needs more."""
        guard = self.session.guard
        if (
            self.due
            or self.transaction.held is not None
            or guard is None
            or self.caller.wait_s
            or guard.wait_replicas
            or self.session.lacks_guard
            or (guard.renew and self.caller.looks_after_token())
        ):
            return None
        if any(map(role_of, {words[0] for words in commands})):
            return None
        call = Call(commands, mode)
        call.is_lone = True
        self.is_cut = False
        return call

    def lone_batch(self, commands: Sequence[Words], mode: BatchMode) -> Call | None:
        """Return the same of a batch."""
        if len(commands) < 2 or self.transaction.is_watching or not fits_chunk(commands):
            return None
        call = self.lone_call(commands, mode)
        if call is not None and mode is BatchMode.EACH:
            call.pipeline = PipelineCalls(last=call)
        return call

    def send(self, commands: Sequence[Words]) -> Flow:
        """Send commands, or hold them back until EXEC; a reply to each becomes due."""
        is_pipeline = getattr(commands, "is_pipeline", False)
        batch: list[Words] = []
        guard = self.session.guard
        if guard is not None and guard.renew and self.is_idle and not self.subscriptions.active:
            yield from self.caller.look_after_token()
        for words in commands:
            role = role_of(words[0])
            is_held = self.transaction.held is not None
            if role is Role.SUBSCRIPTION and (is_held or is_pipeline):
                self.transaction.abort()
                raise subscription_in_pipeline(split_words(words)[0])
            # The guard denies UNWATCH, as part of the batch.
            if is_held and (role is not Role.TRANSACTION or split_words(words)[0] == "UNWATCH"):
                self.transaction.hold(words)
            elif role is None or (is_pipeline and role is Role.BLOCKING):
                batch.append(words)
            else:
                yield from self._send_batch(batch)
                batch = []
                yield from self._send_special(role, split_words(words))
        yield from self._send_batch(batch)

    def _send_batch(self, commands: Sequence[Words]) -> Flow:
        """Send commands in calls that each check their commands independently."""
        if len(commands) == 1:
            yield from self.due.add([self.caller.new_call(commands)])
            return
        waiting, pipeline = RateWait(self.caller.wait_s), PipelineCalls()
        calls = []
        for part in chunks(commands, range(len(commands))):
            call = Call([commands[at] for at in part], BatchMode.EACH)
            call.waiting, call.pipeline, pipeline.last = waiting, pipeline, call
            calls.append(call)
        if len(calls) > 1:
            # As redis-py, which encodes all commands before it sends any.
            for words in commands:
                encode(words)
        yield from self.due.add(calls)

    def _send_special(self, role: Role, words: Words) -> Flow:
        """Send a command that is no plain call."""
        match role:
            case Role.TRANSACTION:
                yield from self.transaction.send(words)
            case Role.SUBSCRIPTION:
                yield from self.subscriptions.send(words, is_idle=not self.due)
            case Role.SCRIPT:
                is_watching = self.transaction.is_watching
                yield from send_script(self.caller, self.due, words, is_watching=is_watching)
            case Role.BLOCKING:
                yield from self._send_blocking(words)
            case Role.CLIENT if len(words) > 1 and upper(words[1]) in OF_THE_CONNECTION:
                self.due.defer(self._run_unguarded(words))
            case Role.CLUSTER if self.session.is_topology(words):
                self.due.defer(self._run_unguarded(words))
            case Role.INFO if words[0] != "COMMAND" or [*map(upper, words[1:2])] == ["INFO"]:
                self.due.defer(self._reply_to_info(words))
            case Role.KEYS if len(words) == 2:
                self.due.defer(answers.keys_reply(words, self.caller.run))
            case _:
                yield from self.due.add([self.caller.new_call([words])])

    def _send_blocking(self, words: Words) -> Flow:
        call, timeout_s = self.caller.new_call([words]), timeout_of(words)
        if timeout_s is not None:
            call.deadline = self.caller.clock() + timeout_s if timeout_s else math.inf
            # A call with a timeout of a second must not sleep a minute for a rate limit.
            call.waiting = RateWait(min(self.caller.wait_s, timeout_s or math.inf))
            call.commands = [(yield from pin_ids(words, self._run_now))]
        yield from self.due.add([call])

    def _run_now(self, words: Words) -> Flow:
        if self.due.next_pending is not None:
            raise RedisError("replies to earlier commands are to be read first")
        return (yield from self.caller.run(words))

    def _run_unguarded(self, words: Words) -> Flow:
        return self.caller.finished(words, (yield Unguarded(words)))

    def _reply_to_info(self, words: Words) -> Flow:
        if words[0] in SCANNED:
            return (yield from answers.scanned_reply(words, self.caller))
        if words[0] == "COMMAND":
            guard = yield from self.caller.guard()
            return answers.command_reply(
                answers.callable_commands(guard.grants, self.session.table), words[2:]
            )
        return answers.info_reply(words, (yield Unguarded(("HELLO",))))

    def receive(self, undecoded: bool) -> Flow:
        """Return the next reply that is due."""
        reply, *later = yield from self.receive_all(undecoded)
        self.due.extendleft(reversed(later))
        yield from self.due.send_next()
        return reply.read_response(undecoded)

    def receive_all(self, undecoded: bool) -> Flow:
        """Return the replies to the first call that is due, each a `BufferedReply`.

        | call | replies |
        |---|---|
        | deferred | what its flow returns |
        | of one command | its reply |
        | a pipeline's batch | of each command its reply or error |
        | another batch (EXEC) | a list of replies; None if a watched key has changed |
        | any, denied or failed as a whole | its error, once per reply |

        Raises:
            NotReplicatedError: It ran, but too few replicas have it.
            RedisError: There is no reply: it is lost, or the call was never sent.
        """
        first = self.due[0]
        assert not isinstance(first, BufferedReply)  # noqa: S101 - the connection reads these
        try:
            if first.flow is not None:
                replies = [BufferedReply((yield from first.flow), self.caller.encoder())]
            else:
                replies = yield from self.caller.replies(first, undecoded)
            self.is_answered = True
        except Exception as error:
            if first.is_later:
                mark_run(error)
            if not isinstance(error, ResponseError):
                # What has no reply is lost with the connection, or was never sent.
                self._end(first)
                raise
            # It is the reply to each command of the call.
            replies = for_each(first, error)
        # After an interrupt it is still due, and the connection is not used again.
        self._end(first)
        return replies

    def _end(self, first: Call) -> None:
        if self.due and self.due[0] is first:
            self.due.popleft()
