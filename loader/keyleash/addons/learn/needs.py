"""Needs of an identity, by its recorded calls: rules with their support, and limits."""

from __future__ import annotations

from collections import Counter as Counts
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from keyleash.addons.learn.calls import Coverage, RecordedCall
from keyleash.addons.learn.patterns import COMMENTED_OUT, KeyTree, LearnedPattern, Need, Support
from keyleash.commands import CommandSpec, OperationClass
from keyleash.commands.keys import patterns_of
from keyleash.commands.spec import Needs, Subscribes
from keyleash.evaluate.restricted import literal_start
from keyleash.limits import Counter
from keyleash.policy.keysets import KeySet
from keyleash.policy.model import Literal
from keyleash.policy.patterns import parse_pattern
from keyleash.results import Result
from keyleash.text import without_tokens

CHANGING = {OperationClass.WRITE, OperationClass.DELETE}
_SUBSCRIBE = OperationClass.SUBSCRIBE
OF_ONE_HOST = "is named from an address that names nothing else, perhaps by another program:"
LIMITED = (Counter.REQUESTS, Counter.WRITES)
DELEGATE, RENEW, EVALSHA = "DELEGATE", "RENEW", "EVALSHA"


@dataclass(frozen=True, slots=True)
class LearnedRule(Result):
    """A pattern with classes that calls needed.

    Attributes:
        kind: The field of the grant: `keys`, `channels` or `indexes`.
        pattern: As in policies.
        only: The command that the grant names, of a module or the like; else empty.
        values: The number of values of the first capture; 0 without one.
        noun: What these are.
        is_rare: Whether it is commented out: it has too few calls, or is too wide.
        doubt: What a person has to know of the pattern.
        commands: Some commands, each with the keys of a call.
        hosts: The addresses of the clients.
    """

    kind: str
    pattern: str
    allow: Needs
    only: str
    calls: int
    last_ms: int
    values: int = 0
    noun: str = ""
    is_rare: bool = False
    doubt: str = ""
    commands: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict, repr=False)
    hosts: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class LearnedLimit(Result):
    """A limit: twice what was usual, or the most that there was.

    Attributes:
        kind: `rate`, a minute, or `budget`, a day.
        limit: What is proposed.
        usual: The 99th percentile of minutes, or the greatest day.
        most: The most within 60 seconds, or the greatest day.
    """

    kind: str
    counter: Counter
    limit: int
    usual: int
    most: int


@dataclass(frozen=True, slots=True)
class LearnedIdentity(Result):
    """The needs of one identity.

    Attributes:
        scripts: The scripts that it ran, by name or SHA-1: the calls or commands.
        left_out: What no rule allows, with the reason, and the number of its calls.
        depth: The most delegations.
        renews: Whether it renewed tokens.
    """

    name: str
    coverage: Coverage
    rules: tuple[LearnedRule, ...]
    limits: tuple[LearnedLimit, ...]
    scripts: Mapping[str, int]
    left_out: Mapping[str, int]
    depth: int = 0
    renews: bool = False

    def is_granted(self) -> bool:
        """Return whether some rule is to be granted."""
        return not all(rule.is_rare for rule in self.rules)


class _Load:
    """The counts of each minute and day, and the most within 60 seconds."""

    def __init__(self) -> None:
        self._minutes: Counts[int] = Counts()
        self._days: Counts[int] = Counts()
        self._seconds: deque[list[int]] = deque()
        self._recent = self._most = 0

    def add(self, time_ms: int, count: int) -> None:
        second = time_ms // 1000
        self._minutes[second // 60] += count
        self._days[second // 86_400] += count
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1][1] += count
        else:
            self._seconds.append([second, count])
            while self._seconds[0][0] < second - 60:
                self._recent -= self._seconds.popleft()[1]
        self._recent += count
        self._most = max(self._most, self._recent)

    def limits(self, counter: Counter) -> Iterator[LearnedLimit]:
        minutes = sorted(self._minutes.values())
        if minutes:
            usual = minutes[(len(minutes) * 99 - 1) // 100]
            limit = _rounded(max(2 * usual, self._most))
            yield LearnedLimit("rate", counter, limit, usual, self._most)
            day = max(self._days.values())
            yield LearnedLimit("budget", counter, _rounded(2 * day), day, day)


def _rounded(number: int) -> int:
    """Return a number with two digits that is not below."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


class ObservedCalls:
    """The calls of one identity."""

    def __init__(self) -> None:
        self._trees = {"keys": KeyTree(), "channels": KeyTree(), "indexes": KeyTree()}
        self._loads = {counter: _Load() for counter in LIMITED}
        self._scripts: Counts[str] = Counts()
        self._left_out: Counts[str] = Counts()
        self._depth = 0
        self._renews = False

    def add(self, call: RecordedCall) -> None:
        if call.code:
            denied = f"denied, so not learned: {without_tokens(call.command)}: {call.code}"
            self._left_out[denied] += call.count
            return
        for counter, load in self._loads.items():
            count = call.cost.get(counter)
            if count:
                load.add(call.time_ms, count)
        self._depth = max(self._depth, call.depth)
        if call.script:
            self._scripts[call.script] += 1
        spec = call.spec
        if call.command in (DELEGATE, RENEW):
            self._depth = max(self._depth, call.depth + (call.command == DELEGATE))
            self._renews |= call.command == RENEW
        elif call.command == EVALSHA:
            for key in call.keys:
                self._need("keys", key, ((), ""), call)
        elif spec is None or spec.refused is not None:
            why = (spec and spec.refused) or "keyleash does not know it"
            command = without_tokens(call.command) or '""'
            self._left_out[f"no policy allows {command}: {why}"] += 1
        else:
            self._add_needs(call, spec)

    def _add_needs(self, call: RecordedCall, spec: CommandSpec) -> None:
        if spec.channel_class is not None or spec.scans or spec.index is not None:
            kind = "keys" if spec.scans else "channels" if spec.index is None else "indexes"
            is_glob = spec.scans or spec.subscribes is Subscribes.PATTERN
            for text in call.keys:
                start = literal_start(text) if is_glob else text
                self._need(kind, start, (spec.needs, ""), call, is_open=start != text)
        else:
            only = spec.name if spec.named_only else ""
            for use in call.uses():
                self._need("keys", use.key, (use.needs, only), call)
            if spec.patterns and call.argv is None:
                self._left_out[f"{spec.name}: its patterns are not recorded: grant them"] += 1
            for pattern in patterns_of(spec, call.argv or ()) if spec.patterns else ():
                # Guards require a grant of all keys that begin so.
                start, star, _ = pattern.partition(b"*")
                if star:
                    self._need("keys", start, ((OperationClass.READ,), ""), call, is_open=True)

    def _need(
        self, kind: str, text: bytes, need: Need, call: RecordedCall, *, is_open: bool = False
    ) -> None:
        if text or is_open:
            self._trees[kind].add(text, need, call, is_open=is_open)
        else:
            self._left_out["no pattern names an empty key or channel"] += 1

    def learned(self, name: str, coverage: Coverage, least: int) -> LearnedIdentity:
        """Return what the calls needed; call it once, at the end."""
        rules: list[LearnedRule] = []
        for kind, tree in self._trees.items():
            patterns = sorted(tree.patterns(), key=lambda pattern: pattern.text)
            every = [rule for pattern in patterns for rule in _rules_of(kind, pattern, least)]
            rules += without_covered(every)
        hosts = Counts(host for _, host in {(x.pattern, host) for x in rules for host in x.hosts})
        # Before keyleash, any client may give itself the name of another.
        many = {host for host, count in hosts.items() if count > 1}
        rules = [
            replace(rule, doubt=f"{OF_ONE_HOST} {', '.join(sorted(rule.hosts))}")
            if many and not rule.doubt and many.isdisjoint(rule.hosts)
            else rule
            for rule in rules
        ]
        limits = [item for counter, load in self._loads.items() for item in load.limits(counter)]
        shown = (self._scripts, self._left_out, self._depth, self._renews)
        return LearnedIdentity(name, coverage, tuple(rules), tuple(limits), *shown)


def _rules_of(kind: str, pattern: LearnedPattern, least: int) -> Iterator[LearnedRule]:
    """Yield the rules of a pattern: one of classes with enough calls, and each of the others."""
    by_command: dict[str, dict[Needs, Support]] = defaultdict(dict)
    for (needs, only), support in pattern.needs.items():
        by_command[only][needs] = support
    for only, supports in by_command.items():
        calls: Counts[OperationClass] = Counts()
        for needs, support in supports.items():
            # Any grant is enough for a call without a class.
            for cls in needs or ((OperationClass.READ,) if not any(supports) else ()):
                calls[cls] += support.calls
        is_left_out = pattern.doubt in COMMENTED_OUT
        # One call begins a subscription, which may last for as long as the process.
        rare = {x for x in calls if is_left_out or (calls[x] < least and x is not _SUBSCRIBE)}
        groups = [[cls for cls in OperationClass if cls in calls.keys() - rare]]
        groups += [[cls] for cls in OperationClass if cls in rare]
        for allow in groups:
            is_rare, shown = not rare.isdisjoint(allow), Support()
            for needs, support in supports.items():
                is_of_any = not needs and not (is_rare and any(supports))
                if is_of_any or not {*needs}.isdisjoint(allow):
                    shown.add(support)
            if allow:
                about = (pattern.values, pattern.noun, is_rare, pattern.doubt)
                facts = (only, shown.calls, shown.last_ms, *about, shown.commands)
                yield LearnedRule(kind, pattern.text, tuple(allow), *facts, frozenset(shown.hosts))


def without_covered(rules: list[LearnedRule]) -> list[LearnedRule]:
    """Return rules without those that another one allows, whose calls it then has."""
    parsed = [parse_pattern(rule.pattern) for rule in rules]
    wide = {
        place: KeySet([pattern])
        for place, pattern in enumerate(parsed)
        if not rules[place].is_rare and not all(isinstance(part, Literal) for part in pattern.parts)
    }
    dropped = set()
    for place, rule in enumerate(rules):
        over = next(
            (
                other
                for other, keys in wide.items()
                if other != place
                and other not in dropped
                and (rules[other].kind, rules[other].only) == (rule.kind, rule.only)
                and {*rule.allow} <= {*rules[other].allow}
                and keys.covers(parsed[place])
            ),
            None,
        )
        if over is not None:
            dropped.add(place)
            rules[over] = replace(rules[over], calls=rules[over].calls + rule.calls)
    return [rule for place, rule in enumerate(rules) if place not in dropped]
