"""Calls of guards in words."""

from __future__ import annotations

from keyleash.commands import load_table
from keyleash.store.wire import BatchMode, batch_call, guard_call, runs_call, script_call

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
