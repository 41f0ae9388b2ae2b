"""Entries of trails as objects of JSON; bytes that are not UTF-8 are base64, with a marker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keyleash.audit.control import ControlEvent
from keyleash.audit.event import AuditEvent, Change, Denial
from keyleash.audit.gaps import Gap
from keyleash.cli.text import iso_time, json_bytes, without_tokens

if TYPE_CHECKING:
    from keyleash.cli.audit.selection import AnyEntry


def entry_as_json(entry: AnyEntry | Gap, *, images: bool = False) -> dict[str, Any]:
    """An entry, or a gap, by its `kind`; with *images*, also what changed keys held."""
    match entry:
        case Gap():
            return _gap(entry)
        case ControlEvent():
            return _control(entry)
        case Denial():
            return {
                **_common(entry),
                "code": entry.code,
                "reason": entry.reason,
                "repeats": entry.repeats,
                "folded": entry.folded or None,
                "any_command": entry.is_any_command,
                **({} if entry.until_ms is None else {"until": iso_time(entry.until_ms)}),
            }
        case AuditEvent():
            return _event(entry, images)


def _common(entry: AuditEvent | Denial) -> dict[str, Any]:
    return {
        "kind": entry.kind,
        "id": entry.id,
        "time": iso_time(entry.time_ms),
        "identity": entry.identity,
        "seq": entry.seq,
        "token": entry.token,
        "op": without_tokens(entry.op),
        "keys": [json_bytes(key) for key in entry.keys],
        "correlation": entry.correlation,
        "policy": entry.policy,
    }


def _event(entry: AuditEvent, images: bool) -> dict[str, Any]:
    said = _common(entry)
    if entry.item:
        said["item"] = entry.item
    if entry.actor:
        said["actor"] = entry.actor
    said["cost"] = {str(counter): count for counter, count in entry.cost.items()}
    if entry.lengths is not None:
        said["lengths"] = list(entry.lengths)
    if entry.args_sha1 is not None:
        said["args_sha1"] = entry.args_sha1
    if entry.args is not None:
        said["args"] = [json_bytes(argument) for argument in entry.args]
    if entry.changes:
        said["changes"] = [_change(change, images) for change in entry.changes]
    if entry.is_untrusted:
        said["untrusted"] = True
    return {**said, "error": entry.error}


def _change(change: Change, images: bool) -> dict[str, Any]:
    """`before` is null if it is not kept; what did not exist then says so."""
    said: dict[str, Any] = {"key": json_bytes(change.key), "before": None}
    if change.before is None:
        said["large"] = change.large
    elif change.before.held is None:
        said["before"] = {"exists": False}
    else:
        kind, held = change.before.held
        said["before"] = {
            "exists": True,
            "bytes": len(held),
            "expires_at": _time(change.before.expires_ms),
            **({kind: json_bytes(held)} if images else {}),
        }
    return {**said, "after": change.after, "after_expires_at": _time(change.after_expires_ms)}


def _control(event: ControlEvent) -> dict[str, Any]:
    return {
        "kind": "control",
        "id": event.id,
        "time": iso_time(event.time_ms),
        "event": event.event,
        "actor": event.actor,
        "details": dict(event.details),
    }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "kind": "gap",
        "identity": gap.identity,
        "of": gap.kind,
        "first": gap.first,
        "last": gap.last,
        "missing": gap.missing,
        "after": gap.after,
        "before": gap.before,
        "time": iso_time(gap.time_ms),
    }


def _time(time_ms: int | None) -> str | None:
    return None if time_ms is None else iso_time(time_ms)
