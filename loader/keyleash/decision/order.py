"""A whole call: one question after the other, in the order of the guard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from keyleash.commands import CommandTable, keys_of
from keyleash.decision.arguments import judge_arguments
from keyleash.decision.command import Argv, judge_classes, judge_command, look_up, needs_of_call
from keyleash.decision.keys import judge_key
from keyleash.decision.limits import take_limits
from keyleash.decision.room import judge_room
from keyleash.decision.size import judge_size
from keyleash.decision.state import ModelState
from keyleash.decision.suspension import is_suspended, note_refusal, suspended
from keyleash.decision.trace import ArgumentsStep, DeclaredStep, StandingStep, Trace
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Identity

MAX_ARGUMENTS = 7_000


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
    Say what the guard of *identity* must do with a call of a live token.

    Args:
        identity: Whose rules hold.
        table: The commands.
        argv: The command, name first.
        declared: The keys that the caller declares.
        state: What the limits have counted; an allowed call is counted in it, and a refused
            one, after which the identity may be suspended.
        now_us: The server's clock.
        token_id: Whose calls a limit `per: token` counts.
    """
    trace: Trace = []
    questions = _questions(identity, table, argv, declared, state, now_us, token_id, trace)
    refusal = next((verdict for verdict in questions if not verdict.allowed), ALLOWED)
    if not refusal.allowed and not isinstance(trace[-1], StandingStep):
        note_refusal(identity, state, now_us)
    return replace(refusal, trace=tuple(trace))


def _questions(
    identity: Identity,
    table: CommandTable,
    argv: Argv,
    declared: Argv,
    state: ModelState,
    now_us: int,
    token_id: str,
    trace: Trace,
) -> Iterator[Decision]:
    """One answer after the other; who asks stops at the first refusal."""
    if state.refuses is not None:
        trace.append(StandingStep(code=state.refuses))
        yield refused(state.refuses)
    if is_suspended(state, now_us):
        trace.append(StandingStep(code=ReplyCode.SUSPENDED))
        yield suspended(state)
    if len(argv) > MAX_ARGUMENTS:
        trace.append(ArgumentsStep(len(argv), code=ReplyCode.ARGS_TOO_MANY))
        yield refused(ReplyCode.ARGS_TOO_MANY, arguments=len(argv))
    command = look_up(identity, table, argv)
    yield judge_command(command, trace)
    spec = command.spec
    if spec is None:
        return
    yield judge_classes(command, spec, argv, trace)
    yield judge_arguments(command, spec, argv, trace)
    uses = keys_of(spec, argv)
    if [use.key for use in uses] != list(declared):
        trace.append(DeclaredStep(code=ReplyCode.KEYS_MISMATCH))
        yield refused(ReplyCode.KEYS_MISMATCH)
    for use in uses:
        yield judge_key(identity, command, use, trace)
    needs, keys = needs_of_call(spec, argv), [use.key for use in uses]
    yield judge_size(identity, spec, argv, keys, state.sizes, trace)
    yield judge_room(identity, spec, needs, keys, state, trace)
    yield take_limits(identity, needs, keys, state, now_us, token_id, trace)
