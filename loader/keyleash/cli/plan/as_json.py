"""A plan as programs read it: all of it, and exact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyleash.cli.plan.rules import rule_name
from keyleash.cli.text import json_bytes
from keyleash.policy.canonical import plain

if TYPE_CHECKING:
    from keyleash.deploy import PreparedPolicy, Preview
    from keyleash.policy.diff import Change, Gain, IdentityDiff


def plan_as_json(prepared: PreparedPolicy, preview: Preview) -> dict[str, Any]:
    """The plan, without the server and the file."""
    active = preview.active
    return {
        "digest": prepared.digest,
        "transport": preview.transport,
        "active": active
        and {
            "generation": active.generation,
            "digest": active.digest,
            "transport": active.transport,
            "readable": preview.is_readable,
        },
        "changes": not preview.is_empty,
        "widens": preview.diff.widens,
        "needs_allow_widening": preview.needs_permission,
        "identities": [_identity(one) for one in preview.diff.identities],
        "unchanged": list(preview.diff.unchanged),
        "made_anew": list(preview.to_mend),
        "counters_lost": list(preview.lost),
    }


def _identity(diff: IdentityDiff) -> dict[str, Any]:
    return {
        "name": diff.name,
        "kind": diff.kind,
        "action": _action(diff.before, diff.after),
        "widens": diff.widens,
        "narrows": diff.narrows,
        "changes": [_change(one) for one in diff.changes],
        "gains": [_gain(one) for one in diff.gains],
        "losses": [_gain(one) for one in diff.losses],
    }


def _change(change: Change) -> dict[str, Any]:
    is_order = change.part == "order"
    return {
        "rule": rule_name(change),
        "action": _action(change.before, change.after),
        "before": None if is_order else plain(change.before),
        "after": None if is_order else plain(change.after),
        "widens": change.widens,
        "narrows": change.narrows,
    }


def _gain(gain: Gain) -> dict[str, Any]:
    """Commands and one call of theirs; a key of which only the existence is likely is null."""
    said: dict[str, Any] = {"commands": list(gain.commands)}
    if gain.form.needs:
        said["keys"] = [
            {"needs": list(needs), "key": None if key is None else json_bytes(key)}
            for needs, key in zip(gain.form.needs, gain.keys, strict=True)
        ]
    for name in ("channel", "glob", "shown"):
        value = getattr(gain, name)
        if value is not None:
            said[name] = json_bytes(value)
    return said


def _action(before: object, after: object) -> str:
    if before is None:
        return "add"
    return "remove" if after is None else "change"
