"""Describe values, undo plans and denials in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keyleash.audit.entries import LARGE
from keyleash.compiler.emit import MAX_IMAGES
from keyleash.store.keyspace import OPERATORS
from keyleash.store.server_check import PAYLOAD_SETTING
from keyleash.text import (
    clock_time,
    counted,
    distance,
    iso_time,
    json_bytes,
    printable,
    without_tokens,
)

if TYPE_CHECKING:
    from keyleash.audit import Denial
    from keyleash.audit.undo import Conflict, KeyPlan, UndoStep, Value

SHORT_CHARS = 24
"""Characters of an element that is shown among others on one line."""
UNVALIDATED = "the server does not validate payloads"
"""Why a before-image that an agent may have forged is not restored."""


_PARTS = {
    "list": ("value",),
    "set": ("value",),
    "hash": ("field", "value", "expires_at"),
    "zset": ("member", "score"),
    "stream": ("id", "fields"),
}
"""The parts of an element by type, as in JSON."""


def elements_of(value: Value) -> list[Sequence[Any]]:
    """Return the parts of each element, such as the field, value and expiry of a hash."""
    width = len(_PARTS.get(value.kind, ("value",)))
    return [value.elements[at : at + width] for at in range(0, len(value.elements), width)]


def short_value(value: Value | None, now_ms: int) -> str:
    """Return *value* on one line: type, the first elements, and expiry."""
    if value is None:
        return "not known"
    if value.is_absent:
        return "absent"
    expires = "" if value.expires_ms is None else f", expires {distance(value.expires_ms, now_ms)}"
    return f"{value.kind} {_short_content(value)}{expires}"


def _short_content(value: Value) -> str:
    if value.kind == "string":
        text = value.elements[0] if value.elements else b""
        size = f"… ({counted(value.length, 'byte')})" if len(text) < value.length else ""
        return f'"{printable(text)}"{size}'
    if value.kind not in _PARTS:
        return f"of {counted(value.size, 'byte')}"
    shown = [_element_text(value.kind, element, _short) for element in elements_of(value)]
    if len(shown) < value.length:
        shown.append(f"… {value.length} in all")
    inside = ", ".join(shown)
    return f"[{inside}]" if value.kind in {"list", "stream"} else f"{{{inside}}}"


def _element_text(kind: str, element: Sequence[Any], text: Callable[[bytes], str]) -> str:
    match kind:
        case "hash":
            return f"{text(element[0])}: {text(element[1])}"
        case "zset":
            return f"{text(element[0])}: {printable(element[1])}"
        case "stream":
            parts = map(text, element[1])
            fields = (f"{name}={content}" for name, content in zip(parts, parts, strict=True))
            return " ".join([printable(element[0]), *fields])
        case _:
            return text(element[0])


def _short(part: bytes) -> str:
    text = printable(part)
    return text if len(text) <= SHORT_CHARS else f"{text[: SHORT_CHARS - 1]}…"


def value_lines(value: Value) -> Iterator[str]:
    """Yield all of *value*, one element a line; unprintable characters are escaped."""
    if value.kind == "string":
        yield from (printable(line) for line in value.elements[0].split(b"\n"))
    elif value.kind not in _PARTS:
        yield f"a value of type {value.kind}, {counted(value.size, 'byte')}, cannot be shown"
    else:
        for element in elements_of(value):
            if value.kind == "zset":
                yield f"{printable(element[1])} {printable(element[0])}"
                continue
            is_expiring = value.kind == "hash" and int(element[2]) >= 0
            expires = f"  (expires {iso_time(int(element[2]))})" if is_expiring else ""
            yield _element_text(value.kind, element, printable) + expires


def value_as_json(value: Value | None, *, whole: bool = False) -> dict[str, Any] | None:
    """Return *value* as JSON; with its elements only if *whole*, else some may be missing."""
    if value is None or value.is_absent:
        return None if value is None else {"exists": False}
    return {
        "exists": True,
        "type": value.kind,
        "length": value.length,
        "sha1": value.digest,
        "expires_at": None if value.expires_ms is None else iso_time(value.expires_ms),
        **({"value": _json_content(value)} if whole else {}),
    }


def _json_content(value: Value) -> Any:
    if value.kind == "string":
        return json_bytes(value.elements[0])
    names = _PARTS.get(value.kind)
    if names is None:
        return None
    found = [
        {name: _json_part(name, part) for name, part in zip(names, element, strict=True)}
        for element in elements_of(value)
    ]
    return [item["value"] for item in found] if names == ("value",) else found


def _json_part(name: str, part: Any) -> Any:
    match name:
        case "expires_at":
            return None if int(part) < 0 else iso_time(int(part))
        case "score" | "id":
            return part.decode()
        case "fields":
            return [json_bytes(item) for item in part]
        case _:
            return json_bytes(part)


def folded_text(denial: Denial, form: str) -> str:
    """Return in *form* the fields in which the repeats of *denial* may differ; "" if in none."""
    if not denial.is_any_command:
        return ""
    fields = {"commands": "command", "tokens": "token, command and reason"}
    return form.format(fields.get(denial.folded or "commands", "kind"))


def action_text(plan: KeyPlan) -> str:
    """Return the action on a key, for a table of a plan."""
    if plan.is_blocked:
        return "cannot be undone" if undone_by(plan) is None else "already undone"
    if plan.has_expired and plan.action == "remove":
        return "remove: expired by now"
    return "unchanged" if plan.action == "keep" else str(plan.action)


def undone_by(plan: KeyPlan) -> str | None:
    """Return the id of the undo that already restored the key, if it did."""
    changes = [step for conflict in plan.conflicts for step in conflict.by]
    if plan.action != "keep" or not changes or changes[-1].identity != OPERATORS:
        return None
    return changes[-1].correlation


def conflict_label(conflict: Conflict) -> str:
    """Return the word before a reason; only a `conflict` can be overridden."""
    if conflict.is_forced:
        return "forced"
    if conflict.kind == "unvalidated":
        return "not restored"
    return "nothing to restore" if conflict.is_final else "conflict"


def conflict_reason(plan: KeyPlan, conflict: Conflict) -> str:
    """Return the predicate of a sentence whose subject is the key of *plan*."""
    first = plan.steps[0]
    after = (conflict.after or first).event
    match conflict.kind:
        case "changed" if (undo := undone_by(plan)) is not None:
            return f"was already undone by {undo}"
        case "changed":
            until = conflict.until
            when = f"between events {after} and {until.event}" if until else "since"
            return f"changed {when} {_changed_by(plan, conflict)}"
        case "unverified":
            state = "was too large to be compared" if _is_large(conflict) else "is not recorded"
            others = f"; it was changed {_changed_by(plan, conflict)}" if conflict.by else ""
            return f"may have been changed by others: its value after event {after} {state}{others}"
        case "ungranted":
            names = ", ".join(f"`{name}`" for name in conflict.identities)
            return f"the active policy no longer lets {names} change it"
        case "not-recorded":
            return (
                f"event {first.event} has no before-image of it: `before_images`"
                f" was off for it, or the event changed more than {MAX_IMAGES} keys"
            )
        case "large":
            size = counted(conflict.size, "byte")
            return f"not reversible: its {size} before event {first.event} were too large to record"
        case "masked":
            return "not reversible: it is masked, so its name is not recorded"
        case "unreadable":
            return f"this server cannot read its before-image in event {first.event}"
        case "unvalidated":
            return (
                f"{UNVALIDATED} (set `{PAYLOAD_SETTING} yes`), and an agent of"
                f" `{first.identity}` may have forged the before-image in event {first.event}"
            )
        case _:
            return "one of keyleash's own keys"


def _is_large(conflict: Conflict) -> bool:
    after, until = conflict.after, conflict.until
    return bool((after and after.after_state.digest == LARGE) or (until and until.large))


def _changed_by(plan: KeyPlan, conflict: Conflict) -> str:
    if not conflict.by:
        # A hash field that expires changes the hash without any event.
        kinds = {plan.current.kind, plan.target.kind if plan.target else ""}
        return "outside the guards" + (", or fields of it expired" if "hash" in kinds else "")
    first, *more = conflict.by
    rest = f", and {counted(len(more), 'further event')}" if more else ""
    return f"by {step_text(first)}{rest}"


def step_text(step: UndoStep) -> str:
    """Describe a change by others: identity, commands, time, and where it is recorded."""
    ops = " ".join(without_tokens(printable(op)) for op in step.ops)
    actor = f"actor {printable(step.actor)}" if step.actor else f"token {printable(step.token)}"
    return (
        f"`{step.identity}`: {ops} at {clock_time(step.time_ms)} (event {step.event}, {actor},"
        f" correlation {without_tokens(printable(step.correlation))})"
    )
