"""Check deny rules last if no granted key can match one: they only name the reason."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.policy.keysets import KeySet


def postpone_denial(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `denied_last`: an allowed call then pays nothing for its deny rules.

    The verdict is the same either way: a key that some grant matches is, by this very
    test, one that no deny rule matches. Control keys count as reachable where
    `protect_control_keys` put them in front.
    """
    granted, denied = KeySet(guard.identity.granted_keys), guard.identity.denied_keys
    reachable = len(guard.denied) > len(denied)
    meeting = any(map(granted.overlaps, denied))
    return replace(guard, denied_last=bool(denied) and not reachable and not meeting)
