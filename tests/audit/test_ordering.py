"""The order of steps of several streams."""

from __future__ import annotations

import pytest

from keyleash.audit.entries import ABSENT
from keyleash.audit.undo import history
from keyleash.audit.undo.history import UndoStep, in_order
from keyleash.audit.undo.key_values import KeyState


def step(event: str, change: str, expires_ms: int | None = None) -> UndoStep:
    """Return the step of event `a/5-0` from state `x` to `y`; `-` is absent, `?` is unknown."""
    identity, _, entry_id = event.partition("/")
    before_state, after_state = (
        KeyState({"-": ABSENT, "?": None}.get(item, item)) for item in change.split(">")
    )
    return UndoStep(
        identity=identity,
        id=entry_id,
        time_ms=int(entry_id.partition("-")[0]),
        token="t",
        ops=("SET",),
        correlation="c",
        key=b"k",
        before_state=before_state,
        after_state=KeyState(after_state.digest, expires_ms),
    )


def ordered(steps: list[UndoStep], end: str) -> list[str]:
    return [item.event for item in in_order(steps, KeyState(end), 1000)]


def test_ids_order_steps_of_one_stream_and_of_different_milliseconds() -> None:
    """Ids are compared as numbers, and their order is never reversed."""
    steps = [step("a/10-2", "x>y"), step("a/10-10", "y>x"), step("b/9-5", "z>x")]

    assert ordered(steps[::-1], "x") == ["b/9-5", "a/10-2", "a/10-10"]


@pytest.mark.parametrize(("end", "order"), [("y", "aba"), ("x", "bab")])
def test_states_order_steps_of_one_millisecond(end: str, order: str) -> None:
    """Two identities change a key to and fro, so only the last state shows the order."""
    first = {"a": "x>y", "b": "y>x"}
    counts = {"a": 0, "b": 0}
    steps = []
    for identity in order:
        steps.append(step(f"{identity}/5-{counts[identity]}", first[identity]))
        counts[identity] += 1

    found = ordered(sorted(steps, key=lambda item: item.event), end)

    assert found == [item.event for item in steps]


def test_expiry_between_two_steps_is_not_a_contradiction() -> None:
    """An expired key is absent without a change."""
    steps = [step("b/5-0", "->y"), step("a/5-0", "z>x", expires_ms=5)]

    assert ordered(steps, "y") == ["a/5-0", "b/5-0"]


def test_known_states_are_preferred_to_unknown_ones() -> None:
    """A step without a before-image fits anywhere."""
    steps = [step("a/5-0", "x>y"), step("b/5-0", "?>?"), step("c/5-0", "y>z")]

    found = ordered(steps, "z")

    assert found.index("a/5-0") < found.index("c/5-0")


def test_too_many_orders_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many steps, ids decide."""
    monkeypatch.setattr(history, "MAX_ORDERS", 3)

    assert ordered([step("b/5-0", "x>y"), step("a/5-1", "y>z")], "z") == ["b/5-0", "a/5-1"]
    assert ordered([step("b/5-1", "x>y"), step("a/5-0", "y>z")], "z") == ["a/5-0", "b/5-1"]
