"""The subscriptions of an identity on one server: each channel once, for all who listen to it."""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, TypeAlias

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
MAX_KEYS = 1000
"""Keys with several listeners among which the patterns of a message are looked for."""


class Channels:
    """The subscriptions of an identity.

    A command of a listener is sent also where it changes nothing: its confirmation comes after the
    messages before it. Listeners have `heard`, their keys (those of sharded channels apart, which a
    server counts apart), and `sink`, which takes messages and confirmations, these with True, and
    None when the connection is lost.

    Args:
        pipe: The connection; it is closed with the last listener.
        more: The number of listeners to a key beyond the first of each identity.
    """

    def __init__(self, pipe: Any, more: Counter[Key]) -> None:
        self.pipe, self._more = pipe, more
        self.listeners = set[Any]()
        self._states: dict[Key, dict[Any, int]] = {}
        self._due: deque[tuple[Any, bytes, Key]] = deque()
        pipe.listener = self._came

    def send(self, words: Sequence[bytes], listener: Any) -> None:
        """Begin or end subscriptions."""
        self.listeners.add(listener)
        name, joined = words[0], words[0].replace(b"UNSUB", b"SUB")
        heard = listener.heard[joined == _SHARDED]
        keys = [(joined, channel) for channel in words[1:]]
        for key in keys or [key for key in heard if key[0] == joined]:
            if name == joined:
                states = self._states.setdefault(key, {})
                if states and listener not in states:
                    self._more[key] += 1
                states.setdefault(listener, JOINS)
            elif key in heard:
                self._states[key][listener] = LEAVES
            self._send(key, listener, name)

    def _send(self, key: Key, listener: Any, name: bytes) -> None:
        is_left = all(state == LEAVES for state in self._states.get(key, {}).values())
        sent = key[0].replace(b"SUB", b"UNSUB") if is_left else key[0]
        self._due.append((listener, name, key))
        self.pipe.send(pack((sent, key[1]))[0])

    def leave(self, listener: Any) -> None:
        """Forget a listener."""
        keys, due = {*listener.heard[0], *listener.heard[1]}, self._due
        self._due = deque()
        for other, name, key in due:
            self._due.append((None if other is listener else other, name, key))
            if other is listener:
                keys.add(key)
        self.listeners.discard(listener)
        for heard in listener.heard:
            heard.clear()
        for key in keys:
            self._remove(key, listener)
            if self.listeners:
                self._send(key, None, b"")
        if not self.listeners:
            self.pipe.listener = None
            self.pipe.close()

    def _remove(self, key: Key, listener: Any) -> None:
        states = self._states.get(key, {})
        if states.pop(listener, None) is None:
            return
        if not states:
            del self._states[key]
        elif self._more[key] > 1:
            self._more[key] -= 1
        else:
            del self._more[key]

    def _came(self, frame: bytes | None) -> None:
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
        if event and (not self._due or self._due[0][2] != key):
            # A node has given away the slot of a sharded channel.
            for listener in [*self._states.get(key, {})]:
                self._confirm(listener, b"SUNSUBSCRIBE", key, is_due=False)
            return
        listener, name, key = self._due.popleft()
        if listener is not None and event:
            self._confirm(listener, name, key)
        elif listener is not None:
            listener.sink(None)

    def _confirm(self, listener: Any, name: bytes, key: Key, *, is_due: bool = True) -> None:
        heard, out = listener.heard[key[0] == _SHARDED], list[bytes]()
        if name == key[0]:
            self._states[key][listener] = HEARS
            heard.add(key)
        else:
            self._remove(key, listener)
            heard.discard(key)
        encode([name.lower(), key[1], len(heard)], 2, out)
        listener.sink(b"".join(out), is_due)


def counted(more: Counter[Key], words: Words, reply: bytes) -> bytes:
    """Return a reply with the listeners of which a server does not know."""
    name = upper(words[1]) if words[0] == "PUBSUB" else words[0]
    if name not in _COUNTED or reply[0] == 45:
        return reply
    kind, value, out = _COUNTED[name], parse(reply), list[bytes]()
    if isinstance(value, list):
        value[1::2] = [
            n + more[kind, channel] for channel, n in zip(value[::2], value[1::2], strict=True)
        ]
    else:
        value += more[kind, words[1]]
        for (other, pattern), count in islice(more.items(), MAX_KEYS * (name == "PUBLISH")):
            if other == _PATTERN and fnmatchcase(words[1], _for_fnmatch(pattern)):
                value += count
    encode(value, 2, out)
    return b"".join(out)


def _for_fnmatch(pattern: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"[\1]", pattern.replace(b"[^", b"[!"), flags=re.DOTALL)
