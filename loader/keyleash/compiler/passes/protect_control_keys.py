"""Deny keyleash's own keys to every identity."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.compiler.passes.translate_patterns import matcher
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import keys_under, may_start_with
from keyleash.store.keyspace import PUBLIC_PREFIX, Keyspace


def protected_prefixes(keyspace: Keyspace) -> tuple[str, ...]:
    """Return the prefixes of the keys that a guard denies to its identity."""
    names = (PUBLIC_PREFIX,) if keyspace.vault else (keyspace.prefix, PUBLIC_PREFIX)
    return tuple(dict.fromkeys(names))


def protect_control_keys(guard: Guard, _table: CommandTable) -> Guard:
    """Put a deny rule on the control prefixes in front of `denied`.

    Left out where no grant can reach them: most guards then pay nothing for it. A vault has
    none of them within, and the name of its control prefix must not appear in a denial.
    """
    return replace(guard, denied=(*map(matcher, control_patterns(guard)), *guard.denied))


def control_patterns(guard: Guard) -> tuple[Pattern, ...]:
    """Return the patterns of the control keys that some grant can reach."""
    patterns = [pattern for grant in guard.identity.grants for pattern in grant.keys]
    return tuple(
        keys_under(prefix)
        for prefix in map(str.encode, protected_prefixes(guard.keyspace))
        if any(may_start_with(pattern, prefix) for pattern in patterns)
    )
