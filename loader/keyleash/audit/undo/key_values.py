"""Values of keys and of before-images, as a server reads them.

A fenced agent can append an event with a corrupt payload to the audit stream of its identity. A
server that does not validate payloads stores it, and crashes when it reads the key. So such
before-images are not restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from keyleash.audit.entries import ABSENT, LARGE, BeforeImage, ImageContent
from keyleash.errors import UnvalidatedRestoreError
from keyleash.store.agent_keys import read_values
from keyleash.store.keyspace import OPERATORS
from keyleash.store.server_check import PAYLOAD_SETTING, PayloadRisk, find_payload_risk
from keyleash.store.shards import at_slot
from keyleash.store.store import Store
from keyleash.store.users import read_forgeable
from keyleash.store.wire import reading_reply
from keyleash.text import iso_time, json_bytes, json_object

RecordedImage = tuple[str, ImageContent]
"""An identity, and the content of a before-image in its audit stream."""

UNVALIDATED = "the server does not validate payloads"
"""Why a before-image that an agent may have forged is not restored."""
HELP = (
    f"`CONFIG SET {PAYLOAD_SETTING} yes` takes effect at once, and `CONFIG REWRITE` saves it;"
    " then run the command again"
)


@dataclass(frozen=True, slots=True)
class Withheld:
    """Before-images that must not be restored.

    Attributes:
        images: The before-images, except those that a trusted stream has too.
        identities: The identities whose agents may have forged them.
        risk: What the server does not validate; None if there are no such images.
    """

    images: frozenset[ImageContent] = frozenset()
    identities: tuple[str, ...] = ()
    risk: PayloadRisk | None = None

    def error(self, what: str) -> UnvalidatedRestoreError:
        """Return the error for *what*, a noun phrase: it is not restored."""
        names = ", ".join(f"`{name}`" for name in self.identities)
        risk = self.risk.message if self.risk else ""
        return UnvalidatedRestoreError(
            f"{what} is not restored: {risk}; an agent of {names} may have forged it", help=HELP
        )


def find_withheld(store: Store, images: Iterable[RecordedImage]) -> Withheld:
    """Find the before-images that must not be restored.

    The server is queried only if there are payloads; the bytes of a string are not a payload.
    """
    payloads = {image for image in images if image[1][0] != "value" and image[0] != OPERATORS}
    risk = _payload_risk(store) if payloads else None
    if risk is None:
        return Withheld()
    forgeable = read_forgeable(store, sorted({identity for identity, _ in payloads}))
    trusted = {content for identity, content in payloads if identity not in forgeable}
    withheld = frozenset(content for _, content in payloads) - trusted
    names = {identity for identity, content in payloads if content in withheld}
    return Withheld(withheld, tuple(sorted(names)), risk) if withheld else Withheld()


def _payload_risk(store: Store) -> PayloadRisk | None:
    """Return the risk of a server, or of the first node of a cluster that has one."""
    if store.cluster is None:
        return find_payload_risk(store.client)
    slots = [node.slots[0][0] for node in store.cluster.nodes if node.slots]
    risks = (at_slot(store, slot, lambda node: find_payload_risk(node.client)) for slot in slots)
    return next(filter(None, risks), None)


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
    """The values of before-images; None if one was not read.

    Attributes:
        withheld: Those that must not be restored; the server could not read the others that are
            None.
    """

    def __init__(self, values: Mapping[ImageContent, Value | None], withheld: Withheld) -> None:
        super().__init__(values)
        self.withheld = withheld

    def restored(self, image: BeforeImage | None) -> Value | None:
        """Return the value that *image* restores, with its expiry; None if that is not known."""
        if image is None or image.content is None:
            return None if image is None else NOTHING
        value = self[image.content]
        return None if value is None else replace(value, expires_ms=image.expires_ms)


def read_images(store: Store, images: Iterable[RecordedImage], *, whole: bool = False) -> Images:
    """Return the values of *images*, None for those that the server cannot or must not restore.

    They have no expiry of the key. Hash fields that have expired are left out.
    """
    recorded = dict.fromkeys(images)
    withheld = find_withheld(store, recorded)
    values: dict[ImageContent, Value | None] = dict.fromkeys(content for _, content in recorded)
    wanted = [content for content in values if content not in withheld.images]
    for content, reply in zip(wanted, read_values(store, wanted, whole=whole), strict=True):
        values[content] = None if isinstance(reply, ResponseError) else _value(reply)
    return Images(values, withheld)


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
