"""Calls of a guard on one connection, without I/O: requests, replies, waits and recovery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    ExecAbortError,
    InvalidResponse,
    NoScriptError,
    OutOfMemoryError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.client._redis_py import BufferedReply, UnreplicatedReply, copy_error
from keyleash.client.actions import Flow, Pause, Receive, Send, Unguarded, Words
from keyleash.client.blocking import pauses
from keyleash.client.calls import Call, PipelineCalls, RateWait
from keyleash.client.command_words import Role, as_command, described, role_of
from keyleash.client.correlation import next_correlation
from keyleash.client.once import NO_ID, Attempts, Block, CallId, Ids, current_block, without_ids
from keyleash.client.recovery import fetch_guard, recover
from keyleash.client.renewal import RENEW
from keyleash.client.resp3 import as_resp3, shape_of
from keyleash.client.retries import mark_final, mark_run
from keyleash.client.session import Session, counts
from keyleash.client.unsupported import takes_lock
from keyleash.errors import (
    ClusterError,
    CommandRefusedError,
    KeyleashError,
    LeaseRefusedError,
    LeashError,
    NotActiveError,
    NotReplicatedError,
    OperationError,
    PolicyStaleError,
    RateLimitedError,
    RightMissingError,
    SlotNotServedError,
    SuspendedError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
    UnknownDenialError,
)
from keyleash.store.records import GuardRecord
from keyleash.store.token import token_digest
from keyleash.store.wire import ONCE, BatchMode, replies_of, token_in, with_id

LOST = (RedisConnectionError, RedisTimeoutError)
_DRY = (BatchMode.CHECK, BatchMode.PREPARE)
_WITHOUT_ID = (BatchMode.WHOAMI, BatchMode.DELEGATE, BatchMode.RENEW, *_DRY)
"""Modes that take no idempotency id: none of them runs a command."""
_BEFORE_IDS = (
    ClusterError,
    LeaseRefusedError,
    NotActiveError,
    OutOfMemoryError,
    RightMissingError,
    SuspendedError,
    TokenExpiredError,
    TokenRevokedError,
    TokenUnknownError,
    UnknownDenialError,
)
"""Errors of a call before the guard looks up its id; all others come after that."""
_UNRECOVERED = (NoScriptError, OperationError, PolicyStaleError, SlotNotServedError)
"""The same, if recovery has ended in them."""
MAX_PAUSES = 1000
"""A limit without room for WATCH, reads and EXEC after this many pauses never has it."""


@lru_cache(maxsize=512)
def is_final(name: str | bytes) -> bool:
    """Return whether the reply to a command is the same in RESP3, and never a long integer."""
    return not (counts(name) or shape_of(name)[0])


class Caller:
    """Makes calls of the guard of a session, and reads their replies.

    Args:
        session: The session of the token; shared by connections.
        wait_s: The longest sleep of a call for rate limits.
        encoder: Returns the encoder of the connection, if it decodes replies.
        is_resp3: Whether replies are expected in the shapes of RESP3.
        clock: Returns the seconds of a clock that never goes back.

    Attributes:
        session, wait_s, encoder, clock: As given.
        origin: The source of its calls, which guards record if the policy has
            `audit: {source: true}`: set by a program that makes calls for others.
        ids: The idempotency ids of its calls.
    """

    origin = ""
    _lost_watches = 0
    """The transactions in a row that a rate limit denied under WATCH."""

    def __init__(
        self,
        session: Session,
        wait_s: float,
        encoder: Callable[[], Any],
        *,
        is_resp3: bool,
        clock: Callable[[], float],
    ) -> None:
        self.session = session
        self.wait_s = wait_s
        self.encoder = encoder
        self.clock = clock
        self.ids = Ids()
        self._is_resp3 = is_resp3

    def new_call(self, commands: Sequence[Words], mode: BatchMode | None = None) -> Call:
        """Return a new call, which waits for rate limits as long as the connection's may."""
        call = Call(commands, mode)
        if self.wait_s:
            call.waiting = RateWait(self.wait_s)
        return call

    def guard(self) -> Flow:
        """Return the record of the guard; fetch it if the session lacks it."""
        if self.session.lacks_guard:
            yield from fetch_guard(self.session)
        return self.session.guard

    def request(self, call: Call) -> Words:
        """Return the words of a call. They contain the token."""
        session = self.session
        guard = session.guard
        assert guard is not None  # noqa: S101 - callers look it up first
        call.guard = guard
        call.waits_for = self.awaited(call) if guard.wait_replicas else None
        correlation = call.correlation = call.correlation or next_correlation(session.correlation)
        if guard.takes_source:
            call.origin = self.origin
            correlation = call.traced(guard)
        if call.mode not in _WITHOUT_ID:
            if call.once is None or not guard.takes_ids:
                call.once = self._id_of(call)
            self.ids.note(has_id=bool(call.once))
        if call.script is not None:
            is_check = call.mode is BatchMode.CHECK
            return session.script_request(call.script, correlation, is_check=is_check)
        if call.delegation is not None:
            return session.delegate_request(call.delegation, correlation)
        if call.mode is None:
            words = session.request(guard, call.commands[0], correlation)
        elif call.has_scripts:
            words = session.transaction_request(call.mode.value, call.commands, correlation)
        else:
            words, call.shape = session.batch_request(
                call.mode, call.commands, correlation, has_id=bool(call.once)
            )
        return _with_id(words, call.once) if call.once else words

    def awaited(self, call: Call) -> GuardRecord | None:
        """Return the guard if its policy waits for replicas of a call."""
        guard, may_write = self.session.guard, self.session.may_write
        writes = call.script or call.delegation or any(map(may_write, call.commands))
        is_waited = guard and guard.wait_replicas and writes and call.mode not in _DRY
        return guard if is_waited else None

    def _id_of(self, call: Call) -> CallId:
        """Return the idempotency id of a call; `NO_ID` if it has none.

        Raises:
            CommandRefusedError: the identity has no `idempotency`.
        """
        block = current_block()
        if block is None:
            return NO_ID
        ids = block.ids if isinstance(block, Attempts) else self.ids
        try:
            call_id = id_of(self.session, call, block, self.ids)
        except CommandRefusedError as denial:
            if ids.lost is not None:
                raise mark_final(ids.lost) from denial
            raise
        if isinstance(block, Attempts):
            ids.note(has_id=bool(call_id))
        return call_id

    def reply_to(self, call: Call) -> Flow:
        """Make a call when nothing else is on the wire; return its reply, undecoded."""
        yield from self.guard()
        yield Send([call])
        reply = yield from self._reply(call, undecoded=True)
        return reply if call.mode else self.finished(call.commands[0], reply)

    def looks_after_token(self) -> bool:
        """Return whether the token is looked after before the next call."""
        schedule = self.session.schedule
        return schedule is not None and schedule.is_due(self.clock())

    def look_after_token(self) -> Flow:
        """Renew the token if that is due, when nothing else is on the wire.

        What fails is tried again later: the call that is made anyway reports what is wrong.
        """
        schedule: Any = self.session.schedule
        if self.looks_after_token():
            with suppress(KeyleashError, ResponseError, *LOST):
                describe = self.about_token(Call([], BatchMode.WHOAMI))
                renew = self.about_token(Call([(RENEW, "")], BatchMode.RENEW))
                yield from schedule.renewing(self.clock, describe, renew)

    about_token = reply_to
    """Make a call in mode `whoami`, `delegate` or `renew`; return its reply, undecoded."""

    def check(self, call: Call) -> Flow:
        """Prepare a call within MULTI and EXEC, where it cannot be repeated."""
        yield from self.guard()

    def run(self, words: Words) -> Flow:
        """Make a call for one command; return its reply, undecoded."""
        return (yield from self.reply_to(self.new_call([words])))

    def watch(self, words: Words) -> Flow:
        """Check the keys of WATCH, and send it."""
        # Any grant on the keys is enough; and the batch script is loaded before it is needed.
        try:
            yield from self.reply_to(self.new_call([("TOUCH", *words[1:])], BatchMode.ALL))
        except LeashError as denial:
            raise as_command(denial, "WATCH") from None
        return (yield Unguarded(words))

    def exchange(self, calls: Sequence[Call], deliver: Callable[[Call, list[Any]], None]) -> Flow:
        """Make calls in one packet.

        Args:
            deliver: Is called with each call and the replies to its commands, when they are read.
        """
        yield from self.guard()
        yield Send(calls)
        failed: list[tuple[Call, ResponseError]] = []
        for call in calls:
            replies = yield from self._replies_to_each(call, self._read(call, undecoded=True))
            if isinstance(replies, ResponseError):
                failed.append((call, replies))
            else:
                deliver(call, replies)
        for number, (call, error) in enumerate(failed):
            # What the first recovers, such as a lost script, the others need no more.
            if number:
                yield Send([call])
            reading = self._reply(call, True, None if number else error)
            deliver(call, (yield from self._replies_to_each(call, reading)))

    def _replies_to_each(self, call: Call, reading: Flow) -> Flow:
        """Return the replies to the commands of a call, to which *reading* returns the reply.

        If it returns a recoverable error, return that.
        """
        short = None
        try:
            reply = yield from reading
        except ResponseError as error:
            return for_each(call, error)
        except NotReplicatedError as error:
            reply, short = error.reply, error
        if isinstance(reply, ResponseError):
            return reply
        items = self.items(call, reply) if call.mode else [self._item(call.commands[0], reply)]
        encoder = self.encoder()
        replies: list[BufferedReply] = [BufferedReply(item, encoder) for item in items]
        if short is None:
            return replies
        return [
            UnreplicatedReply(reply, short)
            if self.session.may_write(words) and reply.error is None
            else reply
            for words, reply in zip(call.commands, replies, strict=True)
        ]

    def replies(self, call: Call, undecoded: bool) -> Flow:
        """Return what redis-py reads of a call: a reply to each command, or to EXEC."""
        if call.mode is None:
            reply = yield from self._reply(call, undecoded)
            return [BufferedReply(self.finished(call.commands[0], reply))]
        if call.mode is BatchMode.EACH:
            return (yield from self._replies_of_pipeline(call, call.pipeline or PipelineCalls()))
        try:
            items = yield from self._reply(call, undecoded)
        except NotReplicatedError as short:
            raise mark_run(short.about(self.items(call, short.reply))) from short.__cause__
        return [BufferedReply(items if items is None else self.items(call, items))]

    def _replies_of_pipeline(self, call: Call, pipeline: PipelineCalls) -> Flow:
        """Return the replies to a batch; what a rate denies is repeated while it may wait."""
        items = yield from self._each(call, pipeline)
        part, places = call, [*range(len(items))]
        while denials := [items[at] for at in places if isinstance(items[at], RateLimitedError)]:
            try:
                yield part.waiting.pause(denials)
                again = to_repeat(self.session, part, [items[at] for at in places])
                part, places = part.rest(again), [places[at] for at in again]
                yield Send([part])
                replies = yield from self._each(part, pipeline)
            except RateLimitedError:
                break
            except ResponseError as error:
                replies = [copy_error(error) for _ in places]
            for place, reply in zip(places, replies, strict=True):
                items[place] = reply
        encoder = self.encoder()
        results: list[BufferedReply] = [BufferedReply(item, encoder) for item in items]
        pipeline.replies += results
        if call is pipeline.last and pipeline.short is not None:
            values = [reply.value for reply in pipeline.replies]
            results[-1] = BufferedReply(mark_run(pipeline.short.about(values)))
        return results

    def _each(self, call: Call, pipeline: PipelineCalls) -> Flow:
        try:
            reply = yield from self._reply(call, undecoded=True)
        except NotReplicatedError as short:
            reply, pipeline.short = short.reply, short
        return self.items(call, reply)

    def items(self, call: Call, reply: Any) -> list[Any]:
        """Return the reply or the error of each command of a batch."""
        try:
            replies = replies_of(reply, call.shape)
        except (TypeError, ValueError):
            replies = []
        if len(replies) != len(call.commands):
            raise InvalidResponse("the batch was not answered command by command")
        return [
            item
            if not isinstance(item, Exception) and is_final(words[0])
            else self._item(words, item)
            for words, item in zip(call.commands, replies, strict=True)
        ]

    def _item(self, words: Words, item: Any) -> Any:
        """Return the reply to one command, or its error, which must not replace other replies."""
        try:
            if not isinstance(item, ResponseError):
                return self.finished(words, item)
            error = self.session.typed_error(item)
        except ResponseError as unreadable:
            return mark_run(unreadable)
        if isinstance(error, LeashError):
            error = described(error, words, BatchMode.EACH, self.session.table)
        return mark_run(error)

    def finished(self, words: Words, reply: Any) -> Any:
        """Return a reply as the client expects it of its server."""
        if is_final(words[0]):
            return reply
        if counts(words[0]) and isinstance(reply, bytes | str):
            # Integers that are too long for Lua arrive as text.
            with suppress(ValueError):
                reply = int(reply)
        return as_resp3(words, reply, is_text=bool(self.encoder())) if self._is_resp3 else reply

    def _reply(self, call: Call, undecoded: bool, failed: ResponseError | None = None) -> Flow:
        """Return the reply to a call, which must have been sent: read until one is final.

        | outcome | what was read | what follows |
        |---|---|---|
        | recoverable | an error of `session.recoverable`: nothing ran | recover, send again |
        | rate | the denial of a rate: nothing ran | sleep if the call may, send again |
        | would block | null, before the deadline of a blocking call | pause, send again |
        | done | anything else | return the reply, or raise the error |

        Args:
            failed: The recoverable error, if it was read before.
        """
        if call.is_watched:
            return (yield from self._reply_to_watched(call, undecoded))
        tried: list[Any] = []
        polls: Iterator[float] | None = None
        try:
            while True:
                try:
                    reply, failed = failed or (yield from self._read(call, undecoded)), None
                    if isinstance(reply, self.session.recoverable):
                        yield from self._recover(call, reply, tried)
                        yield Send([call])
                        continue
                except RateLimitedError as denial:
                    yield call.waiting.pause([denial])
                else:
                    if reply is not None or call.deadline is None:
                        return reply
                    left_s = call.deadline - self.clock()
                    if polls is not None and left_s <= 0:
                        return None
                    # At least once: a program that serves others spaces calls here.
                    polls = polls or pauses(call.commands[0])
                    if (yield Pause(max(0, min(next(polls), left_s)), call)):
                        return None
                tried.clear()
                yield Send([call])
        finally:
            if polls is not None:
                self.stop_waiting(call)

    def _reply_to_watched(self, call: Call, undecoded: bool) -> Flow:
        """Return the reply to a watched call; null, instead of sending it again."""
        try:
            reply = yield from self._read(call, undecoded)
            if isinstance(reply, self.session.recoverable):
                reply = yield from self._recover(call, reply, [])
        except RateLimitedError as denial:
            # WATCH and reads come first, and use up what one pause gives.
            times = 2**self._lost_watches
            if times > MAX_PAUSES:
                raise
            yield call.waiting.pause([denial], times)
            self._lost_watches += 1
            return None
        self._lost_watches = 0
        return reply

    def _recover(self, call: Call, error: ResponseError, tried: list[Any]) -> Flow:
        """Remove the cause of a recoverable error of a call; see `recover`."""
        try:
            yield from recover(self.session, call.guard, error, call.kind, tried)
        except (KeyleashError, ResponseError) as new:
            require_known_outcome(call, new, *_UNRECOVERED)
            raise

    def _read(self, call: Call, undecoded: bool) -> Flow:
        """Return the reply to a call, which must have been sent; or a recoverable error."""
        try:
            return (yield from self.receive(call, undecoded))
        except ResponseError as error:
            typed = self._typed(call, error)
            require_known_outcome(call, typed)
            if isinstance(typed, self.session.recoverable):
                return typed
            if call.deadline is not None and self.is_no_data(call, typed):
                return None
            raise typed from None
        except NotReplicatedError as short:
            if self._has_written(call, short.reply):
                raise
            return short.reply

    def receive(self, call: Any, undecoded: bool = True) -> Flow:
        """Return the reply to a call or an `AtHome`, which must have been sent with its WAIT.

        Raises:
            NotReplicatedError: too few replicas have the call, if it wrote anything.
        """
        guard = call.waits_for
        if guard is None:
            return (yield from self._receive_call(call, undecoded))
        reply = count = failed = lost = None
        try:
            reply = yield from self._receive_call(call, undecoded)
        except ResponseError as error:
            failed = error
        try:
            # Also of a call that wrote nothing, or the next call would read it.
            count = yield Receive(longer_s=guard.wait_ms / 1000)
        except (*LOST, ResponseError) as error:
            lost = error
        if failed is not None:
            raise failed
        if (count or 0) < guard.wait_replicas:
            # Not a connection error: the call has run, and callers must not repeat it.
            missing = NotReplicatedError(reply, count, guard.wait_replicas, guard.wait_ms)
            raise mark_run(missing) from lost
        return reply

    def _has_written(self, call: Call, reply: Any) -> bool:
        if call.mode is not BatchMode.EACH:
            return call.script is not None or reply is not None
        pairs = zip(call.commands, replies_of(reply, call.shape), strict=True)
        return any(
            not isinstance(item, Exception) and self.session.may_write(words)
            for words, item in pairs
        )

    def _receive_call(self, call: Call, undecoded: bool) -> Flow:
        """Return the reply to a call; of one that is watched, those to MULTI … EXEC are read."""
        if not call.is_watched:
            return (yield Receive(undecoded))
        queued: ResponseError | None = None
        for _ in ("MULTI", *call.commands[:1]):
            try:
                yield Receive(is_exec=True)
            except ResponseError as error:
                queued = error
        try:
            reply = yield Receive(undecoded, is_exec=True)
        except ExecAbortError as error:
            raise queued or error from None
        if isinstance(reply, list) and reply:
            (reply,) = reply
            if isinstance(reply, ResponseError):
                raise reply
        return reply

    def _typed(self, call: Call, error: ResponseError) -> ResponseError:
        """Return the typed error of a call; of a batch with the command that caused it."""
        try:
            typed = self.session.typed_error(error)
        except UnknownDenialError as unknown:
            return unknown
        if not (isinstance(typed, LeashError) and call.commands):
            return typed
        item = typed.details.get("item")
        at = int(item or 1) - 1
        words = call.commands[at]
        if call.mode in (None, BatchMode.CHECK) or item is not None:
            typed = described(typed, words, call.mode, self.session.table)
        if item is None:
            return typed
        if role_of(words[0]) is Role.SUBSCRIPTION:
            return as_command(typed, words[0])
        return of_item(typed, call.places[at] if call.places else at, words)

    # For a program that serves many blocking calls.

    def is_no_data(self, call: Call, error: ResponseError) -> bool:
        """Return whether an error of a blocking call means no more than null."""
        return False

    def stop_waiting(self, call: Call) -> None:
        """Note that a blocking call is polled no more."""


def of_item(denial: LeashError, at: int, words: Words) -> LeashError:
    """Return the denial of a command of a batch with its place, also in the text, as redis-py's."""
    denial = denial.with_details({**denial.details, "item": str(at + 1)})
    command = " ".join(map(str, words))[:100]
    denial.args = (f"Command # {at + 1} ({command}) of pipeline caused error: {denial.args[0]}",)
    return denial


def for_each(call: Call, error: Exception) -> list[BufferedReply]:
    """Return the error of a whole call as the reply to what redis-py sent."""
    count = len(call.commands) if call.mode is BatchMode.EACH else 1
    return [BufferedReply(copy_error(error)) for _ in range(count)]


def to_repeat(session: Session, call: Call, outcomes: Sequence[Any]) -> Sequence[int]:
    """Return the places of the commands that are made again after a wait for a rate.

    If none that may change something ran, a call with an id is not remembered, and is made again as
    a whole: a part of it is another call.

    Args:
        outcomes: The reply or the error of each command.
    """
    pairs = zip(call.commands, outcomes, strict=True)
    has_run = any(
        not isinstance(outcome, LeashError) and session.may_write(words) for words, outcome in pairs
    )
    if call.once and not has_run:
        return range(len(outcomes))
    return [at for at, outcome in enumerate(outcomes) if isinstance(outcome, RateLimitedError)]


def require_known_outcome(call: Call, error: Exception, *also: type[Exception]) -> None:
    """Raise the lost connection of an earlier attempt, if *error* does not say what became of it.

    Args:
        also: Further errors that come before the id is looked up.
    """
    once = call.once
    if not once or once.lost is None:
        return
    # A denial because of the id itself, such as `once=token`, names it in its details.
    if isinstance(error, (*_BEFORE_IDS, *also)) or (
        isinstance(error, CommandRefusedError) and ONCE in error.details.values()
    ):
        raise mark_final(once.lost) from error


def _with_id(words: Words, once: CallId) -> Words:
    """Return the words of a call with its id, which belongs to the token among them."""
    digest = token_digest(token_in(words))
    if once.lost is not None and once.token not in ("", digest):
        # Another connection has renewed the token; with this one the call could run again.
        raise mark_final(once.lost)
    once.token = digest
    return with_id(words, once)


def id_of(session: Session, call: Call, block: Block, ids: Ids) -> CallId:
    """Return the idempotency id of a call within a block; `NO_ID` for none.

    Raises:
        CommandRefusedError: the identity has no `idempotency`.
    """
    if call.is_watched or call.has_scripts or call.script is not None:
        return NO_ID
    changes = (
        words
        for words in call.commands
        if role_of(words[0]) is not Role.SUBSCRIPTION
        and session.may_write(words)
        # A lock is taken with another token each time.
        and not takes_lock(words)
    )
    first = next(changes, None)
    if first is None:
        return NO_ID
    if call.guard is not None and not call.guard.takes_ids:
        raise without_ids(block.first, first, session.identity)
    return ids.take(block)
