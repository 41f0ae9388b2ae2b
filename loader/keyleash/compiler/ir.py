"""The compiler's plain data: the parts of the guard of one identity.

Each pass fills the fields that carry its name in `passes/__init__.py`; emission
decides nothing. All values are hashable, so that parts that guards have in common are cached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.spec import KeySearch, Subscribes, Waits
from keyleash.commands.writes import Writes, written_by
from keyleash.limits import Counter, Slot, SlotKind
from keyleash.limits.calendar import Run
from keyleash.limits.counters import COUNTER_KEEP_MS
from keyleash.policy.model import Identity, Values
from keyleash.store.keyspace import Keyspace
from keyleash.store.leases import DEFAULT_LEASE_US, rate_life_us
from keyleash.store.state import EMPTY_LAYOUT, Layout


@dataclass(frozen=True, slots=True)
class Usage:
    """A command that some grant could allow, and these grants.

    Attributes:
        spec: The command's row.
        grants: Indexes of the grants whose only/except lists allow the command.
        missing: The first class that none of these grants gives; None if all are given.
        admitting: Indexes of the grants whose keys an index may have, for a command of indexes.
    """

    spec: CommandSpec
    grants: tuple[int, ...]
    missing: OperationClass | None
    admitting: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Captured:
    """The captures of a pattern, which the bindings of a token are compared with.

    Attributes:
        segments: The name of each capture, an anchored Lua pattern that captures its segment, and
            whether it is a value of a filter, of which the text has no segment.
        start: The literal text before a final `*` or up to it, with each name between two bytes
            0xFF, which no pattern and no binding has.
    """

    segments: tuple[tuple[str, bytes, bool], ...]
    start: bytes


@dataclass(frozen=True, slots=True)
class Matcher:
    """A key pattern as Lua.

    Exactly one of `text` (the key equals it) and `pattern` (an anchored Lua pattern
    that finds it) is set, or neither: then every key matches. `beginning` is the literal text
    with which every key that a pattern finds begins; `source` is the pattern as the policy has it.
    `captured` is set for patterns with captures if tokens of the identity may be bound.
    """

    text: bytes | None = None
    pattern: bytes | None = None
    beginning: bytes = b""
    source: str = field(default="", compare=False)
    captured: Captured | None = None


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition on a key: some matcher of `matchers` matches it.

    Attributes:
        matchers: Those of the grants that give the needed classes.
        others: Those of the remaining grants of data: if one of these matches, the key is known but
            a class is not granted on it.
        left_out: Those of grants of data whose `only` or `except` leave the command out.
        missing: That class; None if there are neither.
    """

    missing: OperationClass | None
    matchers: tuple[Matcher, ...]
    others: tuple[Matcher, ...]
    left_out: tuple[Matcher, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """All requirements on one key."""

    id: int
    requirements: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """The globs that may be scanned for.

    Attributes:
        wholes: Of granted patterns that are all literal: the glob is one of them.
        beginnings: Of the others: the glob's literal beginning lies in one of theirs.
    """

    wholes: tuple[Matcher, ...]
    beginnings: tuple[Matcher, ...]


class FilteredIndex(NamedTuple):
    """A granted index, and the fields that its searches are filtered by.

    Attributes:
        where: Each field with its value, or with a Lua pattern that finds it in a token's record.
    """

    name: Matcher
    where: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class IndexPlan:
    """The search indexes that a command may use.

    Attributes:
        options: The options that it may have, as `facts.INDEX_OPTIONS` lists them.
        opens: The patterns that end with `*` and find each prefix of the index: those with `read`;
            and those with `delete`, if the call has one more word.
        filtered: The granted indexes with a filter.
    """

    command: str
    class_: OperationClass
    options: str
    names: tuple[Matcher, ...]
    opens: tuple[tuple[Matcher, ...], ...]
    filtered: tuple[FilteredIndex, ...] = ()

    @property
    def every_name(self) -> tuple[Matcher, ...]:
        """Return the granted indexes with and without a filter."""
        return (*self.names, *(item.name for item in self.filtered))


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for commands: the places of keys, their checks, the counters.

    Attributes:
        id: From 1; dispatch assigns it.
        first, last, step: The walk over the keys, in places of the command (its name is
            place 0, -1 the last argument); a keyless command has `last` before `first`.
        check: For the first key; 0 if there is none.
        rest: For every further key.
        counters: The counters of a call, besides requests.
        mutates: Whether it is audited.
        changes_first, changes_rest: Whether it changes its first key, and every further one.
        stored: Further counters of a call with the key of an option, which is audited.
        wide_integers: Whether arguments may ask for integers that Lua would round.
        missing: The class that no grant gives: then the rule is only this denial.
        keys: The searches for keys in the arguments; empty if the walk finds them.
        variant: The rule that takes over in some calls; 0 if none.
        variant_option: The option word in those calls; None means that all operations are GET
            (`commands.spec.Variant`).
        refused_if: Option words with which the command is denied.
        options_start: The first place that may have one.
        channel: The place of the channel; 0 if it has none.
        counts: Whether all further arguments are channels, whose subscribers it counts.
        channels: The granted channels.
        subscribes: The kind of subscription that it makes: then it is only checked and recorded.
        open_channels: The granted channels that end with `*`, for a pattern.
        scan: The allowed globs; None if the command does not scan.
        index: The allowed indexes; None if the command has none.
        waits: The condition on which it returns, if it blocks.
        weigh: The calls whose work is estimated: `always`, or if the arguments do not show that a
            `count`, a `range` (`ranked`: if no option follows) or the number of `words` is small,
            or that of `paths` (with `content`, what one selects); empty for none.
        weigh_at: The place of the number that is tested.
        weigh_over: The number of words up to which nothing is estimated.
        lengthens: The calls whose new length of a string is checked: `always`, or if the
            `argument` or one of `pairs` is long; empty for none.
        length_at: The place of that argument.
        governs: The calls whose values are checked: `always`, or to know in a `batch` which keys
            are gone; empty for none.
    """

    id: int = 0
    first: int = 1
    last: int = 0
    step: int = 1
    check: int = 0
    rest: int = 0
    counters: tuple[Counter, ...] = ()
    mutates: bool = False
    changes_first: bool = False
    changes_rest: bool = False
    stored: tuple[Counter, ...] = ()
    wide_integers: bool = False
    missing: OperationClass | None = None
    keys: tuple[KeySearch, ...] = ()
    variant: int = 0
    variant_option: str | None = None
    refused_if: tuple[str, ...] = ()
    options_start: int = 0
    channel: int = 0
    counts: bool = False
    channels: tuple[Matcher, ...] = ()
    subscribes: Subscribes | None = None
    open_channels: tuple[Matcher, ...] = ()
    scan: ScanPlan | None = None
    index: IndexPlan | None = None
    waits: Waits | None = None
    weigh: str = ""
    weigh_at: int = 0
    weigh_over: int = 0
    lengthens: str = ""
    length_at: int = 0
    governs: str = ""

    @property
    def repeats(self) -> bool:
        """Return whether calls with one key and as many words are checked in the same way."""
        return (
            (self.first, self.step, self.rest) == (1, 1, self.check)
            and self.last in (1, -1)
            and self.check > 0
            and self.missing is None
            and self.weigh in ("", "words")
            and self.lengthens in ("", "argument")
            and not self.governs
            and not (self.keys or self.wide_integers or self.refused_if)
            and not (self.channel or self.subscribes or self.scan or self.index or self.waits)
        )


@dataclass(frozen=True, slots=True)
class Branch:
    """Commands with names of one length, and the rule of each, often-used first."""

    length: int
    commands: tuple[tuple[tuple[str, ...], int], ...]


@dataclass(frozen=True, slots=True)
class Container:
    """A command whose first argument is the name of a sub-command, in any case."""

    name: str
    commands: tuple[tuple[tuple[str, ...], int], ...]


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """One limit, ready to be written out.

    Attributes:
        number: From 1; makes the limit's Lua names.
        counter: What it counts.
        slot: Its kind and numbers; for a subject other than the identity only the kind
            and the quantities matter.
        tolerance_us: GCRA's burst tolerance; of bytes, what the whole burst takes.
        at_once: The most bytes at one moment, of a counter of bytes.
        runs: A budget's windows.
        subject: `identity`, `token`, `capture`, or `cap` for what a token has of its own.
        key_prefix: The prefix of the counter's key, for tokens and captures.
        captures: Lua patterns that capture the subject, in policy order.
    """

    number: int
    counter: Counter
    slot: Slot
    tolerance_us: int = 0
    at_once: int = 0
    runs: tuple[Run, ...] = ()
    subject: str = "identity"
    key_prefix: str = ""
    captures: tuple[bytes, ...] = ()

    @property
    def full_us(self) -> int:
        """The distance of GCRA's TAT from now when all of the burst is used."""
        return int(self.tolerance_us + self.slot.interval_us)

    @property
    def is_leased(self) -> bool:
        """Return whether a cluster counts it at the home, and leases units of it to shards."""
        return self.subject != "capture"

    @property
    def has_counters(self) -> bool:
        """Return whether it has a key for each subject, in the slot where its guard runs."""
        return self.subject != "identity" and self.slot.kind is not SlotKind.CREDIT

    @property
    def keep_ms(self) -> int:
        """The time by which a counter outlives its window."""
        return 0 if self.subject == "capture" else COUNTER_KEEP_MS

    @property
    def life_us(self) -> int:
        """The time for which leased units of a rate may be used, of a burst at the least."""
        burst_us = self.tolerance_us if self.slot.kind is SlotKind.GCRA else None
        return rate_life_us(self.slot.period_us, burst_us, took_us=1)


@dataclass(frozen=True, slots=True)
class ByteBound:
    """The most bytes of a before-image (0 for none), or of a string, for the matched keys."""

    matchers: tuple[Matcher, ...]
    max_bytes: int


@dataclass(frozen=True, slots=True)
class ValuePlan:
    """The rules for values under the matched keys; None for no rule.

    Attributes:
        max_bytes: Of elements; `ByteBound` has that of strings.
        default_ms: The expiry of a key for which a call sets none.
        max_ms: The longest expiry.
        is_absent: Whether only absent keys may be written.
    """

    matchers: tuple[Matcher, ...]
    max_bytes: int | None
    max_elements: int | None
    default_ms: int | None
    max_ms: int | None
    is_absent: bool


class Governing(NamedTuple):
    """The kinds of rules for values that a guard has."""

    bytes: bool = False
    elements: bool = False
    ttl: bool = False
    absent: bool = False

    @classmethod
    def of(cls, plans: Sequence[ValuePlan]) -> Governing:
        """Return the kinds of rules that some plan has."""
        return cls(
            any(plan.max_bytes is not None for plan in plans),
            any(plan.max_elements is not None for plan in plans),
            any(plan.default_ms is not None for plan in plans),
            any(plan.is_absent for plan in plans),
        )

    def governs(self, spec: CommandSpec) -> str:
        """Return the calls of a command whose values are checked, as `Rule.governs` has it."""
        written = written_by(spec)
        if written is None or not any(self):
            return ""
        if written.how is Writes.DELETED:
            return "batch" if self.elements or self.absent else ""
        is_every = self.ttl or self.absent
        return "always" if is_every or written.how is not Writes.NOTHING else ""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A denied pattern: how its keys begin and end."""

    beginning: bytes
    ending: bytes
    source: str


@dataclass(frozen=True, slots=True)
class PatternPlan:
    """The patterns of keys that calls may have, such as those of SORT.

    Attributes:
        commands: The names of the commands, each between commas.
        opens: The granted patterns that end with `*`: one finds the text before the `*`.
        excluded: The denied patterns that may match a key that granted ones find.
    """

    commands: str
    opens: tuple[Matcher, ...]
    excluded: tuple[Exclusion, ...]


@dataclass(frozen=True, slots=True)
class ScriptPlan:
    """An approved script, ready to be written out.

    Attributes:
        digest: The SHA-1 by which callers name it.
        code: A Lua function, which the sandbox calls.
        reads, writes, deletes: Whether limits count a call as one of that class.
        mutates: Whether it may change anything.
        only_reads: Whether its writes are errors.
    """

    name: str
    digest: str
    code: str
    reads: bool
    writes: bool
    deletes: bool
    mutates: bool
    only_reads: bool


@dataclass(frozen=True, slots=True)
class Shards:
    """The facts that the guards of a cluster are compiled with.

    Attributes:
        master_key: The key of which each identity's key is derived.
        lease_us: The time for which a shard trusts the home about a token.
        between: Whether a keyless command goes between commands on control keys and on data keys.
            Redis 8.0 otherwise looks a key of a moving slot up in the slot of the command before.
    """

    master_key: bytes = field(repr=False)
    lease_us: int = DEFAULT_LEASE_US
    between: bool = True


@dataclass(frozen=True, slots=True)
class Guard:
    """All data that a guard's text is rendered from.

    Often-used commands are in `dispatch`; all others, and all denied ones, in `rare`. `shards` is
    set for a cluster.
    """

    identity: Identity
    keyspace: Keyspace
    policy_digest: str
    calendar_year: int
    shards: Shards | None = None
    scripts: tuple[ScriptPlan, ...] = ()
    usages: tuple[Usage, ...] = ()
    matchers: tuple[tuple[Matcher, ...], ...] = ()
    denied: tuple[Matcher, ...] = ()
    denied_last: bool = False
    checks: tuple[Check, ...] = ()
    rules: tuple[Rule, ...] = ()
    assigned: tuple[tuple[str, int], ...] = ()
    dispatch: tuple[Branch, ...] = ()
    rare: tuple[Branch, ...] = ()
    containers: tuple[Container, ...] = ()
    layout: Layout = EMPTY_LAYOUT
    limits: tuple[LimitPlan, ...] = ()
    images: tuple[ByteBound, ...] = ()
    masks: tuple[Matcher, ...] = ()
    value_bounds: tuple[ByteBound, ...] = ()
    value_plans: tuple[ValuePlan, ...] = ()
    patterns: tuple[PatternPlan, ...] = ()
    index_excluded: tuple[tuple[bytes, str], ...] = ()

    @property
    def takes_runs(self) -> bool:
        """Return whether a run of commands in a batch is checked and carried out as a whole.

        Not where something is noted, changed or counted for each of its commands.
        """
        is_counted_at_once = all(
            plan.subject == "identity"
            and plan.slot.kind is not SlotKind.RING
            and not plan.counter.is_bytes
            for plan in self.limits
        )
        is_noted = self.images or self.masks or self.identity.audit.values is not Values.NONE
        return is_counted_at_once and not is_noted
