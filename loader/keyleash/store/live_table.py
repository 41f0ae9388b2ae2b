"""The command table of a live server, modules included.

A server reports a renamed command under its old name. Guards run it under neither name: the server
does not know the old one, and the table lacks the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from redis.exceptions import ResponseError

from keyleash.commands.facts import OF_ALL_DATABASES, OF_SEVERAL_NODES
from keyleash.commands.spec import CommandTable
from keyleash.commands.table import CommandRow, KeySpecRow, SearchRow, table_of, without_indexes
from keyleash.errors import UnreadableCommandsError

UNNAMED = "the server"
"""The label in a table that is read from a server, constant so that equal tables are equal."""

FIELDS = 10
"""The number of fields of each command in COMMAND's reply since Redis 7."""


def read_table(client: Any, *, is_cluster: bool = False) -> CommandTable:
    """Read a server's command table in one round trip, without searches where none can be.

    Raises:
        UnreadableCommandsError: the user may not run COMMAND, or its reply has no key specs.
    """
    table = _placed(_Answer(command_reply(client)))
    pool = getattr(client, "connection_pool", None)
    if is_cluster or (pool is not None and pool.connection_kwargs.get("db")):
        return without_indexes(table, OF_SEVERAL_NODES if is_cluster else OF_ALL_DATABASES)
    return table


def rows_of(label: str, reply: Iterable[Sequence[Any]]) -> dict[str, CommandRow]:
    """Return the rows by command name, with sub-commands.

    Args:
        label: The server's label.
        reply: COMMAND's reply under RESP2 or RESP3.
    """
    return {name: row for entry in reply for name, row in _command_rows(label, entry)}


@dataclass(frozen=True)
class _Answer:
    """A reply as a cache key: compared as a whole, since hashing it is expensive."""

    reply: list[Any] = field(hash=False, repr=False)


@lru_cache(maxsize=4)
def _placed(answer: _Answer) -> CommandTable:
    # Building a table takes several times as long as reading it, and a process may load often.
    return table_of([UNNAMED], rows_of(UNNAMED, answer.reply))


def command_reply(client: Any) -> list[Any]:
    """Return the reply to COMMAND; errors as in `read_table`."""
    with client.pipeline(transaction=False) as pipe:
        # redis-py's callback would drop the key specs.
        pipe.response_callbacks = {}
        pipe.execute_command("COMMAND")
        (reply,) = pipe.execute(raise_on_error=False)
    if isinstance(reply, ResponseError):
        raise UnreadableCommandsError(str(reply)) from reply
    # A server before 7, a fake one, or none.
    is_readable = isinstance(reply, list) and all(
        isinstance(entry, list | tuple) and len(entry) >= FIELDS for entry in reply
    )
    if not is_readable or not any(entry[8] for entry in reply):
        raise UnreadableCommandsError("its reply to COMMAND does not say where keys stand")
    return list(reply)


def _command_rows(label: str, entry: Sequence[Any]) -> Iterator[tuple[str, CommandRow]]:
    name, arity, flags, _first, _last, _step, categories, _tips, key_specs, subcommands = entry[
        :FIELDS
    ]
    yield (
        reply_text(name).replace("|", " ").upper(),
        {
            "arity": int(arity),
            "flags": sorted(map(reply_text, flags)),
            "categories": sorted(map(reply_text, categories)),
            "servers": [label],
            "key_specs": [_key_spec(spec) for spec in key_specs],
            "positions_differ": False,
        },
    )
    for subcommand in subcommands:
        yield from _command_rows(label, subcommand)


def _key_spec(reply: Any) -> KeySpecRow:
    fields = reply_mapping(reply)
    return {
        "flags": sorted(map(reply_text, fields["flags"])),
        "begin_search": _search(fields["begin_search"]),
        "find_keys": _search(fields["find_keys"]),
    }


def _search(reply: Any) -> SearchRow:
    fields = reply_mapping(reply)
    spec = reply_mapping(fields["spec"])
    return {
        "type": reply_text(fields["type"]),
        "spec": {
            name: value if isinstance(value, int) else reply_text(value)
            for name, value in spec.items()
        },
    }


def reply_mapping(reply: Any) -> dict[str, Any]:
    """Return a map, which RESP2 sends as a flat list of names and values."""
    pairs = (
        reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    )
    return {reply_text(name): value for name, value in pairs}


def reply_text(reply: Any) -> str:
    """Return a text that redis-py decodes in some replies only."""
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
