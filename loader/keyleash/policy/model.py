"""The policy as plain data, with the places of its parts in the file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from keyleash.commands import CHANNEL_CLASSES, CommandSpec, OperationClass, load_table
from keyleash.commands.work import (
    DEFAULT_ELEMENT_BYTES,
    DEFAULT_KEY_BYTES,
    DEFAULT_STRINGS,
    DEFAULT_VALUE_BYTES,
    DEFAULT_WORK,
)
from keyleash.errors import Problem, Span
from keyleash.limits import Budget, Limit, Rate
from keyleash.policy.lua import Sandboxed
from keyleash.policy.quantities import MAX_VALUE_BYTES, format_expiry
from keyleash.policy.settings import (
    choice,
    count,
    duration,
    flag,
    images,
    patterns,
    retention,
    size,
    wait,
)

MAX_LEASE_S = 300
"""The longest life of a token's lease at a node of a cluster."""


@dataclass(frozen=True, slots=True)
class Literal:
    """Literal bytes of a key."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Capture:
    """`{name}`: a non-empty run of bytes without `:`."""

    name: str


@dataclass(frozen=True, slots=True)
class AnySuffix:
    """A final `*`: any bytes, or none."""


PatternPart = Literal | Capture | AnySuffix


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of keys or channels: `source` as written, `parts` with adjacent literals joined.

    Each `:`-separated segment has at most one capture, and the segment of the final `*` has
    none, so matching takes time linear in the text. Searches of an index return documents alone
    whose fields have the values of `where`, of which `{name}` is the binding of the token.
    """

    source: str
    parts: tuple[PatternPart, ...]
    span: Span | None = field(default=None, compare=False, repr=False)
    where: tuple[tuple[str, str], ...] = ()

    @property
    def captures(self) -> tuple[str, ...]:
        """Names of the captures, in order."""
        names = (part.name for part in self.parts if isinstance(part, Capture))
        values = (name for _, value in self.where if (name := capture_in(value)))
        return (*dict.fromkeys((*names, *values)),) if self.where else tuple(names)

    @property
    def glob(self) -> bytes:
        """The MATCH of SCAN that lists its keys, and perhaps others."""
        return b"".join(x.text if isinstance(x, Literal) else b"*" for x in self.parts)


def filter_text(where: Iterable[tuple[str, str]]) -> str:
    """Return the text that the source of an index has after its name; empty without a filter."""
    pairs = ", ".join(map("=".join, where))
    return f" where {pairs}" if pairs else ""


def filtered_index(pattern: Pattern, where: Mapping[str, str]) -> Pattern:
    """Return a pattern of indexes with a filter of their documents."""
    pairs = tuple(where.items())
    return replace(pattern, source=pattern.source + filter_text(pairs), where=pairs)


def capture_in(value: str) -> str:
    """Return the name of the capture that a value of a filter is; empty for a literal."""
    return value[1:-1] if value.startswith("{") else ""


@dataclass(frozen=True, slots=True)
class Script:
    """An approved script.

    Attributes:
        digest: The SHA-1 by which callers name it.
        text: What the guard runs.
        source: The text that was approved; each character is a byte.
        file: Its file, as the policy names it; empty for a script of keyleash.
    """

    name: str
    digest: str
    text: Sandboxed = field(compare=False, repr=False)
    source: str = field(default="", compare=False, repr=False)
    file: str = field(default="", compare=False)
    span: Span | None = field(default=None, compare=False, repr=False)


class KeyState(StrEnum):
    """The only state of a key in which it may be written."""

    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class TtlRule:
    """The expiry of keys, in seconds; None if only the other bound is set."""

    default_s: int | None = duration(
        None,
        "1d",
        "Expiry of a written key that has none; without it, `max`.",
        because="keys that live on need no rule",
    )
    max_s: int | None = duration(
        None, "7d", "Longest expiry.", because="keys that live on need no rule"
    )

    @property
    def forced_s(self) -> int:
        """The expiry of a key for which a call sets none."""
        return self.default_s or self.max_s or 0


@dataclass(frozen=True, slots=True)
class ValueRules:
    """
    The rules for values that a call may leave under the keys of a grant.

    Of several grants that match a key, the strictest value of each rule applies.

    Attributes:
        max_bytes: The longest string, and the longest element; None for the defaults of both.
    """

    max_bytes: int | None = size(
        None,
        "64kb",
        "The longest string or element that a call may make.",
        bounds=(1, MAX_VALUE_BYTES),
        otherwise=DEFAULT_VALUE_BYTES,
    )
    max_elements: int | None = count(
        None, "1000", "The most elements of a collection.", bounds=(1, 1_000_000_000)
    )
    ttl: TtlRule | None = None
    only: KeyState | None = choice(  # noqa: RUF009
        None, "absent", "The only state of a key in which it may be written.", choices=KeyState
    )

    def allows_more_than(self, other: ValueRules) -> bool:
        """Return whether some rule allows values that the same rule of *other* denies."""
        pairs = zip(self._bounds, other._bounds, strict=True)
        return any(own > theirs for own, theirs in pairs)

    def describe(self) -> Iterator[str]:
        """Yield each rule but `max_bytes` in words, such as `at most 1000 elements`."""
        if self.max_elements is not None:
            yield f"at most {self.max_elements} elements"
        if self.ttl is not None:
            most = "" if self.ttl.max_s is None else f", at most {format_expiry(self.ttl.max_s)}"
            yield f"keys expire after {format_expiry(self.ttl.forced_s)} by default{most}"
        if self.only is not None:
            yield f"only {self.only} keys are written"

    @property
    def _bounds(self) -> tuple[float, ...]:
        ttl = self.ttl or TtlRule()
        return (
            self.max_bytes or DEFAULT_VALUE_BYTES,
            self.max_bytes or DEFAULT_ELEMENT_BYTES,
            self.max_elements or math.inf,
            ttl.forced_s or math.inf,
            ttl.max_s or math.inf,
            self.only is None,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """Allows operation classes on keys, and `publish` and `subscribe` on channels.

    Attributes:
        allow: In the order of `OperationClass`.
        keys: Empty if the grant allows classes of channels only.
        only: The only commands that the grant applies to; None for all. Entries are command
            names in upper case, where a container such as `XGROUP` includes all of its
            sub-commands, or ACL categories with their `@` in lower case.
        except_: Commands that the grant does not apply to.
        channels: Empty if the grant allows no class of channels.
        indexes: Search indexes that `read`, `write` and `delete` apply to.
        image_bytes: `AuditRules.image_bytes` for the grant's keys; None for the identity's.
        values: The rules for values under the grant's keys.
        scripts: The approved scripts.
    """

    allow: tuple[OperationClass, ...]
    keys: tuple[Pattern, ...]
    only: tuple[str, ...] | None = None
    except_: tuple[str, ...] = ()
    channels: tuple[Pattern, ...] = ()
    indexes: tuple[Pattern, ...] = ()
    image_bytes: int | None = None
    values: ValueRules = ValueRules()
    scripts: tuple[Script, ...] = ()
    span: Span | None = field(default=None, compare=False, repr=False)

    def applies_to(self, spec: CommandSpec) -> bool:
        """Return whether the grant admits a command, and has what it needs besides keys."""
        if spec.index is not None and not self.indexes:
            return False
        return self.admits(spec)

    def admits(self, spec: CommandSpec) -> bool:
        """Return whether `only` and `except` include a command, and it has channels to count."""
        if spec.counts and CHANNEL_CLASSES.isdisjoint(self.allow):
            return False
        names = {spec.name, spec.name.partition(" ")[0]}
        if spec.named_only and names.isdisjoint(self.only or ()):
            return False
        names.update(spec.categories)
        if self.only is not None and names.isdisjoint(self.only):
            return False
        return names.isdisjoint(self.except_)

    @property
    def allows_restore(self) -> bool:
        """True if the grant allows RESTORE on its keys."""
        spec = load_table().commands["RESTORE"]
        return self.applies_to(spec) and set(spec.needs) <= set(self.allow)


@dataclass(frozen=True, slots=True)
class Deny:
    """Denies keys, whatever grants allow."""

    keys: tuple[Pattern, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


class Flush(StrEnum):
    """The effect of FLUSHDB and FLUSHALL."""

    NONE = "none"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class TokenRules:
    """
    The lifetimes of an identity's tokens, in seconds.

    Attributes:
        spans: Places of the fields that the identity sets itself, by name in the file.
    """

    ttl_s: int = duration(
        12 * 3600, "12h", "Lifetime of a token that is issued without `--ttl`.", widens=True
    )
    max_ttl_s: int = duration(3 * 86400, "3d", "Longest lifetime of a token.", widens=True)
    rotate_after_s: int | None = duration(None, "7d", "Age at which a token is due for rotation.")
    idle_s: int | None = duration(
        None, "15m", "Time without a call after which a token expires.", widens=True
    )
    bound: bool = flag(
        False,
        "true",
        "Whether tokens may have restrictions of their own, such as a binding to one job.",
        narrows=True,
    )
    renew: bool = flag(
        False,
        "true",
        "Whether agents may renew their tokens, up to `max_ttl` after the issue.",
        widens=True,
    )
    publish_grants: bool = flag(
        True, "false", "Whether the holder of a token can read what the identity may do."
    )
    flush: Flush = choice(  # noqa: RUF009
        Flush.NONE,
        "own",
        "Whether FLUSHDB deletes the keys of grants with `scan` and `delete`, or is denied.",
        choices=Flush,
        widens=True,
    )
    spans: Mapping[str, Span] = field(default_factory=dict, compare=False, repr=False)


class Values(StrEnum):
    """The form in which events record arguments that are not keys."""

    NONE = "none"
    LENGTH = "length"
    DIGEST = "digest"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class AuditRules:
    """
    The content of an identity's audit stream, and its retention.

    Attributes:
        retain: Number of events to keep; None if `retain_s` or `hard_max` decides.
        retain_s: Seconds to keep events for, instead.
        hard_max: Instead: events are stored until they are exported, and a write is denied
            while this number of events waits for export.
        image_bytes: Longest before-image of a key; 0 records none.
    """

    retain: int | None = retention(
        100_000,
        "100000",
        "Retention of events: a count, a duration, or until they are exported.",
        bounds=(1, 10**9),
    )
    retain_s: int | None = duration(None, part_of="retain")
    hard_max: int | None = count(None, "1000000", bounds=(1, 10**9), widens=True, part_of="retain")
    reads: bool = flag(False, "true", "Whether to record commands that only read.")
    source: bool = flag(
        False, "true", "Whether to record where calls come from: address and client certificate."
    )
    values: Values = choice(  # noqa: RUF009
        Values.NONE, "none", "What to record of arguments that are not keys.", choices=Values
    )
    mask_keys: tuple[Pattern, ...] = patterns(
        (), '["agents:secrets:*"]', "Keys to record as a prefix and a digest."
    )
    image_bytes: int = images(
        0,
        "{max_bytes: 64kb}",
        "Largest value to record before a change, so that it can be undone.",
        key="before_images",
    )


@dataclass(frozen=True, slots=True)
class Durability:
    """The replicas that must acknowledge a write before the client reports it."""

    wait_replicas: int = count(
        0,
        "1",
        "Number of replicas that must acknowledge a write; 0 disables waiting.",
        bounds=(0, 100),
    )
    timeout_ms: int = wait(50, "50ms", "Longest wait for the replicas.")


@dataclass(frozen=True, slots=True)
class ClusterRules:
    """The leases of an identity on a cluster; one server has none.

    Attributes:
        span: The place of `lease`, of the identity or the defaults; None if neither sets it.
    """

    lease_s: int = duration(
        10,
        "10s",
        "Time for which a node of a cluster accepts a token without asking the home.",
        bounds=(1, MAX_LEASE_S),
        because="a revoked token works as long at a node that is out of reach",
        widens=True,
    )
    span: Span | None = field(default=None, compare=False, repr=False)


MAX_DEPTH = 8
"""The most delegations from an issued token to the last child."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """The child tokens that tokens of an identity may make."""

    depth: int = count(
        0,
        "2",
        "Most delegations from an issued token to the last child; 0 allows none.",
        bounds=(0, MAX_DEPTH),
        widens=True,
    )
    children: int = count(
        20, "20", "Most children of one token that have not expired.", bounds=(1, 1000), widens=True
    )
    max_ttl_s: int = duration(
        3600, "1h", "Longest lifetime of a child; it never outlives its parent.", widens=True
    )


@dataclass(frozen=True, slots=True)
class Breaker:
    """
    The denials after which an identity is suspended.

    Attributes:
        period: The sliding window: `second`, `minute`, `hour` or `day`.
    """

    threshold: int
    period: str
    suspend_s: int

    @property
    def reason(self) -> str:
        """The reason in denials and records."""
        return f"on_denials: {self.threshold}/{self.period}"


DEFAULT_MAX_REPLY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Idempotency:
    """
    The memory of calls with an idempotency id.

    Attributes:
        keep_s: The time for which a call and its reply are remembered.
        max_reply_bytes: The longest reply that is stored, in bytes of MessagePack.
        span: The place of the field; None if the defaults set it.
    """

    keep_s: int
    max_reply_bytes: int = DEFAULT_MAX_REPLY_BYTES
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A lint finding, by its code, that was reviewed and accepted."""

    code: str
    reason: str
    span: Span | None = field(default=None, compare=False, repr=False)


class IdentityKind(StrEnum):
    """The holder of the identity's tokens; the two never share an identity."""

    MACHINE = "machine"
    HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity with the document's defaults already applied.

    Attributes:
        accepted: Accepted lint findings; they do not affect access.
    """

    name: str
    kind: IdentityKind
    grants: tuple[Grant, ...]
    deny: tuple[Deny, ...] = ()
    rates: tuple[Rate, ...] = ()
    budgets: tuple[Budget, ...] = ()
    token: TokenRules = TokenRules()
    audit: AuditRules = AuditRules()
    durability: Durability = Durability()
    cluster: ClusterRules = ClusterRules()
    delegate: Delegation = Delegation()
    on_denials: Breaker | None = None
    idempotency: Idempotency | None = None
    work: int = count(
        DEFAULT_WORK,
        "250000",
        "Most units of work for one call or batch; a unit is about 0.1 µs of server time.",
        bounds=(1_000, 1_000_000_000),
        widens=True,
    )
    strings: int = count(
        DEFAULT_STRINGS,
        "10000",
        "Most strings that one call or batch reads; their hashes may all be equal.",
        bounds=(100, 1_000_000_000),
        widens=True,
    )
    search_ms: int = wait(
        20, "20ms", "Time after which a search returns what it has found.", widens=True
    )
    key_bytes: int = size(
        DEFAULT_KEY_BYTES,
        "1kb",
        "Longest name of a key, channel or search index.",
        bounds=(1, MAX_VALUE_BYTES),
        widens=True,
    )
    accepted: tuple[Acceptance, ...] = field(default=(), compare=False, repr=False)
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Rates, then budgets, in the order in which a guard checks them."""
        return (*self.rates, *self.budgets)

    @property
    def granted_keys(self) -> tuple[Pattern, ...]:
        """The key patterns of all grants, in their order."""
        return tuple(key for grant in self.grants for key in grant.keys)

    @property
    def denied_keys(self) -> tuple[Pattern, ...]:
        """The patterns of all deny rules, in their order."""
        return tuple(key for deny in self.deny for key in deny.keys)

    @property
    def string_units(self) -> float:
        """The units of work of a string, so that `work` bounds strings too.

        A hundred more leave room for the words of the call and for the estimate itself.
        """
        return float(f"{self.work / (self.strings + 100):.4g}")

    @property
    def filters_indexes(self) -> bool:
        """Return whether some search returns documents that no grant covers."""
        return any(index.where for grant in self.grants for index in grant.indexes)

    @property
    def scripts(self) -> tuple[Script, ...]:
        """The approved scripts of all grants, each once."""
        scripts = (script for grant in self.grants for script in grant.scripts)
        return tuple({script.digest: script for script in scripts}.values())


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole, valid policy document.

    Attributes:
        warnings: Rules without effect, on the target server or on any, in file order.
        tests: The test files whose invariants it keeps, and their places.
    """

    identities: tuple[Identity, ...]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    tests: tuple[tuple[str, Span], ...] = field(default=(), compare=False)

    def identity(self, name: str) -> Identity | None:
        """Return the identity of that name, or None."""
        return next((item for item in self.identities if item.name == name), None)
