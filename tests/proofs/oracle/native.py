"""
A native ACL user with the grants of an identity, as far as ACL rules can express them.

Commands to which the same grants apply share one selector, with every pattern of these grants, so
that each key of a call is checked by itself, as in a guard. `read` is `%R~`; `write` and `delete`
are both `%W~`, since ACLs have no third class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

from keyleash.commands import CommandSpec, CommandTable, KeyUse, OperationClass
from keyleash.evaluate.access import matches
from keyleash.policy import Grant, Identity, Pattern
from keyleash.policy.model import AnySuffix, Capture

READ, WRITE, DELETE = OperationClass.READ, OperationClass.WRITE, OperationClass.DELETE

NATIVE = {READ: "R", WRITE: "W", DELETE: "W"}


def acl_rules(identity: Identity, table: CommandTable, known: Collection[str]) -> list[bytes]:
    """Return the arguments of ACL SETUSER; *known* are the commands of the server."""
    commands: dict[tuple[tuple[int, ...], OperationClass | None], list[CommandSpec]] = defaultdict(
        list
    )
    for spec in table:
        if spec.name in known and spec.name not in table.containers:
            effective = [i for i, item in enumerate(identity.grants) if item.applies_to(spec)]
            commands[tuple(effective), spec.channel_class].append(spec)
    return [
        b"reset",
        *(
            _selector([identity.grants[i] for i in effective], specs, channel_class)
            for (effective, channel_class), specs in commands.items()
            if effective
        ),
    ]


def _selector(
    grants: Sequence[Grant], specs: Sequence[CommandSpec], channel_class: OperationClass | None
) -> bytes:
    given = {cls for grant in grants for cls in grant.allow}
    words = [
        b"+" + spec.name.replace(" ", "|").lower().encode()
        for spec in specs
        # Listing keys is a class of its own here, and a command there.
        if not spec.scans or OperationClass.SCAN in given
    ]
    words += [
        b"%" + "".join(sorted(letters)).encode() + b"~" + glob_of(pattern)
        for pattern, letters in letters_by_pattern(grants).items()
        if letters
    ]
    words += [
        b"&" + glob_of(channel)
        for grant in grants
        if channel_class in grant.allow
        for channel in grant.channels
    ]
    return b"(" + b" ".join(words) + b")"


def letters_by_pattern(grants: Sequence[Grant]) -> dict[Pattern, set[str]]:
    """R and W for each pattern of a selector; ACLs join the letters of equal patterns."""
    found: dict[Pattern, set[str]] = defaultdict(set)
    for grant in grants:
        for pattern in grant.keys:
            found[pattern] |= {NATIVE[cls] for cls in grant.allow if cls in NATIVE}
    return found


def glob_of(pattern: Pattern) -> bytes:
    """The pattern as a glob; its own glob characters are literal."""
    pieces = []
    for part in pattern.parts:
        match part:
            case AnySuffix():
                pieces.append(b"*")
            case Capture():
                raise ValueError("no glob is a non-empty segment")
            case _:
                pieces += [
                    b"\\" + bytes([byte]) if byte in b"*?[]\\" else bytes([byte])
                    for byte in part.text
                ]
    return b"".join(pieces)


def natively_allowed(grants: Sequence[Grant], uses: Sequence[KeyUse]) -> bool:
    """Return whether the selector of these grants allows the keys: one pattern must give it all."""
    patterns = letters_by_pattern(grants)
    return all(
        any(
            letters >= {NATIVE[cls] for cls in use.needs} and matches(pattern, use.key)
            for pattern, letters in patterns.items()
            if letters
        )
        for use in uses
    )
