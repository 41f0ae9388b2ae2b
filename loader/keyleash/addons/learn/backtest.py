"""Decide recorded calls by another policy, with its limits replayed by time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from itertools import groupby, repeat, tee
from typing import Any, NamedTuple

from keyleash.addons.learn.calls import COUNTERS, CallLog, Coverage, NotUnderstood, RecordedCall
from keyleash.commands import CommandSpec, KeyUse, OperationClass, known_table
from keyleash.commands.facts import SCRIPT_CALLS
from keyleash.commands.spec import NumberedKeys, StreamKeys
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import (
    RuledCommand,
    grants_of_channel,
    grants_of_glob,
    judge_command,
    judge_key,
    look_up,
    matches,
    refused_argument,
)
from keyleash.evaluate.evaluate import decide, is_suspended, note_refusal, take_limits
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import KeyStep, LimitStep, Trace
from keyleash.limits import Counter
from keyleash.operator.decisions import explain_command
from keyleash.policy import Deny, Grant, Identity, Pattern, Policy
from keyleash.policy.keysets import KeySet
from keyleash.policy.model import AnySuffix, ValueRules
from keyleash.policy.patterns import beginning, keys_under
from keyleash.results import Result
from keyleash.store.keyspace import CONTROL_PREFIX
from keyleash.store.wire import declared_keys
from keyleash.text import clock_time, printable

EXAMPLES = 3
REMEMBERED = 1 << 16
"""The number of shapes of calls and of keys whose decisions are cached."""
_MASK = re.compile(rb"#[0-9a-f]{40}")
_MASK_BYTES = 41
_OF_LIMITS = {ReplyCode.RATE_LIMITED, ReplyCode.BUDGET_EXHAUSTED}
_OF_DATA = {
    ReplyCode.ARGS_TOO_MANY, ReplyCode.WORK_TOO_LARGE, ReplyCode.VALUE_TOO_LARGE,
    ReplyCode.VALUE_REFUSED, ReplyCode.SUSPENDED,
}  # fmt: skip
"""Codes that the log alone does not decide again."""
_OF_KEYS = {
    ReplyCode.CLASS_NOT_GRANTED, ReplyCode.KEY_NOT_GRANTED, ReplyCode.KEY_DENIED,
    ReplyCode.CHANNEL_NOT_GRANTED, ReplyCode.INDEX_NOT_GRANTED, ReplyCode.KEY_TOO_LONG,
}  # fmt: skip
_OF_POLICIES = {ReplyCode.COMMAND_REFUSED, *_OF_KEYS, *_OF_LIMITS, *_OF_DATA}
_OPTIONS = "options of the call"
_PATTERNS = "patterns of keys in the arguments"
_SCRIPT_KEYS = "KEYS of the script, which are not recorded"
_VALUES = "rules for values"
_BATCH = "another command of the batch is denied, perhaps alone, or undecided"


class Outcome(StrEnum):
    """The outcome of a recorded call under another policy."""

    UNCHANGED = "unchanged"
    DENIED = "allow_to_deny"
    ALLOWED = "deny_to_allow"
    UNDECIDED = "undecided"


class Ruling(NamedTuple):
    """A decision, None if the log does not say enough, and the rule that decided."""

    allowed: bool | None
    rule: str = ""


@dataclass(slots=True)
class OutcomeRow(Result):
    """The calls of an identity with one outcome by one rule.

    Attributes:
        rule: The rule that decides now, or what the log does not say.
        examples: Command lines that explain some of them.
    """

    identity: str
    outcome: Outcome
    rule: str
    calls: int = 0
    first_ms: int = 0
    last_ms: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LimitHit(Result):
    """A limit that recorded calls would have hit.

    Attributes:
        calls: The calls that it denies.
        worst: The most calls that it denies to one subject within one of its periods.
        worst_ms: When that period began.
    """

    identity: str
    limit: str
    allows: str
    calls: int = 0
    first_ms: int = 0
    last_ms: int = 0
    worst: int = 0
    worst_ms: int = 0
    periods: dict[tuple[bytes, int], int] = field(default_factory=dict, repr=False)

    def add(self, step: LimitStep, now_ms: int) -> None:
        """Count a call."""
        period_ms = step.limit.slot().period_ms
        begun = now_ms // period_ms * period_ms
        count = self.periods[step.subject, begun] = self.periods.get((step.subject, begun), 0) + 1
        if count > self.worst:
            self.worst, self.worst_ms = count, begun
        self.calls += 1
        self.first_ms, self.last_ms = self.first_ms or now_ms, now_ms


@dataclass(frozen=True, slots=True)
class Backtest(Result):
    """The changes that a policy makes to recorded calls.

    Attributes:
        file: The policy.
        source: The log, in words.
        outcomes: The number of calls by outcome.
        rows: The calls that change or are undecided, by identity and rule; most calls first.
        hits: Limits that would have been hit.
        coverage: What the log speaks for; of an identity without reads, reads are not decided.
        not_understood: Lines of the source that were left out.
        already_failing: Unchanged calls that the active policy denies or leaves undecided, too.
    """

    file: str
    source: str
    outcomes: dict[Outcome, int]
    rows: tuple[OutcomeRow, ...]
    hits: tuple[LimitHit, ...]
    coverage: tuple[Coverage, ...]
    not_understood: NotUnderstood
    already_failing: int = 0

    @property
    def undecided(self) -> float:
        """Return the share of undecided calls, in percent; 100 if there is no call."""
        total = sum(self.outcomes.values())
        return 100 * self.outcomes[Outcome.UNDECIDED] / total if total else 100.0

    @property
    def denies(self) -> bool:
        """Return whether a call that was allowed is denied."""
        return self.outcomes[Outcome.DENIED] > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `backtest --json` prints it."""
        return {**Result.to_dict(self), "denies": self.denies}


def backtest(
    log: CallLog,
    policy: Policy,
    file: str,
    before: Policy | None = None,
    since_ms: int = 0,
    is_relative: bool = False,
) -> Backtest:
    """Decide the calls of a log by *policy*.

    Args:
        log: The calls.
        policy: The policy to try.
        file: Its name.
        before: The policy that allowed the calls from *since_ms* on, if it is known.
        since_ms: When that became active.
        is_relative: Whether calls that *before* denies or leaves undecided, too, are unchanged.
    """
    rows: dict[tuple[str, Outcome, str], OutcomeRow] = {}
    outcomes = dict.fromkeys(Outcome, 0)
    replay = Replay(policy, before, since_ms, log)
    other = Replay(before, before, since_ms, log) if before and is_relative else None
    calls, again = tee(log) if other else (log, ())
    judged = other.outcomes(again) if other else repeat((None, None, None))
    already_failing, doubts = 0, (Outcome.DENIED, Outcome.UNDECIDED)
    for (call, found, ruling), (_, old, _) in zip(replay.outcomes(calls), judged, strict=False):
        is_no_worse = found in doubts and old in (found, Outcome.DENIED)
        already_failing += call.count * is_no_worse
        outcome = Outcome.UNCHANGED if is_no_worse else found
        outcomes[outcome] += call.count
        if outcome is Outcome.UNCHANGED:
            continue
        at = call.identity, outcome, ruling.rule
        row = rows.setdefault(at, OutcomeRow(*at, first_ms=call.time_ms))
        row.calls, row.last_ms = row.calls + call.count, call.time_ms
        if len(row.examples) < EXAMPLES:
            line = explain_command(call.identity, example_of(call), file)
            row.examples += [line] * (line not in row.examples)
    places = {outcome: place for place, outcome in enumerate(Outcome)}
    ordered = sorted(
        rows.values(), key=lambda row: (places[row.outcome], -row.calls, row.identity, row.rule)
    )
    coverage = tuple(item for _, item in sorted(log.coverage.items()))
    before_calls = {at: hit.calls for at, hit in (other.hits if other else {}).items()}
    hits = tuple(x for at, x in replay.hits.items() if x.calls > before_calls.get(at, 0))
    about = (coverage, log.not_understood, already_failing)
    return Backtest(file, log.name, outcomes, tuple(ordered), hits, *about)


@dataclass(slots=True)
class Replay:
    """The calls of a log in their order, under another policy; attributes as of `backtest`."""

    policy: Policy
    before: Policy | None = None
    since_ms: int = 0
    log: CallLog | None = None
    hits: dict[tuple[str, str], LimitHit] = field(default_factory=dict)
    _states: dict[str, ModelState] = field(default_factory=dict)
    _judges: dict[tuple[str, bool], _Judge | None] = field(default_factory=dict)

    def outcomes(
        self, calls: Iterable[RecordedCall]
    ) -> Iterator[tuple[RecordedCall, Outcome, Ruling]]:
        """Yield calls with their outcomes and rulings.

        The log does not say whether one denial denies a whole batch, and a denial may be undecided.
        """
        # An event and a denial, which are in two streams, may have one id.
        for _, group in groupby(calls, lambda x: (x.identity, x.event, x.token_id, x.code)):
            judged = [(call, *self.outcome(call)) for call in group]
            doubts = (Outcome.DENIED, Outcome.UNDECIDED)
            is_open = any(outcome in doubts and not call.script for call, outcome, _ in judged)
            for call, outcome, ruling in judged:
                if is_open and outcome is Outcome.UNCHANGED and not call.script:
                    yield call, Outcome.UNDECIDED, Ruling(None, _BATCH)
                else:
                    yield call, outcome, ruling

    def outcome(self, call: RecordedCall) -> tuple[Outcome, Ruling]:
        """Return the outcome of the next call, and the ruling."""
        name, is_known = call.identity, call.time_ms >= self.since_ms
        if (name, is_known) not in self._judges:
            identity = self.policy.identity(name)
            old = self.before.identity(name) if self.before and is_known else None
            state = self._states.setdefault(name, ModelState())
            judge = None if identity is None else _Judge(identity, old, state, self)
            self._judges[name, is_known] = judge
        judge = self._judges[name, is_known]
        ruling = judge.ruling(call) if judge else Ruling(False, "the policy has no such identity")
        if ruling.allowed is None:
            return Outcome.UNDECIDED, ruling
        if ruling.allowed is not bool(call.code):
            return Outcome.UNCHANGED, ruling
        return Outcome.ALLOWED if ruling.allowed else Outcome.DENIED, ruling


def example_of(call: RecordedCall) -> Sequence[bytes]:
    """Return a call like a recorded one; words but its keys are made up, as by `placed_call`."""
    if call.command not in SCRIPT_CALLS:
        words = (*call.command.encode().split(b" "), *call.keys)
        least = abs(call.spec.arity) if call.spec else 0
        return placed_call(call.command, call.keys) or (*words, *[b"1"] * (least - len(words)))
    script, is_digest = call.script.encode(), call.argv is not None
    head = (b"EVALSHA", script, b"%d" % len(call.keys)) if is_digest else (b"SCRIPT", script)
    return (*head, *call.keys)


def placed_call(command: str, keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return a call of a command with keys, and 1 for others, which may be secrets; or nothing."""
    spec = known_table().get(command)
    words = tuple(command.encode().split(b" "))
    if spec is None:
        return ()
    if spec.scans:
        return (*words, b"0", b"MATCH", *keys)
    if spec.keys and isinstance(spec.keys[-1], NumberedKeys):
        heads, rest = keys[: len(spec.keys) - 1], keys[len(spec.keys) - 1 :]
        return (*words, *heads, b"%d" % len(rest), *rest)
    if spec.keys and isinstance(spec.keys[-1], StreamKeys):
        group = (b"GROUP", b"1", b"1") if command.endswith("GROUP") else ()
        return (*words, *group, b"STREAMS", *keys, *[b"0"] * len(keys))
    if spec.channel is None and (spec.walk is None or spec.index is not None):
        return ()
    first, last, step = spec.walk or (spec.channel or 1, spec.channel or 1, 1)
    placed = [word for key in keys for word in (key, *[b"1"] * (step - 1))]
    behind = [b"1"] * max(-1 - last if last < 0 and step == 1 else 0, 0)
    call = [*words, *[b"1"] * (first - len(words)), *placed, *behind]
    return (*call, *[b"1"] * (abs(spec.arity) - len(call)))


def masked_start(key: bytes) -> bytes | None:
    """Return the visible beginning of a key that is perhaps masked; None if it is not."""
    return key[:-_MASK_BYTES] if _MASK.fullmatch(key[-_MASK_BYTES:]) else None


def depends(pattern: Pattern, shown: bytes) -> bool:
    """Return whether a pattern matches some keys that begin with *shown*, and not all."""
    start = beginning(pattern)
    if shown.startswith(start):
        return pattern.parts[-1] != AnySuffix() or len(pattern.parts) > 1 + bool(start)
    return start.startswith(shown)


def shapes(patterns: Iterable[Pattern]) -> Callable[[bytes], tuple[int, ...]]:
    """Return a function that returns which of some patterns match a key."""
    distinct = {pattern.parts: pattern for pattern in patterns}.values()
    # Most keys are distinct, and most patterns begin otherwise.
    starts = [(at, beginning(pattern), pattern) for at, pattern in enumerate(distinct)]

    @lru_cache(REMEMBERED)
    def shape(key: bytes) -> tuple[int, ...]:
        return tuple(at for at, text, x in starts if key.startswith(text) and matches(x, key))

    return shape


class _Judge:
    """Decides the calls of one identity.

    Args:
        identity: Of the policy that is tried.
        before: Of the policy that decided the calls; None if it is not known.
        state: Its counts.
        replay: Has the log, and receives limits that deny calls.
    """

    def __init__(
        self, identity: Identity, before: Identity | None, state: ModelState, replay: Replay
    ) -> None:
        self._identity, self._state, self._hits = identity, state, replay.hits
        self._base = before or Identity(identity.name, identity.kind, ())
        self._unlimited = replace(identity, rates=(), budgets=(), on_denials=None)
        self._is_same = (self._base.grants, self._base.deny) == (identity.grants, identity.deny)
        keys, denied = KeySet(identity.granted_keys), KeySet(self._base.denied_keys)
        self._log = replay.log
        self._has_script_keys = bool(replay.log and replay.log.is_capture) or (
            before is not None
            and all(map(keys.covers, before.granted_keys))
            and all(map(denied.covers, identity.denied_keys))
        )
        rules: tuple[Grant | Deny, ...] = (*identity.grants, *identity.deny, *self._base.grants)
        control = keys_under(CONTROL_PREFIX.encode())
        self._patterns = [control, *(key for rule in rules for key in rule.keys)]
        self._matching = shapes(self._patterns)
        self._rulings: dict[object, Ruling] = {}

    def _shape(self, key: bytes) -> object:
        """Return what decides about a key; None if it is masked, and what is shown does not."""
        shown = None if self._log and self._log.is_capture else masked_start(key)
        if shown is not None and any(depends(item, shown) for item in self._patterns):
            return None
        return self._matching(key)

    def ruling(self, call: RecordedCall) -> Ruling:
        """Return the decision on a call, and charge it to the limits."""
        now_us, breaker, code = call.time_ms * 1000, self._identity.on_denials, call.code
        if is_suspended(self._state, now_us):
            return Ruling(False, self._state.reason)
        if code and code not in _OF_POLICIES:
            return Ruling(False, code)
        spec = call.spec
        keys = tuple(map(self._shape, call.keys)) if spec and spec.keys else call.keys
        at = call.command, call.is_variant, call.script, call.depth, code, call.reason, keys
        found = self._rulings.get(at)
        if found is None:
            if len(self._rulings) >= REMEMBERED:
                self._rulings.clear()
            found = self._rulings[at] = self._access(call)
        if call.argv is not None and found.allowed is not False and spec is not None:
            found = self._with_arguments(call, spec, call.argv, found)
        if found.allowed is not False and (not code or code in _OF_LIMITS):
            found = self._limited(call, found)
        if found.allowed is False and breaker is not None:
            for _ in range(min(call.count, breaker.threshold)):
                note_refusal(self._identity, self._state, now_us)
        return found

    def _access(self, call: RecordedCall) -> Ruling:
        """Return the decision without arguments and limits."""
        identity, code = self._identity, call.code
        command = look_up(identity, known_table(), call.command.encode().split(b" "))
        spec, scripts = command.spec, {x.name for x in identity.scripts}
        scripts |= {x.digest for x in identity.scripts}
        if call.depth > identity.delegate.depth:
            return Ruling(False, f"delegate.depth {identity.delegate.depth}")
        if call.script and not code and call.script not in scripts:
            return Ruling(False, f"no grant approves the script {call.script}")
        if call.command in SCRIPT_CALLS and call.script in scripts:
            # Its commands are calls of their own.
            of_any = RuledCommand(b"EVALSHA", None, identity.grants)
            rulings = (self._key(of_any, KeyUse(key, ())) for key in call.keys)
            found = next((x for x in rulings if not x.allowed), Ruling(True))
            is_open = code and not (code in _OF_LIMITS and self._has_script_keys)
            return Ruling(None, _SCRIPT_KEYS) if found.allowed and is_open else found
        if not judge_command(command, known_table(), []).allowed or spec is None:
            return Ruling(False, f"COMMAND_REFUSED {call.command}")
        needed = {*([] if spec.keys else spec.needs), call.reason}
        for cls in OperationClass:
            if cls in needed and not any(cls in grant.allow for grant in command.grants):
                return Ruling(False, f"CLASS_NOT_GRANTED {cls}")
        if spec.keys and any(self._shape(key) is None for key in call.keys):
            return Ruling(None, "masked keys")
        if code in _OF_LIMITS:
            return Ruling(True)
        found = self._of_denial(call, spec, command) if code else self._keys(call, spec, command)
        found = self._conditions(call, spec, found) if found.allowed else found
        is_open = call.script and not self._has_script_keys
        return Ruling(None, _SCRIPT_KEYS) if found.allowed and is_open else found

    def _of_denial(self, call: RecordedCall, spec: CommandSpec, command: RuledCommand) -> Ruling:
        """Return the decision on a denied call, of which one key at most is recorded."""
        code = call.code
        earlier = look_up(self._base, known_table(), call.command.encode().split(b" "))
        if code == ReplyCode.COMMAND_REFUSED and earlier.grants:
            # It was granted: the server lacks the command, or an option is denied.
            return Ruling(False, f"COMMAND_REFUSED {call.command}")
        walk, needs = spec.walk, dict.fromkeys(search.needs for search in spec.keys)
        uses = [KeyUse(key, item) for key in call.keys for item in needs]
        if (
            uses
            and code in _OF_KEYS
            and all(judge_key(self._base, earlier, x, []).allowed for x in uses)
        ):
            return Ruling(False, f"{code} for the token")
        rulings = [self._key(command, use) for use in uses]
        if spec.keys and rulings and all(item.allowed is False for item in rulings):
            return rulings[0]
        lost = Ruling(None, f"{code}, perhaps for keys or arguments that are not recorded")
        if not call.keys or code not in _OF_KEYS:
            return lost
        if not spec.keys:
            return self._keys(call, spec, command)
        is_whole = walk is not None and walk[0] == walk[1] and spec.variant is None
        return rulings[0] if is_whole else lost

    def _keys(self, call: RecordedCall, spec: CommandSpec, command: RuledCommand) -> Ruling:
        grants = command.grants
        if spec.scans:
            glob = call.keys[0] if call.keys else b"*"
            match = next(grants_of_glob(grants, glob), None)
            rule = "KEY_NOT_GRANTED" if match is None else f"grant of `{match.pattern.source}`"
            return Ruling(match is not None, rule)
        for name in call.keys if spec.channel is not None else ():
            if not any(grants_of_channel(grants, spec, name)):
                return Ruling(False, "CHANNEL_NOT_GRANTED")
        if spec.index is not None:
            indexes = [item for x in grants if spec.index in x.allow for item in x.indexes]
            if not any(matches(item, name) for item in indexes for name in call.keys[:1]):
                return Ruling(False, "INDEX_NOT_GRANTED")
            return Ruling(self._is_same or None, "prefixes of an index")
        found = Ruling(True, "a grant of the command")
        for use in call.uses():
            found = self._key(command, use)
            if not found.allowed:
                plain = self._key(command, KeyUse(use.key, spec.keys[0].needs))
                is_open = call.is_variant is None and plain.allowed
                return Ruling(None, _OPTIONS) if is_open else found
        return found

    def _key(self, command: RuledCommand, use: KeyUse) -> Ruling:
        trace: Trace = []
        verdict = judge_key(self._identity, command, use, trace)
        step = trace[-1]
        assert isinstance(step, KeyStep)  # noqa: S101 - the only step about a key
        if verdict.allowed:
            return Ruling(True, f"grant of `{step.granted_by[0].pattern.source}`")
        detail = f" `{step.denied_by[0].pattern.source}`" if step.denied_by else ""
        detail = f" {step.missing}" if step.missing else detail
        return Ruling(False, f"{verdict.code}{detail}")

    def _conditions(self, call: RecordedCall, spec: CommandSpec, found: Ruling) -> Ruling:
        """Return what else decides about an allowed call, if the log does not say it."""
        identity, base = self._identity, self._base
        if spec.patterns and not self._is_same:
            return Ruling(None, _PATTERNS)
        if spec.work and (identity.work < base.work or identity.strings < base.strings):
            return Ruling(None, "limits of the work of a call")
        for use in call.uses():
            if OperationClass.WRITE in use.needs and self._is_stricter(use.key):
                return Ruling(None, _VALUES)
        for limit in identity.limits:
            if limit.counter.is_bytes and limit not in base.limits:
                return Ruling(None, limit.name)
        return found

    def _is_stricter(self, key: bytes) -> bool:
        """Return whether a rule for values is stricter than the one that allowed the call."""
        mine, theirs = (
            [x.values for x in item.grants if any(matches(pattern, key) for pattern in x.keys)]
            for item in (self._identity, self._base)
        )
        return any(
            ValueRules().allows_more_than(rule)
            and all(other.allows_more_than(rule) for other in theirs)
            for rule in mine
        )

    def _with_arguments(
        self, call: RecordedCall, spec: CommandSpec, argv: Sequence[bytes], found: Ruling
    ) -> Ruling:
        """Return the decision on a call whose arguments are recorded."""
        refusal = refused_argument(spec, argv)
        if refusal is not None:
            return Ruling(False, f"COMMAND_REFUSED {call.command} {printable(refusal[1])}")
        if found.allowed or found.rule not in (_OPTIONS, _PATTERNS):
            return found
        keys = [bytes(key) for key in declared_keys(known_table(), argv)]
        state, now_us = ModelState(), call.time_ms * 1000
        verdict = decide(self._unlimited, known_table(), argv, keys, state, now_us)
        if not verdict.allowed:
            about = verdict.details.get("rule") or verdict.details.get("key") or b""
            return Ruling(False, f"{verdict.code} {printable(about)}".strip())
        is_stricter = spec.mutates and any(map(self._is_stricter, keys))
        return Ruling(None, _VALUES) if is_stricter else Ruling(True)

    def _limited(self, call: RecordedCall, found: Ruling) -> Ruling:
        """Charge a call to the limits; a script counts once."""
        identity, spec = self._identity, call.spec
        if not identity.limits or (call.script and not call.cost):
            return found
        if call.script:
            needs = [cls for cls, counter in COUNTERS.items() if call.cost.get(counter)]
        else:
            uses = call.uses()
            needs = [cls for use in (*uses[:1], *uses[-1:]) for cls in use.needs]
            needs = needs or [*(spec.needs if spec else ())]
        at = identity, needs, call.keys, self._state, call.time_ms * 1000, call.token_id
        verdict = take_limits(*at, None, call.argv or ())
        if verdict.allowed:
            unknown = self._unknown_use(call, needs) if found.allowed else ""
            return Ruling(None, unknown) if unknown else found
        # A denied call charges nothing, so that it can be looked at again.
        trace: Trace = []
        take_limits(*at, trace, call.argv or ())
        step = trace[-1]
        if isinstance(step, LimitStep):
            of = identity.name, step.limit.name
            self._hits.setdefault(of, LimitHit(*of, step.limit.describe())).add(step, call.time_ms)
        return Ruling(False, str(verdict.details.get("limit") or verdict.details.get("rule")))

    def _unknown_use(self, call: RecordedCall, needs: Sequence[OperationClass]) -> str:
        """Return why the log does not show that limits allow a call; empty if it does."""
        if self._log is None:
            return ""
        coverage = self._log.covered(call.identity)
        since_ms, reads_ms = coverage.since_ms or 0, coverage.reads_since_ms
        has_reads = reads_ms is not None and reads_ms <= call.time_ms
        for limit in self._identity.limits if coverage.is_cut or not has_reads else ():
            if not limit.counter.counts(needs) or (limit in self._base.limits and not call.code):
                continue
            if limit.counter in (Counter.REQUESTS, Counter.READS) and not has_reads:
                return f"{limit.name}, which counts reads, and these are not recorded"
            if coverage.is_cut and call.time_ms < since_ms + limit.slot().period_ms:
                return f"{limit.name}, whose use before {clock_time(since_ms)} is not in the log"
        return ""
