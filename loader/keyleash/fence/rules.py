"""What the ACL user of one identity may do, and what a fence around it does not keep out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from keyleash.commands.spec import OperationClass
from keyleash.compiler import CompiledGuard
from keyleash.compiler.ir import Guard
from keyleash.fence.acl import EVERY_KEY, Rules, Selector
from keyleash.fence.control import control_selectors
from keyleash.fence.data import WRITING, data_selectors, imaged_patterns
from keyleash.fence.facts import Facts
from keyleash.fence.patterns import may_reach
from keyleash.policy.model import Pattern
from keyleash.policy.pattern_relations import covers, overlaps
from keyleash.protocol.active import GuardRecord
from keyleash.protocol.keyspace import PUBLIC_PREFIX
from keyleash.protocol.transport import Transport, call_head

Call = tuple[str, str]
"""A command in lower case and its first argument: what calls a guard."""

FOR_EVERYBODY = ("ping", "echo", "time", "client|setinfo", "client|setname", "hgetall")
"""What clients send when they connect, what needs no key, and HGETALL for the guard record.

AUTH, HELLO, QUIT and RESET are allowed to every user.
"""


class Note(NamedTuple):
    """Something that whoever sets up a fence must know of it; *what* begins the sentence."""

    code: str
    what: str
    message: str


@dataclass(frozen=True, slots=True)
class Fence:
    """
    An identity's user as it is meant.

    Attributes:
        notes: What the fence lets through, or keeps from the guard, against the policy.
        hindrance: Why nobody should have such a user; None if there is no reason.
    """

    identity: str
    rules: Rules
    notes: tuple[Note, ...] = ()
    hindrance: str | None = None


def script_calls(guard: CompiledGuard, transport: Transport) -> tuple[Call, ...]:
    """How the scripts of a guard are called."""
    return tuple(_call(transport, digest) for digest in guard.scripts)


def record_calls(record: GuardRecord) -> tuple[Call, ...]:
    """How the scripts that a guard record names are called."""
    return tuple(_call(record.transport, digest) for digest in (record.digest, record.batch_digest))


def _call(transport: Transport, digest: str) -> Call:
    command, first = call_head(transport, digest)
    return command.lower(), first


def fence_of(guard: CompiledGuard, calls: Sequence[Call], facts: Facts) -> Fence:
    """
    The user of an identity.

    Args:
        guard: The identity's, compiled for the server.
        calls: How its scripts are called.
        facts: Of the server.

    Raises:
        UnsayablePatternError: ACL rules cannot hold one of its patterns.
    """
    plan = guard.plan
    vault = plan.keyspace.vault
    rules = Rules(
        root_of(guard.identity, facts.database, plan),
        (
            # Any key may be declared: the guard refuses a wrong one, and records that.
            Selector(tuple(f"{command}|{first}" for command, first in calls), (EVERY_KEY,)),
            *control_selectors(plan)[:2],
            *data_selectors(plan, facts.left_out, facts.helpers, vault),
            *control_selectors(plan)[2:],
        ),
    )
    return Fence(guard.identity, rules, tuple(_notes(plan, facts)), _hindrance(plan, vault))


def root_of(identity: str, database: int, plan: Guard) -> Selector:
    """What a user may do outside of its selectors; by the key of it a user is known as ours."""
    # Without a rule for SELECT it cannot leave database 0.
    select = (f"select|{database}",) if database else ()
    wait = ("wait",) if plan.identity.durability.wait_replicas else ()
    return Selector((*FOR_EVERYBODY, *select, *wait), (record_rule(plan.keyspace.guard(identity)),))


def selected_by(root: Selector) -> int | None:
    """Return the database of the policy that a root was made for; None if no fence made it."""
    selects = [name for name in root.commands if name.partition("|")[0] == "select"]
    if not selects:
        return 0
    number = selects[0].partition("|")[2]
    return int(number) if len(selects) == 1 and number.isdecimal() else None


def record_rule(record: str) -> str:
    """The rule that lets a user read its guard record."""
    return f"%R~{record}"


def without_digests(rules: Rules) -> Rules:
    """The same rules for a server that does not take a first argument with EVALSHA or FCALL."""
    runner, *others = rules.selectors
    commands = tuple(dict.fromkeys(name.partition("|")[0] for name in runner.commands))
    return Rules(rules.root, (Selector(commands, runner.keys), *others))


def _hindrance(plan: Guard, vault: str) -> str | None:
    prefixes = {PUBLIC_PREFIX, plan.keyspace.prefix}
    for pattern in _patterns(plan):
        if any(may_reach(pattern, prefix, vault) for prefix in prefixes):
            return (
                f"its pattern `{pattern.source}` may reach keyleash's own keys, which an ACL cannot"
                " take out again: tokens, limits and trails of all identities"
            )
    return None


def _notes(plan: Guard, facts: Facts) -> Iterator[Note]:
    granted = {usage.spec.name for usage in plan.usages if usage.missing is None}
    for name in sorted(granted & set(facts.left_out)):
        yield Note("left-out", name, f"not to be had fenced: {facts.left_out[name]}")
    if facts.database:
        yield Note(
            "database",
            f"`database {facts.database}`",
            "connections begin in database 0, and ACLs hold for names of keys in any database:"
            " the user may use keys of these names there, too",
        )
    for deny in plan.identity.deny:
        for pattern in deny.keys:
            if any(overlaps(pattern, one) for one in _patterns(plan)):
                yield Note(
                    "deny", f"`{pattern.source}`", "denied by the guard alone: ACLs only allow"
                )
    readable = _giving(plan, {OperationClass.READ})
    for pattern in imaged_patterns(plan):
        if not any(covers(one, pattern) for one in readable):
            yield Note(
                "images",
                f"`{pattern.source}`",
                "readable to the user, though not granted: the guard keeps before-images of it",
            )
    yield from _split_classes(readable, _giving(plan, WRITING))


def _split_classes(readable: Sequence[Pattern], writable: Sequence[Pattern]) -> Iterator[Note]:
    for one in readable:
        for other in writable:
            if overlaps(one, other) and not (covers(one, other) or covers(other, one)):
                yield Note(
                    "split",
                    f"`{one.source}` with `{other.source}`",
                    "no command that reads and writes gets a key of both: one pattern must give"
                    " it all",
                )


def _patterns(plan: Guard) -> list[Pattern]:
    return [pattern for grant in plan.identity.grants for pattern in grant.keys]


def _giving(plan: Guard, classes: Collection[OperationClass]) -> list[Pattern]:
    return [
        pattern
        for grant in plan.identity.grants
        if not set(classes).isdisjoint(grant.allow)
        for pattern in grant.keys
    ]
