"""The state of a guarded connection, without I/O.

redis-py sends commands on a connection, and reads a reply to each. Here a command becomes a call
of the guard, the commands of a pipeline become batches, and MULTI … EXEC one batch; their replies
are then read one by one. One call is on the wire at a time, so that a call whose reply says that
nothing ran can be repeated in its place.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ExecAbortError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.client._redis_py import BufferedReply, UnreplicatedReply, copy_error
from keyleash.client._redis_py import pack as encode
from keyleash.client.answers import info_reply, keys_reply
from keyleash.client.blocking import apart, may_block, pauses, pin_ids, timeout_of
from keyleash.client.correlation import next_correlation
from keyleash.client.flow import (
    Flow,
    Pause,
    Plain,
    RateWait,
    Retry,
    Words,
    chunks,
    require_one_call,
)
from keyleash.client.recovery import fetch_guard, recover
from keyleash.client.resp3 import as_resp3, shape_of
from keyleash.client.scripts import (
    ScriptCall,
    change_lock,
    reply_about,
    script_call_of,
    unapproved_script,
)
from keyleash.client.session import Session, counts, unapproved
from keyleash.client.unsupported import (
    locking,
    script_in_transaction,
    takes_lock,
    unscoped,
    watching_sealed,
)
from keyleash.commands.locks import LOCK_SCRIPTS, RELEASE
from keyleash.errors import (
    CommandRefusedError,
    GuardLostError,
    LeashError,
    NotReplicatedError,
    RateLimitedError,
    UnknownDenialError,
)
from keyleash.store.records import GuardRecord
from keyleash.store.wire import Argument, BatchMode, as_bytes, split_name

OWN = frozenset({"SETNAME", "SETINFO", "GETNAME", "ID"})
"""The sub-commands of CLIENT that are about this connection alone."""
HANDSHAKE = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "READONLY"})
"""The commands that redis-py sends by itself when it connects."""
LOST = (RedisConnectionError, RedisTimeoutError)
JUDGED_EVERY_S = 5.0
"""Seconds after which the subscriptions of a connection are checked again."""


NO_WAIT = RateWait(0)


class Role(Enum):
    """The commands that are no plain calls of a guard."""

    TRANSACTION = auto()
    """MULTI, EXEC, DISCARD, WATCH and UNWATCH."""
    SUBSCRIPTION = auto()
    SCRIPT = auto()
    """EVAL, EVALSHA and SCRIPT."""
    CLIENT = auto()
    ANSWERED = auto()
    """KEYS and INFO."""
    BLOCKING = auto()


_ROLES = {
    **dict.fromkeys(("MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH"), Role.TRANSACTION),
    **dict.fromkeys(("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"), Role.SUBSCRIPTION),
    **dict.fromkeys(("UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"), Role.SUBSCRIPTION),
    **dict.fromkeys(("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "SCRIPT"), Role.SCRIPT),
    "CLIENT": Role.CLIENT,
    **dict.fromkeys(("KEYS", "INFO"), Role.ANSWERED),
}


@lru_cache(maxsize=512)
def role_of(name: str | bytes) -> Role | None:
    """Return the role of a command; None if it is a plain call. Asked at every call."""
    return _ROLES.get(_first(name)) or (Role.BLOCKING if may_block(name) else None)


@lru_cache(maxsize=512)
def is_final(name: str | bytes) -> bool:
    """Return whether the reply to a command is the same in RESP3, and never a long integer."""
    return not (counts(name) or shape_of(name)[0])


def _first(name: str | bytes) -> str:
    text = name.decode("latin-1") if isinstance(name, bytes) else str(name)
    return (text.upper().split() or [""])[0]


class Packed(list[Words]):
    """Commands that redis-py packed: they become bytes when they are sent.

    Attributes:
        is_pipeline: Whether they were packed as a pipeline.
    """

    is_pipeline = False


@dataclass(slots=True)
class Pack:
    """The batches of a pipeline.

    Attributes:
        last: The last of them.
        replies: The replies to commands so far.
        short: Says that too few replicas have the writes of a batch. It takes the place of the last
            reply, since redis-py raises it at once.
    """

    last: Call | None = None
    replies: list[BufferedReply] = field(default_factory=list)
    short: NotReplicatedError | None = None


@dataclass(slots=True)
class Call:
    """A call of a guard.

    Attributes:
        commands: Its commands; one without a mode.
        mode: The mode of a batch.
        is_watched: Whether MULTI and EXEC of the server surround it. It is never repeated, since
            EXEC ends the watch: its reply is null, redis-py raises WatchError, and callers that
            repeat a transaction read its keys again.
        script: The script to call instead of commands.
        is_transaction: Whether redis-py reads its reply as one of EXEC.
        guard: The guard that was called last.
        replicas: The same guard, if its policy waits for replicas of this call.
        correlation: One id for all times that it is made.
        waiting: The time that it may still sleep for rate limits.
        deadline: Until when it is polled; None if it does not block.
        is_later: Whether an earlier call of the same pipeline has run.
        pack: The calls that redis-py sent together with it.
    """

    commands: Sequence[Words]
    mode: BatchMode | None = None
    is_watched: bool = False
    script: ScriptCall | None = None
    is_transaction: bool = False
    guard: GuardRecord | None = None
    replicas: GuardRecord | None = None
    correlation: str = ""
    waiting: RateWait = NO_WAIT
    deadline: float | None = None
    is_later: bool = False
    pack: Pack | None = None

    @property
    def kind(self) -> str:
        """The field of the guard record that names the script."""
        if self.script:
            return "approved_digest"
        return "batch_digest" if self.mode else "digest"


@dataclass(slots=True)
class Deferred:
    """A command that is carried out when its reply is read, by several calls or without a guard.

    Attributes:
        flow: Returns the reply, undecoded.
        is_later: Whether an earlier call of the same pipeline has run.
    """

    flow: Flow
    is_later: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Send calls in one packet."""

    calls: Sequence[Call]


@dataclass(frozen=True, slots=True)
class SendNative:
    """Send a command as it is."""

    words: Words


@dataclass(frozen=True, slots=True)
class Judge:
    """Check subscriptions, on another connection: a subscribed one sends no other commands."""

    subscriptions: Sequence[Words]


@dataclass(frozen=True, slots=True)
class Receive:
    """Read one reply of the server.

    Attributes:
        undecoded: Whether to read it as bytes.
        is_exec: Whether a transaction may be lost with it.
        longer_s: Seconds to wait beyond the timeout of the connection.
    """

    undecoded: bool = False
    is_exec: bool = False
    longer_s: float = 0.0


class Dialogue:
    """The state of one connection.

    Args:
        session: The session of the token; shared by connections.
        wait_s: The longest sleep of a call for rate limits.
        encoder: Makes the encoder of the connection, if it decodes replies.
        is_resp3: Whether replies are expected in the shapes of RESP3.
        clock: Returns the seconds of a clock that never goes back.

    Attributes:
        due: What is still to be read, in order. The first call is on the wire, unless something
            that is deferred comes before it.
        is_answered: Whether a call was answered when `receive` was last run.
        is_cut: Whether the connection was closed before all replies were read.
        is_watching: Whether keys are watched, which another connection would not be.
        subscribed: The subscriptions, each as a command with one channel.
    """

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
        self._wait_s = wait_s
        self._encoder = encoder
        self._is_resp3 = is_resp3
        self._clock = clock
        self.due: deque[Call | Deferred | BufferedReply] = deque()
        self.is_answered = False
        self.clear()

    def clear(self) -> None:
        """Forget everything: the connection was closed."""
        self.is_cut = bool(self.due)
        self.due = deque()
        self._held: list[Words] | None = None
        self._is_aborted = False
        self.is_watching = False
        self.subscribed: dict[Words, None] = {}

    @property
    def is_idle(self) -> bool:
        """Return whether the connection may be replaced by a new one."""
        return not self.due and self._held is None and not self.is_watching

    def is_plain(self, words: Words) -> bool:
        """Return whether a command can be sent at once as a call of its own."""
        return (
            not self.due
            and self._held is None
            and self.session.guard is not None
            and not self._wait_s
            and role_of(words[0]) is None
            and not self.session.guard.wait_replicas
            and not self._lacks_locks(words)
        )

    def _lacks_locks(self, words: Words) -> bool:
        """Return whether a command takes a lock of redis-py that could not be released."""
        guard = self.session.guard
        if guard is None or not guard.is_sealed or guard.may_run(RELEASE):
            return False
        return takes_lock(words)

    @property
    def next_plain(self) -> Call | None:
        """The call whose reply is next, if it was sent as a plain one."""
        first = self.due[0] if len(self.due) == 1 else None
        if not isinstance(first, Call) or first.mode or first.script:
            return None
        if first.deadline or self._wait_s:
            return None
        return first if first.replicas is None else None

    def call_of(self, commands: Sequence[Words], mode: BatchMode | None = None) -> Call:
        """Return a new call."""
        return Call(commands, mode, waiting=RateWait(self._wait_s) if self._wait_s else NO_WAIT)

    def request(self, call: Call) -> Words:
        """Return the words of a call. They contain the token."""
        session = self.session
        call.guard = session.guard
        call.replicas = None
        if session.guard and session.guard.wait_replicas:
            call.replicas = session.guard_awaiting_replicas(call.commands)
        call.correlation = call.correlation or next_correlation(session.correlation)
        if call.script is not None:
            call.replicas = session.guard if session.guard and session.guard.wait_replicas else None
            return session.script_request(*call.script, call.correlation)
        if call.mode is None:
            return session.request(call.commands[0], call.correlation)
        return session.batch_request(call.mode, call.commands, call.correlation)

    # Sending.

    def send(self, commands: Sequence[Words]) -> Flow:
        """Send commands, or hold them back until EXEC; a reply to each becomes due."""
        loose: list[Words] = []
        is_pipeline = getattr(commands, "is_pipeline", False)
        for words in commands:
            role = role_of(words[0])
            if self.session.guard is None and takes_lock(words):
                yield from fetch_guard(self.session)
            if self._lacks_locks(words):
                raise locking()
            if role is Role.TRANSACTION:
                yield from self._send_loose(loose)
                loose = []
                yield from self._transact(_first(words[0]), words)
            elif role is Role.SUBSCRIPTION and (self._held is not None or is_pipeline):
                raise unscoped(
                    _first(words[0]),
                    "a subscription is no part of a pipeline or transaction",
                    "use `pubsub()` of the client",
                )
            elif self._held is not None:
                self._held.append(words)
                self._tell(b"QUEUED")
            elif role is Role.SCRIPT:
                yield from self._send_loose(loose)
                loose = []
                yield from self._send_script(apart(words))
            elif (flow := self._own_reply(role, apart(words))) is not None:
                yield from self._send_loose(loose)
                loose = []
                self._defer(flow)
            elif role in (Role.SUBSCRIPTION, Role.BLOCKING) and not is_pipeline:
                yield from self._send_special(role, apart(words))
            else:
                loose.append(words)
        yield from self._send_loose(loose)

    def _send_loose(self, loose: Sequence[Words]) -> Flow:
        if len(loose) == 1:
            return (yield from self._add([self.call_of(loose)]))
        waiting, pack = RateWait(self._wait_s), Pack()
        calls = [
            Call([loose[at] for at in part], BatchMode.EACH, waiting=waiting, pack=pack)
            for part in chunks(loose, range(len(loose)))
        ]
        pack.last = calls[-1] if calls else None
        for call in calls[1:]:
            call.is_later = True
        if len(calls) > 1:
            # As redis-py, which encodes all commands before it sends any.
            for words in loose:
                encode(words)
        return (yield from self._add(calls))

    def _own_reply(self, role: Role | None, words: Words) -> Flow | None:
        """Return what replies to a command that no guard runs; None if it is another."""
        match role:
            case Role.CLIENT if len(words) > 1 and _first(words[1]) in OWN:
                return self._natively(words)
            case Role.ANSWERED if _first(words[0]) == "INFO":
                return self._info(words)
            case Role.ANSWERED if len(words) == 2:
                return keys_reply(words, self._answer_to)
        return None

    def _info(self, words: Words) -> Flow:
        return info_reply(words, (yield Plain(("HELLO",))))

    def _natively(self, words: Words) -> Flow:
        """Send a command as it is; return its reply."""
        return (yield Plain(words))

    def _send_special(self, role: Role, words: Words) -> Flow:
        if role is Role.SUBSCRIPTION:
            yield from self._subscribe(words)
            return
        timeout_s = timeout_of(words)
        if timeout_s is None:
            yield from self._add([self.call_of([words])])
            return
        deadline = self._clock() + timeout_s if timeout_s else math.inf
        # A call with a timeout of a second must not sleep a minute for a rate limit.
        waiting = RateWait(self._wait_s).within(timeout_s or math.inf)
        words = yield from pin_ids(words, self._answer_to)
        yield from self._add([Call([words], waiting=waiting, deadline=deadline)])

    def _subscribe(self, words: Words) -> Flow:
        name, *channels = _first(words[0]), *map(as_bytes, words[1:])
        joined = name.replace("UNSUBSCRIBE", "SUBSCRIBE")
        named = [(joined, channel) for channel in channels]
        if self.due:
            raise RedisError("replies to earlier commands are to be read first")
        if joined == name and named:
            yield Judge(named)
        yield SendNative(words)
        if joined == name:
            self.subscribed |= dict.fromkeys(named)
            return
        for left in named or [item for item in self.subscribed if item[0] == joined]:
            self.subscribed.pop(left, None)

    def judge(self, subscriptions: Sequence[Words], judged_by: GuardRecord | None) -> Flow:
        """Check subscriptions; return the guard that did.

        Args:
            judged_by: The guard that checked them before. While it is active, only the token and
                the state of the identity are checked, which charges and records nothing.
        """
        if judged_by is not None:
            call = self.call_of((), BatchMode.WHOAMI)
            yield from self.answered(call)
            if call.guard == judged_by:
                return judged_by
        for part in chunks(subscriptions, range(len(subscriptions))):
            call = self.call_of([subscriptions[at] for at in part], BatchMode.ALL)
            yield from self.answered(call)
            judged_by = call.guard
        return judged_by

    def _send_script(self, words: Words, *, is_transaction: bool = False) -> Flow:
        """Call the guard for an approved script; answer what redis-py asks about scripts."""
        guard = yield from self._guard()
        name, arguments = _first(words[0]), words[1:]
        if name == "SCRIPT":
            reply = reply_about(guard, _first(arguments[0]) if arguments else "", arguments[1:])
            if reply is not None:
                self._tell(reply)
                return
        call, script = self.call_of([words]), script_call_of(name, arguments)
        is_known = script is not None and name != "SCRIPT" and guard.may_run(script.digest)
        is_of_lock = script is not None and script.digest in LOCK_SCRIPTS and name != "SCRIPT"
        if script and is_of_lock and not (is_known or guard.is_sealed or self.is_watching):
            self._defer(self._change_lock(script, is_transaction=is_transaction))
            return
        if is_known:
            call.script, call.is_transaction = script, is_transaction
        # The guard denies any other, by the name of the command, and records that.
        yield from self._add([call])

    def _change_lock(self, script: ScriptCall, *, is_transaction: bool) -> Flow:
        def watch(key: Argument) -> Flow:
            yield from self._watch(("WATCH", key))

        def unwatch() -> Flow:
            yield Plain(("UNWATCH",))

        def change(words: Words) -> Flow:
            call = self.call_of([words], BatchMode.ALL)
            call.is_watched = True
            return (yield from self.answered(call))

        reply = yield from change_lock(script, watch, unwatch, self._answer_to, change)
        return [reply] if is_transaction else reply

    def _guard(self) -> Flow:
        if self.session.guard is None:
            yield from fetch_guard(self.session)
        return self.session.guard

    def _answer_to(self, words: Words) -> Flow:
        return (yield from self.answered(self.call_of([words])))

    def _transact(self, name: str, words: Words) -> Flow:
        if (name == "WATCH") is (len(apart(words)) == 1):
            self._refuse_arguments(name)
        elif name in ("MULTI", "WATCH") and self._held is not None:
            yield from self._nested(name, words)
        elif name == "MULTI":
            self._held = []
            self._tell(b"OK")
        elif name == "WATCH":
            self.is_watching = True
            self._defer(self._watch(apart(words)))
        elif name == "UNWATCH":
            self.is_watching = False
            self._defer(self._natively(words))
        elif self._held is None:
            self._tell(ResponseError(f"{name} without MULTI"))
        else:
            held, is_aborted, is_watched = self._held, self._is_aborted, self.is_watching
            self._held, self._is_aborted, self.is_watching = None, False, False
            if name == "DISCARD":
                self._defer(self._unwatched(b"OK", is_watched))
            elif is_aborted:
                error = ExecAbortError("Transaction discarded because of previous errors.")
                self._defer(self._unwatched(error, is_watched))
            else:
                yield from self._execute(held, is_watched=is_watched)

    def _refuse_arguments(self, name: str) -> None:
        problem = f"wrong number of arguments for '{name.lower()}' command"
        if self._held is not None and name == "EXEC":
            error = ExecAbortError(f"Transaction discarded because of: {problem}")
            self._defer(self._unwatched(error, self.is_watching))
            self._held, self._is_aborted, self.is_watching = None, False, False
            return
        self._is_aborted = self._held is not None
        self._tell(ResponseError(problem))

    def _nested(self, name: str, words: Words) -> Flow:
        """Reply to MULTI or WATCH inside MULTI, which abort the transaction on some servers."""
        if self.is_watching or self._has_pending:
            # The server cannot be asked now.
            self._is_aborted = True
            self._tell(ResponseError(f"{name} inside MULTI is not allowed"))
            return
        yield Plain(("MULTI",))
        try:
            reply = yield Plain(words)
        except ResponseError as error:
            reply = error
        try:
            yield Plain(("EXEC",))
        except ExecAbortError:
            self._is_aborted = True
        self._tell(reply)

    def _unwatched(self, reply: Any, is_watched: bool) -> Flow:
        """End a watch; return a reply, or raise an error."""
        if is_watched:
            yield Plain(("UNWATCH",))
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _execute(self, held: Sequence[Words], *, is_watched: bool) -> Flow:
        """Send what was held back until EXEC."""
        if any(role_of(item[0]) is Role.SCRIPT for item in held):
            if is_watched or len(held) > 1:
                self._defer(self._unwatched(script_in_transaction(), is_watched))
            else:
                yield from self._send_script(apart(held[0]), is_transaction=True)
        elif held or is_watched:
            require_one_call(held)
            call = self.call_of(held, BatchMode.ALL)
            call.is_watched = is_watched
            yield from self._add([call])
        else:
            self._tell([])

    def _watch(self, words: Words) -> Flow:
        if (yield from self._guard()).is_sealed:
            raise watching_sealed()
        # Any grant on the keys is enough; and the batch script is loaded before it is needed.
        try:
            yield from self.answered(self.call_of([("TOUCH", *words[1:])], BatchMode.ALL))
        except LeashError as denial:
            named = {"command": "WATCH"} if "command" in denial.details else {}
            details = {name: value for name, value in denial.details.items() if name != "item"}
            raise type(denial)({**details, **named}, help=denial.help) from None
        return (yield Plain(words))

    def _add(self, calls: Sequence[Call]) -> Flow:
        if calls and self.session.guard is None:
            yield from fetch_guard(self.session)
        is_first = not self._has_pending
        if calls and is_first:
            yield Send(calls[:1])
        for call in calls:
            call.is_later |= not is_first
        self.due.extend(calls)

    def _defer(self, flow: Flow) -> None:
        self.due.append(Deferred(flow, is_later=self._has_pending))

    @property
    def _has_pending(self) -> bool:
        return any(not isinstance(item, BufferedReply) for item in self.due)

    @property
    def is_open(self) -> bool:
        """Return whether the next user of the connection would get what another one left."""
        return bool(self.due) or self._held is not None

    def _tell(self, reply: Any) -> None:
        self.due.append(BufferedReply(reply, self._encoder()))

    def answered(self, call: Call) -> Flow:
        """Make a call; return its reply, undecoded."""
        if self.session.guard is None:
            yield from fetch_guard(self.session)
        yield Send([call])
        return (yield from self._reply(call, undecoded=True))

    def exchange(self, calls: Sequence[Call], answer: Callable[[Call, list[Any]], None]) -> Flow:
        """Make calls in one packet.

        Args:
            answer: Is called with each call and the replies to its commands, as soon as there are.
        """
        if self.session.guard is None:
            yield from fetch_guard(self.session)
        yield Send(calls)
        lost: list[tuple[Call, ResponseError]] = []
        for call in calls:
            try:
                replies = yield from self._answers(call, self._heard(call, undecoded=True))
            except self.session.recoverable as error:
                lost.append((call, error))
            else:
                answer(call, replies)
        for number, (call, why) in enumerate(lost, start=1):
            try:
                if number == 1:
                    reading = self._repeated(call, why, undecoded=True)
                else:
                    # What the first recovered from may be over for the others too.
                    yield Send([call])
                    reading = self._recovered(call, undecoded=True)
                replies = yield from self._answers(call, reading)
            except self.session.recoverable as error:
                answer(call, _for_each(call, error))
                if isinstance(error, GuardLostError):
                    # The other calls have waited as long for the script.
                    for other, _ in lost[number:]:
                        answer(other, _for_each(other, error))
                    return
            else:
                answer(call, replies)

    def _answers(self, call: Call, reading: Flow) -> Flow:
        """Return the replies to the commands of a call, that *reading* returns the reply to."""
        short = None
        try:
            reply = yield from reading
        except self.session.recoverable:
            raise
        except ResponseError as error:
            return _for_each(call, error)
        except NotReplicatedError as error:
            reply, short = error.reply, error
        items = self._items(call, reply) if call.mode else [self.finished(call.commands[0], reply)]
        replies: list[BufferedReply] = [BufferedReply(item, self._encoder()) for item in items]
        if short is None:
            return replies
        return [
            UnreplicatedReply(reply, short)
            if self.session.may_write(words) and not reply.is_error
            else reply
            for words, reply in zip(call.commands, replies, strict=True)
        ]

    # Reading.

    def receive(self, undecoded: bool) -> Flow:
        """Return the next reply that is due."""
        first = self.due[0]
        self.is_answered = False
        assert not isinstance(first, BufferedReply)  # noqa: S101 - the connection reads these
        try:
            if isinstance(first, Deferred):
                replies = [BufferedReply((yield from first.flow), self._encoder())]
            else:
                replies = yield from self._replies(first, undecoded)
            self.is_answered = True
        except Exception as error:
            if first.is_later:
                has_run(error)
            if not isinstance(error, ResponseError):
                raise
            # It is the reply to each command of the call.
            replies = (
                [BufferedReply(error)] if isinstance(first, Deferred) else _for_each(first, error)
            )
        finally:
            # What has no reply is lost with the connection, or was never sent.
            if self.due and self.due[0] is first:
                self.due.popleft()
        reply, *others = replies
        self.due.extendleft(reversed(others))
        pending = next((item for item in self.due if not isinstance(item, BufferedReply)), None)
        if isinstance(pending, Call):
            yield Send([pending])
        return reply.read_response(undecoded)

    def _replies(self, call: Call, undecoded: bool) -> Flow:
        """Return what redis-py reads of a call: a reply to each command, or to EXEC."""
        if call.mode is None:
            reply = yield from self._reply(call, undecoded)
            return [BufferedReply([reply] if call.is_transaction else reply)]
        if call.mode is BatchMode.EACH:
            return (yield from self._replies_of_pack(call, call.pack or Pack()))
        try:
            items = yield from self._reply(call, undecoded)
        except NotReplicatedError as short:
            raise has_run(short.about(self._items(call, short.reply))) from short.__cause__
        return [BufferedReply(items if items is None else self._items(call, items))]

    def _replies_of_pack(self, call: Call, pack: Pack) -> Flow:
        items = yield from self._each(call, pack)
        yield from self._within_rates(call, pack, items)
        replies: list[BufferedReply] = [BufferedReply(item, self._encoder()) for item in items]
        pack.replies += replies
        if call is pack.last and pack.short is not None:
            values = [reply.value for reply in pack.replies]
            replies[-1] = BufferedReply(has_run(pack.short.about(values)))
        return replies

    def _each(self, call: Call, pack: Pack) -> Flow:
        try:
            reply = yield from self._reply(call, undecoded=True)
        except NotReplicatedError as short:
            reply, pack.short = short.reply, short
        return self._items(call, reply)

    def _within_rates(self, call: Call, pack: Pack, items: list[Any]) -> Flow:
        """Repeat the rate-limited commands of a batch, as long as it may wait."""
        while limited := [
            at for at, item in enumerate(items) if isinstance(item, RateLimitedError)
        ]:
            try:
                yield call.waiting.pause([items[at] for at in limited])
                again = Call([call.commands[at] for at in limited], call.mode, waiting=call.waiting)
                yield Send([again])
                replies = yield from self._each(again, pack)
            except RateLimitedError:
                return
            except ResponseError as error:
                replies = [copy_error(error) for _ in limited]
            for at, reply in zip(limited, replies, strict=True):
                items[at] = reply

    def _items(self, call: Call, reply: Any) -> list[Any]:
        """Return the reply or the error of each command of a batch."""
        if not isinstance(reply, list) or len(reply) != len(call.commands):
            raise InvalidResponse("the batch was not answered command by command")
        return [
            item
            if not isinstance(item, Exception) and is_final(words[0])
            else self._item(words, item)
            for words, item in zip(call.commands, reply, strict=True)
        ]

    def _item(self, words: Words, item: Any) -> Any:
        if not isinstance(item, ResponseError):
            return self.finished(words, item)
        try:
            return has_run(self.session.typed_error(item))
        except UnknownDenialError as unknown:
            # It must not replace the other replies.
            return has_run(unknown)

    def _reply(self, call: Call, undecoded: bool) -> Flow:
        """Return the reply to a call that was sent; poll, wait and recover as needed."""
        reply = yield from self._patiently(call, undecoded)
        if call.deadline is not None and reply is None:
            reply = yield from self._poll(call, undecoded, call.deadline)
        return reply if call.mode else self.finished(call.commands[0], reply)

    def finished(self, words: Words, reply: Any) -> Any:
        """Return a reply as the client expects it of its server."""
        if is_final(words[0]):
            return reply
        reply = self.session.final_response(words[0], reply)
        return as_resp3(words, reply) if self._is_resp3 else reply

    def _patiently(self, call: Call, undecoded: bool) -> Flow:
        while True:
            try:
                return (yield from self._recovered(call, undecoded))
            except RateLimitedError as denial:
                yield call.waiting.pause([denial])
                if call.is_watched:
                    return None
                yield Send([call])

    def _recovered(self, call: Call, undecoded: bool) -> Flow:
        try:
            return (yield from self._heard(call, undecoded))
        except self.session.recoverable as error:
            return (yield from self._repeated(call, error, undecoded))

    def _repeated(self, call: Call, error: ResponseError, undecoded: bool) -> Flow:
        """Repeat a call whose reply says that nothing ran."""

        def again(_: Any) -> Flow:
            if call.is_watched:
                return None
            yield Send([call])
            return (yield from self._heard(call, undecoded))

        flow = recover(self.session, call.guard, error, call.kind)
        return (yield from _intercepted(flow, Retry, again))

    def _heard(self, call: Call, undecoded: bool) -> Flow:
        guard = call.replicas
        try:
            reply = yield from self._outcome(call, undecoded)
        except ResponseError as error:
            if guard is not None:
                # Nothing was written, but its reply must not be read by the next call.
                yield Receive(longer_s=guard.wait_ms / 1000)
            raise self._typed(call, error) from None
        if guard is None:
            return reply
        count, lost = None, None
        try:
            count = yield Receive(longer_s=guard.wait_ms / 1000)
        except (*LOST, ResponseError) as error:
            lost = error
        if (count or 0) < guard.wait_replicas and self._has_written(call, reply):
            # Not a connection error: the call has run, and callers must not repeat it.
            missing = NotReplicatedError(reply, count, guard.wait_replicas, guard.wait_ms)
            raise has_run(missing) from lost
        return reply

    def _has_written(self, call: Call, reply: Any) -> bool:
        if call.mode is not BatchMode.EACH:
            return call.script is not None or reply is not None
        pairs = zip(call.commands, reply, strict=True)
        return any(
            not isinstance(item, Exception) and self.session.may_write(words)
            for words, item in pairs
        )

    def _outcome(self, call: Call, undecoded: bool) -> Flow:
        if not call.is_watched:
            return (yield Receive(undecoded))
        queued: ResponseError | None = None
        for _ in ("MULTI", *call.commands[:1]):
            try:
                yield Receive(is_exec=True)
            except ResponseError as error:
                queued = error
        try:
            found = yield Receive(undecoded, is_exec=True)
        except ExecAbortError as error:
            raise queued or error from None
        if isinstance(found, list) and found:
            (found,) = found
            if isinstance(found, ResponseError):
                raise found
        return found

    def _typed(self, call: Call, error: ResponseError) -> ResponseError:
        """Return the typed error of a call; of a batch with the command that caused it."""
        found = self.session.call_error(error)
        if isinstance(found, CommandRefusedError) and call.mode is None:
            return self._with_script(call.commands[0], found)
        item = found.details.get("item") if isinstance(found, LeashError) else None
        if item is not None and role_of(call.commands[0][0]) is not Role.SUBSCRIPTION:
            command = " ".join(str(word) for word in call.commands[int(item) - 1])
            text = f"Command # {item} ({command[:100]}) of pipeline caused error: {found.args[0]}"
            found.args = (text, *found.args[1:])
        return found

    @staticmethod
    def _with_script(words: Words, denial: CommandRefusedError) -> CommandRefusedError:
        """Return the denial of a command; of a script with its digest."""
        digest = unapproved_script(_first(words[0]), words[1:])
        # Otherwise the script ran, and one of its commands was denied.
        is_of_script = role_of(denial.details.get("command", "")) is Role.SCRIPT
        return unapproved(digest, denial) if digest and is_of_script else denial

    def _poll(self, call: Call, undecoded: bool, deadline: float) -> Flow:
        for pause_s in pauses():
            left_s = deadline - self._clock()
            if left_s <= 0:
                return None
            yield Pause(max(0, min(pause_s, left_s)))
            yield Send([call])
            reply = yield from self._patiently(call, undecoded)
            if reply is not None:
                return reply
        return None


def has_run(error: Any) -> Any:
    """Return an error, marked as one after which nothing must be sent again."""
    error.has_run = True
    return error


def native_words(words: Words) -> Words:
    """Return a command as redis-py sends it, with arguments split off its name."""
    return tuple(split_name(words))


def _for_each(call: Call, error: Exception) -> list[BufferedReply]:
    """Return the error of a whole call as the reply to what redis-py sent."""
    count = len(call.commands) if call.mode is BatchMode.EACH else 1
    return [BufferedReply(copy_error(error)) for _ in range(count)]


def _intercepted(flow: Flow, kind: type, carry_out: Callable[[Any], Flow]) -> Flow:
    """Run *flow*, but carry out its actions of one kind."""
    try:
        action = next(flow)
        while True:
            try:
                if isinstance(action, kind):
                    outcome = yield from carry_out(action)
                else:
                    outcome = yield action
            except Exception as error:
                action = flow.throw(error)
            else:
                action = flow.send(outcome)
    except StopIteration as end:
        return end.value
