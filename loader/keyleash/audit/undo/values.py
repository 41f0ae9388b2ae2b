"""What keys hold, and what before-images of them hold, as a server reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from keyleash.audit.event import ABSENT, LARGE, Held
from keyleash.audit.undo.withheld import Recorded, Withheld, find_withheld
from keyleash.compiler.templates import operator_script
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace
from keyleash.protocol.reply import reading_reply

PIECE = 100
PIECE_BYTES = 1_000_000
"""How much is sent at once, so that no reply is awaited for long."""


@dataclass(frozen=True, slots=True)
class Value:
    """
    What a key holds.

    Attributes:
        kind: The type, as TYPE has it; `none` if there is nothing.
        digest: As `Change.after`.
        expires_ms: When it expires, Unix milliseconds; None if never.
        size: Bytes that it takes.
        length: How many elements it has, or bytes if it is a string.
        elements: All, or the first: of a string its bytes; of a hash field, value and expiry
            (Unix milliseconds or `-1`) in turn; of a sorted set member and score; of a stream
            id and the words of the entry.
    """

    kind: str = "none"
    digest: str = ABSENT
    expires_ms: int | None = None
    size: int = 0
    length: int = 0
    elements: tuple[Any, ...] = ()

    @property
    def is_absent(self) -> bool:
        """Whether there is no such key."""
        return self.digest == ABSENT

    @property
    def is_large(self) -> bool:
        """Whether it takes so many bytes that it was not read."""
        return self.digest == LARGE


NOTHING = Value()


def read_keys(
    client: Client, keyspace: Keyspace, keys: Sequence[bytes], *, whole: bool = False
) -> dict[bytes, Value]:
    """Read what *keys* hold now: all of it, or the first elements."""
    found = _read(client, keyspace, [("key", key) for key in keys], whole)
    return {key: _value(reply) for key, reply in zip(keys, found, strict=True)}


class Images(dict[Held, Value | None]):
    """
    What before-images hold; None if one was not read.

    Attributes:
        withheld: Those that were not restored; the server could not read the others.
    """

    def __init__(self, values: Mapping[Held, Value | None], withheld: Withheld) -> None:
        super().__init__(values)
        self.withheld = withheld


def read_images(
    client: Client, keyspace: Keyspace, images: Iterable[Recorded], *, whole: bool = False
) -> Images:
    """Read what *images* held; None if the server cannot restore it, or must not.

    Expiries of keys are no part of them. Fields of a hash that have expired are left out.
    """
    recorded = dict.fromkeys(images)
    withheld = find_withheld(client, keyspace, recorded)
    values: dict[Held, Value | None] = dict.fromkeys(held for _, held in recorded)
    wanted = [held for held in values if held not in withheld.images]
    for held, reply in zip(wanted, _read(client, keyspace, wanted, whole), strict=True):
        values[held] = None if isinstance(reply, ResponseError) else _value(reply)
    return Images(values, withheld)


def _read(
    client: Client, keyspace: Keyspace, sources: Sequence[tuple[str, bytes]], whole: bool
) -> Iterator[Any]:
    digest = client.script_load(operator_script("read_value.lua", keyspace))
    for piece in _pieces(sources):
        with client.pipeline(transaction=False) as pipe:
            for kind, value in piece:
                pipe.evalsha(digest, 0, kind, value, "whole" if whole else "short")
            for reply in pipe.execute(raise_on_error=False):
                if isinstance(reply, Exception) and not _is_unreadable(reply):
                    raise reply
                yield reply


def _pieces(sources: Sequence[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    piece: list[tuple[str, bytes]] = []
    size = 0
    for source in sources:
        if piece and (len(piece) == PIECE or size + len(source[1]) > PIECE_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(source)
        size += len(source[1])
    if piece:
        yield piece


def _is_unreadable(reply: Exception) -> bool:
    return str(reply).startswith("LEASH IMAGE_UNREADABLE")


def _value(reply: Sequence[Any]) -> Value:
    with reading_reply("EVALSHA"):
        kind, digest, expires, size, length, elements = reply
        expires_ms = int(expires)
        return Value(
            kind=kind.decode(),
            digest=digest.decode(),
            expires_ms=expires_ms if expires_ms >= 0 else None,
            size=size,
            length=length,
            elements=tuple(elements),
        )
