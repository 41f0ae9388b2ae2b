"""Packing a guard call for the wire, by hiredis: it has three times the words of a raw call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from hiredis import pack_command
from redis.exceptions import DataError

from keyleash.protocol.request import Argument

Words: TypeAlias = tuple[Argument, ...]


def packed(request: Sequence[Argument], encoder: Any = None) -> list[bytes]:
    """What redis-py's sync client makes of *request*, with less ado.

    Args:
        encoder: Encodes what hiredis does not take, or says in its words why not.

    Raises:
        DataError: a word is of a type that cannot be sent.
    """
    # Reports of errors show what functions hold, and the request holds the token.
    try:
        return [pack_command(tuple(request))]
    except TypeError:
        pass
    except BaseException:
        del request
        raise
    try:
        return _packed_slowly(request, encoder)
    except Exception as error:
        del request
        raise error.with_traceback(None) from None


def _packed_slowly(request: Sequence[Argument], encoder: Any) -> list[bytes]:
    if encoder is not None:
        request = [encoder.encode(word) for word in request]
    plain: list[Any] = [bytes(word) if isinstance(word, bytearray) else word for word in request]
    try:
        return [pack_command(tuple(plain))]
    except TypeError as error:
        why = str(error)
    # Without the TypeError as its context, which would show the request as well.
    raise DataError(why)


def encoded(commands: Sequence[Words], encoder: Any) -> Sequence[Words]:
    """Commands as an async connection's own packer, slow and in Python, would encode them."""
    if encoder.encoding == "utf-8" and encoder.encoding_errors == "strict":
        # What hiredis does too.
        return commands
    return [(words[0], *map(encoder.encode, words[1:])) for words in commands]
