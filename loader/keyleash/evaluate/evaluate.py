"""Evaluate a call against a policy, in the order of a guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from keyleash.commands import CommandSpec, CommandTable, OperationClass, keys_of
from keyleash.commands.spec import Lengthening, Needs, OptionKey
from keyleash.commands.work import PLAIN_BYTES
from keyleash.errors import ReplyCode
from keyleash.evaluate.access import (
    Argv,
    channels_of,
    judge_arguments,
    judge_classes,
    judge_command,
    judge_key,
    judge_patterns,
    look_up,
    needs_of_call,
)
from keyleash.evaluate.indexes import IndexCall
from keyleash.evaluate.restricted import judge_restricted_key
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import (
    ALLOWED,
    ArgumentsStep,
    Decision,
    DeclaredStep,
    LimitStep,
    RoomStep,
    StandingStep,
    Trace,
    UnknownStep,
    ValueStep,
    refused,
)
from keyleash.limits import SECOND_US, BaseCount, Counter, Limit, SubjectKind
from keyleash.limits.rate import RATE_PERIODS_US
from keyleash.policy import Identity, match
from keyleash.policy.model import ValueRules
from keyleash.store.state import UNTIL_RESUMED
from keyleash.store.wire import MAX_ARGUMENTS


def is_suspended(state: ModelState, now_us: int) -> bool:
    """Return whether every call is denied; a suspension that has ended is cleared."""
    if UNTIL_RESUMED < state.suspended <= now_us:
        state.suspended = 0
    return state.suspended != 0


def suspended(state: ModelState) -> Decision:
    """Return the denial, with the reason and the end of the suspension if it has them."""
    details: dict[str, str | int] = {}
    if state.reason:
        details["reason"] = state.reason
    if state.suspended > UNTIL_RESUMED:
        details["until_ms"] = -(-state.suspended // 1000)
    return refused(ReplyCode.SUSPENDED, **details)


def note_refusal(identity: Identity, state: ModelState, now_us: int) -> None:
    """Count a denial towards the identity's circuit breaker, if it has one."""
    breaker = identity.on_denials
    if breaker is None:
        return
    state.refused_us.append(now_us)
    past = state.refused_us[: max(0, len(state.refused_us) - breaker.threshold + 1)]
    del state.refused_us[: len(past)]
    if past and now_us - past[-1] < RATE_PERIODS_US[breaker.period]:
        state.refused_us.clear()
        state.suspended = now_us + breaker.suspend_s * SECOND_US
        state.reason = breaker.reason


def judge_room(
    identity: Identity, state: ModelState, trace: Trace, *, is_recorded: bool
) -> Decision:
    """Deny a call that would be recorded while the audit stream has no room."""
    hard_max = identity.audit.hard_max
    if not (state.is_full and is_recorded) or hard_max is None:
        return ALLOWED
    trace.append(RoomStep(code=ReplyCode.AUDIT_FULL))
    return refused(ReplyCode.AUDIT_FULL, events=hard_max)


def is_recorded(identity: Identity, spec: CommandSpec, needs: Needs, keys: Sequence[bytes]) -> bool:
    """Return whether the call has an event: it changes data, or it reads and reads are recorded."""
    is_read = OperationClass.READ in needs or spec.scans or bool(keys)
    return changes(spec, needs) or (identity.audit.reads and is_read)


def depends_on_data(identity: Identity, spec: CommandSpec, argv: Argv) -> bool:
    """Return whether a guard may deny a call for its size, its work, or what its keys hold."""
    rules = any(grant.values != ValueRules() for grant in identity.grants)
    return (
        bool(spec.work or spec.index)
        or (spec.lengthens is not None and spec.lengthens.how is not Lengthening.ARGUMENT)
        or sum(map(len, argv)) > PLAIN_BYTES
        or (rules and spec.mutates)
    )


def changes(spec: CommandSpec, needs: Needs) -> bool:
    """Return whether a call changes data: a BITFIELD that only reads does not, nor does SORT."""
    is_optional = (spec.variant is not None and spec.variant.option is None) or any(
        isinstance(key, OptionKey) for key in spec.keys
    )
    return spec.mutates and not (is_optional and needs == (OperationClass.READ,))


def take_limits(
    identity: Identity,
    needs: Sequence[OperationClass],
    keys: Sequence[bytes],
    state: ModelState,
    now_us: int,
    token_id: str,
    trace: Trace | None,
    argv: Argv = (),
) -> Decision:
    """Check each limit, then charge all or none; the bytes of replies are not known here.

    Without a trace it takes half of the time.
    """
    looked_at = []
    written = sum(map(len, argv[1:]))
    for limit in identity.limits:
        if not limit.counter.counts(needs):
            continue
        amount = written if limit.counter is Counter.BYTES_WRITTEN else 1
        if limit.counter is Counter.BYTES_WRITTEN and amount > limit.at_once:
            code, key = ReplyCode.VALUE_REFUSED, keys[-1] if keys else b""
            if trace is not None:
                trace.append(ValueStep(limit.name, str(limit.at_once), str(amount), key, code=code))
            return refused(code, key=key, rule=limit.name, limit=limit.at_once, was=amount)
        for subject in subjects(identity, limit, keys, token_id):
            count = state.count(limit, subject, now_us)
            verdict = _judge_count(subject, count, now_us, trace, amount)
            if not verdict.allowed:
                return verdict
            looked_at.append((count, 0 if limit.counter is Counter.BYTES_READ else amount))
    own = state.restrictions.counts if state.restrictions else ()
    caps = [*((cap, {}) for cap in own), *((cap, {"by": "ancestor"}) for cap in state.ancestors)]
    # Caps of bytes come last.
    for cap, by in sorted(caps, key=lambda item: item[0].limit.counter.is_bytes):
        if cap.limit.counter.counts(needs):
            amount = written if cap.limit.counter is Counter.BYTES_WRITTEN else 1
            verdict = _judge_count(b"", cap, now_us, trace, amount)
            if not verdict.allowed:
                return replace(verdict, details={**verdict.details, **by})
            looked_at.append((cap, 0 if cap.limit.counter is Counter.BYTES_READ else amount))
    for count, amount in looked_at:
        count.take(now_us, amount)
    return ALLOWED


def _judge_count(
    subject: bytes, count: BaseCount, now_us: int, trace: Trace | None, amount: int = 1
) -> Decision:
    limit, free_us, over = count.limit, count.free_us(now_us, amount), ALLOWED
    if count.is_corrupt:
        over = refused(ReplyCode.COUNTER_CORRUPT, limit=limit.name)
    elif free_us > now_us:
        code, detail, value_ms = limit.denial(free_us, now_us)
        over = refused(code, limit=limit.name, **{detail: value_ms})
    if trace is None:
        return over
    left, resets_us = count.left(now_us), count.resets_us(now_us)
    trace.append(LimitStep(limit, subject, left, free_us, resets_us, code=over.code))
    return over


def subjects(
    identity: Identity, limit: Limit, keys: Sequence[bytes], token_id: str
) -> Iterator[bytes]:
    """Yield the subjects whose counters a call is charged to, each once."""
    match limit.subject.kind:
        case SubjectKind.IDENTITY:
            yield b""
        case SubjectKind.TOKEN:
            yield token_id.encode()
        case SubjectKind.CAPTURE:
            name = limit.subject.capture
            assert name is not None  # noqa: S101 - a subject of that kind has one
            segments = (segment(identity, name, key) for key in keys)
            yield from dict.fromkeys(item for item in segments if item is not None)


def segment(identity: Identity, name: str, key: bytes) -> bytes | None:
    """Return the segment that the first matching granted pattern with the capture captures."""
    for grant in identity.grants:
        for pattern in grant.keys:
            captures = match(pattern, key) if name in pattern.captures else None
            if captures is not None:
                return captures[name]
    return None


def decide(
    identity: Identity,
    table: CommandTable,
    argv: Argv,
    declared: Argv,
    state: ModelState,
    now_us: int,
    token_id: str = "",
) -> Decision:
    """
    Decide a call of a live token, as the guard of *identity* must.

    Args:
        argv: The command, name first.
        declared: The keys that the caller declares.
        state: The counts of the limits. An allowed call is counted in it, and a denied one towards
            the circuit breaker, which may suspend the identity.
        token_id: The subject of limits `per: token`.
    """
    trace: Trace = []

    def checks() -> Iterator[Decision]:
        """Yield the verdict of each check; the caller stops at the first denial."""
        yield judge_standing(state, now_us, trace)
        if len(argv) > MAX_ARGUMENTS:
            trace.append(ArgumentsStep(len(argv), code=ReplyCode.ARGS_TOO_MANY))
            yield refused(ReplyCode.ARGS_TOO_MANY, arguments=len(argv))
        command = look_up(identity, table, argv)
        yield judge_command(command, table, trace)
        spec = command.spec
        if spec is None:
            return
        yield judge_classes(command, spec, argv, trace)
        restrictions, needs = state.restrictions, needs_of_call(spec, argv)
        yield judge_arguments(identity, command, spec, argv, trace, restrictions)
        call = identity, command, spec, argv, state, trace
        yield from state.data.judge_index(*call) if state.data else IndexCall(*call).checks()
        uses = keys_of(spec, argv)
        if [use.key for use in uses] != list(declared):
            trace.append(DeclaredStep(code=ReplyCode.KEYS_MISMATCH))
            yield refused(ReplyCode.KEYS_MISMATCH)
        for use in uses:
            yield judge_key(identity, command, use, trace)
            yield judge_restricted_key(
                restrictions, command.grants, command.name, needs, use, trace
            )
        yield judge_patterns(identity, command, spec, argv, trace, restrictions)
        keys = [use.key for use in uses]
        if state.data is not None:
            yield from state.data.judge(identity, spec, argv, keys, now_us, trace)
        elif depends_on_data(identity, spec, argv):
            trace.append(UnknownStep())
        named = [*keys, *channels_of(spec, argv)]
        recorded = is_recorded(identity, spec, needs, named)
        yield judge_room(identity, state, trace, is_recorded=recorded)
        yield take_limits(identity, needs, keys, state, now_us, token_id, trace, argv)

    return decision_of(checks(), trace, identity, state, now_us)


def decision_of(
    checks: Iterator[Decision], trace: Trace, identity: Identity, state: ModelState, now_us: int
) -> Decision:
    """Return the first denial of some checks with its trace, and count it."""
    denial = next((verdict for verdict in checks if not verdict.allowed), ALLOWED)
    if not denial.allowed and not isinstance(trace[-1], StandingStep):
        note_refusal(identity, state, now_us)
    return replace(denial, trace=tuple(trace))


def judge_standing(state: ModelState, now_us: int, trace: Trace) -> Decision:
    """Judge the token and the state of the identity."""
    if state.refuses is not None:
        trace.append(StandingStep(code=state.refuses))
        return refused(state.refuses)
    if is_suspended(state, now_us):
        trace.append(StandingStep(code=ReplyCode.SUSPENDED))
        return suspended(state)
    return ALLOWED
