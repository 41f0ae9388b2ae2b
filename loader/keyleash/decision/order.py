"""A whole call: one question after the other, in the order of the guard."""

from __future__ import annotations

from keyleash.commands import CommandTable, OperationClass, keys_of
from keyleash.decision.arguments import judge_arguments
from keyleash.decision.command import Argv, lets_through, named, needs_of_call, splits, stores
from keyleash.decision.keys import judge_key
from keyleash.decision.limits import take_limits
from keyleash.decision.state import ModelState
from keyleash.decision.verdict import Decision, refused
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
        state: What the limits have counted; an allowed call is counted in it.
        now_us: The server's clock.
        token_id: Whose calls a limit `per: token` counts.
    """
    if len(argv) > MAX_ARGUMENTS:
        return refused(ReplyCode.ARGS_TOO_MANY, arguments=len(argv))
    name = argv[0] if argv else b""
    spec = named(table, argv)
    if splits(identity, table, name.decode("latin-1")):
        name += b" " + b"".join(argv[1:2]).upper()
    if spec is None or spec.refused is not None:
        return refused(ReplyCode.COMMAND_REFUSED, command=name)
    grants = [grant for grant in identity.grants if lets_through(grant, spec)]
    if not grants:
        return refused(ReplyCode.COMMAND_REFUSED, command=name)
    for needed in needs_of_call(spec, argv):
        if stores(spec, argv) and needed is OperationClass.WRITE:
            # Asked of that key alone, when it is known.
            continue
        if not any(needed in grant.allow for grant in grants):
            return refused(ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=name)
    verdict = judge_arguments(spec, argv, grants)
    if not verdict.allowed:
        return verdict
    uses = keys_of(spec, argv)
    if [use.key for use in uses] != list(declared):
        return refused(ReplyCode.KEYS_MISMATCH)
    for use in uses:
        verdict = judge_key(identity, grants, use.key, use.needs, name)
        if not verdict.allowed:
            return verdict
    keys = [use.key for use in uses]
    return take_limits(identity, needs_of_call(spec, argv), keys, state, now_us, token_id)
