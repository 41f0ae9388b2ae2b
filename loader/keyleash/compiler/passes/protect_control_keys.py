"""Deny keyleash's own keys to every identity."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.compiler.passes.translate_patterns import matcher
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import keys_under, may_start_with
from keyleash.store.keyspace import CONTROL_PREFIX


def protect_control_keys(guard: Guard, _table: CommandTable) -> Guard:
    """Put a deny rule on the control prefix in front of `denied`.

    Left out where no grant can reach it: most guards then pay nothing for it.
    """
    return replace(guard, denied=(*map(matcher, control_patterns(guard)), *guard.denied))


def control_patterns(guard: Guard) -> tuple[Pattern, ...]:
    """Return the patterns of the control keys that some grant can reach."""
    prefix = CONTROL_PREFIX.encode()
    is_reached = any(may_start_with(key, prefix) for key in guard.identity.granted_keys)
    return (keys_under(prefix),) if is_reached else ()
