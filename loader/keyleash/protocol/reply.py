"""Reading errors; a guard's refusal is `LEASH <CODE> key=value …`, values percent-encoded."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_to_bytes

from redis import exceptions as redis_errors

from keyleash.errors import (
    KeyleashError,
    LeashError,
    ReplyCode,
    UnexpectedReplyError,
    UnreadableRecordError,
)

_MARK = "LEASH "
_CONNECTING_TO = re.compile(r"\AError (-?\d+ )?(while )?connecting to \S+\. ")
_OF_PIPELINE = re.compile(r"\ACommand # \d+ \(.*?\) of pipeline caused error: ", re.DOTALL)


def _subclasses(base: type[LeashError]) -> dict[str, type[LeashError]]:
    return {cls.code: cls for cls in base.__subclasses__()}


_BY_CODE = _subclasses(LeashError)
assert set(_BY_CODE) == set(ReplyCode)  # noqa: S101 - a code without a class is a bug in errors.py


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
    cls = _BY_CODE.get(code)
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
        UnreadableRecordError: It is not such as keyleash writes.
    """
    try:
        yield
    except WRONG as error:
        raise UnreadableRecordError(
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
