"""RESP: requests of agents, frames of servers, and replies in the protocol of an agent.

Requests are not parsed by hiredis, which reserves memory for as many words as a header names, and
takes a second to give it back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile
from operator import eq
from typing import Any

from redis.exceptions import BusyLoadingError, ClusterDownError, ExecAbortError, NoScriptError

from keyleash.client._redis_py import error_of
from keyleash.client.actions import Words
from keyleash.client.caller import LOST, is_final
from keyleash.client.command_words import upper
from keyleash.client.resp3 import Double, Text, as_resp3
from keyleash.client.session import counts
from keyleash.errors import KeyleashError, PolicyStaleError, SlotNotServedError
from keyleash.store.wire import MAX_ARGUMENTS

MAX_REQUEST_BYTES = (32 << 20) + 1024
MAX_HEADER_BYTES, MAX_INLINE_BYTES = 32, 64 << 10
MAX_WORDS = 1 << 20
"""As of Redis. A command of more than `MAX_ARGUMENTS` is read, and denied."""
LOGIN_BYTES, LOGIN_WORDS = 16 << 10, 10
"""The most that a connection may send before it is authenticated."""

SMALL_BYTES = 1 << 16
"""Packets below it are mostly read at once."""
FEW_WORDS, SMALL_WORDS, SMALL_WORD_BYTES = 10, 256, 64
"""Words of more than the first number are read together: that many at a time, of this mean size."""
MAX_STEPS = 2000
"""Words, or requests without any, that are parsed at a time: some milliseconds."""
MAX_NAME = 1023
"""Bytes of a command's name, which is cached. All commands have shorter names."""
_COUNTS = {b"*%d" % count: count for count in range(1, LOGIN_WORDS + 1)}
_LENGTHS = {length: b"$%d" % length for length in range(MAX_NAME + 1)}

SETS = frozenset({"FT._LIST", "SMEMBERS", "SDIFF", "SINTER", "SPOP", "SUNION"})
"""Commands whose reply is a set in RESP3."""
NULL_ARRAYS = frozenset(
    ("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN", "EXEC",
     "LMPOP", "XREAD", "XREADGROUP", "ZMPOP")
)  # fmt: skip
"""Commands without a result reply `*-1` in RESP2; Lua knows one null."""
NULL_ARRAYS_WITH = {"LPOP": 3, "RPOP": 3, "ZRANK": 4, "ZREVRANK": 4}
"""The same, of calls with this number of words or more: with a count, or with WITHSCORE."""
WITHIN_MULTI = {"BLMOVE": "LMOVE", "BRPOPLPUSH": "RPOPLPUSH"}
"""Commands that have the null of another one in a transaction, where they do not block."""
NULL_ITEMS = {"GEOPOS": 0, "XPENDING": 3}
"""Commands whose reply has null arrays as items, and the first of these."""
_CODES = {ClusterDownError: "CLUSTERDOWN", ExecAbortError: "EXECABORT"}
"""The codes of errors that the client makes itself."""
_WORD = re.compile(
    rb"""\s*+(?!\Z)([^ \t\r\n"']*+)(?:"((?:\\.|[^"\\])*+)"|'((?:\\'|[^'])*+)')?+(?=\s|\Z)""",
    re.DOTALL,
)
"""A word of an inline command: a part without quotes, and one in quotes, which ends it."""
_EMPTY = re.compile(rb"(?:[ \t\v\f\r]*+\n|\*(?:0|-[0-9]{1,20})\r\n)*+")
"""Requests without words, which have no reply: one by one, a flood of them would hold up others."""
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_NULLS = (b"$-1\r\n", b"*-1\r\n")


class ProtocolError(ValueError):
    """A request breaks the protocol: the connection is closed."""


class Status(bytes):
    """A simple string, which clients tell from a bulk string."""


class TooManyWords(list[bytes]):
    """The name of a command with more words than a guard takes."""


@lru_cache(maxsize=1024)
def name_of(word: bytes) -> str:
    """Return the name of a command as the client library has it."""
    return word.upper().decode("latin-1")


class Requests:
    """Parses the requests of one connection.

    Attributes:
        is_trusted: Whether the connection is authenticated, so that it may send large requests.
        has_more: Whether `feed` has left something that it can parse.
    """

    is_trusted = has_more = False

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._words: list[bytes] = []
        self._left = self._read = 0

    @property
    def size(self) -> int:
        """The bytes of the request that is not complete."""
        return self._read + len(self._buffer) + bool(self._left)

    def keep(self, data: bytes) -> None:
        """Take data that the next `feed` parses."""
        self._buffer += data
        self.has_more = True

    def feed(self, data: bytes) -> list[Words | TooManyWords]:  # noqa: PLR0912, PLR0915 - for speed
        """Return the requests that *data* completes, with their names as `name_of` returns them.

        It parses `MAX_STEPS` at a time; the next call parses more, also with empty data.

        Raises:
            ProtocolError: it breaks the protocol, or a bound.
        """
        commands: list[Words | TooManyWords] = []
        buffer: bytes | bytearray = data
        if not self._left and len(self._buffer) + len(data) < SMALL_BYTES:
            data = buffer = _split_small(bytes(self._buffer) + data, commands)
            self._buffer.clear()
        elif self._buffer:
            self._buffer += data
            buffer = self._buffer
        at, left, words, read = 0, self._left, self._words, self._read
        most_bytes = MAX_REQUEST_BYTES if self.is_trusted else LOGIN_BYTES
        length, find, is_cut, are_small = len(buffer), buffer.find, False, True
        for _ in range(MAX_STEPS):
            if at >= length:
                break
            if not left and buffer[at] != 42:
                if (end := _after_empty(buffer, at)) > at:
                    at = end
                    continue
                stop = find(b"\n", at)
                if (stop if stop >= 0 else length) - at > min(MAX_INLINE_BYTES, most_bytes):
                    raise ProtocolError("too big inline request")
                if stop < 0:
                    break
                commands += _inline(bytes(buffer[at:stop]))
                at = stop + 1
                continue
            if are_small and left > FEW_WORDS and type(words) is list:
                small, stop = _small_words(buffer, at, left - 1)
                are_small = len(small) >= FEW_WORDS and read + stop - at <= most_bytes
                if are_small:
                    words += small
                    left, read, at = left - len(small), read + stop - at, stop
                    continue
            line = find(b"\r\n", at, at + MAX_HEADER_BYTES)
            if line < 0:
                if length - at >= MAX_HEADER_BYTES:
                    raise ProtocolError(f"too big {'' if left else 'm'}bulk count string")
                break
            if left and buffer[at] != 36:
                raise ProtocolError(f"expected '$', got '{chr(buffer[at])}'")
            number = buffer[at + 1 : line]
            if not (number if left else number.removeprefix(b"-")).isdigit():
                raise ProtocolError(f"invalid {'' if left else 'multi'}bulk length")
            size = max(0, int(number))
            if not left:
                if size > (MAX_WORDS if self.is_trusted else LOGIN_WORDS):
                    raise ProtocolError("invalid multibulk length")
                at = line + 2 if size else max(line + 2, _after_empty(buffer, at))
                left, read = size, 0
                words = TooManyWords() if size > MAX_ARGUMENTS else []
                continue
            stop = line + 2 + size
            if read + size > most_bytes:
                raise ProtocolError("invalid bulk length")
            if stop + 2 > length:
                break
            if buffer[stop : stop + 2] != b"\r\n":
                raise ProtocolError("invalid CRLF in request")
            if type(words) is list or not words:
                words.append(bytes(buffer[line + 2 : stop]))
            read += size + 6
            at = stop + 2
            left -= 1
            if not left:
                commands.append(_command(words))
                read = 0
        else:
            is_cut = at < length
        self.has_more = is_cut
        self._left, self._words, self._read = left, words if left else [], read
        if buffer is data:
            self._buffer += data[at:]
        else:
            del self._buffer[:at]
        return commands


def _small_words(buffer: bytes | bytearray, at: int, most: int) -> tuple[list[bytes], int]:
    """Return the next words up to one that is long or not complete, and the place after them."""
    most = min(most, SMALL_WORDS)
    lines = bytes(buffer[at : at + most * SMALL_WORD_BYTES]).split(b"\r\n", 2 * most)
    words = lines[1:-1:2]
    heads = map(_LENGTHS.get, map(len, words))
    count = sum(takewhile(bool, map(eq, heads, lines[::2])))
    return words[:count], at + sum(map(len, lines[: 2 * count])) + 4 * count


def _after_empty(buffer: bytes | bytearray, at: int) -> int:
    found = _EMPTY.match(buffer, at)
    return found.end() if found else at


def _command(words: list[bytes]) -> Words | TooManyWords:
    if isinstance(words, TooManyWords):
        return words
    return name_of(words[0][:MAX_NAME]), *words[1:]


def _inline(line: bytes) -> list[Words | TooManyWords]:
    """Return the command in a line, or none if it is empty; its quotes are those of `redis-cli`."""
    words, at = list[bytes](), 0
    while (word := _WORD.match(line, at)) is not None:
        plain, double, single = word.groups(b"")
        words.append(plain + _ESCAPE.sub(_unescaped, double) + single.replace(b"\\'", b"'"))
        at = word.end()
    if line[at:].strip():
        raise ProtocolError("unbalanced quotes in request")
    words = words if len(words) <= MAX_ARGUMENTS else TooManyWords(words[:1])
    return [_command(words)] if words else []


def _unescaped(escape: re.Match[bytes]) -> bytes:
    char = escape[1]
    return bytes.fromhex(char[1:].decode()) if len(char) == 3 else _ESCAPED.get(char, char)


def _split_small(data: bytes, commands: list[Words | TooManyWords]) -> bytes:
    """Add the first small requests to *commands*, at a quarter of the time; return the rest."""
    lines = data.split(b"\r\n")
    at, last = 0, len(lines) - 1
    while (count := _COUNTS.get(lines[at])) is not None:
        step = 2 * count + 1
        end = at + step
        # Those of a pipeline mostly have the same number of words, and are read together.
        while end + step <= last and lines[end] == lines[at]:
            end += step
        if end > last:
            break
        block = lines[at:end]
        del block[::step]
        words = block[1::2]
        if [*map(_LENGTHS.get, map(len, words))] != block[::2]:
            # A word has a line break, or is long.
            break
        columns = [words[place::count] for place in range(1, count)]
        commands += zip(map(name_of, words[::count]), *columns, strict=True)
        at = end
    return b"\r\n".join(lines[at:])


class Frames:
    """Splits what a server sends in RESP2 into replies, which stay bytes."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at, self._left = 0, 1

    def feed(self, data: bytes) -> list[bytes]:
        """Return the replies that *data* completes.

        Raises:
            ValueError: it is no RESP2: the connection to the server is closed.
        """
        buffer, at, left, start = self._buffer, self._at, self._left, 0
        buffer += data
        length, find = len(buffer), buffer.find
        frames = []
        while True:
            line = find(b"\r\n", at)
            if line < 0:
                break
            kind = buffer[at]
            if kind in b"$*" and buffer[at + 1] != 45:
                size = int(buffer[at + 1 : line])
                if size < 0:
                    # A blank before the sign: it would be read for ever.
                    raise ProtocolError("a reply has a negative length")
                if kind == 42:
                    left += size
                else:
                    line += size + 2
                    if line + 2 > length:
                        break
            at = line + 2
            left -= 1
            if not left:
                frames.append(bytes(memoryview(buffer)[start:at]))
                start, left = at, 1
        del buffer[:start]
        self._at, self._left = at - start, left
        return frames


def parse(frame: bytes) -> Any:
    """Return the value of a reply; error replies are returned as exceptions with their line."""
    return _parse(frame, 0)[0]


def _parse(frame: bytes, at: int) -> tuple[Any, int]:
    line = frame.index(b"\r\n", at)
    kind, rest, end = frame[at], frame[at + 1 : line], line + 2
    if kind == 36:
        if rest[:1] == b"-":
            return None, end
        stop = end + int(rest)
        return Text(frame[end:stop]), stop + 2
    if kind == 42:
        if rest[:1] == b"-":
            return None, end
        items = []
        for _ in range(int(rest)):
            item, end = _parse(frame, end)
            items.append(item)
        return items, end
    if kind == 58:
        return int(rest), end
    if kind == 43:
        return Status(rest), end
    return error_of(rest), end


def error_line(error: Exception) -> bytes:
    """Return the line of an error reply, without the mark before it."""
    line: Any = getattr(error, "line", None)
    if isinstance(error, NoScriptError | PolicyStaleError):
        # Nothing ran, and it was recovered from once. Not LOADING: clients repeat a whole pipeline.
        line = "NOTSENT keyleash: the policy or its scripts are changing"
    elif isinstance(error, BusyLoadingError):
        line = "NOTSENT keyleash: the server loads its data"
    elif isinstance(error, SlotNotServedError):
        line = "NOTSENT keyleash: a slot of the cluster is not served"
    elif line is None and isinstance(error, (*LOST, OSError)):
        # A script may reply what is one of these errors for redis-py, such as NOAUTH.
        line = "NOTSENT keyleash: no connection to the server"
    if line is None and isinstance(error, KeyleashError):
        line = f"{error.code.replace('-', '').upper()} {error.message}"
        line += f" ({error.help})" if error.help else ""
    elif line is None:
        code = getattr(error, "status_code", None) or _CODES.get(type(error), "ERR")
        line = f"{code} {error}"
    if isinstance(line, str):
        line = line.encode("utf-8", "surrogateescape")
    return line if line.isascii() and line.isalnum() else b" ".join(line.splitlines()) or b"ERR"


def encode(value: Any, protocol: int, out: list[bytes], head: bytes = b"*") -> None:
    """Append the bytes of a value.

    Args:
        head: The mark of an array: that of a set or of a push message in RESP3.
    """
    kind = type(value)
    if kind is Text or kind is bytes:
        out.append(b"$%d\r\n%b\r\n" % (len(value), value))
    elif kind is int:
        out.append(b":%d\r\n" % value)
    elif kind is Status:
        out.append(b"+%b\r\n" % value)
    elif value is None:
        out.append(b"_\r\n" if protocol == 3 else _NULLS[0])
    elif kind is list or kind is tuple:
        out.append(b"%b%d\r\n" % (head, len(value)))
        for item in value:
            encode(item, protocol, out)
    elif kind is dict:
        is_map = protocol == 3
        out.append(b"%%%d\r\n" % len(value) if is_map else b"*%d\r\n" % (2 * len(value)))
        for name, item in value.items():
            encode(name, protocol, out)
            encode(item, protocol, out)
    elif kind is Double or kind is float:
        out.append(b",%b\r\n" % (value if kind is Double else repr(value).encode()))
    elif kind is bool:
        out.append(b"#t\r\n" if value else b"#f\r\n")
    elif isinstance(value, str):
        encode(value.encode("utf-8", "surrogateescape"), protocol, out)
    else:
        out.append(b"-%b\r\n" % error_line(value))


def encoded(words: Words, value: Any, protocol: int) -> bytes:
    """Return the bytes of the reply to a command, in the shape of *protocol*."""
    name, out = upper(words[0]), list[bytes]()
    if protocol == 3:
        if name == "INFO" and isinstance(value, bytes):
            return b"=%d\r\ntxt:%b\r\n" % (len(value) + 4, value)
        encode(value, 3, out, b"~" if name in SETS else b"*")
    elif value is None and is_null_array(name, words):
        return _NULLS[1]
    elif name in NULL_ITEMS and isinstance(value, list):
        out.append(b"*%d\r\n" % len(value))
        for at, item in enumerate(value):
            is_null = item is None and at >= NULL_ITEMS[name]
            out.append(_NULLS[1]) if is_null else encode(item, 2, out)
    else:
        encode(value, 2, out)
    return b"".join(out)


def is_null_array(name: str, words: Words) -> bool:
    """Return whether the null of a command is that of an array in RESP2."""
    return name in NULL_ARRAYS or len(words) >= NULL_ARRAYS_WITH.get(name, len(words) + 1)


def passed(words: Words, frame: bytes, protocol: int) -> bytes:
    """Return the bytes of a reply that is no error: the frame itself, if it has the right shape."""
    name: Any = words[0]
    if protocol == 3:
        is_same = is_final(name) and name not in SETS and not any(map(frame.__contains__, _NULLS))
    else:
        is_same = not (
            (frame[:1] == b"$" and (counts(name) or frame == _NULLS[0]))
            or (name in NULL_ITEMS and _NULLS[0] in frame)
        )
    if is_same:
        return frame
    value = parse(frame)
    if counts(name) and isinstance(value, bytes):
        value = int(value)
    return encoded(words, as_resp3(words, value) if protocol == 3 else value, protocol)


def split(frame: bytes, shape: Sequence[int]) -> list[tuple[bytes, int]]:
    """Return the frames of the replies to a batch, and the number of commands that each is for.

    Args:
        shape: The number of commands of each item, see `store.wire.replies_of`.

    Raises:
        ValueError: the reply has another shape.
    """
    replies: list[tuple[bytes, int]] = []
    for item, times in zip(_items(frame), shape, strict=True):
        if times > 1 and item[0] == 42:
            replies += zip(_items(item), [1] * times, strict=True)
        else:
            replies.append((item, times))
    return replies


def _items(frame: bytes) -> list[bytes]:
    return Frames().feed(frame[frame.index(b"\r\n") + 2 :])
