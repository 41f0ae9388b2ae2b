"""The guard that runs the approved scripts of an identity."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.commands import CommandSpec, CommandTable
from keyleash.compiler.ir import Guard, ScriptPlan
from keyleash.compiler.quoting import Text
from keyleash.limits import Counter
from keyleash.limits.counters import COUNTED
from keyleash.policy.model import Script


def called_commands(scripts: Sequence[Script], table: CommandTable) -> frozenset[str]:
    """Return the first words of the commands that scripts may call.

    A script that computes the name of a command may call every one.
    """
    called: set[str] = set()
    for script in scripts:
        names = table.commands if script.text.commands is None else script.text.commands
        called |= {name.partition(" ")[0] for name in names}
    return frozenset(called)


def plan_scripts(guard: Guard, table: CommandTable) -> tuple[ScriptPlan, ...]:
    """Return the scripts of a guard, with what limits count for each."""
    return tuple(_plan(guard, script, table) for script in guard.identity.scripts)


def _plan(guard: Guard, script: Script, table: CommandTable) -> ScriptPlan:
    names = called_commands([script], table)
    called: list[CommandSpec] = [
        usage.spec for usage in guard.usages if usage.spec.name.partition(" ")[0] in names
    ]
    counters = {COUNTED[cls] for spec in called for cls in spec.possible_needs if cls in COUNTED}
    return ScriptPlan(
        name=script.name,
        digest=script.digest,
        code=Text(f"function()\n{script.text.body}\nend"),
        reads=Counter.READS in counters,
        writes=Counter.WRITES in counters,
        deletes=Counter.DELETES in counters,
        mutates=any(spec.mutates for spec in called)
        or not counters.isdisjoint((Counter.WRITES, Counter.DELETES)),
        only_reads=script.text.only_reads,
    )
