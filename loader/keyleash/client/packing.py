"""Packing a guard call for the wire, by hiredis: it has three times the words of a raw call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hiredis import pack_command
from redis.exceptions import DataError

from keyleash.protocol.request import Argument


def packed(request: Sequence[Argument]) -> list[bytes]:
    """What redis-py's sync client makes of *request*, with less ado.

    Raises:
        DataError: a word is of a type that cannot be sent.
    """
    try:
        return [pack_command(tuple(request))]
    except TypeError:
        pass
    plain: list[Any] = [bytes(word) if isinstance(word, bytearray) else word for word in request]
    try:
        return [pack_command(tuple(plain))]
    except TypeError as error:
        raise DataError(error) from None
