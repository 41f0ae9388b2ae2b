"""Requests to guards and their replies, for EVALSHA and FCALL."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any
from urllib.parse import unquote_to_bytes

from redis import exceptions as redis_errors

from keyleash.commands import CommandTable
from keyleash.commands.keys import UnplacedKeysError, key_places
from keyleash.errors import (
    DENIALS,
    KeyleashError,
    LeashError,
    OperationError,
    UnexpectedReplyError,
)

# How a guard reaches the server: as a script of its cache, or as a function that it keeps.
#
# Either way the Lua is the same text, known by the same digest, which a call names:
#
#     EVALSHA <digest> <n> …
#     FCALL leash_<digest> <n> …
#
# A function's library has its name and holds nothing else. One library for a whole policy
# would be compiled in one go, 1.5 s for 1,000 identities, in which the server serves nobody;
# and since a digest is part of the name, the guards of two policies stand side by side, and
# it is the activation that replaces all of one policy by all of the other.

LIBRARIES = "leash_"
"""What the names of all libraries begin with."""

GUARD_OF = "guard of "
"""What stands before the identity in the description of a function."""

NOT_FOUND = "Function not found"
"""What servers answer to FCALL of a function that they lack, behind ERR."""


class Transport(StrEnum):
    """Which of the two."""

    EVALSHA = "evalsha"
    """By the script cache, which a restart, a failover and SCRIPT FLUSH empty."""
    FUNCTION = "function"
    """By functions, which are persisted and replicated with the data."""


def call_head(transport: Transport, digest: str) -> tuple[str, str]:
    """The words with which a call of the script with *digest* begins."""
    if transport is Transport.FUNCTION:
        return "FCALL", function_name(digest)
    return "EVALSHA", digest


def function_name(digest: str) -> str:
    """The name of the function, and of its library, that is the script with *digest*."""
    return f"{LIBRARIES}{digest}"


def library_code(identity: str, digest: str, script: str) -> str:
    """The library of a script, for FUNCTION LOAD.

    Args:
        identity: Whose guard it is: FUNCTION LIST tells it to people.
        digest: Of *script*.
    """
    name = function_name(digest)
    return (
        f"#!lua name={name}\n"
        f"redis.register_function{{function_name='{name}',description='{GUARD_OF}{identity}',"
        f"callback=function(KEYS,ARGV)\n{script}\nend}}\n"
    )


# Building a guard call: the arguments of EVALSHA or FCALL, from commands as redis-py has them.
#
# EVALSHA <digest> <n> <data keys…> <token> <correlation id> <protocol> <command> <args…>
# EVALSHA <batch digest> <n> <data keys…> <token> <correlation id> <protocol> <mode>
#         {<argc> <command> <args…>}…
#
# By functions, `FCALL leash_<digest>` stands in front, and the rest is the same.

MAX_ARGUMENTS = 7_000
"""Arguments of one command, its name among them: Lua's `unpack` ends at 7,999 values."""

MAX_BATCH_COMMANDS = 1_000
"""Commands of one batch; their arguments together are bounded by `MAX_ARGUMENTS`."""

Argument = Any
"""Whatever redis-py's encoder takes: bytes, str, int, float, memoryview."""


class BatchMode(StrEnum):
    """How a batch is judged.

    `each`: every command on its own; a refusal stands in its place in the reply.
    `all`: all before anything runs; one refusal refuses the whole.
    """

    EACH = "each"
    ALL = "all"


def guard_call(
    table: CommandTable,
    digest: str,
    token: str,
    correlation: str,
    protocol: str | int,
    command: Sequence[Argument],
    transport: Transport = Transport.EVALSHA,
) -> tuple[Argument, ...]:
    """Wrap a command in the call of its guard."""
    words, keys = _placed(table, command)
    head = call_head(transport, digest)
    return (*head, len(keys), *keys, token, correlation, protocol, *words)


def batch_call(
    table: CommandTable,
    digest: str,
    token: str,
    correlation: str,
    protocol: str | int,
    mode: BatchMode,
    commands: Iterable[Sequence[Argument]],
    transport: Transport = Transport.EVALSHA,
) -> tuple[Argument, ...]:
    """Wrap commands in one call of their identity's batch script, whose digest is *digest*."""
    keys: list[Argument] = []
    items: list[Argument] = []
    for command in commands:
        words, own = _placed(table, command)
        keys += own
        items.append(len(words))
        items += words
    head = call_head(transport, digest)
    return (*head, len(keys), *keys, token, correlation, protocol, mode.value, *items)


def _placed(
    table: CommandTable, command: Sequence[Argument]
) -> tuple[Sequence[Argument], Sequence[Argument]]:
    """A command as it goes on the wire, and the keys of it that are declared."""
    place = table.key_slices.get(command[0])
    if place is not None:
        # As redis-py's own methods name it: nothing to take apart.
        return command, command[place]
    words = _split_name(command)
    return words, declared_keys(table, words)


def declared_keys(table: CommandTable, words: Sequence[Argument]) -> Sequence[Argument]:
    """The keys of a call, its name in upper case, as they are declared to the guard.

    A call that the table does not place has none: it is the guard's to refuse, not ours.
    """
    place = table.key_slices.get(words[0])
    if place is not None:
        return words[place]
    argv = [_encoded(word) for word in words]
    spec = table.find(argv)
    try:
        return [words[at] for at in key_places(spec, argv)] if spec else ()
    except UnplacedKeysError:
        return ()


def may_write(table: CommandTable, command: Sequence[Argument]) -> bool:
    """Whether others may see what a command did; of one that the table lacks, they may."""
    spec = table.find([_encoded(word) for word in _split_name(command)[:2]])
    return spec is None or spec.mutates


def _encoded(word: Argument) -> bytes:
    """As redis-py's encoder does it; what it does not take, it will refuse itself, later."""
    if isinstance(word, memoryview):
        return word.tobytes()
    return word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")


def _split_name(command: Sequence[Argument]) -> list[Argument]:
    """Redis-py lets the name carry arguments (`XGROUP CREATE`); on the wire they are apart."""
    name = command[0]
    if isinstance(name, bytes):
        name = name.decode("utf-8", "replace")
    words = str(name).split() or [""]
    return [words[0].upper(), *words[1:], *command[1:]]


_MARK = "LEASH "
_CONNECTING_TO = re.compile(r"\AError (-?\d+ )?(while )?connecting to \S+\. ")
_OF_PIPELINE = re.compile(r"\ACommand # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)


def refusal(line: str) -> LeashError | None:
    """Turn an error reply into the typed error it stands for.

    Args:
        line: The error as redis-py gives it.

    Returns:
        The error, or None if *line* is no refusal: then it is the command's own error.

    Raises:
        KeyleashError: a refusal with a code that this version does not know. It is
            still a refusal.
    """
    if not line.startswith(_MARK):
        return None
    code, *pairs = line[len(_MARK) :].split(" ")
    cls = DENIALS.get(code)
    if cls is None:
        raise KeyleashError(
            f"the guard refused the call with the unknown code `{code}`",
            help="update keyleash on this side",
        )
    return cls(dict(_pair(pair) for pair in pairs if "=" in pair))


_OF_A_CLUSTER = (
    redis_errors.AskError,
    redis_errors.ClusterCrossSlotError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
)
_SCRIPT_IN_A_CLUSTER = (
    "Script attempted to access a non local key in a cluster node",
    "Script attempted to access keys that do not hash to the same slot",
    "Script attempted to access a slot not served",
)


def is_of_a_cluster(error: Exception) -> bool:
    """Return whether only a node of a Redis Cluster replies with this error."""
    if isinstance(error, redis_errors.MasterDownError):
        # A replica without its primary, with or without a cluster.
        return False
    return isinstance(error, _OF_A_CLUSTER) or str(error).startswith(_SCRIPT_IN_A_CLUSTER)


WRONG = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, struct.error)
"""What reading a value of a wrong form raises."""


@contextmanager
def reading_reply(command: str) -> Iterator[None]:
    """
    Read in the block what the server answered to *command*.

    Raises:
        UnexpectedReplyError: It is not of the form that the block reads.
    """
    try:
        yield
    except UnicodeEncodeError:
        # It is an argument that cannot be sent.
        raise
    except WRONG as error:
        raise UnexpectedReplyError(command) from error


@contextmanager
def reading_record(what: str) -> Iterator[None]:
    """
    Read in the block one of keyleash's own records.

    Raises:
        OperationError (unreadable): It is not such as keyleash writes.
    """
    try:
        yield
    except WRONG as error:
        raise OperationError(
            "unreadable",
            f"{what} is not such as keyleash writes",
            help="find out who wrote to keyleash's keys; `keyleash doctor` looks at all",
        ) from error


def said_by(error: Exception) -> str:
    """What a server said, without the command that redis-py puts in front where it was in a
    pipeline: keys of a sealed server begin with a secret.
    """
    return _OF_PIPELINE.sub("", str(error))


def reason_of(error: Exception) -> str:
    """Return what redis-py reports of a lost connection, in the form of our own messages."""
    said = _CONNECTING_TO.sub("", said_by(error)).rstrip(".")
    return said[:1].lower() + said[1:]


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, unquote_to_bytes(value).decode("utf-8", "surrogateescape")
