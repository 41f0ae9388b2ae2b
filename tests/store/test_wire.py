"""Calls of guards in words."""

from __future__ import annotations

import pytest

from keyleash.commands import load_table
from keyleash.compiler import compile_policy
from keyleash.policy import parse_policy
from keyleash.store.wire import RUNS, BatchMode, batch_call, guard_call, runs_call, script_call
from support.leash import grant, policy

SETS = [("SET", "a", "1"), ("SET", "b", "2"), ("GET", "a")]


def test_numbers_of_a_call_are_text() -> None:
    """A signal handler that raises while hiredis encodes a number crashes the process."""
    caller = load_table(), "digest", "token", "correlation"
    as_runs, _ = runs_call(*caller, BatchMode.ALL, SETS)

    for words in (
        guard_call(*caller, SETS[0]),
        batch_call(*caller, BatchMode.EACH, SETS),
        as_runs,
        script_call(*caller[1:], "script", ["a"], ["b"]),
    ):
        assert {type(word) for word in words} == {str}


@pytest.mark.parametrize("name", sorted(RUNS))
def test_command_of_runs_has_its_key_first(name: str) -> None:
    """The place of a run's keys is written once."""
    assert (name, "key", "x")[load_table().key_slices[name]][0] == "key"


def test_guards_take_runs_of_every_command_of_runs() -> None:
    """Else a client would send a run that is written out again."""
    rules = policy(one={"grants": [grant("read", "write", "delete", keys="k:*")]})
    (guard,) = compile_policy(
        parse_policy(rules, file="policy", commands=load_table()), load_table()
    )
    repeating = {rule.id for rule in guard.plan.rules if rule.repeats}
    assigned = dict(guard.plan.assigned)

    assert guard.plan.takes_runs
    assert [name for name in sorted(RUNS) if assigned[name] not in repeating] == []
