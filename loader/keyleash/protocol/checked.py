"""A redis-py client that reports a reply of a wrong form, in place of passing it on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
import redis.client

from keyleash.errors import UnexpectedReplyError
from keyleash.protocol.reply import reading_reply


def _is_int(reply: Any) -> bool:
    return isinstance(reply, int)


def _is_text(reply: Any) -> bool:
    return isinstance(reply, bytes)


def _is_text_or_none(reply: Any) -> bool:
    return reply is None or isinstance(reply, bytes)


def _is_list(reply: Any) -> bool:
    return isinstance(reply, list)


def _are_texts(reply: Any) -> bool:
    return isinstance(reply, list | set | frozenset | tuple) and all(map(_is_text, reply))


def _are_names(reply: Any) -> bool:
    return _are_texts(reply) and all(b.decode() is not None for b in reply)


def _are_texts_or_none(reply: Any) -> bool:
    return isinstance(reply, list) and all(map(_is_text_or_none, reply))


def _is_record(reply: Any) -> bool:
    return isinstance(reply, dict) and _are_texts([*reply, *reply.values()])


def _are_flags(reply: Any) -> bool:
    return isinstance(reply, list) and all(map(_is_int, reply))


def _are_entries(reply: Any) -> bool:
    return isinstance(reply, list) and all(map(_is_entry, reply))


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, list | tuple) or len(entry) != 2 or not _is_entry_id(entry[0]):
        return False
    return _is_record(entry[1]) if isinstance(entry[1], dict) else _are_words(entry[1])


def _are_words(words: Any) -> bool:
    # An entry has one field at least, and no field without a value.
    return _are_texts(words) and len(words) > 0 and len(words) % 2 == 0


def _is_entry_id(name: Any) -> bool:
    ms, _, number = name.partition(b"-") if isinstance(name, bytes) else (b"", b"", b"")
    return ms.isdigit() and number.isdigit()


def _are_pages(reply: Any) -> bool:
    pages = reply.items() if isinstance(reply, dict) else reply or ()
    return all(len(page) == 2 and _is_text(page[0]) and _are_entries(page[1]) for page in pages)


def _is_section(reply: Any) -> bool:
    # redis-py puts there what is no line `name:value`.
    return isinstance(reply, dict) and len(reply) > 0 and "__raw__" not in reply


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(
        ("DBSIZE", "DEL", "EXISTS", "HDEL", "HLEN", "HSET", "PEXPIRETIME", "PTTL", "SCARD",
         "STRLEN", "TTL", "UNLINK", "WAIT", "XACK", "XLEN", "ZADD", "ZCARD"),
        _is_int,
    ),
    **dict.fromkeys(("DUMP", "GET", "HGET", "TYPE"), _is_text_or_none),
    "GETRANGE": _is_text,
    **dict.fromkeys(
        ("HVALS", "KEYS", "LRANGE", "SMEMBERS", "ZRANGE"), _are_texts
    ),
    # Names and digests, which are text.
    **dict.fromkeys(("HKEYS", "ZREVRANGE"), _are_names),
    **dict.fromkeys(("HMGET", "MGET"), _are_texts_or_none),
    "HGETALL": _is_record,
    "INFO": _is_section,
    "SCRIPT EXISTS": _are_flags,
    "FUNCTION LIST": _is_list,
    **dict.fromkeys(("XRANGE", "XREVRANGE"), _are_entries),
    **dict.fromkeys(("XREAD", "XREADGROUP"), _are_pages),
}  # fmt: skip
"""What the replies are of the commands whose replies are read field by field."""


_BEFORE_WANTED = {"MGET": 1, "HMGET": 2, "SCRIPT EXISTS": 1}
"""Words that stand before those of which each is answered by itself."""


class _Checked:
    """Mixed in before redis-py's client and pipeline."""

    def parse_response(self, connection: Any, command_name: str | bytes, **options: Any) -> Any:
        """Like redis-py's, and checks the form of the reply."""
        command = _name(command_name)
        above: Any = super()
        with _closing(connection), reading_reply(command):
            reply = above.parse_response(connection, command_name, **options)
            if not _FORMS.get(command, lambda _: True)(reply):
                raise UnexpectedReplyError(command)
        return reply


@contextmanager
def _closing(connection: Any) -> Iterator[None]:
    """Close a connection whose reply is wrong: what is left of it must not be the next one."""
    try:
        yield
    except UnexpectedReplyError:
        connection.disconnect()
        raise


class CheckedPipeline(_Checked, redis.client.Pipeline):
    """Made by `CheckedRedis.pipeline`."""

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Like redis-py's, whose parsers may fail on what they read."""
        with reading_reply("a pipeline"):
            return super().execute(raise_on_error)


class CheckedRedis(_Checked, redis.Redis):
    """
    A `redis.Redis` whose replies have the form that their commands have.

    Raises:
        UnexpectedReplyError: From any call; the connection is closed.
    """

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Like redis-py's, which may fail on what it reads as it connects."""
        name = _name(args[0])
        above: Any = super()
        with reading_reply(name):
            reply = above.execute_command(*args, **options)
        if name in _BEFORE_WANTED and len(reply) != len(args) - _BEFORE_WANTED[name]:
            raise UnexpectedReplyError(name)
        return reply

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> CheckedPipeline:
        """Like redis-py's."""
        return CheckedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )


def _name(command: str | bytes) -> str:
    text = command if isinstance(command, str) else command.decode("latin-1")
    return text.upper()
