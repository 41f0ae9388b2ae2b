"""The subscriptions of an identity on one server: each channel once, for all who listen to it."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, TypeAlias

from redis.exceptions import ResponseError

from keyleash.client._redis_py import pack
from keyleash.client.actions import Words
from keyleash.client.command_words import upper
from keyleash.gateway.resp import encode, parse

Key: TypeAlias = tuple[bytes, bytes]
"""The command that subscribes, and the channel or pattern."""
JOINS, HEARS, LEAVES = range(3)
_SHARDED, _PATTERN = b"SSUBSCRIBE", b"PSUBSCRIBE"
_KINDS = {b"message": b"SUBSCRIBE", b"pmessage": _PATTERN, b"smessage": _SHARDED}
_COUNTED = {"PUBLISH": b"SUBSCRIBE", "SPUBLISH": _SHARDED}
_COUNTED |= {"NUMSUB": b"SUBSCRIBE", "SHARDNUMSUB": _SHARDED}
MAX_AT_ONCE, MAX_HEARD = 1_000, 10_000
"""Channels and patterns of a command, and of a connection."""
MAX_PATTERNS = 1_000
"""Patterns with several listeners that a message is compared with, to count them."""


class More(Counter[Key]):
    """The number of listeners to each key beyond the first of each identity.

    Attributes:
        patterns: Those with several listeners.
    """

    def __init__(self) -> None:
        super().__init__()
        self.patterns: dict[bytes, re.Pattern[bytes]] = {}

    def add(self, key: Key, number: int) -> None:
        """Add to the number of a key."""
        self[key] += number
        if not self[key]:
            del self[key]
        if key[0] != _PATTERN:
            return
        if key not in self:
            del self.patterns[key[1]]
        elif key[1] not in self.patterns:
            self.patterns[key[1]] = re.compile(_regex(key[1]), re.DOTALL)


class Channels:
    """The subscriptions of an identity.

    A command of a listener is sent also where it changes nothing: its confirmation comes after the
    messages before it. Listeners have `heard`, their keys (those of sharded channels apart, which a
    server counts apart), and `sink`, which takes messages and confirmations, these with True, and
    None when the connection is lost.

    Args:
        pipe: The connection; it is closed with the last listener.
        more: That of the upstream.
    """

    def __init__(self, pipe: Any, more: More) -> None:
        self.pipe, self._more = pipe, more
        self._frames: deque[bytes | None] = deque()
        self._share: Any = None
        self._is_busy = False
        self.listeners: dict[Any, set[Key]] = {}
        self._states: dict[Key, dict[Any, int]] = {}
        self._due: deque[tuple[Any, set[Key] | None, bytes, Key]] = deque()
        pipe.listener = self._came

    def send(self, words: Sequence[bytes], listener: Any) -> None:
        """Begin or end subscriptions.

        Raises:
            ResponseError: there are too many.
        """
        name, joined = words[0], words[0].replace(b"UNSUB", b"SUB")
        heard, count = listener.heard[joined == _SHARDED], len(words) - 1
        if count > MAX_AT_ONCE or (name == joined and len(heard) + count > MAX_HEARD):
            raise ResponseError("too many channels of a command or connection")
        asked = self.listeners.setdefault(listener, set())
        self._share = self._share or listener.agent.share.beside()
        packets, keys = list[bytes](), [(joined, channel) for channel in words[1:]]
        for key in keys or [key for key in heard if key[0] == joined]:
            if name == joined:
                states = self._states.setdefault(key, {})
                if states and listener not in states:
                    self._more.add(key, 1)
                states.setdefault(listener, JOINS)
                asked.add(key)
            elif key in heard:
                self._states[key][listener] = LEAVES
            packets.append(self._packet(key, listener, name))
        self.pipe.send(b"".join(packets))

    def _packet(self, key: Key, listener: Any, name: bytes) -> bytes:
        sent = key[0].replace(b"SUB", b"UNSUB") if self._is_left(key) else key[0]
        self._due.append((listener, self.listeners.get(listener), name, key))
        return pack((sent, key[1]))[0]

    def _is_left(self, key: Key) -> bool:
        return all(state == LEAVES for state in self._states.get(key, {}).values())

    def leave(self, listener: Any) -> None:
        """Forget a listener."""
        keys = self.listeners.pop(listener, set())
        for heard in listener.heard:
            heard.clear()
        for key in keys:
            self._remove(key, listener)
        if self.listeners:
            left = filter(self._is_left, keys)
            self.pipe.send(b"".join(self._packet(key, None, b"") for key in left))
        else:
            self._frames.clear()
            self.pipe.listener = None
            self.pipe.close()

    def _remove(self, key: Key, listener: Any) -> None:
        states = self._states.get(key, {})
        if states.pop(listener, None) is None:
            return
        if states:
            self._more.add(key, -1)
        else:
            del self._states[key]

    def _came(self, frame: bytes | None) -> None:
        self._frames.append(frame)
        if len(self._frames) == 1:
            self.go_on()

    def go_on(self) -> None:
        """Pass on what has come, slice by slice: a message may be one for many listeners."""
        is_mine, self._is_busy = not self._is_busy, True
        if not is_mine:
            return
        try:
            while self._frames and self._share.may_call(self):
                began_at = time.perf_counter()
                self._pass_on(self._frames.popleft())
                self._share.spend(began_at)
        except BaseException:
            # A message that went astray would be missed.
            self.pipe.close()
            raise
        finally:
            self._is_busy = False
        self.pipe.hold(bool(self._frames))

    def _pass_on(self, frame: bytes | None) -> None:
        """Pass on a message, or the confirmation that is due."""
        if frame is None:
            for listener in [*self.listeners]:
                listener.sink(None)
            return
        event, channel = parse(frame)[:2] if frame[0] != 45 else (b"", b"")
        if event in _KINDS:
            for listener, state in [*self._states.get((_KINDS[event], channel), {}).items()]:
                if state != JOINS:
                    listener.sink(frame)
            return
        key = event.upper().replace(b"UNSUB", b"SUB"), channel
        if event and (not self._due or self._due[0][3] != key):
            # A node has given away the slot of a sharded channel.
            for listener in [*self._states.get(key, {})]:
                self._confirm(listener, b"SUNSUBSCRIBE", key, is_due=False)
            return
        listener, asked, name, key = self._due.popleft()
        if listener is None or self.listeners.get(listener) is not asked:
            return
        if event:
            self._confirm(listener, name, key)
        else:
            # Refused: the agent sees what it would see of a lost server.
            self._remove(key, listener)
            listener.sink(None)

    def _confirm(self, listener: Any, name: bytes, key: Key, *, is_due: bool = True) -> None:
        heard, out = listener.heard[key[0] == _SHARDED], list[bytes]()
        if name == key[0]:
            self._states[key][listener] = HEARS
            heard.add(key)
        else:
            self._remove(key, listener)
            self.listeners[listener].discard(key)
            heard.discard(key)
        encode([name.lower(), key[1], len(heard)], 2, out)
        listener.sink(b"".join(out), is_due)


def counted(more: More, words: Words, reply: bytes) -> bytes:
    """Return a reply with the listeners of which a server does not know."""
    name = upper(words[1]) if words[0] == "PUBSUB" else words[0]
    if name not in _COUNTED or reply[:1] not in (b":", b"*") or reply == b":0\r\n":
        return reply
    kind, value, out = _COUNTED[name], parse(reply), list[bytes]()
    if isinstance(value, list):
        value[1::2] = [
            n + more[kind, channel] for channel, n in zip(value[::2], value[1::2], strict=True)
        ]
    else:
        value += more[kind, words[1]]
        for pattern, regex in islice(more.patterns.items(), MAX_PATTERNS * (name == "PUBLISH")):
            value += more[_PATTERN, pattern] if regex.fullmatch(words[1]) else 0
    encode(value, 2, out)
    return b"".join(out)


def _regex(glob: bytes) -> bytes:
    """Return what a pattern of a server matches, as `stringmatchlen` of Redis reads it."""
    parts, out, at = list[bytes](), b"", 0
    while at < len(glob):
        char, at = glob[at : at + 1], at + 1
        if char == b"\\" and at < len(glob):
            char, at = glob[at : at + 1], at + 1
            out += re.escape(char)
        elif char == b"[":
            found = _CLASS.match(glob, at)
            assert found is not None  # noqa: S101 - it matches everything
            at, items = found.end(), _ITEM.findall(found[2])
            ranges = b"".join(b"%b-%b" % (*map(re.escape, sorted((a, b or a))),) for a, b in items)
            out += (b"[%b%b]" % (found[1], ranges)) if items else b"." if found[1] else b"(?!)"
        elif char == b"*":
            parts, out = [*parts, out], b""
        else:
            out += b"." if char == b"?" else re.escape(char)
    # The first place at which a part fits is enough: others are not tried, which could take hours.
    middle = b"".join(b"(?>.*?%b)" % part for part in parts[1:] if part)
    return b"%b%b.*%b" % (parts[0], middle, out) if parts else out


_CLASS = re.compile(rb"(\^?)((?:\\.|[^\]])*)\]?", re.DOTALL)
_ITEM = re.compile(rb"(?s)\\?(.)(?:-(.))?")
