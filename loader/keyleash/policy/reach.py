"""Which commands a grant is about."""

from __future__ import annotations

from keyleash.commands import CommandSpec, load_table
from keyleash.policy.model import Grant


def lets_through(grant: Grant, spec: CommandSpec) -> bool:
    """Whether `only` and `except` of a grant leave it in force for a command."""
    names = {spec.name, spec.name.partition(" ")[0]}
    if spec.named_only and names.isdisjoint(grant.only or ()):
        return False
    names.update(spec.categories)
    if grant.only is not None and names.isdisjoint(grant.only):
        return False
    return names.isdisjoint(grant.except_)


def gives_restore(grant: Grant) -> bool:
    """Return whether a grant allows RESTORE on its keys."""
    spec = load_table().commands["RESTORE"]
    return lets_through(grant, spec) and set(spec.needs) <= set(grant.allow)
