"""Each compiler pass against its golden files: a policy is the input, the filled field the output.

A new case is one YAML file; `make golden` writes the other.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keyleash.commands import CommandTable, load_table
from keyleash.compiler.ir import Guard
from keyleash.compiler.passes import PASSES
from keyleash.policy import parse_policy
from keyleash.store.keyspace import Keyspace
from support.golden import GOLDEN, as_json, assert_golden, plain

FILLED = {
    "select_commands": ("usages",),
    "translate_patterns": ("matchers", "denied"),
    "protect_control_keys": ("denied",),
    "postpone_denial": ("denied_last",),
    "plan_audit": ("images", "masks"),
    "bound_values": ("value_bounds", "value_plans"),
    "plan_patterns": ("patterns",),
    "form_rules": ("checks", "rules", "assigned"),
    "order_dispatch": ("dispatch", "rare", "containers", "rules"),
    "lay_out_state": ("layout",),
    "plan_limits": ("limits",),
}
SMALL = (
    "BITFIELD", "BITOP", "BLPOP", "COPY", "DEL", "EXISTS", "FLUSHALL", "GET", "INCR", "MGET",
    "PING", "PUBLISH", "SCAN", "SET", "SORT", "SORT_RO", "XGROUP CREATE", "XGROUP DESTROY", "XREAD",
    "ZUNIONSTORE",
)  # fmt: skip


def cases() -> list[Path]:
    return [path for name in FILLED for path in sorted((GOLDEN / name).glob("*.yaml"))]


@pytest.fixture(scope="module")
def table() -> CommandTable:
    """A few commands of each kind, so that golden files stay readable."""
    whole = load_table()
    commands = {name: replace(whole.commands[name], servers=(), flags=()) for name in SMALL}
    return CommandTable(("small",), commands)


@pytest.mark.parametrize("path", cases(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_pass_on_a_golden_policy_fills_its_fields(path: Path, table: CommandTable) -> None:
    """A pass fills its own fields, as its golden file shows, and changes no other."""
    policy = parse_policy(path.read_text(), file=path.name, commands=load_table())
    guard = Guard(policy.identities[0], Keyspace(), "0" * 64, 2026)
    for run_pass in PASSES:
        before, guard = guard, run_pass(guard, table)
        if run_pass.__name__ == path.parent.name:
            break
    filled = FILLED[path.parent.name]

    assert replace(guard, **{name: getattr(before, name) for name in filled}) == before
    assert_golden(path.with_suffix(".json"), as_json({name: shown(guard, name) for name in filled}))


def shown(guard: Guard, field: str) -> object:
    """Return a field of *guard* as plain data, with a command's name instead of its facts."""
    if field == "usages":
        return {
            usage.spec.name: f"grants {list(usage.grants)}, missing {usage.missing}"
            for usage in guard.usages
        }
    return plain(getattr(guard, field))


def test_every_pass_has_a_golden_case() -> None:
    """Each pass has an example that shows its effect."""
    covered = {path.parent.name for path in cases()}

    assert covered == {run_pass.__name__ for run_pass in PASSES} == set(FILLED)
