"""Evaluate commands that a guarded connection does not send as plain calls of a guard."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha1

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.facts import OF_THE_CONNECTION, SCANNED, SCRIPT_CALLS, SUBSCRIPTIONS
from keyleash.commands.keys import KeyUse
from keyleash.commands.locks import EXTEND, LOCK_SCRIPTS, RELEASE
from keyleash.commands.refusals import script_problem
from keyleash.commands.spec import CHANGING
from keyleash.errors import ReplyCode
from keyleash.errors.sentences import MALFORMED, UNAPPROVED
from keyleash.evaluate.access import Argv, RuledCommand, judge_key, named
from keyleash.evaluate.evaluate import decide, decision_of, judge_room, judge_standing, take_limits
from keyleash.evaluate.restricted import judge_restricted_key
from keyleash.evaluate.state import ModelState
from keyleash.evaluate.trace import (
    ALLOWED,
    ArgumentsStep,
    CommandStep,
    ConnectionStep,
    Decision,
    ScriptStep,
    Trace,
    refused,
)
from keyleash.policy import Identity
from keyleash.policy.model import Flush, Script
from keyleash.store.wire import MAX_ARGUMENTS, declared_keys

_LOCAL = {
    "MULTI": "it begins a transaction; EXEC is one batch, in which each command is checked",
    "EXEC": "it is one batch, in which each command is checked",
    "DISCARD": "it sends nothing",
    "UNWATCH": "it ends a watch",
    "INFO": "the connection answers it, with the version and a few lines",
    "UNSUBSCRIBE": "it ends subscriptions",
    "PUNSUBSCRIBE": "it ends subscriptions",
    "SUNSUBSCRIBE": "it ends subscriptions",
}
REJECTED = "the server rejects it: wrong number of arguments"
"""The note on a call that the guard allows and the server does not run."""
_INNER = "its commands are not judged here: each is checked when the script runs"


@dataclass(frozen=True, slots=True)
class ClientCall:
    """A command as a guarded connection handles it.

    Attributes:
        calls: The calls of the guard that it makes; none if it only runs a script, or if the
            connection answers it itself.
        note: What the connection does; empty for a plain call.
        reason: Why it is denied; empty if the guard's reason is to be reported.
        digest: The SHA-1 of the script that it runs, or the name of several; empty if it runs none.
        scripts: The approved scripts that it may be.
        keys, arguments: Those of the script.
    """

    calls: tuple[Argv, ...] = ()
    note: str = ""
    reason: str = ""
    digest: str = ""
    scripts: tuple[Script, ...] = ()
    keys: Argv = ()
    arguments: int = 0

    @property
    def runs_script(self) -> bool:
        """Return whether the guard of approved scripts is called."""
        return bool(self.digest)

    def touched(self, table: CommandTable) -> list[bytes]:
        """Return the keys that the calls declare."""
        keys = [bytes(key) for call in self.calls for key in declared_keys(table, call)]
        return [*keys, *self.keys]


def client_call(identity: Identity, argv: Argv) -> ClientCall:
    """Return what a guarded connection makes of a command whose name is in upper case.

    `SCRIPT NAME KEY …` stands for the scripts that the policy names so, with these keys.
    """
    name = argv[0].decode("latin-1") if argv else ""
    words = tuple(argv[1:])
    second = words[0].decode("latin-1") if words else ""
    if name in _LOCAL:
        return ClientCall(note=_LOCAL[name])
    if name == "CLIENT" and second.upper() in OF_THE_CONNECTION:
        return ClientCall(note="it is about the connection alone")
    if name == "WATCH" and words:
        note = "the keys are checked as by TOUCH"
        return ClientCall(((b"TOUCH", *words),), note)
    if name == "KEYS" and len(words) == 1:
        scan = (b"SCAN", b"0", b"MATCH", words[0], b"COUNT", b"1000")
        return ClientCall((scan,), "the connection calls SCAN until all keys are found")
    needed = SCANNED.get(name) if name == "DBSIZE" or identity.token.flush is Flush.OWN else None
    if needed and any(needed <= {*grant.allow} and grant.keys for grant in identity.grants):
        return ClientCall(note="the connection makes it of SCAN and UNLINK")
    if name in SUBSCRIPTIONS and len(words) > 1:
        calls = tuple((argv[0], channel) for channel in words)
        return ClientCall(calls, "each channel is checked")
    if name in SCRIPT_CALLS:
        problem = script_problem(name, words[1] if len(words) > 1 else None, len(words) - 2)
        if problem is not None:
            return ClientCall((argv,), reason=f"{MALFORMED}: {problem}")
        end = 2 + int(words[1])
        digest = second.lower() if name.startswith("EVALSHA") else _digest(words[0])
        return _script(identity, argv, digest, words[2:end], words[end:])
    if name == "SCRIPT" and words:
        return _of_script(identity, argv, second)
    return ClientCall((argv,))


def _of_script(identity: Identity, argv: Argv, second: str) -> ClientCall:
    by_name = tuple(item for item in identity.scripts if second in (item.name, item.file))
    match second.upper():
        case "EXISTS":
            return ClientCall(note="the connection answers it: 1 for each approved script")
        case "LOAD" if len(argv) == 3:
            digest = _digest(argv[2])
            if digest in LOCK_SCRIPTS or any(item.digest == digest for item in identity.scripts):
                return ClientCall(note="the connection answers it: the script is approved")
    if by_name:
        named = by_name[0].digest if len(by_name) == 1 else second
        return ClientCall(digest=named, scripts=by_name, keys=tuple(argv[2:]))
    return ClientCall((argv,))


def _script(identity: Identity, argv: Argv, digest: str, keys: Argv, rest: Argv) -> ClientCall:
    approved = tuple(item for item in identity.scripts if item.digest == digest)
    if approved:
        return ClientCall(digest=digest, scripts=approved, keys=tuple(keys), arguments=len(rest))
    if digest not in LOCK_SCRIPTS or not (keys and rest):
        return ClientCall((argv,), reason=f"{UNAPPROVED} {digest}")
    key = keys[0]
    calls: list[Argv] = [(b"TOUCH", key), (b"GET", key)]
    calls += [(b"PTTL", key)] if digest == EXTEND else []
    calls.append((b"DEL", key) if digest == RELEASE else (b"PEXPIRE", key, b"1"))
    note = "a script of redis-py's Lock, which the connection runs as these commands"
    return ClientCall(tuple(calls), note)


def _digest(text: bytes) -> str:
    return sha1(text, usedforsecurity=False).hexdigest()


def decide_client_call(
    identity: Identity,
    table: CommandTable,
    call: ClientCall,
    state: ModelState,
    now_us: int,
    token_id: str = "",
) -> Decision:
    """Decide a command of a guarded connection; arguments as of `decide`."""
    if call.runs_script:
        return _decide_script(identity, table, call, state, now_us, token_id)
    trace: Trace = [ConnectionStep(call.note)] if call.note else []
    verdict = ALLOWED
    for argv in call.calls:
        declared = [bytes(key) for key in declared_keys(table, argv)]
        verdict = decide(identity, table, argv, declared, state, now_us, token_id)
        trace += verdict.trace
        if not verdict.allowed:
            break
    specs = [(named(table, argv), len(argv)) for argv in call.calls]
    if verdict.allowed and any(spec and not spec.takes(words) for spec, words in specs):
        trace.append(ConnectionStep(REJECTED))
    if call.reason:
        trace = [replace(x, why=call.reason) if isinstance(x, CommandStep) else x for x in trace]
    return replace(verdict, trace=tuple(trace))


def _decide_script(
    identity: Identity,
    table: CommandTable,
    call: ClientCall,
    state: ModelState,
    now_us: int,
    token_id: str,
) -> Decision:
    trace: Trace = []

    def checks() -> Iterator[Decision]:
        """Yield the verdict of each check; the caller stops at the first denial."""
        yield judge_standing(state, now_us, trace)
        names = tuple(dict.fromkeys(script.name for script in call.scripts))
        trace.append(ScriptStep(call.digest, names))
        most = max(call.arguments, len(call.keys))
        if most > MAX_ARGUMENTS:
            trace.append(ArgumentsStep(most, code=ReplyCode.ARGS_TOO_MANY))
            yield refused(ReplyCode.ARGS_TOO_MANY, arguments=most)
        any_grant = RuledCommand(b"EVALSHA", None, identity.grants)
        for key in call.keys:
            use = KeyUse(key, ())
            yield judge_key(identity, any_grant, use, trace)
            yield judge_restricted_key(
                state.restrictions, identity.grants, any_grant.name, (), use, trace
            )
        specs = list(_called(identity, table, call.scripts))
        needs = {cls for spec in specs for cls in spec.possible_needs}
        is_recorded = any(spec.mutates for spec in specs) or not needs.isdisjoint(CHANGING)
        yield judge_room(identity, state, trace, is_recorded=is_recorded)
        ordered = tuple(cls for cls in OperationClass if cls in needs)
        yield take_limits(identity, ordered, list(call.keys), state, now_us, token_id, trace)

    decision = decision_of(checks(), trace, identity, state, now_us)
    if decision.allowed:
        return replace(decision, trace=(*trace, ConnectionStep(_INNER)))
    return decision


def _called(
    identity: Identity, table: CommandTable, scripts: Sequence[Script]
) -> Iterator[CommandSpec]:
    """Yield the commands that scripts may call and that some grant applies to."""
    names = [script.text.commands for script in scripts]
    for spec in table:
        first = spec.name.partition(" ")[0]
        may_call = any(called is None or first in called for called in names)
        if may_call and spec.refused is None and any(g.applies_to(spec) for g in identity.grants):
            yield spec
