"""Select the commands of an identity's guard and the grants for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from keyleash.commands import CommandSpec, CommandTable, OperationClass
from keyleash.compiler.ir import Guard, Usage
from keyleash.policy.model import Grant
from keyleash.policy.patterns import keys_under

KEPT = 256
"""The number of cached sets of grants; most identities share a few."""
_ANY = (keys_under(b""),)


def select_commands(guard: Guard, table: CommandTable) -> Guard:
    """Fill `usages`: one for each command that is scopable and not excluded by every grant.

    A command that is left out is denied by name (COMMAND_REFUSED). One whose class no grant
    gives stays in, so that the denial can name the class.
    """
    keyless = (
        # Only whether it has indexes counts.
        replace(grant, keys=(), channels=(), indexes=grant.indexes and _ANY, scripts=(), span=None)
        for grant in guard.identity.grants
    )
    return replace(guard, usages=_usages(table, tuple(keyless)))


@lru_cache(KEPT)
def _usages(table: CommandTable, grants: tuple[Grant, ...]) -> tuple[Usage, ...]:
    allowed = [grant.allow for grant in grants]
    usages = []
    for spec in sorted(table, key=lambda spec: spec.name):
        effective = tuple(i for i, item in enumerate(grants) if item.applies_to(spec))
        if spec.refused is None and (effective or not grants):
            usage = usage_of(spec, effective, allowed)
            if spec.index is not None:
                admitting = (i for i, item in enumerate(grants) if item.admits(spec))
                usage = replace(usage, admitting=tuple(admitting))
            usages.append(usage)
    return tuple(usages)


def usage_of(
    spec: CommandSpec, grants: tuple[int, ...], allowed: Sequence[tuple[OperationClass, ...]]
) -> Usage:
    """Return the use of a command under the grants with some indexes, and the class they lack."""
    granted = {cls for i in grants for cls in allowed[i]}
    missing = next((cls for cls in spec.needs if cls not in granted), None)
    return Usage(spec, grants, missing)
