"""Requests to guards and their replies."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from itertools import chain
from typing import Any
from urllib.parse import unquote_to_bytes

from redis import exceptions as redis_errors

from keyleash.commands import CommandTable
from keyleash.commands.keys import key_places
from keyleash.errors import (
    DENIALS,
    LeashError,
    OperationError,
    UnexpectedReplyError,
    UnknownDenialError,
    UnplacedKeysError,
)

READ_ONLY = "ro"
"""The text after the digest of an approved script whose writes are errors."""

# The arguments of a guard call:
#
# EVALSHA <digest> <n> <data keys…> <token> <correlation id> <command> <args…>
# EVALSHA <batch digest> <n> <data keys…> <token> <correlation id> <mode>
#         {<argc> <command> <args…>}…
# EVALSHA <approved digest> <n> <keys…> <token> <correlation id> <script digest> <args…>
#
# The correlation id is after the source of the call where the guard takes one, see `with_source`.
# Before the command or mode perhaps `once` and an idempotency id. On a cluster with one more word,
# see `to_shard`. All numbers are text: signal handlers run while hiredis encodes a number, and it
# crashes if one raises, for example KeyboardInterrupt.

RUNS = frozenset(
    ("DECR", "DECRBY", "DEL", "EXISTS", "EXPIRE", "GET", "HDEL", "HGET", "HINCRBY", "HSET", "INCR",
     "INCRBY", "LPUSH", "PEXPIRE", "RPUSH", "SADD", "SET", "SISMEMBER", "SREM", "TTL", "TYPE",
     "UNLINK", "XACK", "ZADD", "ZREM", "ZSCORE")
)  # fmt: skip
"""The commands of which a run is sent as one, as guards check all their calls in the same way."""
_RUN_NAMES = RUNS.union(name.encode() for name in RUNS)

MAX_ARGUMENTS = 7_000
"""Arguments of one command, with its name: Lua's `unpack` fails past 7,999 values."""

ONCE = "once"
"""The word before an idempotency id. No command, mode or digest is like it."""

MAX_ID_BYTES = 200
"""The longest idempotency id."""

MAX_BATCH_COMMANDS = 1_000
"""Commands of one batch; `MAX_ARGUMENTS` bounds their arguments in all."""
MAX_IMAGES = 500
"""The keys whose before-images fit into one event beside those commands: unpack is limited."""

Argument = Any
"""Any type that redis-py's encoder accepts: bytes, str, int, float, memoryview."""


class BatchMode(StrEnum):
    """The order of checks and commands in a batch."""

    EACH = "each"
    """Each command is checked before it runs; a denial takes the place of its reply."""
    ALL = "all"
    """All commands are checked before any runs; one denial denies the batch."""
    WHOAMI = "whoami"
    """No command: the reply has the records of the token and of its limits."""
    DELEGATE = "delegate"
    """No command: the token makes a child token."""
    RENEW = "renew"
    """The item `RENEW` and a life in seconds, or "" for the life that the token was issued with."""
    CHECK = "check"
    """All commands are checked as for `all`; nothing is charged, recorded or runs."""
    PREPARE = "prepare"
    """On a cluster: the same, but a denial is recorded."""


def guard_call(
    table: CommandTable, digest: str, token: str, correlation: str, command: Sequence[Argument]
) -> tuple[Argument, ...]:
    """Wrap a command in the call of its guard."""
    words, keys = _placed(table, command)
    return ("EVALSHA", digest, str(len(keys)), *keys, token, correlation, *words)


def batch_call(
    table: CommandTable,
    digest: str,
    token: str,
    correlation: str,
    mode: BatchMode,
    commands: Iterable[Sequence[Argument]],
) -> tuple[Argument, ...]:
    """Wrap commands in one call of their identity's batch script, whose digest is *digest*."""
    keys: list[Argument] = []
    items: list[Argument] = []
    for command in commands:
        words, own = _placed(table, command)
        keys += own
        items.append(str(len(words)))
        items += words
    return ("EVALSHA", digest, str(len(keys)), *keys, token, correlation, mode.value, *items)


def delegation_words(
    child: str, ttl_s: int | None, words: Sequence[Argument]
) -> tuple[Argument, ...]:
    """Return the words of a delegation after token and correlation id.

    Args:
        child: The digest of the child.
        words: The kind and the text of each restriction and label.
    """
    return (BatchMode.DELEGATE.value, child, "" if ttl_s is None else str(ttl_s), *words)


def runs_call(
    table: CommandTable,
    digest: str,
    token: str,
    correlation: str,
    mode: BatchMode,
    commands: Sequence[Sequence[Argument]],
    *,
    takes_runs: bool = True,
) -> tuple[tuple[Argument, ...], Sequence[int]]:
    """Wrap commands like `batch_call`, with runs of similar ones written as such.

    Args:
        takes_runs: Whether the guard does, see `GuardRecord`.

    Returns:
        The call, and for `replies_of` the number of commands that each reply is for; empty if it is
        one for all.
    """
    if not takes_runs:
        return batch_call(table, digest, token, correlation, mode, commands), ()
    keys: list[Argument] = []
    items: list[Argument] = []
    shape: list[int] = []
    at, count = 0, len(commands)
    while at < count:
        words = commands[at]
        name, size = words[0], len(words)
        end = at + 1
        if name in _RUN_NAMES and len(words[table.key_slices[name]]) == 1:
            while end < count and commands[end][0] == name and len(commands[end]) == size:
                end += 1
        if end == at + 1:
            words, own = _placed(table, words)
            keys += own
            items.append(str(len(words)))
            items += words
        else:
            items += (f"{size}*{end - at}", name, str(len(keys) + 1))
            _, own, *others = zip(*commands[at:end], strict=True)
            keys += own
            items += chain.from_iterable(zip(*others, strict=True))
        shape.append(end - at)
        at = end
    return ("EVALSHA", digest, str(len(keys)), *keys, token, correlation, mode.value, *items), shape


def replies_of(reply: Any, shape: Sequence[int]) -> list[Any]:
    """Return the reply to each command of a call that `runs_call` made.

    Raises:
        TypeError: *reply* is no array.
        ValueError: it has not that shape.
    """
    if not isinstance(reply, list):
        raise TypeError("the reply is no array")
    if not shape:
        return reply
    replies: list[Any] = []
    for some, times in zip(reply, shape, strict=True):
        if times == 1:
            replies.append(some)
        elif isinstance(some, list):
            if len(some) != times:
                raise ValueError("a run has another number of replies")
            replies += some
        else:
            replies += [some] * times
    return replies


def token_in(call: Sequence[Argument]) -> str:
    """Return the token in the call of a guard, or of a batch."""
    return str(call[3 + int(call[2])])


def with_id(call: Sequence[Argument], idempotency_id: str) -> tuple[Argument, ...]:
    """Return the call of a guard, or of a batch, with an idempotency id."""
    at = 5 + int(call[2])
    return (*call[:at], ONCE, idempotency_id, *call[at:])


def with_source(correlation: str, source: str) -> str:
    """Return the correlation argument of a call of a guard that records sources.

    The source ends at the first line break, so no correlation id can contain one.
    """
    return f"{source}\n{correlation}"


def to_shard(call: Sequence[Argument], tag: str, voucher: str = "") -> tuple[Argument, ...]:
    """Return the call of a cluster's guard at the shard with *tag*.

    Args:
        voucher: A voucher for that shard, whose first field is the tag; empty for none.
    """
    return (*call, voucher or tag)


def script_call(
    digest: str,
    token: str,
    correlation: str,
    script: str,
    keys: Sequence[Argument],
    arguments: Sequence[Argument],
) -> tuple[Argument, ...]:
    """Return the call of the approved script *script* by the guard's script *digest*."""
    return ("EVALSHA", digest, str(len(keys)), *keys, token, correlation, script, *arguments)


def _placed(
    table: CommandTable, command: Sequence[Argument]
) -> tuple[Sequence[Argument], Sequence[Argument]]:
    """Return a command as sent, and its declared keys."""
    place = table.key_slices.get(command[0])
    if place is not None:
        # The name as redis-py's own methods write it: no arguments to split off.
        return command, command[place]
    words = split_name(command)
    return words, declared_keys(table, words)


def declared_keys(table: CommandTable, words: Sequence[Argument]) -> Sequence[Argument]:
    """Return the declared keys of a call whose name is in upper case.

    Without a place in the table a call has none: the guard denies it.
    """
    place = table.key_slices.get(words[0])
    if place is not None:
        return words[place]
    argv = [as_bytes(word) for word in words]
    spec = table.find(argv)
    try:
        return [words[at] for at in key_places(spec, argv)] if spec else ()
    except UnplacedKeysError:
        return ()


def may_write(table: CommandTable, command: Sequence[Argument]) -> bool:
    """Return whether a command may write; an unknown command may."""
    spec = table.find([as_bytes(word) for word in split_name(command)[:2]])
    return spec is None or spec.mutates


def as_bytes(word: Argument) -> bytes:
    """Encode like redis-py, which itself rejects unsupported types later."""
    if isinstance(word, memoryview):
        return word.tobytes()
    return word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")


def split_name(command: Sequence[Argument]) -> list[Argument]:
    """Split arguments off the command name, where redis-py allows them (`XGROUP CREATE`)."""
    name = command[0]
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    words = str(name).split() or [""]
    return [words[0].upper(), *words[1:], *command[1:]]


_MARK = "LEASH "
_CONNECTING_TO = re.compile(r"\AError (-?\d+ )?(while )?connecting to \S+\. ")
_OF_PIPELINE = re.compile(r"\ACommand # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)


def refusal(line: str) -> LeashError | None:
    """Return the typed denial of an error reply.

    Args:
        line: The error as in redis-py.

    Returns:
        The denial, or None if *line* is the error of the command itself.

    Raises:
        UnknownDenialError: the denial has a code that this version does not know.
    """
    if not line.startswith(_MARK):
        return None
    code, *pairs = line[len(_MARK) :].split(" ")
    cls = DENIALS.get(code)
    if cls is None:
        raise UnknownDenialError(code)
    return cls(dict(_pair(pair) for pair in pairs if "=" in pair))


_OF_A_CLUSTER = (
    redis_errors.AskError,
    redis_errors.ClusterCrossSlotError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
)
_DOWN = re.compile(r"to access a slot not served|execute a .*command .*while the cluster is down")
"""In the errors of scripts while the cluster is down, of Valkey and of Redis."""
_SCRIPT_IN_A_CLUSTER = (
    "Script attempted to access a non local key in a cluster node",
    "Attempted to access a non local key in a cluster node",
    "Script attempted to access keys that do not hash to the same slot",
)


def is_down(error: Exception) -> bool:
    """Return whether a node replies that the cluster, or the slot of a key, is not served."""
    return isinstance(error, redis_errors.ClusterDownError) or _DOWN.search(str(error)) is not None


def is_of_a_cluster(error: Exception) -> bool:
    """Return whether only a node of a Redis Cluster replies with this error."""
    if isinstance(error, redis_errors.MasterDownError):
        # A replica without its primary, with or without a cluster.
        return False
    is_one = isinstance(error, _OF_A_CLUSTER) or str(error).startswith(_SCRIPT_IN_A_CLUSTER)
    return is_one or is_down(error)


WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error)
"""The exceptions of reading a malformed value."""


@contextmanager
def reading_reply(command: str) -> Iterator[None]:
    """Convert exceptions in the block, which reads the reply to *command*.

    Raises:
        UnexpectedReplyError: The reply is malformed.
    """
    try:
        yield
    except UnicodeEncodeError:
        # An argument cannot be encoded.
        raise
    except WRONG as error:
        raise UnexpectedReplyError(command) from error


@contextmanager
def reading_record(what: str) -> Iterator[None]:
    """Convert exceptions in the block, which reads one of keyleash's records.

    Raises:
        OperationError (unreadable): The record is corrupt.
    """
    try:
        yield
    except WRONG as error:
        raise OperationError(
            "unreadable",
            f"{what} is corrupt",
            help="find out what wrote to keyleash's keys; `keyleash doctor` checks all records",
        ) from error


def server_message(error: Exception) -> str:
    """Return a server's error message without the command that redis-py adds in a pipeline."""
    return _OF_PIPELINE.sub("", str(error))


def reason_of(error: Exception) -> str:
    """Return redis-py's reason of a lost connection, in the form of keyleash's messages."""
    reason = _CONNECTING_TO.sub("", server_message(error)).rstrip(".")
    return reason[:1].lower() + reason[1:]


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, unquote_to_bytes(value).decode("utf-8", "surrogateescape")
