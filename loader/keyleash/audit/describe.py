"""Describe values, conflicts and denials in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from keyleash.compiler.emit import MAX_IMAGES
from keyleash.store.keyspace import OPERATORS
from keyleash.store.server_check import PAYLOAD_SETTING
from keyleash.store.token import without_tokens
from keyleash.text import clock_time, counted, distance, iso_time, json_bytes, printable

if TYPE_CHECKING:
    from keyleash.audit import Denial
    from keyleash.audit.undo import Conflict, KeyPlan, UndoStep, Value


SHORT_CHARS = 24
"""Of an element that stands among others on one line."""

FOLDED = {"commands": "command", "tokens": "token, command and reason"}
"""What the repeats of a folded denial do not have in common."""

UNVALIDATED = "the server does not validate payloads"
"""Why a before-image of an agent that may have made it up is not restored."""


def short_value(value: Value | None, now_ms: int) -> str:
    """*value* on one line: its type, as much as fits, and when it expires."""
    if value is None:
        return "not known"
    if value.is_absent:
        return "absent"
    expires = "" if value.expires_ms is None else f", expires {distance(value.expires_ms, now_ms)}"
    return f"{value.kind} {_short_content(value)}{expires}"


def _short_content(value: Value) -> str:
    shown = list(_short_elements(value))
    match value.kind:
        case "string":
            shown_bytes = value.elements[0] if value.elements else b""
            is_cut = len(shown_bytes) < value.length
            return f'"{printable(shown_bytes)}"' + (
                f"… ({counted(value.length, 'byte')})" if is_cut else ""
            )
        case "list" | "set" | "hash" | "zset" | "stream":
            more = [f"… {value.length} in all"] if len(shown) < value.length else []
            inside = ", ".join([*shown, *more])
            return f"[{inside}]" if value.kind in {"list", "stream"} else f"{{{inside}}}"
        case _:
            return f"of {counted(value.size, 'byte')}"


def _short_elements(value: Value) -> Iterator[str]:
    for element in elements_of(value):
        match value.kind:
            case "hash":
                yield f"{_short(element[0])}: {_short(element[1])}"
            case "zset":
                yield f"{_short(element[0])}: {printable(element[1])}"
            case "stream":
                words = [_short(word) for word in element[1]]
                yield " ".join([printable(element[0]), *_paired(words)])
            case "list" | "set":
                yield _short(element[0])


def _paired(words: Sequence[str]) -> Iterator[str]:
    return (f"{name}={said}" for name, said in zip(words[::2], words[1::2], strict=True))


def _short(word: bytes) -> str:
    text = printable(word)
    return text if len(text) <= SHORT_CHARS else f"{text[: SHORT_CHARS - 1]}…"


def elements_of(value: Value) -> Iterator[Sequence[Any]]:
    """The words of each element: of a hash field, value and expiry, and so on; see `Value`."""
    width = {"hash": 3, "zset": 2, "stream": 2}.get(value.kind, 1)
    for at in range(0, len(value.elements), width):
        yield value.elements[at : at + width]


def value_lines(value: Value) -> Iterator[str]:
    """All of *value*, an element a line; a string as it is but for what is not printable."""
    match value.kind:
        case "string":
            yield from (printable(line) for line in value.elements[0].split(b"\n"))
        case "list" | "set":
            yield from (printable(element[0]) for element in elements_of(value))
        case "hash":
            for name, held, expires in elements_of(value):
                until = "" if int(expires) < 0 else f"  (expires {iso_time(int(expires))})"
                yield f"{printable(name)}: {printable(held)}{until}"
        case "zset":
            yield from (
                f"{printable(score)} {printable(item)}" for item, score in elements_of(value)
            )
        case "stream":
            for entry_id, words in elements_of(value):
                shown = [printable(word) for word in words]
                yield " ".join([printable(entry_id), *_paired(shown)])
        case _:
            yield f"a value of type {value.kind}, {counted(value.size, 'byte')}, cannot be shown"


def value_as_json(value: Value | None, *, whole: bool = False) -> dict[str, Any] | None:
    """*value* with its type; the elements only if *whole*, since else they are cut."""
    if value is None:
        return None
    said: dict[str, Any] = {"exists": not value.is_absent}
    if value.is_absent:
        return said
    said |= {
        "type": value.kind,
        "length": value.length,
        "sha1": value.digest,
        "expires_at": None if value.expires_ms is None else iso_time(value.expires_ms),
    }
    return {**said, "value": _content(value)} if whole else said


def _content(value: Value) -> Any:
    elements = list(elements_of(value))
    match value.kind:
        case "string":
            return json_bytes(value.elements[0])
        case "list" | "set":
            return [json_bytes(element[0]) for element in elements]
        case "hash":
            return [
                {
                    "field": json_bytes(name),
                    "value": json_bytes(held),
                    "expires_at": None if int(expires) < 0 else iso_time(int(expires)),
                }
                for name, held, expires in elements
            ]
        case "zset":
            return [
                {"member": json_bytes(member), "score": score.decode()}
                for member, score in elements
            ]
        case "stream":
            return [
                {"id": entry_id.decode(), "fields": [json_bytes(word) for word in words]}
                for entry_id, words in elements
            ]
        case _:
            return None


def shown_folded(denial: Denial, form: str) -> str:
    """Return what the calls that *denial* counts need not have in common, in *form*; else ""."""
    if not denial.is_any_command:
        return ""
    return form.format(FOLDED.get(denial.folded or "commands", "kind"))


def label(conflict: Conflict) -> str:
    """Return the word before a reason: a conflict can be overridden, the others cannot."""
    if conflict.is_forced:
        return "forced"
    if conflict.kind == "unvalidated":
        return "not restored"
    return "nothing to restore" if conflict.is_final else "conflict"


def reason(plan: KeyPlan, conflict: Conflict) -> str:
    """One obstacle of *plan* as a sentence about its key."""
    first = plan.steps[0]
    match conflict.kind:
        case "changed" if (undo := undone_by(plan)) is not None:
            return f"was already undone by {undo}"
        case "changed":
            return f"{_when(conflict)} {_by_whom(plan, conflict)}"
        case "unverified":
            left = "was too large to be compared" if _is_large(conflict) else "is not recorded"
            after = conflict.after.event if conflict.after else first.event
            others = f"; it was changed {_by_whom(plan, conflict)}" if conflict.by else ""
            return f"may have been changed by others: what event {after} left {left}{others}"
        case "ungranted":
            names = ", ".join(f"`{name}`" for name in conflict.identities)
            return f"the active policy no longer lets {names} change it"
        case "not-recorded":
            # It brings the compiler along, which `--help` does not need.

            return (
                f"no before-image was taken when event {first.event} changed it: `before_images`"
                f" was off for it, or the event changed more than {MAX_IMAGES} keys"
            )
        case "large":
            size = counted(conflict.size, "byte")
            return f"not reversible: it took {size} before event {first.event}, too many to be kept"
        case "masked":
            return "not reversible: it is masked, so its name is not recorded"
        case "unreadable":
            return f"this server cannot read what event {first.event} kept of it"
        case "unvalidated":
            return (
                f"{UNVALIDATED} (set `{PAYLOAD_SETTING} yes`), and an agent of"
                f" `{first.identity}` may have made up what event {first.event} recorded"
            )
        case _:
            return "one of keyleash's own keys"


def undone_by(plan: KeyPlan) -> str | None:
    """Return the undo that gave the key back what it held, if that is what it holds now."""
    if plan.action != "keep":
        return None
    by = [step for conflict in plan.conflicts for step in conflict.by]
    newest = by[-1] if by else None
    is_undo = newest is not None and newest.identity == OPERATORS
    return newest.correlation if newest and is_undo else None


def _is_large(conflict: Conflict) -> bool:
    following = conflict.until
    return "large" in {
        conflict.after.after_state.digest if conflict.after else None,
        "large" if following and following.large else None,
    }


def _when(conflict: Conflict) -> str:
    if conflict.until is None:
        return "changed since"
    after = conflict.after.event if conflict.after else ""
    return f"changed between events {after} and {conflict.until.event}"


def _by_whom(plan: KeyPlan, conflict: Conflict) -> str:
    if not conflict.by:
        # A field that expires by itself changes the hash, and nobody tells.
        may_expire = ", or fields of it expired" if "hash" in _kinds(plan) else ""
        return f"outside the guards{may_expire}"
    first, *more = conflict.by
    rest = f", and {counted(len(more), 'further event')}" if more else ""
    return f"by {step_text(first)}{rest}"


def _kinds(plan: KeyPlan) -> set[str]:
    return {plan.now.kind, *([plan.then.kind] if plan.then else [])}


def step_text(step: UndoStep) -> str:
    """Who did what, when, and where it is recorded."""
    ops = " ".join(without_tokens(printable(op)) for op in step.ops)
    who = f"`{step.identity}`"
    by = f"actor {printable(step.actor)}" if step.actor else f"token {printable(step.token)}"
    correlation = without_tokens(printable(step.correlation))
    return (
        f"{who}: {ops} at {clock_time(step.time_ms)}"
        f" (event {step.event}, {by}, correlation {correlation})"
    )


def what_happens(plan: KeyPlan) -> str:
    """In the words of the table."""
    if plan.is_blocked:
        return "cannot be undone" if undone_by(plan) is None else "already undone"
    if plan.has_expired and plan.action == "remove":
        return "remove: expired by now"
    if plan.action == "keep":
        return "as it was already"
    return str(plan.action)
