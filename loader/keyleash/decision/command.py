"""Which command a call is, which grants are for it and what it needs."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.commands.keys import is_option
from keyleash.policy import Grant, Identity

Argv = Sequence[bytes]


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
    return any(
        spec.refused is None and any(lets_through(grant, spec) for grant in identity.grants)
        for spec in table
        if spec.name.startswith(container + " ")
    )


def lets_through(grant: Grant, spec: CommandSpec) -> bool:
    """Whether `only` and `except` of a grant leave it in force for a command."""
    names = {spec.name, spec.name.split(" ")[0], *spec.categories}
    return (grant.only is None or bool(names & {*grant.only})) and not names & {*grant.except_}


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
