"""The part of guarded connections that sync and asyncio share; it neither sends nor reads."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import redis.utils
from redis.connection import CacheProxyConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, WatchError
from redis.exceptions import TimeoutError as RedisTimeoutError

from keyleash.client._redis_py import pack
from keyleash.client.dialogue import (
    HANDSHAKE,
    JUDGED_EVERY_S,
    OWN,
    Call,
    Dialogue,
    Packed,
    has_run,
    native_words,
)
from keyleash.client.flow import Words
from keyleash.client.session import Session
from keyleash.client.unsupported import caching, unscoped
from keyleash.errors import CommandRefusedError
from keyleash.store.records import GuardRecord

AsyncLock = asyncio.Lock
Lock = threading.Lock
DEFAULT_PROTOCOL = getattr(redis.utils, "DEFAULT_RESP_VERSION", 2)
"""The protocol of a pool that was given none: 3 from redis-py 8 on."""


class Guarding:
    """The state of a guarded connection. `pools` makes subclasses that know their token.

    The token is no argument of the connection, since pools show those in their repr.

    Attributes:
        session: The session of the token.
        wait_s: Seconds that one call may sleep for rate limits.
        sent_once: Wraps a Retry of redis-py.
        is_async: Whether it is a connection of asyncio.
        clock: Returns the seconds of a clock that never goes back.
        lock: Makes a lock.
        judged_every_s: Seconds after which subscriptions are checked again.
    """

    session: Session
    wait_s: float
    sent_once: type
    is_async: bool
    lock: type
    judged_every_s = JUDGED_EVERY_S
    clock: Callable[[], float] = staticmethod(time.monotonic)
    encoder: Any
    socket_timeout: float | None
    check_health: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        protocol = options.get("protocol")
        self._dialogue = Dialogue(
            self.session,
            self.wait_s,
            lambda: self.encoder if self.encoder.decode_responses else None,
            is_resp3=str(DEFAULT_PROTOCOL if protocol is None else protocol) == "3",
            clock=self._now,
        )
        self._handshakes = 0
        # redis-py 7 does not offer it.
        self._is_open = False
        self._made_of = args, options
        self._judge: Any = None
        # One thread may listen while another subscribes.
        self._judging = self.lock()
        self._judged_by: GuardRecord | None = None
        self._judged_at = -math.inf
        super().__init__(*args, **{**options, "protocol": 2})
        encoding = self.encoder.encoding, self.encoder.encoding_errors
        # hiredis encodes words like this, and in redis-py's sync client in any case.
        self._encodes = self.is_async and encoding != ("utf-8", "strict")

    def _now(self) -> float:
        return self.clock()

    @property
    def retry(self) -> Any:
        """The retry policy, which never repeats a call that was sent."""
        return self._retry

    @retry.setter
    def retry(self, retry: Any) -> None:
        # Each connection has its own, since it has the state of the last call.
        is_wrapped = isinstance(retry, self.sent_once)
        self._retry = self.sent_once(retry.policy if is_wrapped else retry)

    def pack_command(self, *args: Any) -> Packed:
        """Return a command for `send_packed_command`."""
        return Packed([self._encoded(args)])

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Packed:
        """Return commands for `send_packed_command`."""
        packed = Packed(map(self._encoded if self._encodes else tuple, commands))
        packed.is_pipeline = True
        return packed

    def _encoded(self, words: Sequence[Any]) -> Words:
        return (words[0], *map(self.encoder.encode, words[1:])) if self._encodes else tuple(words)

    def should_reconnect(self) -> bool:
        """Return whether replies were left unread, or redis-py asks for it."""
        above: Any = super()
        return bool(self._dialogue.due) or above.should_reconnect()

    def register_connect_callback(self, callback: Any) -> None:
        """Like redis-py's, but deny a client-side cache, which registers one when it is made."""
        if isinstance(getattr(callback, "__self__", None), CacheProxyConnection):
            raise caching()
        above: Any = super()
        above.register_connect_callback(callback)

    @contextmanager
    def _handshake(self) -> Iterator[None]:
        """Let redis-py, and a connect callback of the user, connect.

        What was due before is read after what they send.
        """
        dialogue = self._dialogue
        due, dialogue.due = dialogue.due, deque()
        self._handshakes += 1
        try:
            yield
        except BaseException:
            dialogue.due = due
            dialogue.clear()
            raise
        else:
            dialogue.due += due
        finally:
            self._handshakes -= 1

    def _is_own(self, words: Words, check_health: bool) -> bool:
        """Return whether redis-py sends a command by itself, to connect or to see if it is."""
        # Only redis-py's own PING is sent without a check of the connection.
        if (check_health and not self._handshakes) or self._dialogue.due:
            return False
        name, *arguments = (str(word).upper() for word in native_words(words)[:2])
        if name == "PING":
            return True
        is_sent = name in HANDSHAKE and (name != "CLIENT" or arguments[0] in OWN)
        return is_sent and self._handshakes > 0

    def _second(self) -> Any:
        """Return the connection that checks the subscriptions of this one."""
        if self._judge is None:
            args, options = self._made_of
            self._judge = type(self)(*args, **options)
        return self._judge

    def _pauses(self, timeout_s: float | None) -> Iterator[float]:
        """Yield the seconds to wait for a message until subscriptions are checked again.

        Args:
            timeout_s: The seconds to wait in all; None for no limit.
        """
        deadline = math.inf if timeout_s is None else self._now() + timeout_s
        while True:
            next_at = min(deadline, self._judged_at + self.judged_every_s)
            yield max(0.0, next_at - self._now())
            if self._now() >= deadline:
                return

    def _packed(self, calls: Iterable[Call]) -> list[bytes]:
        """Return the bytes of calls, in one packet. They contain the token."""
        parts = [part for call in calls for part in self._parts(call)]
        # So that it is sent whole or never runs.
        return parts if len(parts) == 1 else [b"".join(parts)]

    def _parts(self, call: Call) -> list[bytes]:
        is_empty = call.is_watched and not call.commands
        try:
            parts = [] if is_empty else pack(self._dialogue.request(call))
        except DataError:
            if self.is_async:
                # As redis-py, whose asyncio client does not have hiredis encode words.
                for word in chain.from_iterable(call.commands):
                    self.encoder.encode(word)
            raise
        if call.is_watched:
            parts = [*pack(("MULTI",)), *parts, *pack(("EXEC",))]
        if call.replicas is not None:
            parts += pack(("WAIT", call.replicas.wait_replicas, call.replicas.wait_ms))
        return parts

    def _packed_native(self, words: Sequence[Any]) -> list[bytes]:
        return pack(native_words(tuple(words)))


def foreign_bytes() -> CommandRefusedError:
    """Return the denial of bytes that no guarded connection packed."""
    return unscoped(
        "bytes",
        "they were not packed by this connection, so a guard cannot check them",
        "send what the connection's own `pack_command` or `pack_commands` returns",
    )


class FinalError(BaseException):
    """Carries an error past redis-py's Retry, also past one that repeats after any `Exception`."""


def sent(error: Any, *, is_exec: bool = False) -> Any:
    """Return a lost connection or timeout, marked as one that came after a call was sent."""
    error.is_exec = is_exec
    return has_run(error)


def unsent(error: Any) -> Any:
    """Return an error without the mark of `sent`."""
    error.has_run = False
    return error


def cut() -> Any:
    """Return the error of replies that are lost, since another thread or task disconnected."""
    return sent(RedisConnectionError("the connection was closed before the reply was read"))


def is_lost(error: BaseException) -> bool:
    """Return whether an error says that there was no reply; its subclasses are replies."""
    return type(error) in (RedisConnectionError, RedisTimeoutError) or isinstance(error, OSError)


class RetryWrapper:
    """A redis-py Retry that repeats nothing that was sent.

    redis-py calls `connection.retry.call_with_retry(send and read)`. What may have run is raised
    past it; what says that nothing ran (READONLY, LOADING), and what failed before it was sent,
    follows the policy.

    Attributes:
        policy: The Retry.
        is_answered: Whether a call was answered since commands were last sent: then an error is one
            of a response callback.
    """

    is_answered = False

    def __init__(self, retry: Any) -> None:
        self.policy = retry

    def __getattr__(self, name: str) -> Any:
        if name == "policy":  # not set yet: it is being copied
            raise AttributeError(name)
        return getattr(self.policy, name)

    def _carried(self, error: Exception) -> BaseException:
        # redis-py would repeat a transaction whose watch is lost without the watch.
        is_final = getattr(error, "has_run", self.is_answered) or isinstance(error, WatchError)
        return FinalError(error) if is_final else error

    def _failures(self, options: dict[str, Any]) -> tuple[int, ...]:
        """Return the further arguments of a callback for failures."""
        return (max(self.get_retries(), 0) + 1,) if options.get("with_failure_count") else ()
