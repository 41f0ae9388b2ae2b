"""What an activation does to each state: which number comes from where."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from keyleash.compiler import CompiledGuard
from keyleash.compiler.calendar import window_end_us
from keyleash.compiler.emit import POLICY_DIGITS
from keyleash.protocol.state import EMPTY_LAYOUT, Layout, Slot


def activation_plan(
    guards: Sequence[CompiledGuard],
    layouts: Mapping[str, Layout],
    removed: Sequence[str],
    now_us: int,
    commands: str = "",
) -> str:
    """The plan that `activate.lua` carries out, as JSON.

    Args:
        guards: The new policy's guards.
        layouts: The layouts of the states as they are, by identity.
        removed: Identities that are in the active policy and not in the new one.
        now_us: Server time, to find the windows that are open.
        commands: What the guard records tell wrappers; see `protocol.learned`.
    """
    return json.dumps(
        {
            "identities": [
                _identity(guard, layouts.get(guard.identity, EMPTY_LAYOUT), now_us)
                for guard in guards
            ],
            "removed": list(removed),
            "commands": commands,
            "summary": json.dumps(
                {guard.identity: guard.policy_digest[:POLICY_DIGITS] for guard in guards}
            ),
        }
    )


def _identity(guard: CompiledGuard, old: Layout, now_us: int) -> dict[str, Any]:
    old_slots = {slot.name: slot for slot in old.slots}
    ends = {
        plan.slot.name: window_end_us(plan.runs, now_us) for plan in guard.plan.limits if plan.runs
    }
    return {
        "name": guard.identity,
        "digest": guard.digest,
        "batch_digest": guard.batch_digest,
        "stamp": guard.stamp,
        "policy_digest": guard.policy_digest,
        "layout": guard.layout.to_json(),
        "limits": [
            {
                **_slot(slot),
                "window_end_us": ends.get(slot.name, 0),
                "from": _slot(old_slots[slot.name]) if slot.name in old_slots else None,
            }
            for slot in guard.layout.slots
        ],
    }


def _slot(slot: Slot) -> dict[str, Any]:
    return {**asdict(slot), "interval_us": slot.interval_us}
