"""Which commands this identity's guard knows, and by which grants."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandSpec, CommandTable
from keyleash.compiler.ir import Guard, Usage
from keyleash.policy.model import Grant, Identity


def select_commands(guard: Guard, table: CommandTable) -> Guard:
    """Fill `usages`: one for each command that is scopable and not excluded by every grant.

    A command left out is refused by name (COMMAND_REFUSED). One whose class no grant
    gives stays in, so that the refusal can name the class.
    """
    identity = guard.identity
    usages = []
    for spec in sorted(table, key=lambda spec: spec.name):
        effective = tuple(i for i, one in enumerate(identity.grants) if _lets_through(one, spec))
        if spec.refused is None and (effective or not identity.grants):
            usages.append(usage_of(spec, effective, identity))
    return replace(guard, usages=tuple(usages))


def usage_of(spec: CommandSpec, grants: tuple[int, ...], identity: Identity) -> Usage:
    """A command under those grants of *identity*, and what they do not give it."""
    given = {cls for i in grants for cls in identity.grants[i].allow}
    missing = next((cls for cls in spec.needs if cls not in given), None)
    return Usage(spec, grants, missing)


def _lets_through(grant: Grant, spec: CommandSpec) -> bool:
    names = {spec.name, spec.name.partition(" ")[0]}
    if spec.named_only and names.isdisjoint(grant.only or ()):
        return False
    names.update(spec.categories)
    if grant.only is not None and names.isdisjoint(grant.only):
        return False
    return names.isdisjoint(grant.except_)
