"""Which commands this identity's guard knows, and by which grants."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandSpec, CommandTable
from keyleash.compiler.ir import Guard, Usage
from keyleash.policy.model import Grant


def select_commands(guard: Guard, table: CommandTable) -> Guard:
    """Fill `usages`: one for each command that is scopable and not excluded by every grant.

    A command left out is refused by name (COMMAND_REFUSED). One whose class no grant
    gives stays in, so that the refusal can name the class.
    """
    usages = (
        _usage(spec, guard.identity.grants) for spec in sorted(table, key=lambda spec: spec.name)
    )
    return replace(guard, usages=tuple(usage for usage in usages if usage is not None))


def _usage(spec: CommandSpec, grants: tuple[Grant, ...]) -> Usage | None:
    if spec.refused is not None:
        return None
    effective = tuple(i for i, grant in enumerate(grants) if _lets_through(grant, spec))
    if not effective and grants:
        return None
    given = {cls for i in effective for cls in grants[i].allow}
    missing = next((cls for cls in spec.needs if cls not in given), None)
    return Usage(spec, effective, missing)


def _lets_through(grant: Grant, spec: CommandSpec) -> bool:
    names = {spec.name, *spec.categories}
    if grant.only is not None and names.isdisjoint(grant.only):
        return False
    return names.isdisjoint(grant.except_)
