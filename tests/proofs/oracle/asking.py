"""Ask a server about calls: their keys, and whether it accepts their arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import redis

from keyleash.commands import KeyUse, OperationClass
from keyleash.commands.facts import CLASS_OF_FLAG
from proofs.oracle.arguments import Call
from support.servers import RealServer

EMPTY_DATABASE = 9
IN_SCRIPT = b"return redis.pcall(unpack(ARGV))"
"""In a script no command blocks, and an error is a reply."""

DATA_ERRORS = re.compile(
    "NOGROUP|no such key|requires the key to exist|key does not exist|Key not found"
)
"""Errors because of missing data. Any other error on an empty database rejects the arguments."""


class Asker:
    """A connection to an empty database of a server."""

    def __init__(self, server: RealServer) -> None:
        client = server.client(db=EMPTY_DATABASE)
        self._connection: Any = client.connection_pool.get_connection()

    def keys(self, calls: Sequence[Call]) -> list[list[KeyUse] | None]:
        """Return the replies of `COMMAND GETKEYSANDFLAGS`; None for an error."""
        replies = ask_all(self._connection, [(b"COMMAND", b"GETKEYSANDFLAGS", *c) for c in calls])
        return [
            None
            if isinstance(reply, redis.ResponseError)
            else [KeyUse(key, classes_of(flags)) for key, flags in reply]
            for reply in replies
        ]

    def argument_errors(self, calls: Sequence[Call]) -> list[str | None]:
        """
        Return the error with which a server rejects the arguments of each call, or None.

        Each call is made on an empty database; a rejected one must not change anything.
        """
        words: list[Call] = []
        for call in calls:
            words += [(b"FLUSHDB",), (b"INFO", b"persistence")]
            words += [(b"EVAL", IN_SCRIPT, b"0", *call), (b"INFO", b"persistence")]
        replies = ask_all(self._connection, [*words, (b"FLUSHDB",)])[:-1]
        found: list[str | None] = []
        for _, before, reply, after in zip(*[iter(replies)] * 4, strict=True):
            is_error = isinstance(reply, redis.ResponseError)
            refused = is_error and DATA_ERRORS.search(str(reply)) is None
            assert not refused or changes_in(before) == changes_in(after), reply
            found.append(str(reply) if refused else None)
        return found


def ask_all(connection: Any, calls: Sequence[Sequence[bytes]]) -> list[Any]:
    """Send all calls in one pipeline, and return the replies with errors."""
    connection.send_packed_command(connection.pack_commands(calls))
    return [_read(connection) for _ in calls]


def _read(connection: Any) -> Any:
    try:
        return connection.read_response(disable_decoding=True)
    except redis.ResponseError as error:
        return error


def classes_of(flags: Sequence[bytes]) -> tuple[OperationClass, ...]:
    classes = {CLASS_OF_FLAG[flag] for flag in map(bytes.decode, flags) if flag in CLASS_OF_FLAG}
    return tuple(cls for cls in OperationClass if cls in classes)


def changes_in(info: bytes) -> int:
    found = re.search(rb"rdb_changes_since_last_save:(\d+)", info)
    assert found is not None
    return int(found[1])
