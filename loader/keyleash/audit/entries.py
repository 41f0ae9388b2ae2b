"""Events and denials, parsed from stream entries."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from itertools import chain as joined
from itertools import pairwise, repeat
from typing import Any, ClassVar

from keyleash.errors import ReplyCode
from keyleash.limits import Counter
from keyleash.results import Instant, Result
from keyleash.store.streams import Pairs, Words, owner_name, pairs_of
from keyleash.store.wire import MAX_BATCH_COMMANDS
from keyleash.text import json_bytes, json_object, printable, without_tokens

BY_COMMAND = frozenset((
    ReplyCode.CLASS_NOT_GRANTED, ReplyCode.KEY_NOT_GRANTED, ReplyCode.KEY_DENIED,
    ReplyCode.KEY_TOO_LONG, ReplyCode.VALUE_TOO_LARGE, ReplyCode.VALUE_REFUSED,
    ReplyCode.WORK_TOO_LARGE,
))  # fmt: skip
"""Codes whose denials share an entry only with those of the same command (`append_denial.lua`)."""
ImageContent = tuple[str, bytes]
"""`value` and a string's bytes, or `image` and the DUMP payload of any other type."""
ABSENT = "absent"
LARGE = "large"


@dataclass(frozen=True, slots=True)
class AuditEntry(Result):
    """The common fields of events and denials.

    Attributes:
        kind: `event` or `denial`.
        id: The entry's id in its stream.
        time_ms: Server time, Unix milliseconds.
        token: The token's id, or `-` if it was not known.
        op: The command's name.
        keys: The keys that it touched; for a denial, the denied key, if any. For PUBLISH and
            SPUBLISH, the channel. A masked key is a prefix and a digest.
        policy: The first digits of the digest of the identity's rules.
        seq: Its sequence number in its stream; 0 if it has none.
        source: The address and client certificate that it came from, where the policy records them
            and the client gave them; else empty.
        shard: On a cluster, the tag of the shard that recorded it; on one server empty.
        chain: The ids of the token's ancestors, from the issued token on, if a token made it.
    """

    kind: ClassVar[str] = "entry"
    id: str
    time_ms: int
    identity: str
    token: str
    op: str
    keys: tuple[bytes, ...]
    correlation: str
    policy: str
    seq: int = 0
    source: str = ""
    shard: str = ""
    chain: tuple[str, ...] = ()

    time = Instant[datetime]("time_ms")

    @property
    def owner(self) -> str:
        """Return its identity, on a cluster with the shard."""
        return owner_name(self.identity, self.shard)

    def to_dict(self) -> dict[str, Any]:
        return {
            **json_object(self, "kind", "id", "time_ms", "identity", "seq", "token", "chain?"),
            "op": without_tokens(self.op),
            **json_object(self, "keys", "correlation", "source?", "policy", "shard?"),
        }


@dataclass(frozen=True, slots=True)
class BeforeImage:
    """A before-image: the value of a key before a change.

    Attributes:
        content: The kind of its bytes, and the bytes; None if the key did not exist.
        expires_ms: When the key was to expire, Unix milliseconds; None if never.
    """

    content: ImageContent | None = None
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """The change of one key by an event with before-images.

    Attributes:
        before: The before-image; None if the value was too large for one.
        large: Size in bytes of a value that was too large; else 0.
        after: Digest of the value after the event; `absent`, `large`, or None if not known.
        after_expires_ms: When that value expires; None if never.
    """

    key: bytes
    before: BeforeImage | None
    large: int = 0
    after: str | None = None
    after_expires_ms: int | None = None

    def to_dict(self, *, images: bool = False) -> dict[str, Any]:
        """Return the change for JSON; `before` is null if there is no before-image.

        Args:
            images: Include the before-image: a string as it is, other types in the format of DUMP.
        """
        result: dict[str, Any] = {"key": json_bytes(self.key), "before": None}
        if self.before is None:
            result["large"] = self.large
        elif self.before.content is None:
            result["before"] = {"exists": False}
        else:
            kind, data = self.before.content
            result["before"] = {
                "exists": True,
                "bytes": len(data),
                **json_object(self.before, "expires_ms"),
                **({kind: json_bytes(data)} if images else {}),
            }
        return {**result, **json_object(self, "after", "after_expires_ms")}


@dataclass(frozen=True, slots=True)
class AuditEvent(AuditEntry):
    """An allowed command.

    Attributes:
        item: Of several commands of one event, the place in it, from 1; else 0.
        error: The error reply, if the command failed.
        cost: The cost of the call by counter; of the whole batch for a command of a batch.
        lengths: Lengths of the arguments that are not keys; None if not recorded.
        args_sha1: SHA-1 of these arguments in hex; None if not recorded.
        args: These arguments; None if not recorded.
        documents: The number of documents that it deletes with their index; None for other calls.
        changes: The changes of the keys that this command names.
        actor: For an undo, its operator; else empty.
        script: The name of the approved script that called it; else empty.
    """

    kind: ClassVar[str] = "event"
    item: int = 0
    error: str | None = None
    cost: Mapping[Counter, int] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    args_sha1: str | None = None
    args: tuple[bytes, ...] | None = None
    documents: int | None = None
    changes: tuple[KeyChange, ...] = ()
    actor: str = ""
    script: str = ""

    def to_dict(self, *, images: bool = False) -> dict[str, Any]:
        """Return the event as `audit log --json` prints it.

        Args:
            images: Include before-images, as `audit show --json` does.
        """
        present = ("item?", "actor?", "script?")
        arguments = ("lengths", "args_sha1", "args", "documents")
        recorded = [name for name in arguments if getattr(self, name) is not None]
        result = {**AuditEntry.to_dict(self), **json_object(self, *present, "cost", *recorded)}
        if self.changes:
            result["changes"] = [change.to_dict(images=images) for change in self.changes]
        return {**result, "error": self.error}


@dataclass(frozen=True, slots=True)
class Denial(AuditEntry):
    """A denied command.

    Attributes:
        reason: The deny rule's pattern, the class, the limit, the option or the word that says why;
            empty if the code has none.
        repeats: Number of similar denials in its minute, including the first; 0 if the entry
            records the suspension of the identity by a breaker.
        folded: What `repeats` counts besides, if its minute had too many kinds of denials:
            `commands`, other commands of the token; `tokens`, every denial of that code without
            an entry; usually empty.
        until_ms: The end of a suspension by a breaker: server time, Unix milliseconds.
        script: The SHA-1 of the script that no grant approves; else empty.
    """

    kind: ClassVar[str] = "denial"
    code: str = ""
    reason: str = ""
    repeats: int = 1
    folded: str = ""
    until_ms: int | None = None
    script: str = ""

    @property
    def folded_count(self) -> int:
        """Return the number of further denials that this entry counts."""
        return max(0, self.repeats - 1)

    @property
    def is_any_command(self) -> bool:
        """Return whether `repeats` may count calls of other commands than `op`."""
        is_one = self.script or self.code in BY_COMMAND
        return bool(self.folded) or (self.repeats > 1 and not is_one)

    def to_dict(self) -> dict[str, Any]:
        return {
            **AuditEntry.to_dict(self),
            **json_object(self, "script?", "code", "reason", "repeats"),
            "folded": self.folded or None,
            "any_command": self.is_any_command,
            **({} if self.until_ms is None else json_object(self, "until_ms")),
        }


# Entries of audit streams; docs/reference/audit-events.md documents the fields.
#
# `lua/guard/record/append_event.lua` writes the event of one command, `lua/guard/batch.lua` that
# of a batch. Behind the event's own fields, which are in lower case, there is a field for each
# command that changes something: `SET` with a key, or `MSET:2` with two netstrings; or for a run of
# commands, `SET*16` with their keys in MessagePack. So names of fields repeat. An entry that begins
# with `of` is a follow-up of an earlier one: errors by place in a batch, and states of keys after
# the event. The event of a script has the field `script`; its commands are in a follow-up.

Fields = Mapping[bytes, bytes]
_NETSTRING_HEAD = re.compile(rb"([0-9]{1,9}):")
_COSTS = {b"r": Counter.READS, b"w": Counter.WRITES, b"d": Counter.DELETES}
_NUMBER = re.compile(rb"[0-9]{1,19}")
_HEAD = (b"seq", b"token", b"policy", b"correlation")
"""The fields with which an event begins."""


def audit_events(
    identity: str, entry_id: bytes, pairs: Pairs, follow_ups: Iterable[Words] = (), shard: str = ""
) -> tuple[AuditEvent, ...]:
    """Parse an entry of an audit stream, with its follow-ups, into the events of its commands."""
    fields = dict(pairs)
    later = [pairs_of(words) for words in follow_ups]
    script = text_of(fields.get(b"script", b""))
    if b"script" in fields:
        # Its commands are known when it has ended.
        pairs = [*pairs, *joined.from_iterable(later)]
        fields = dict(pairs) | fields
    errors = {item: error for pairs_ in later for item, error in _errors(pairs_)}
    # A batch of one command numbers it.
    first = 0 if 0 in errors else 1
    changes = tuple(_changes(pairs, later)) if b"before" in fields else ()
    policy, _, cost = fields.get(b"policy", b"").partition(b" ")
    return tuple(
        AuditEvent(
            **_common(identity, entry_id, fields),
            **command,
            policy=text_of(policy),
            error=errors.get(command["item"] or first),
            cost=_cost(cost),
            changes=tuple(change for change in changes if change.key in command["keys"]),
            actor=text_of(fields.get(b"actor", b"")),
            script=script,
            shard=shard,
        )
        for command in _commands(fields, pairs)
    )


def denial_entry(identity: str, entry_id: bytes, words: Words, shard: str = "") -> Denial:
    """Parse an entry of a stream of denials that is not about earlier ones."""
    fields = dict(pairs_of(words))
    op, _, script = fields.get(b"op", b"").partition(b":")
    return Denial(
        **_common(identity, entry_id, fields),
        op=text_of(op),
        script=printable(text_of(script)).lower(),
        keys=(fields[b"key"],) if fields.get(b"key") else (),
        policy=text_of(fields.get(b"policy", b"")),
        code=text_of(fields.get(b"code", b"")),
        reason=text_of(fields.get(b"reason", b"")),
        # A suspension by a breaker is not a call.
        repeats=0 if b"until_ms" in fields else 1,
        folded=text_of(fields.get(b"folded", b"")),
        until_ms=_expiry(fields.get(b"until_ms", b"")),
        shard=shard,
    )


def repeats_of(words: Words) -> Iterator[tuple[bytes, int]]:
    """Parse an entry about earlier denials: the id of each, and its total count."""
    for (name, of), (count_name, count) in pairwise(pairs_of(words)):
        if (name, count_name) == (b"of", b"repeats"):
            yield of, number_of(count)


def number_of(value: bytes) -> int:
    """Parse a number of a field; return 0 for text that no guard writes."""
    return int(value) if _NUMBER.fullmatch(value) else 0


def split_netstrings(data: bytes) -> tuple[bytes, ...]:
    """Split `<len>:<bytes>,…`.

    Raises:
        ValueError: *data* is not netstrings to its end.
    """
    parts = []
    at = 0
    while at < len(data):
        head = _NETSTRING_HEAD.match(data, at)
        end = head.end() + int(head[1]) if head else at
        if head is None or data[end : end + 1] != b",":
            raise ValueError(f"no netstring at byte {at}")
        parts.append(data[head.end() : end])
        at = end + 1
    return tuple(parts)


def time_of(entry_id: bytes) -> int:
    """Return the time of an entry id, Unix milliseconds."""
    return int(entry_id.partition(b"-")[0])


def text_of(data: bytes) -> str:
    """Return *data* as text; bytes that are not UTF-8 are escaped."""
    return data.decode("utf-8", "backslashreplace")


def _common(identity: str, entry_id: bytes, fields: Fields) -> dict[str, Any]:
    *chain, token = text_of(fields.get(b"token", b"")).split(".")
    return {
        "id": entry_id.decode(),
        "time_ms": time_of(entry_id),
        "identity": identity,
        "token": token,
        "chain": tuple(chain),
        "correlation": text_of(fields.get(b"correlation", b"")),
        "source": text_of(fields.get(b"source", b"")),
        "seq": number_of(fields.get(b"seq", b"")),
    }


def _errors(pairs: Pairs) -> Iterator[tuple[int, str]]:
    """Yield the errors of a follow-up, each with the place of its command in a batch, or 0."""
    item = 0
    for name, value in pairs:
        if name == b"item":
            item = number_of(value)
        elif name == b"error":
            yield item, text_of(value)


def _commands(fields: Fields, pairs: Pairs) -> list[dict[str, Any]]:
    """Return the attributes of the event of each command."""
    found: list[dict[str, Any]] = []
    for name, value in pairs:
        if found and name in _ARGUMENTS:
            found[-1].setdefault(name.decode(), _ARGUMENTS[name](value))
        elif not name[:1].islower():
            op, keys = _op_and_keys(name, value)
            found += ({"op": text_of(op), "keys": each} for each in keys)
    if b"script" in fields and not found:
        found.append({"op": "EVALSHA", "keys": ()})
    is_alone = len(found) == 1
    for item, command in enumerate(found, start=1):
        command["item"] = 0 if is_alone else item
    return found


def _op_and_keys(name: bytes, value: bytes) -> tuple[bytes, Sequence[tuple[bytes, ...]]]:
    """Return the command that a field names, and the keys of each of its calls."""
    op, star, _count = name.partition(b"*")
    if star:
        return op, [(key,) for key in _parts(value, _texts_of)] or [()]
    op, colon, _count = name.partition(b":")
    return op, [_parts(value) if colon else (value,) if value else ()]


def lone_command(words: Words) -> tuple[bytes, bytes] | None:
    """Return command and key of an event that has one of each; None if that is not clear."""
    end = len(_HEAD) * 2
    start = end + 2 if b"source" in words[end : end + 1] else end
    if len(words) < start + 2 or tuple(words[:end:2]) != _HEAD:
        return None
    name, value, *later = words[start:]
    is_clear = not name[:1].islower() and all(word[:1].islower() for word in later[::2])
    return (name, value) if is_clear and not {*name} & {*b":*"} else None


def _changes(pairs: Pairs, follow_ups: Sequence[Pairs]) -> Iterator[KeyChange]:
    """Yield a change for each field `before`, with the digests of the first follow-up with any."""
    recorded: list[dict[bytes, bytes]] = []
    for name, value in pairs:
        if name == b"before":
            recorded.append({name: value})
        elif recorded and name in {b"expires", b"value", b"image"}:
            recorded[-1][name] = value
    afters = ([value for name, value in later if name == b"after"] for later in follow_ups)
    for fields, after in zip(
        recorded, joined(next(filter(None, afters), ()), repeat(b"")), strict=False
    ):
        digest, _, after_expires = after.partition(b":")
        kind = "value" if b"value" in fields else "image"
        content = (kind, fields[kind.encode()]) if kind.encode() in fields else None
        expires = fields.get(b"expires", b"absent")
        before: BeforeImage | None = BeforeImage()
        large = 0
        if expires == b"large":
            before, large = None, number_of(content[1] if content else b"")
        elif expires != b"absent":
            before = BeforeImage(content, _expiry(expires))
        state = (text_of(digest), _expiry(after_expires)) if after else (None, None)
        yield KeyChange(fields[b"before"], before, large, *state)


@lru_cache(maxsize=1024)
def _cost(data: bytes) -> Mapping[Counter, int]:
    requests, *others = data.split(b",")
    counted = {Counter.REQUESTS: requests} | {
        _COSTS[other[-1:]]: other[:-1] for other in others if other[-1:] in _COSTS
    }
    return {counter: number_of(count) for counter, count in counted.items() if count.isdigit()}


def _expiry(value: bytes) -> int | None:
    return number_of(value) if value.isdigit() else None


def _texts_of(data: bytes) -> tuple[bytes, ...]:
    """Parse an array of texts in MessagePack, as Lua's `cmsgpack.pack` writes it, or ValueError.

    https://github.com/msgpack/msgpack/blob/master/spec.md
    """
    reader = io.BytesIO(data)

    def read(size: int) -> bytes:
        found = reader.read(size)
        if len(found) < size:
            raise ValueError("cut off")
        return found

    def number(short: int, bits: int, sizes: Mapping[int, int]) -> int:
        """Read a length: in the lower *bits* of the first byte, or in the bytes behind it."""
        (head,) = read(1)
        if head in sizes:
            return int.from_bytes(read(sizes[head]), "big")
        if head >> bits != short >> bits:
            raise ValueError("neither an array nor a text")
        return head & ((1 << bits) - 1)

    count = number(0x90, 4, {0xDC: 2})
    if count > MAX_BATCH_COMMANDS:
        raise ValueError("more than a batch has")
    texts = [read(number(0xA0, 5, {0xD9: 1, 0xDA: 2, 0xDB: 4})) for _ in range(count)]
    if reader.read(1):
        raise ValueError("more than an array")
    return tuple(texts)


def _parts(
    data: bytes, parse: Callable[[bytes], tuple[bytes, ...]] = split_netstrings
) -> tuple[bytes, ...]:
    try:
        return parse(data)
    except ValueError:
        # Not written by a guard. Showing it unparsed does not hide the other entries.
        return (data,)


def _lengths(value: bytes) -> tuple[int, ...]:
    return tuple(number_of(item) for item in value.split(b",") if item.isdigit())


_ARGUMENTS: Mapping[bytes, Callable[[bytes], Any]] = {
    b"lengths": _lengths,
    b"args_sha1": text_of,
    b"args": _parts,
    b"documents": number_of,
}
