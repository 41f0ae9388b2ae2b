"""What an entry of a trail says; `audit.entry` reads it, and docs/audit.md has the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyleash.errors import ReplyCode
from keyleash.policy.model import Counter

BY_COMMAND = frozenset(
    {
        ReplyCode.CLASS_NOT_GRANTED,
        ReplyCode.KEY_NOT_GRANTED,
        ReplyCode.KEY_DENIED,
        ReplyCode.VALUE_TOO_LARGE,
        ReplyCode.WORK_TOO_LARGE,
    }
)
"""Codes whose denials share an entry only with those of the same command (`record_refusal.lua`)."""
Held = tuple[str, bytes]
"""`value` and a string's bytes, or `image` and what DUMP said of any other type."""
ABSENT = "absent"
LARGE = "large"


@dataclass(frozen=True, slots=True)
class Entry:
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
class Image:
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
    def held(self) -> Held | None:
        """How its bytes are to be read, and they themselves; None if there was no such key."""
        if self.value is not None:
            return "value", self.value
        return None if self.dump is None else ("image", self.dump)


@dataclass(frozen=True, slots=True)
class Change:
    """
    What an event did to one key, if before-images are taken of it.

    Attributes:
        before: What it held; None if that was too large to be kept.
        large: So many bytes; 0 if it was kept.
        after: Digest of what it held then; `absent`, `large`, or None if it is not known.
        after_expires_ms: When that expires; None if never.
    """

    key: bytes
    before: Image | None
    large: int = 0
    after: str | None = None
    after_expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class AuditEvent(Entry):
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
    changes: tuple[Change, ...] = ()
    actor: str = ""
    is_untrusted: bool = False

    @property
    def kind(self) -> str:
        return "event"


@dataclass(frozen=True, slots=True)
class Denial(Entry):
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
class Sequel:
    """A later entry about an event: errors, by their places in a batch, and what keys hold now."""

    of: str
    errors: Mapping[int, str]
    after: tuple[tuple[str, int | None], ...] = ()
