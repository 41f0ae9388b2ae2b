"""Which command a call is, which grants are for it and what it needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.facts import NOT_NAMED
from keyleash.commands.keys import is_option
from keyleash.decision.trace import ClassStep, CommandStep, Trace
from keyleash.decision.verdict import ALLOWED, Decision, refused
from keyleash.errors import ReplyCode
from keyleash.policy import Grant, Identity
from keyleash.policy.reach import lets_through

Argv = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Command:
    """
    What is asked for.

    Attributes:
        name: As a refusal gives it: with the sub-command if some of the container's may be called.
        spec: Its row in the table, or None.
        grants: Those whose `only` and `except` leave it.
    """

    name: bytes
    spec: CommandSpec | None
    grants: tuple[Grant, ...]


def look_up(identity: Identity, table: CommandTable, argv: Argv) -> Command:
    """The command of a call, and the grants that are for it."""
    name = argv[0] if argv else b""
    spec = named(table, argv)
    if splits(identity, table, name.decode("latin-1")):
        name += b" " + b"".join(argv[1:2]).upper()
    grants = (grant for grant in identity.grants if spec and lets_through(grant, spec))
    return Command(name, spec, tuple(grants))


def judge_command(command: Command, trace: Trace) -> Decision:
    """Whether the command can be let through at all, and some grant is for it."""
    why = ""
    if command.spec is None:
        why = "no server that is known has it"
    elif command.spec.refused is not None:
        why = command.spec.refused
    elif not command.grants and command.spec.named_only:
        why = NOT_NAMED
    elif not command.grants:
        why = "`only` and `except` of the grants leave it out"
    verdict = refused(ReplyCode.COMMAND_REFUSED, command=command.name) if why else ALLOWED
    trace.append(CommandStep(command.name, command.grants, why, code=verdict.code))
    return verdict


def judge_classes(command: Command, spec: CommandSpec, argv: Argv, trace: Trace) -> Decision:
    """Whether each class that the call needs is given by some grant for the command."""
    for needed in needs_of_call(spec, argv):
        if stores(spec, argv) and needed is OperationClass.WRITE:
            # Asked of that key alone, when it is known.
            continue
        giving = tuple(grant for grant in command.grants if needed in grant.allow)
        if not giving:
            trace.append(ClassStep(needed, code=ReplyCode.CLASS_NOT_GRANTED))
            return refused(ReplyCode.CLASS_NOT_GRANTED, class_=needed, command=command.name)
        trace.append(ClassStep(needed, giving))
    return ALLOWED


def named(table: CommandTable, argv: Argv) -> CommandSpec | None:
    """The row of a call whose command is in upper case; a sub-command may be in any."""
    name = argv[0].decode("latin-1") if argv else ""
    if name in table.containers and len(argv) > 1:
        name = f"{name} {argv[1].decode('latin-1').upper()}"
    elif " " in name:
        # As one word on the wire it is no command's name.
        return None
    return table.get(name)


def splits(identity: Identity, table: CommandTable, container: str) -> bool:
    """Whether a refusal names the sub-command too: the guard knows some of the container's."""
    return container in table.containers and any(
        spec.refused is None and any(lets_through(grant, spec) for grant in identity.grants)
        for spec in table
        if spec.name.startswith(container + " ")
    )


def needs_of_call(spec: CommandSpec, argv: Argv) -> tuple[OperationClass, ...]:
    """The classes that the call needs on one key or another."""
    if spec.name == "BITFIELD" and only_gets(argv):
        return (OperationClass.READ,)
    needs = {*spec.needs}
    if spec.name == "SET" and any(is_option(word, "GET") for word in argv[3:]):
        needs.add(OperationClass.READ)
    if stores(spec, argv):
        needs.add(OperationClass.WRITE)
    return tuple(one for one in OperationClass if one in needs)


def stores(spec: CommandSpec, argv: Argv) -> bool:
    """Whether a command that reads also stores what it found, by its last option that says so."""
    starts = {"SORT": 2, "GEORADIUS": 6, "GEORADIUSBYMEMBER": 5}
    words = ["STORE"] if spec.name == "SORT" else ["STORE", "STOREDIST"]
    rest = argv[starts.get(spec.name, len(argv)) : -1]
    return any(is_option(one, word) for one in rest for word in words)


def only_gets(argv: Argv) -> bool:
    """Whether a BITFIELD only reads."""
    at = 2
    while at < len(argv):
        words = len(argv) - at
        if is_option(argv[at], "GET") and words > 2:
            at += 3
        elif is_option(argv[at], "OVERFLOW") and words > 1:
            at += 2
        else:
            return False
    return True


def as_sent(words: Sequence[str]) -> list[bytes]:
    """The arguments of a call as a client sends it: its name, maybe two words, in capitals."""
    name, *others = words or [""]
    first, *rest = os.fsencode(name).split() or [b""]
    return [first.upper(), *rest, *map(os.fsencode, others)]
