"""Find rules of a policy that no recorded call needed, and write the policy without them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain

from keyleash.addons.learn.backtest import REMEMBERED, depends, masked_start, shapes
from keyleash.addons.learn.calls import COUNTERS, CallLog, Coverage, NotUnderstood, RecordedCall
from keyleash.commands import CHANNEL_CLASSES, CommandSpec, OperationClass, known_table
from keyleash.commands.facts import SCRIPT_CALLS
from keyleash.commands.keys import patterns_of
from keyleash.errors import OperationError, PolicyError, Span
from keyleash.evaluate.access import (
    grants_of_channel,
    grants_of_glob,
    grants_of_keys_from,
    look_up,
    matches,
    matches_of,
)
from keyleash.evaluate.evaluate import take_limits
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import LimitStep, Match, Trace
from keyleash.limits import Counter
from keyleash.policy import Grant, Identity, Policy, parse_policy
from keyleash.policy.diff.compare import PolicyDiff, diff_policies
from keyleash.policy.model import ValueRules
from keyleash.policy.patterns import is_open
from keyleash.policy.problems import Problems
from keyleash.policy.removal import Removal, without
from keyleash.policy.yaml import YamlNode, read_document
from keyleash.results import Result
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.text import clock_time

HALF = 0.5
_SUBSCRIBE = OperationClass.SUBSCRIBE
_OLDER = "a subscription may be older than the log"
_READS = {OperationClass.READ, OperationClass.SCAN, _SUBSCRIBE}
"""Classes with a command that is recorded as reads are, such as PUBSUB NUMSUB."""
_OF_KEYS = {*OperationClass} - CHANNEL_CLASSES
_DENIED = "its calls were denied"
_POLLS = "polls without a result are not recorded"
_MASKED = "masked keys"
_OPEN = "SORT or an index may have needed it"
_FIELDS = ("keys", "channels", "indexes")


class RuleKind(StrEnum):
    """The kind of a rule that may be unused."""

    IDENTITY = "identity"
    PATTERN = "pattern"
    CLASS = "class"
    SCRIPT = "script"
    LIMIT = "limit"
    TOKEN = "token"


@dataclass(frozen=True, slots=True)
class UnusedRule(Result):
    """A rule that no recorded call needed.

    Attributes:
        rule: The pattern, class, script, limit or token.
        grant: The number of its grant, from 1; 0 for others.
        span: Its place in the policy, if it has one.
        since_ms: From when on it was there, and the log has no call of it.
        undecided: Why that does not show that it is unused; empty if it does.
    """

    identity: str
    kind: RuleKind
    rule: str
    grant: int = 0
    since_ms: int | None = None
    undecided: str = ""
    span: Span | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Unused(Result):
    """The rules of a policy that no recorded call used.

    Attributes:
        source: The log, in words.
        rules: What is unused, or undecided.
        coverage: What the log speaks for.
        not_understood: Lines of the source that were left out.
        document: The policy without what is unused; limits and tokens stay.
        diff: What that narrows.
    """

    source: str
    rules: tuple[UnusedRule, ...]
    coverage: tuple[Coverage, ...]
    not_understood: NotUnderstood
    document: str = field(repr=False)
    diff: PolicyDiff = field(repr=False)


@dataclass(slots=True)
class _Use:
    """The rules that calls of an identity used: patterns and classes by grant, shares of limits."""

    identity: Identity
    calls: int = 0
    used: set[tuple[int, str, str, str]] = field(default_factory=set)
    open: set[tuple[int, OperationClass | None]] = field(default_factory=set)
    scripts: set[str] = field(default_factory=set)
    shares: dict[str, float] = field(default_factory=dict)
    state: ModelState = field(default_factory=ModelState)
    seen: set[object] = field(default_factory=set)
    masked: dict[bytes, set[OperationClass]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    shape: Callable[[bytes], object] = field(init=False)

    def __post_init__(self) -> None:
        self.shape = shapes(self.identity.granted_keys)

    def add(self, call: RecordedCall) -> None:
        """Add a call."""
        if call.code:
            self.shares[call.reason] = 1.0
            self.denied.add(call.token_id)
            return
        self.calls += 1
        self.scripts.add(call.script)
        # Commands without a class need any, and of others the log does not say more.
        needs = {cls for use in call.uses() for cls in use.needs} or {*OperationClass}
        for start in map(masked_start, call.keys):
            if start is not None:
                self.masked[start] = self.masked.get(start, set()) | needs
        spec = call.spec
        is_of_keys = (spec and spec.keys) or call.command in SCRIPT_CALLS
        keys = tuple(map(self.shape, call.keys)) if is_of_keys else call.keys
        at = call.command, call.is_variant, keys, call.argv if spec and spec.patterns else None
        if at not in self.seen:
            self.used.update(self._used(call))
            if len(self.seen) < REMEMBERED:
                self.seen.add(at)
        is_charged = not call.script or bool(call.cost)
        if is_charged and any(self.shares.get(x.name, 0) <= HALF for x in self.identity.limits):
            self._take(call)

    def _used(self, call: RecordedCall) -> Iterator[tuple[int, str, str, str]]:
        """Yield grant, field, pattern and class for everything that allowed a call."""
        spec, numbers = call.spec, {id(x): at for at, x in enumerate(self.identity.grants)}
        grants = look_up(self.identity, known_table(), call.command.encode().split(b" ")).grants
        found: list[tuple[str, Iterable[Match[Grant]], Sequence[OperationClass]]] = []
        if spec is None:
            return
        for name in call.keys or [b"*"] * spec.scans:
            if spec.scans:
                found.append(("keys", grants_of_glob(grants, name), [OperationClass.SCAN]))
            elif spec.channel_class is not None:
                channels = grants_of_channel(grants, spec, name)
                found.append(("channels", channels, [spec.channel_class]))
            elif spec.index is not None:
                indexes = [Match(x, y) for x in grants for y in x.indexes if matches(y, name)]
                found.append(("indexes", indexes, [spec.index]))
        self._leave_open(call, spec)
        for start, star, _ in (x.partition(b"*") for x in patterns_of(spec, call.argv or ())):
            from_start = grants_of_keys_from(grants, start) if star else ()
            found.append(("keys", from_start, [OperationClass.READ]))
        for use in call.uses():
            found.append(("keys", matches_of(grants, use.key), use.needs))
        for key in call.keys if call.command in SCRIPT_CALLS else ():
            found.append(("keys", matches_of(self.identity.grants, key), ()))
        for field_, some, needs in found:
            for match in some:
                # Any class on the key is enough for EXISTS: the first one stays.
                own = [cls for cls in match.rule.allow if cls in (needs or _OF_KEYS)]
                for cls in own if needs else own[:1]:
                    yield numbers[id(match.rule)], field_, match.pattern.source, cls

    def _leave_open(self, call: RecordedCall, spec: CommandSpec) -> None:
        """Note the classes that a call may have needed on keys which are not recorded."""
        indexes = [x for grant in self.identity.grants for x in grant.indexes if not x.where]
        names = call.keys if spec.index is not None else ()
        if (spec.patterns and call.argv is None) or any(
            matches(item, name) for item in indexes for name in names
        ):
            for number, grant in enumerate(self.identity.grants):
                if grant.admits(spec) and any(map(is_open, grant.keys)):
                    needed = {OperationClass.READ, spec.index}.intersection(grant.allow)
                    self.open |= {(number, cls) for cls in needed}

    def _take(self, call: RecordedCall) -> None:
        needs = [cls for cls, counter in COUNTERS.items() if call.cost.get(counter)]
        if not call.script:
            needs = [cls for use in call.uses() for cls in use.needs]
        trace: Trace = []
        now_us = call.time_ms * 1000
        take_limits(self.identity, needs, call.keys, self.state, now_us, call.token_id, trace)
        for step in trace:
            if isinstance(step, LimitStep):
                share = 1 - (step.left - 1) / step.limit.at_once
                name = step.limit.name
                self.shares[name] = max(self.shares.get(name, 0), share)


def find_unused(
    log: CallLog,
    document: str,
    file: str,
    tokens: Sequence[tuple[str, str]] = (),
    is_named: Callable[[Policy, str], bool] = lambda _policy, _name: False,
) -> Unused:
    """Find what no call of a log needed.

    Args:
        log: The calls.
        document: The policy.
        file: Its name.
        tokens: Identity and id of tokens that were never used.
        is_named: Returns whether the tests of a policy may name an identity, which then stays.

    Raises:
        PolicyError: the policy has problems.
    """
    table = known_table()
    policy = parse_policy(document, file=file, commands=None)
    uses = {identity.name: _Use(identity) for identity in policy.identities}
    for call in log:
        if call.identity in uses:
            uses[call.identity].add(call)
    named = {name for name in uses if is_named(policy, name)}
    rules = [
        rule
        for name, use in uses.items()
        for rule in _Finder(use, log).rules(is_named=name in named)
    ]
    denied = {(name, id_) for name, use in uses.items() for id_ in use.denied}
    rules += [
        UnusedRule(at[0], RuleKind.TOKEN, at[1], undecided=_DENIED if at in denied else "")
        for at in tokens
    ]
    doomed = [rule for rule in rules if not rule.undecided]
    changes = [*_removals(document, file, policy, doomed, named)]
    narrowed, after, _ = _without(document, file, [], changes)
    diff = diff_policies(policy, after, table, (CONTROL_PREFIX,))
    if diff.widens:
        raise OperationError("widens", "the policy without unused rules would allow more")
    coverage = tuple(log.covered(name) for name in uses)
    return Unused(log.name, tuple(rules), coverage, log.not_understood, narrowed, diff)


class _Finder:
    """Finds the rules of an identity that its calls did not need."""

    def __init__(self, use: _Use, log: CallLog) -> None:
        self._use, self._log, self._identity = use, log, use.identity
        self._coverage = coverage = log.covered(use.identity.name)
        reads_ms = (coverage.until_ms or 0) - (coverage.reads_since_ms or coverage.until_ms or 0)
        # A policy that did not record them may have been active meanwhile.
        is_gap = 10 * log.gaps_ms.get(use.identity.name, 0) > reads_ms
        self._has_reads = coverage.reads_since_ms is not None and not is_gap
        self._unknown = ""
        if coverage.since_ms is None:
            self._unknown = "the log has nothing about the identity"
        if log.not_understood.count:
            self._unknown = "the log lacks calls"
        self._polling = [] if log.is_capture else [*_polling(use.identity)]
        self._masked = {} if log.is_capture else use.masked
        self._older = _OLDER if log.is_capture or coverage.is_cut else ""
        scripts = {name for x in use.identity.scripts for name in (x.name, x.digest)}
        may_run = scripts and not (self._has_reads and use.scripts.isdisjoint(scripts))
        self._of_script = "it may be a key of a script" * bool(may_run and not log.is_capture)

    def rules(self, *, is_named: bool) -> Iterator[UnusedRule]:
        """Yield the rules; an identity that *is_named* by tests stays."""
        identity, use = self._identity, self._use
        if not use.calls:
            # A command without a class, such as EXISTS, is recorded as reads are.
            subscribes = any(_SUBSCRIBE in grant.allow for grant in identity.grants)
            reads = subscribes or any(x.keys or x.indexes or x.scripts for x in identity.grants)
            lost = _DENIED if use.denied else _POLLS if self._polling else self._older * subscribes
            lost = "a test names it" if is_named else lost
            at = RuleKind.IDENTITY, identity.name, 0, identity.span
            yield self._unused(*at, reads=reads, lost=lost)
            return
        for number, grant in enumerate(identity.grants, 1):
            yield from self._of_grant(number, grant)
        for limit in identity.limits:
            if use.shares.get(limit.name, 0) <= HALF and not limit.counter.is_bytes:
                reads = limit.counter in (Counter.REQUESTS, Counter.READS)
                yield self._unused(RuleKind.LIMIT, limit.name, 0, limit.span, reads=reads)

    def _of_grant(self, number: int, grant: Grant) -> Iterator[UnusedRule]:
        use, of_script = self._use, self._of_script
        mine = {(name, item, cls) for at, name, item, cls in use.used if at == number - 1}
        has_used_keys = any(name == "keys" for name, *_ in mine)
        patterns = [item for name in _FIELDS for item in getattr(grant, name)]
        masked = {x: [key for key in self._masked if depends(x, key)] for x in patterns}
        of_masked = {cls for keys in masked.values() for key in keys for cls in self._masked[key]}
        polls = {x for spec in self._polling if grant.applies_to(spec) for x in spec.needs}
        of_polls = _POLLS if not polls.isdisjoint(grant.allow) else ""
        opens = {cls for at, cls in use.open if at == number - 1}
        for name in _FIELDS:
            used = {item for field_, item, _ in mine if field_ == name}
            for item in (x for x in getattr(grant, name) if x.source not in used):
                of_open = _OPEN if opens and is_open(item) else ""
                lost = (of_script or of_polls or of_open) if name == "keys" else ""
                if name == "channels":
                    lost = self._older * (_SUBSCRIBE in grant.allow)
                lost = _MASKED if masked[item] else lost
                at = RuleKind.PATTERN, item.source, number, item.span
                reads = name != "channels" or _SUBSCRIBE in grant.allow
                yield self._unused(*at, reads=reads, lost=lost)
        for cls in grant.allow:
            if cls not in {item for *_, item in mine}:
                # The keys of a script need no class, but a grant that has one.
                lost = of_script if grant.keys and not has_used_keys else ""
                lost = lost or (_POLLS if cls in polls else _OPEN if cls in opens else "")
                lost = self._older if cls is _SUBSCRIBE else lost
                lost = _MASKED if cls in of_masked else lost
                reads = cls in _READS or bool(grant.keys and not has_used_keys)
                yield self._unused(
                    RuleKind.CLASS, str(cls), number, grant.span, reads=reads, lost=lost
                )
        run = {x.name for x in grant.scripts if not use.scripts.isdisjoint((x.name, x.digest))}
        for script in {x.name: None for x in grant.scripts if x.name not in run}:
            yield self._unused(RuleKind.SCRIPT, script, number, grant.span, reads=True)

    def _unused(
        self,
        kind: RuleKind,
        rule: str,
        number: int,
        span: Span | None,
        *,
        reads: bool,
        lost: str = "",
    ) -> UnusedRule:
        """Return a rule with what makes it undecided: first that it is young, or calls are lost.

        Args:
            reads: Whether calls that are recorded with reads alone may need it.
            lost: What else the log does not show of it; empty for nothing.
        """
        identity, since_ms = self._identity, self._coverage.since_ms
        begun_ms = since_ms
        for from_ms, policy in reversed(self._log.policies):
            old = policy.identity(identity.name) if policy else None
            if old is None or not _has(old, identity, kind, rule, number):
                begun_ms = None
            elif begun_ms is None:
                begun_ms = max(from_ms, since_ms or 0)
        if reads and begun_ms is not None:
            begun_ms = max(begun_ms, self._coverage.reads_since_ms or 0)
        late = "it is not in the active policy" if begun_ms is None else ""
        if begun_ms is not None and _is_late(begun_ms, self._coverage, self._log):
            late = f"only since {clock_time(begun_ms)}"
        unread = "reads are not recorded" if reads and not self._has_reads else ""
        why = self._unknown or late or unread or lost
        return UnusedRule(identity.name, kind, rule, number, begun_ms, why, span)


def _is_late(begun_ms: int, coverage: Coverage, log: CallLog) -> bool:
    """Return whether a rule was there for less than nine tenths of the time that is wanted."""
    starts = (log.wanted_ms, coverage.begun_ms, coverage.since_ms, begun_ms)
    wanted_ms = min(item for item in starts if item is not None)
    return 10 * (begun_ms - wanted_ms) > (coverage.until_ms or begun_ms) - wanted_ms


def _has(old: Identity, new: Identity, kind: RuleKind, rule: str, number: int) -> bool:
    """Return whether an earlier identity had a rule, with all that its grant has now."""
    if kind is RuleKind.IDENTITY:
        return old.grants == new.grants
    if kind is RuleKind.LIMIT:
        mine, theirs = ([x for x in item.limits if x.name == rule] for item in (new, old))
        return mine == theirs
    grant = new.grants[number - 1]
    classes = {rule} if kind is RuleKind.CLASS else {*grant.allow}
    names = {rule} if kind in (RuleKind.PATTERN, RuleKind.SCRIPT) else _names(grant)
    return any(
        classes <= {*x.allow}
        and names <= _names(x)
        and (x.only, x.except_) == (grant.only, grant.except_)
        for x in old.grants
    )


def _names(grant: Grant) -> set[str]:
    """Return the patterns and scripts of a grant."""
    found = {item.source for name in _FIELDS for item in getattr(grant, name)}
    return found | {script.name for script in grant.scripts}


def _polling(identity: Identity) -> Iterator[CommandSpec]:
    """Yield the commands that an identity may poll with."""
    for spec in known_table():
        grants = [grant for grant in identity.grants if spec.waits and grant.applies_to(spec)]
        if grants and {*spec.needs} <= {cls for grant in grants for cls in grant.allow}:
            yield spec


def _without(
    document: str, file: str, done: list[Removal], changes: Sequence[list[Removal]]
) -> tuple[str, Policy, list[Removal]]:
    """Return a policy without some parts, and these; what it would be invalid without stays."""
    removals = [*done, *chain.from_iterable(changes)]
    # A stored document has the texts of its scripts.
    narrowed = type(document)(without(document, removals))
    try:
        return narrowed, parse_policy(narrowed, file=file, commands=None), removals
    except PolicyError:
        half = len(changes) // 2
        if half:
            *_, done = _without(document, file, done, changes[:half])
        return _without(document, file, done, changes[half:] if half else ())


def _removals(
    document: str, file: str, policy: Policy, rules: Sequence[UnusedRule], named: set[str]
) -> Iterator[list[Removal]]:
    """Yield what removes unused identities, patterns, classes and scripts, by grant."""
    root = read_document(document, file, Problems()).fields["identities"]
    gone = {rule.identity for rule in rules if rule.kind is RuleKind.IDENTITY}
    for identity in policy.identities:
        grants = root.fields[identity.name].fields["grants"]
        counting = {limit.subject.capture for limit in identity.limits} - {None}
        empty: set[int] = set()
        parts: list[list[Removal]] = []
        for number, node in enumerate(grants.entries):
            grant = identity.grants[number]
            unused: set[object] = {
                rule.span if rule.kind is RuleKind.PATTERN else (rule.kind, rule.rule)
                for rule in rules
                if (rule.identity, rule.grant) == (identity.name, number + 1)
            }
            # Without a grant that has rules for values, others would allow more.
            if grant.values != ValueRules():
                continue
            needed: set[object] = {
                item.span for item in grant.keys if not counting.isdisjoint(item.captures)
            }
            unused -= needed
            needed |= {x.name for x in grant.scripts if (RuleKind.SCRIPT, x.name) not in unused}
            found = _of_grant(node, grant, unused, stays=bool(needed)) if unused else []
            if found is None:
                empty.add(number)
            elif found:
                parts.append(found)
        if len(empty) == len(grants.entries):
            gone.update({identity.name} - named)
        elif identity.name not in gone:
            yield from parts
            if empty:
                yield [(grants, empty)]
    if gone and len(gone) < len(root.fields):
        yield [(root, gone)]


def _of_grant(
    node: YamlNode, grant: Grant, unused: set[object], *, stays: bool
) -> list[Removal] | None:
    """Return what is removed of a grant; None if nothing of it is left."""
    kinds = {"allow": RuleKind.CLASS, "scripts": RuleKind.SCRIPT}
    removals: list[Removal] = []
    fields: set[str] = set()
    for name in ("allow", "scripts", *_FIELDS):
        entries = node.fields[name].entries if name in node.fields else ()
        items = [(kinds[name], x.source) for x in entries] if name in kinds else ()
        spans = [x.span for x in getattr(grant, name)] if name in _FIELDS else ()
        doomed = {at for at, item in enumerate(items or spans) if item in unused}
        if doomed and len(doomed) == len(entries):
            fields.add(name)
        elif doomed:
            removals.append((node.fields[name], doomed))
    if "allow" in fields or not {*_FIELDS} & (node.fields.keys() - fields):
        # Patterns that limits count by and scripts that ran stay, with the rest of their grant.
        return [] if stays else None
    return [*removals, *([(node, fields)] if fields else [])]
