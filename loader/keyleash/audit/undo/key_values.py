"""Values of keys and of before-images, as a server reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from keyleash.audit.entries import ABSENT, LARGE, BeforeImage, ImageContent
from keyleash.store.agent_keys import read_values
from keyleash.store.store import Store
from keyleash.store.wire import reading_reply
from keyleash.text import iso_time, json_bytes, json_object


@dataclass(frozen=True, slots=True)
class KeyState:
    """Digest and expiry of a key's value at one moment.

    Attributes:
        digest: As `KeyChange.after`; None if it is not known.
        expires_ms: When the key expires, Unix milliseconds; None if never.
    """

    digest: str | None = None
    expires_ms: int | None = None

    def is_same(self, later: KeyState, later_ms: int) -> bool | None:
        """Return whether the key is unchanged in *later*; None if that is not known.

        A key that expired counts as unchanged.
        """
        unknown = {None, LARGE}
        if self.digest in unknown or later.digest in unknown:
            return None
        if later.digest == ABSENT:
            has_expired = self.expires_ms is not None and self.expires_ms <= later_ms
            return self.digest == ABSENT or has_expired
        return self == later


@dataclass(frozen=True, slots=True)
class Value:
    """The value of a key.

    Attributes:
        kind: The type, as in TYPE; `none` if the key does not exist.
        digest: As `KeyChange.after`.
        expires_ms: When the key expires, Unix milliseconds; None if never.
        size: Size in bytes.
        length: Number of elements; bytes of a string.
        elements: All elements or the first: the bytes of a string; field, value and expiry (Unix
            milliseconds or `-1`) of a hash in turn; member and score of a sorted set; id and
            fields of a stream entry.
    """

    kind: str = "none"
    digest: str = ABSENT
    expires_ms: int | None = None
    size: int = 0
    length: int = 0
    elements: tuple[Any, ...] = ()

    @property
    def state(self) -> KeyState:
        """Return its digest and expiry."""
        return KeyState(self.digest, self.expires_ms)

    @property
    def noun(self) -> str:
        """Return its type in words."""
        return "JSON" if self.kind == "ReJSON-RL" else self.kind

    @property
    def is_absent(self) -> bool:
        """Return whether the key does not exist."""
        return self.digest == ABSENT

    @property
    def is_large(self) -> bool:
        """Return whether the value was too large to be read."""
        return self.digest == LARGE

    def to_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """Return the value for JSON; if *whole*, with its elements, which must be complete."""
        if self.is_absent:
            return {"exists": False}
        return {
            "exists": True,
            "type": self.kind,
            "length": self.length,
            "sha1": self.digest,
            **json_object(self, "expires_ms"),
            **({"value": _json_content(self)} if whole else {}),
        }


NOTHING = Value()


PARTS = {
    "list": ("value",),
    "set": ("value",),
    "hash": ("field", "value", "expires_at"),
    "zset": ("member", "score"),
    "stream": ("id", "fields"),
    "ReJSON-RL": ("value",),
}
"""The parts of an element by type, as in JSON."""


def elements_of(value: Value) -> list[Sequence[Any]]:
    """Return the parts of each element, such as the field, value and expiry of a hash."""
    width = len(PARTS.get(value.kind, ("value",)))
    return [value.elements[at : at + width] for at in range(0, len(value.elements), width)]


def _json_content(value: Value) -> Any:
    if value.kind == "string":
        return json_bytes(value.elements[0])
    names = PARTS.get(value.kind)
    if names is None:
        return None
    found = [
        {name: _json_part(name, part) for name, part in zip(names, element, strict=True)}
        for element in elements_of(value)
    ]
    return [item["value"] for item in found] if names == ("value",) else found


def _json_part(name: str, part: Any) -> Any:
    match name:
        case "expires_at":
            return None if int(part) < 0 else iso_time(int(part))
        case "score" | "id":
            return part.decode()
        case "fields":
            return [json_bytes(item) for item in part]
        case _:
            return json_bytes(part)


def read_keys(store: Store, keys: Sequence[bytes], *, whole: bool = False) -> dict[bytes, Value]:
    """Return the present values of *keys*, whole or with their first elements."""
    found = read_values(store, [("key", key) for key in keys], whole=whole)
    return {key: _value(reply) for key, reply in zip(keys, found, strict=True)}


class Images(dict[ImageContent, Value | None]):
    """The values of before-images; None if the server cannot read one."""

    def restored(self, image: BeforeImage | None) -> Value | None:
        """Return the value that *image* restores, with its expiry; None if that is not known."""
        if image is None or image.content is None:
            return None if image is None else NOTHING
        value = self[image.content]
        return None if value is None else replace(value, expires_ms=image.expires_ms)


def read_images(store: Store, images: Iterable[ImageContent], *, whole: bool = False) -> Images:
    """Return the values of *images*, None for those that the server cannot restore.

    They have no expiry of the key. Hash fields that have expired are left out.
    """
    values: dict[ImageContent, Value | None] = dict.fromkeys(images)
    for content, reply in zip(values, read_values(store, [*values], whole=whole), strict=True):
        values[content] = None if isinstance(reply, ResponseError) else _value(reply)
    return Images(values)


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
