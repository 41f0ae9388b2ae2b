"""The policy as plain data, with the place in the file of each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from keyleash.commands import CommandSpec, OperationClass, load_table
from keyleash.commands.work import DEFAULT_WORK
from keyleash.errors import Problem, Span
from keyleash.limits import Budget, Limit, Rate


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that stand in the key as they are."""

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

    A capture stands at most once in each `:`-separated segment, and never in the
    segment of the final `*`; so matching takes time linear in the text.
    """

    source: str
    parts: tuple[PatternPart, ...]
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def captures(self) -> tuple[str, ...]:
        """Names of the captures, in order."""
        return tuple(part.name for part in self.parts if isinstance(part, Capture))


@dataclass(frozen=True, slots=True)
class Grant:
    """Allows operation classes on keys, and `publish` on channels.

    Attributes:
        allow: In the order of `OperationClass`.
        keys: Empty if `publish` is all that the grant allows.
        only: If not None, the grant holds for these commands alone. Entries are
            command names in upper case, where a container such as `XGROUP` stands for
            all of its sub-commands, or ACL categories with their `@`, lower case.
        except_: The grant does not hold for these.
        channels: Empty if the grant does not allow `publish`.
        image_bytes: As `AuditRules.image_bytes`, for the grant's keys; None if that decides.
        value_bytes: The length that one call may give a string under the grant's keys; None if
            the grant sets none. Of several grants that match a key, the smallest counts.
    """

    allow: tuple[OperationClass, ...]
    keys: tuple[Pattern, ...]
    only: tuple[str, ...] | None = None
    except_: tuple[str, ...] = ()
    channels: tuple[Pattern, ...] = ()
    image_bytes: int | None = None
    value_bytes: int | None = None
    span: Span | None = field(default=None, compare=False, repr=False)

    def applies_to(self, spec: CommandSpec) -> bool:
        """Return whether `only` and `except` include a command."""
        names = {spec.name, spec.name.partition(" ")[0]}
        if spec.named_only and names.isdisjoint(self.only or ()):
            return False
        names.update(spec.categories)
        if self.only is not None and names.isdisjoint(self.only):
            return False
        return names.isdisjoint(self.except_)

    @property
    def allows_restore(self) -> bool:
        """Whether the grant allows RESTORE on its keys."""
        spec = load_table().commands["RESTORE"]
        return self.applies_to(spec) and set(spec.needs) <= set(self.allow)


@dataclass(frozen=True, slots=True)
class Deny:
    """Refuses keys, whatever any grant says."""

    keys: tuple[Pattern, ...]
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How long tokens live, in seconds; `rotate_after_s` and `idle_s` may be absent.

    Attributes:
        spans: Where the identity itself says so, by field of the document.
    """

    ttl_s: int = 12 * 3600
    max_ttl_s: int = 3 * 86400
    rotate_after_s: int | None = None
    idle_s: int | None = None
    spans: Mapping[str, Span] = field(default_factory=dict, compare=False, repr=False)


class Values(StrEnum):
    """What events tell of arguments that are no keys."""

    NONE = "none"
    LENGTH = "length"
    DIGEST = "digest"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class AuditRules:
    """
    What is recorded of an identity, and how long it is kept.

    Attributes:
        retain: How many events are kept; None if `retain_s` or `hard_max` says it.
        retain_s: For how many seconds they are kept, instead.
        hard_max: Instead: they are kept until they are exported, and writes are refused when
            so many are not.
        reads: Whether commands that only read are recorded too.
        values: What is recorded of arguments.
        mask_keys: Keys that are recorded as a prefix and a digest.
        image_bytes: Up to how many bytes of a key are kept as its before-image; 0 for none.
    """

    retain: int | None = 100_000
    retain_s: int | None = None
    hard_max: int | None = None
    reads: bool = False
    values: Values = Values.NONE
    mask_keys: tuple[Pattern, ...] = ()
    image_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Durability:
    """
    How many replicas must have a write before it is told as done.

    Attributes:
        wait_replicas: So many; 0 waits for none.
        timeout_ms: For so long they are waited for.
    """

    wait_replicas: int = 0
    timeout_ms: int = 50


@dataclass(frozen=True, slots=True)
class Breaker:
    """
    After how many refusals an identity suspends itself.

    Attributes:
        threshold: So many refusals,
        period: within this: `second`, `minute`, `hour` or `day`, sliding.
        suspend_s: For how long.
    """

    threshold: int
    period: str
    suspend_s: int

    @property
    def reason(self) -> str:
        """How refusals and records say why."""
        return f"on_denials: {self.threshold}/{self.period}"


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A finding of lint, by its code, that somebody has looked at and lets stand."""

    code: str
    reason: str
    span: Span | None = field(default=None, compare=False, repr=False)


class IdentityKind(StrEnum):
    """Who acts with the identity's tokens; the two never share one."""

    MACHINE = "machine"
    HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity with the document's defaults already applied.

    Attributes:
        work: How many units of work (`commands.work`) one call or batch may be.
        accepted: What lint need not say; no part of what the identity may do.
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
    on_denials: Breaker | None = None
    work: int = DEFAULT_WORK
    accepted: tuple[Acceptance, ...] = field(default=(), compare=False, repr=False)
    span: Span | None = field(default=None, compare=False, repr=False)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Rates, then budgets: the order in which a guard checks them."""
        return (*self.rates, *self.budgets)


@dataclass(frozen=True, slots=True)
class Policy:
    """A whole, valid policy document.

    Attributes:
        warnings: What has no effect, on the server that the policy was read for or on any, in
            file order.
    """

    identities: tuple[Identity, ...]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)

    def identity(self, name: str) -> Identity | None:
        """The identity of that name, or None."""
        return next((item for item in self.identities if item.name == name), None)
