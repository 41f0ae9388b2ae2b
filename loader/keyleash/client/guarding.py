"""The part of guarded connections that sync and asyncio share; it neither sends nor reads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import redis.utils
from redis.connection import CacheProxyConnection
from redis.exceptions import DataError

from keyleash.client._redis_py import pack
from keyleash.client.actions import Pause, Words
from keyleash.client.caller import Caller
from keyleash.client.calls import Call
from keyleash.client.command_words import HANDSHAKE, split_words
from keyleash.client.dialogue import Dialogue, Packed
from keyleash.client.session import Session
from keyleash.client.unsupported import caching
from keyleash.commands.facts import OF_THE_CONNECTION

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
        caller_class: Makes its calls.
        retry_class: Wraps a Retry of redis-py.
        is_async: Whether it is a connection of asyncio.
        clock: Returns the seconds of a clock that never goes back.
        lock: Makes a lock.
        check_every_s: Seconds after which subscriptions are checked again.
        check_attempts: How often each check is tried: servers close the connection for it, which
            is idle in between.
        takes_parts: Whether the connection below is given the commands of a packet one by one, and
            sends them whole.
    """

    session: Session
    wait_s: float
    caller_class: type[Caller] = Caller
    retry_class: type
    is_async: bool
    sleep: Callable[[float], Any]
    lock: type
    check_every_s = 5.0
    check_attempts = 2
    takes_parts = False
    clock: Callable[[], float] = staticmethod(time.monotonic)
    encoder: Any
    socket_timeout: float | None
    check_health: Any
    health_check_interval: float

    def __init__(self, *args: Any, **options: Any) -> None:
        protocol = options.get("protocol")
        caller = self.caller_class(
            self.session,
            self.wait_s,
            lambda: self.encoder if self.encoder.decode_responses else None,
            is_resp3=str(DEFAULT_PROTOCOL if protocol is None else protocol) == "3",
            clock=self._now,
        )
        self._dialogue = Dialogue(caller, self.check_every_s)
        self._handshakes = 0
        # redis-py 7 does not offer it.
        self._is_open = False
        self._arguments = args, options
        self._checker: Any = None
        # One thread may listen while another subscribes.
        self._checking = self.lock()
        try:
            super().__init__(*args, **{**options, "protocol": 2})
        except TypeError as error:
            raise TypeError(f"{error}{self._other_base(options)}") from None
        encoding = self.encoder.encoding, self.encoder.encoding_errors
        # hiredis encodes words like this, and in redis-py's sync client in any case.
        self._encodes = self.is_async and encoding != ("utf-8", "strict")

    def pause(self, pause: Pause) -> Any:
        """Sleep; the result is awaited by connections that are."""
        return self.sleep(pause.seconds)

    def _now(self) -> float:
        return self.clock()

    def _other_base(self, options: Iterable[str]) -> str:
        """Return which base has the options of a pool, if it is not that of this class."""
        is_tls = any(name.startswith("ssl_") for name in options)
        kind = "UnixDomainSocket" if "path" in options else "SSL" if is_tls else ""
        base = f"{'SentinelManaged' if 'connection_pool' in options else ''}{kind}Connection"
        if base in {parent.__name__ for parent in type(self).__mro__}:
            return ""
        return f": pass the URL or redis-py's `{base}` as `base` of `keyleash.connection_class`"

    @property
    def retry(self) -> Any:
        """The retry policy, which repeats only sent calls with idempotency ids."""
        return self._retry

    @retry.setter
    def retry(self, retry: Any) -> None:
        # Each connection has its own, since it has the state of the last call.
        is_wrapped = isinstance(retry, self.retry_class)
        policy = retry.policy if is_wrapped else retry
        self._retry = self.retry_class(policy, self._dialogue)

    def pack_command(self, *args: Any) -> Packed:
        """Return a command for `send_packed_command`."""
        return Packed([self._encoded(args)])

    def pack_commands(self, commands: Iterable[Sequence[Any]]) -> Packed:
        """Return commands for `send_packed_command`."""
        packed = Packed(map(self._encoded, commands))
        packed.is_pipeline = True
        return packed

    def _encoded(self, words: Sequence[Any]) -> Words:
        return (words[0], *map(self.encoder.encode, words[1:])) if self._encodes else tuple(words)

    @property
    def is_ready(self) -> bool:
        """True if it is connected and its last user left nothing behind."""
        dialogue = self._dialogue
        return self._is_open and not (
            dialogue.due or dialogue.transaction.held is not None or dialogue.subscriptions.active
        )

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
        due = [*dialogue.due]
        dialogue.due.clear()
        self._handshakes += 1
        try:
            yield
        except BaseException:
            dialogue.due.extend(due)
            dialogue.clear()
            raise
        else:
            dialogue.due.extend(due)
        finally:
            self._handshakes -= 1

    def _is_own(self, words: Words, check_health: bool) -> bool:
        """Return whether redis-py sends a command by itself, to connect or to see if it is."""
        # Only redis-py's own PING is sent without a check of the connection.
        if (check_health and not self._handshakes) or self._dialogue.due:
            return False
        name, *arguments = (str(word).upper() for word in split_words(words)[:2])
        if name == "PING":
            return True
        is_sent = name in HANDSHAKE and (name != "CLIENT" or arguments[0] in OF_THE_CONNECTION)
        return is_sent and self._handshakes > 0

    def _second(self) -> Any:
        """Return the connection that checks the subscriptions of this one."""
        if self._checker is None:
            args, options = self._arguments
            self._checker = type(self)(*args, **options)
        return self._checker

    def _packed(self, calls: Sequence[Call], *, is_due: bool = False) -> list[bytes]:
        """Return the bytes of calls, in one packet. They contain the token."""
        parts = self._parts(calls[0])
        for call in calls[1:]:
            parts += self._parts(call)
        if is_due:
            # Before they are sent: after an interrupt, the next user must not read the replies.
            self._dialogue.due.extend(calls)
        # So that it is sent whole or never runs.
        return parts if self.takes_parts or len(parts) == 1 else [b"".join(parts)]

    def _parts(self, call: Call) -> list[bytes]:
        is_empty = call.is_watched and not call.commands
        try:
            parts = [] if is_empty else pack(self._dialogue.caller.request(call))
        except DataError:
            if self.is_async:
                # As redis-py, whose asyncio client does not have hiredis encode words.
                for word in chain.from_iterable(call.commands):
                    self.encoder.encode(word)
            raise
        if call.is_watched:
            parts = [*pack(("MULTI",)), *parts, *pack(("EXEC",))]
        if call.waits_for is not None:
            parts += pack(("WAIT", str(call.waits_for.wait_replicas), str(call.waits_for.wait_ms)))
        return parts
