"""Bound the length of strings by the grants that match their keys."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import ByteBound, Guard


def bound_values(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `value_bounds`, the smallest first: the first one that matches a key counts."""
    bounds = [
        ByteBound(matchers, grant.value_bytes)
        for matchers, grant in zip(guard.matchers, guard.identity.grants, strict=True)
        if grant.value_bytes is not None
    ]
    return replace(guard, value_bounds=tuple(sorted(bounds, key=lambda bound: bound.max_bytes)))
