"""Events and denials, parsed from stream entries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

from keyleash.errors import ReplyCode
from keyleash.limits import Counter

BY_COMMAND = frozenset(
    {
        ReplyCode.CLASS_NOT_GRANTED,
        ReplyCode.KEY_NOT_GRANTED,
        ReplyCode.KEY_DENIED,
        ReplyCode.VALUE_TOO_LARGE,
        ReplyCode.WORK_TOO_LARGE,
    }
)
"""Codes whose denials share an entry only with those of the same command (`append_denial.lua`)."""
ImageContent = tuple[str, bytes]
"""`value` and a string's bytes, or `image` and what DUMP said of any other type."""
ABSENT = "absent"
LARGE = "large"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What an event and a denial have in common.

    Attributes:
        id: The entry's id in its stream.
        time_ms: Server time, Unix milliseconds.
        token: The token's id, or `-` if it was not known.
        op: The command's name.
        keys: The keys that it touched; for a denial, the key that was refused, if any. PUBLISH
            and SPUBLISH have their channel there. A masked key is a prefix and a digest.
        policy: The beginning of the digest of the identity's rules.
        seq: Its number in its trail; 0 if it has none.
    """

    id: str
    time_ms: int
    identity: str
    token: str
    op: str
    keys: tuple[bytes, ...]
    correlation: str
    policy: str
    seq: int = 0

    @property
    def kind(self) -> str:
        """`event` or `denial`: what it is called where both stand together."""
        return "entry"


@dataclass(frozen=True, slots=True)
class BeforeImage:
    """What a key held; neither bytes nor a dump if there was no such key.

    Attributes:
        value: A string's bytes.
        dump: Of any other type, what DUMP said.
        expires_ms: When it expired, Unix milliseconds; None if never.
    """

    value: bytes | None = None
    dump: bytes | None = None
    expires_ms: int | None = None

    @property
    def content(self) -> ImageContent | None:
        """How its bytes are to be read, and they themselves; None if there was no such key."""
        if self.value is not None:
            return "value", self.value
        return None if self.dump is None else ("image", self.dump)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """
    What an event did to one key, if before-images are taken of it.

    Attributes:
        before: What it held; None if that was too large to be kept.
        large: So many bytes; 0 if it was kept.
        after: Digest of what it held then; `absent`, `large`, or None if it is not known.
        after_expires_ms: When that expires; None if never.
    """

    key: bytes
    before: BeforeImage | None
    large: int = 0
    after: str | None = None
    after_expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEvent(AuditEntry):
    """A command that was let through.

    Attributes:
        item: For a command of a batch, its place in the batch's event, from 1; else 0.
        error: What the command answered, if it failed.
        cost: What the call took, by counter; the whole batch's for a command of a batch.
        lengths: Of the arguments that are no keys; None if that is not recorded.
        args_sha1: Their SHA-1 in hex; None likewise.
        args: They themselves; None likewise.
        changes: What became of its keys; of a batch, of those that this command names.
        actor: Of an undo: who did it; else empty.
        is_untrusted: Whether no policy let the identity change one of its keys then, as far as
            that was compared (`audit.undo.trust`): it may be made up.
    """

    item: int = 0
    error: str | None = None
    cost: Mapping[Counter, int] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    args_sha1: str | None = None
    args: tuple[bytes, ...] | None = None
    changes: tuple[KeyChange, ...] = ()
    actor: str = ""
    is_untrusted: bool = False

    @property
    def kind(self) -> str:
        return "event"


@dataclass(frozen=True, slots=True)
class Denial(AuditEntry):
    """A command that was refused.

    Attributes:
        reason: The deny rule's pattern, the class or the limit; empty if the code has none.
        repeats: How often it was refused alike in its minute, the first time counted; 0 of an
            entry that is no call, but says that the identity suspended itself.
        folded: What else `repeats` counts, since its minute had too many kinds of denials:
            `commands`, other commands of the token; `tokens`, every denial of that code which
            has no other entry; empty as a rule.
        until_ms: Of an entry that is no call, until when: server time, Unix milliseconds.
    """

    code: str = ""
    reason: str = ""
    repeats: int = 1
    folded: str = ""
    until_ms: int | None = None

    @property
    def kind(self) -> str:
        return "denial"

    @property
    def folded_count(self) -> int:
        """How many denials this entry counts beside its own."""
        return max(0, self.repeats - 1)

    @property
    def is_any_command(self) -> bool:
        """Return whether `repeats` may count calls of other commands than `op`."""
        return bool(self.folded) or (self.repeats > 1 and self.code not in BY_COMMAND)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """A later entry about an event: errors, by their places in a batch, and what keys hold now."""

    of: str
    errors: Mapping[int, str]
    after: tuple[tuple[str, int | None], ...] = ()


# Entries of audit streams; docs/reference/audit-events.md documents the fields.
#
# `lua/guard/record/append_event.lua` writes the event of one command, `lua/guard/batch.lua` that
# of a batch: behind its own fields, it has one for each command that changes something, named as
# the command, with its key. So names of fields repeat; those in lower case are the event's own.

Fields = Mapping[bytes, bytes]
Pairs = Sequence[tuple[bytes, bytes]]
_NETSTRING_HEAD = re.compile(rb"([0-9]{1,9}):")
_COSTS = {b"r": Counter.READS, b"w": Counter.WRITES, b"d": Counter.DELETES}
_ARGUMENTS = (b"lengths", b"args_sha1", b"args")
_NUMBER = re.compile(rb"[0-9]{1,19}")


def follow_up_entry(pairs: Pairs) -> FollowUp | None:
    """Read an entry of an audit stream that is about an earlier one; None if it is not."""
    fields = dict(pairs)
    if b"of" not in fields:
        return None
    afters = [value.partition(b":") for name, value in pairs if name == b"after"]
    return FollowUp(
        of=_text(fields[b"of"]),
        errors=dict(_errors(pairs)),
        after=tuple((_text(digest), _expiry(expires)) for digest, _, expires in afters),
    )


def audit_events(
    identity: str, entry_id: bytes, pairs: Pairs, follow_ups: Iterable[FollowUp] = ()
) -> tuple[AuditEvent, ...]:
    """Read an entry of an audit stream: the events of its commands, as its *sequels* have them."""
    fields = dict(pairs)
    follow_ups = list(follow_ups)
    errors = {item: error for follow_up in follow_ups for item, error in follow_up.errors.items()}
    afters = next((follow_up.after for follow_up in follow_ups if follow_up.after), ())
    changes = tuple(_changes(pairs, afters)) if b"before" in fields else ()
    policy, _, cost = fields.get(b"policy", b"").partition(b" ")
    common: dict[str, Any] = {
        "id": entry_id.decode(),
        "time_ms": _time_ms(entry_id),
        "identity": identity,
        "token": _text(fields.get(b"token", b"")),
        "correlation": _text(fields.get(b"correlation", b"")),
        "policy": _text(policy),
        "seq": number_of(fields.get(b"seq", b"")),
        "cost": _cost(cost),
        "actor": _text(fields.get(b"actor", b"")),
    }
    return tuple(
        AuditEvent(
            **common,
            item=command.item,
            op=_text(command.op),
            keys=command.keys,
            error=errors.get(command.item),
            changes=tuple(change for change in changes if change.key in command.keys),
            **_arguments(command.arguments),
        )
        for command in _commands(fields, pairs)
    )


def _errors(pairs: Pairs) -> Iterator[tuple[int, str]]:
    """Read the errors of an entry, each with the place of its command in a batch, or 0."""
    item = 0
    for name, value in pairs:
        if name == b"item":
            item = number_of(value)
        elif name == b"error":
            yield item, _text(value)


def denial_entry(identity: str, entry_id: bytes, pairs: Pairs) -> Denial:
    """Read an entry of a stream of denials that is not about earlier ones."""
    fields = dict(pairs)
    return Denial(
        id=entry_id.decode(),
        time_ms=_time_ms(entry_id),
        identity=identity,
        token=_text(fields.get(b"token", b"")),
        op=_text(fields.get(b"op", b"")),
        keys=_keys(fields),
        correlation=_text(fields.get(b"correlation", b"")),
        policy=_text(fields.get(b"policy", b"")),
        seq=number_of(fields.get(b"seq", b"")),
        code=_text(fields.get(b"code", b"")),
        reason=_text(fields.get(b"reason", b"")),
        # That the identity suspended itself: no call of its own.
        repeats=0 if b"until_ms" in fields else 1,
        folded=_text(fields.get(b"folded", b"")),
        until_ms=_expiry(fields.get(b"until_ms", b"")),
    )


def repeats_of(pairs: Pairs) -> Iterator[tuple[bytes, int]]:
    """Read an entry about earlier denials: the id of each, and how often it came in all."""
    for (name, of), (count_name, count) in pairwise(pairs):
        if (name, count_name) == (b"of", b"repeats"):
            yield of, number_of(count)


def number_of(value: bytes) -> int:
    """Read a number of a field; 0 if no guard wrote it so, who may be the agent himself."""
    return int(value) if _NUMBER.fullmatch(value) else 0


def split_netstrings(data: bytes) -> tuple[bytes, ...]:
    """Take `<len>:<bytes>,…` apart.

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


@dataclass(slots=True)
class _Command:
    item: int
    op: bytes
    keys: tuple[bytes, ...]
    arguments: tuple[bytes, bytes] | None = None


def _commands(fields: Fields, pairs: Pairs) -> list[_Command]:
    """The one command of an event, or a batch's: `SET` → a key, `MSET:2` → two netstrings."""
    if b"op" in fields:
        arguments = next((pair for pair in pairs if pair[0] in _ARGUMENTS), None)
        return [_Command(0, fields[b"op"], _keys(fields), arguments)]
    found: list[_Command] = []
    for name, value in pairs:
        if name in _ARGUMENTS and found:
            found[-1].arguments = (name, value)
        elif not name[:1].islower():
            op, colon, _count = name.partition(b":")
            keys = _split(value) if colon else (value,) if value else ()
            found.append(_Command(len(found) + 1, op, keys))
    return found


def _arguments(pair: tuple[bytes, bytes] | None) -> dict[str, Any]:
    match pair:
        case (b"lengths", value):
            return {
                "lengths": tuple(number_of(item) for item in value.split(b",") if item.isdigit())
            }
        case (b"args_sha1", value):
            return {"args_sha1": _text(value)}
        case (b"args", value):
            return {"args": _split(value) if value else ()}
        case _:
            return {}


def _changes(pairs: Pairs, afters: Sequence[tuple[str, int | None]]) -> Iterator[KeyChange]:
    """What stands from each `before` to the next, with the digests of a later entry."""
    held: list[tuple[bytes, dict[bytes, bytes]]] = []
    for name, value in pairs:
        if name == b"before":
            held.append((value, {}))
        elif held and name in {b"expires", b"value", b"image"}:
            held[-1][1][name] = value
    for place, (key, fields) in enumerate(held):
        after, after_expires_ms = afters[place] if place < len(afters) else (None, None)
        expires = fields.get(b"expires", b"absent")
        text, dump = fields.get(b"value"), fields.get(b"image")
        if expires == b"large":
            yield KeyChange(key, None, number_of(text or dump or b""), after, after_expires_ms)
        elif expires == b"absent":
            yield KeyChange(key, BeforeImage(), 0, after, after_expires_ms)
        else:
            yield KeyChange(
                key, BeforeImage(text, dump, _expiry(expires)), 0, after, after_expires_ms
            )


@lru_cache(maxsize=1024)
def _cost(data: bytes) -> Mapping[Counter, int]:
    requests, *others = data.split(b",")
    counted = {Counter.REQUESTS: requests} | {
        _COSTS[other[-1:]]: other[:-1] for other in others if other[-1:] in _COSTS
    }
    return {counter: number_of(count) for counter, count in counted.items() if count.isdigit()}


def _expiry(value: bytes) -> int | None:
    return number_of(value) if value.isdigit() else None


def _keys(fields: Fields) -> tuple[bytes, ...]:
    if b"keys" in fields:
        return _split(fields[b"keys"])
    key = fields.get(b"key", b"")
    return (key,) if key else ()


def _split(data: bytes) -> tuple[bytes, ...]:
    try:
        return split_netstrings(data)
    except ValueError:
        # Not a guard's work. Shown as it is, rather than hidden or in the way of the rest.
        return (data,)


def _time_ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
