"""Calls of a guard on one connection, without I/O: requests, replies, waits and recovery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from keyleash.client.calls import Call, Deferred, PipelineCalls, RateWait
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
        return (yield from self._reply(call, undecoded=True))

    def looks_after_token(self) -> bool:
        """Return whether the token is looked after before the next call."""
        schedule = self.session.schedule
        return schedule is not None and schedule.is_due(self.clock())

    def look_after_token(self) -> Flow:
        """Renew the token if that is due, when nothing else is on the wire.

        What fails is tried again later: the call that is made anyway reports what is wrong.
        """
        schedule = self.session.schedule
        if schedule is not None and schedule.is_due(self.clock()):
            with suppress(KeyleashError, ResponseError, *LOST):
                describe = self.about_token(Call([], BatchMode.WHOAMI))
                renew = self.about_token(Call([(RENEW, "")], BatchMode.RENEW))
                yield from schedule.renewing(self.clock, describe, renew)

    def about_token(self, call: Call) -> Flow:
        """Make a call in mode `whoami`, `delegate` or `renew`; return its reply, undecoded."""
        return (yield from self.reply_to(call))

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
        yield from self.collect(calls, deliver)

    def collect(self, calls: Sequence[Call], deliver: Callable[[Call, list[Any]], None]) -> Flow:
        """Read the replies to calls that were sent in one packet; otherwise like `exchange`."""
        lost: list[tuple[Call, ResponseError]] = []
        for call in calls:
            try:
                replies = yield from self._replies_to_each(call, self._read(call, undecoded=True))
            except self.session.recoverable as error:
                lost.append((call, error))
            else:
                deliver(call, replies)
        for number, (call, why) in enumerate(lost, start=1):
            try:
                if number == 1:
                    reading = self._repeated(call, why, undecoded=True)
                else:
                    # What the first recovered, such as a lost script, the others need no more.
                    yield Send([call])
                    reading = self._recovered(call, undecoded=True)
                replies = yield from self._replies_to_each(call, reading)
            except self.session.recoverable as error:
                deliver(call, for_each(call, error))
            else:
                deliver(call, replies)

    def _replies_to_each(self, call: Call, reading: Flow) -> Flow:
        """Return the replies to the commands of a call, that *reading* returns the reply to."""
        short = None
        try:
            reply = yield from reading
        except self.session.recoverable:
            raise
        except ResponseError as error:
            return for_each(call, error)
        except NotReplicatedError as error:
            reply, short = error.reply, error
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
            return [BufferedReply((yield from self._reply(call, undecoded)))]
        if call.mode is BatchMode.EACH:
            return (yield from self._replies_of_pipeline(call, call.pipeline or PipelineCalls()))
        try:
            items = yield from self._reply(call, undecoded)
        except NotReplicatedError as short:
            raise mark_run(short.about(self.items(call, short.reply))) from short.__cause__
        return [BufferedReply(items if items is None else self.items(call, items))]

    def _replies_of_pipeline(self, call: Call, pipeline: PipelineCalls) -> Flow:
        items = yield from self._each(call, pipeline)
        yield from self._repeat_limited(call, pipeline, items)
        encoder = self.encoder()
        replies: list[BufferedReply] = [BufferedReply(item, encoder) for item in items]
        pipeline.replies += replies
        if call is pipeline.last and pipeline.short is not None:
            values = [reply.value for reply in pipeline.replies]
            replies[-1] = BufferedReply(mark_run(pipeline.short.about(values)))
        return replies

    def _each(self, call: Call, pipeline: PipelineCalls) -> Flow:
        try:
            reply = yield from self._reply(call, undecoded=True)
        except NotReplicatedError as short:
            reply, pipeline.short = short.reply, short
        return self.items(call, reply)

    def _repeat_limited(self, call: Call, pipeline: PipelineCalls, items: list[Any]) -> Flow:
        """Repeat the rate-limited commands of a batch, as long as it may wait."""
        places: Sequence[int] = range(len(items))
        while True:
            errors = [items[place] for place in places]
            denials = [error for error in errors if isinstance(error, RateLimitedError)]
            if not denials:
                return
            try:
                yield call.waiting.pause(denials)
                again = to_repeat(self.session, call, errors)
                places = [places[at] for at in again]
                call = call.rest(again)
                yield Send([call])
                replies = yield from self._each(call, pipeline)
            except RateLimitedError:
                return
            except ResponseError as error:
                replies = [copy_error(error) for _ in places]
            for place, reply in zip(places, replies, strict=True):
                items[place] = reply

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

    def _reply(self, call: Call, undecoded: bool) -> Flow:
        """Return the reply to a call that was sent; poll, wait and recover as needed."""
        reply = yield from self._read_within_rates(call, undecoded)
        if call.deadline is not None and reply is None:
            reply = yield from self._poll(call, undecoded, call.deadline)
        return reply if call.mode else self.finished(call.commands[0], reply)

    def finished(self, words: Words, reply: Any) -> Any:
        """Return a reply as the client expects it of its server."""
        if is_final(words[0]):
            return reply
        reply = self.session.final_response(words[0], reply)
        return as_resp3(words, reply, is_text=bool(self.encoder())) if self._is_resp3 else reply

    def _read_within_rates(self, call: Call, undecoded: bool) -> Flow:
        while True:
            try:
                reply = yield from self._recovered(call, undecoded)
            except RateLimitedError as denial:
                # After a lost watch, WATCH and reads come first, and use up what one pause gives.
                times = 2**self._lost_watches if call.is_watched else 1
                if times > MAX_PAUSES:
                    raise
                yield call.waiting.pause([denial], times)
                if call.is_watched:
                    self._lost_watches += 1
                    return None
                yield Send([call])
            else:
                if call.is_watched:
                    self._lost_watches = 0
                return reply

    def _recovered(self, call: Call, undecoded: bool) -> Flow:
        try:
            return (yield from self._read(call, undecoded))
        except self.session.recoverable as error:
            return (yield from self._repeated(call, error, undecoded))

    def _repeated(self, call: Call, error: ResponseError, undecoded: bool) -> Flow:
        """Repeat a call whose reply says that nothing ran."""

        def again() -> Flow:
            if call.is_watched:
                return None
            yield Send([call])
            return (yield from self._read(call, undecoded))

        try:
            return (yield from recover(self.session, call.guard, error, call.kind, again))
        except (KeyleashError, ResponseError) as new:
            require_known_outcome(call, new, *_UNRECOVERED)
            raise

    def _read(self, call: Call, undecoded: bool) -> Flow:
        try:
            return (yield from self.replicated(call, undecoded))
        except ResponseError as error:
            typed = self._typed(call, error)
            require_known_outcome(call, typed)
            raise typed from None
        except NotReplicatedError as short:
            if self._has_written(call, short.reply):
                raise
            return short.reply

    def replicated(self, call: Any, undecoded: bool = True) -> Flow:
        """Return the reply to a call that was sent, or to an `AtHome`; then read that to WAIT.

        Raises:
            NotReplicatedError: too few replicas have the call, if it wrote anything.
        """
        guard = call.waits_for
        if guard is None:
            return (yield from self._read_call(call, undecoded))
        reply = count = failed = lost = None
        try:
            reply = yield from self._read_call(call, undecoded)
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

    def _read_call(self, call: Call, undecoded: bool) -> Flow:
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
            typed = self.session.call_error(error)
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

    def _poll(self, call: Call, undecoded: bool, deadline: float) -> Flow:
        try:
            for pause_s in pauses(call.commands[0]):
                # At least once: a program that serves others spaces calls here.
                if (yield Pause(max(0, min(pause_s, deadline - self.clock())), call)):
                    return None
                yield Send([call])
                reply = yield from self._read_within_rates(call, undecoded)
                if reply is not None or self.clock() >= deadline:
                    return reply
        finally:
            self.stop_waiting(call)

    def stop_waiting(self, call: Call) -> None:
        """Note that a blocking call is polled no more: for a program with many of them."""


def of_item(denial: LeashError, at: int, words: Words) -> LeashError:
    """Return the denial of a command of a batch with its place, also in the text, as redis-py's."""
    denial = denial.with_details({**denial.details, "item": str(at + 1)})
    command = " ".join(map(str, words))[:100]
    denial.args = (f"Command # {at + 1} ({command}) of pipeline caused error: {denial.args[0]}",)
    return denial


def for_each(call: Call | Deferred, error: Exception) -> list[BufferedReply]:
    """Return the error of a whole call as the reply to what redis-py sent."""
    count = len(call.commands) if isinstance(call, Call) and call.mode is BatchMode.EACH else 1
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
