"""Why a key is not given back what it held, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyleash.cli.text import clock_time, counted, printable, without_tokens
from keyleash.cli.values import UNVALIDATED
from keyleash.protocol.keyspace import OPERATORS
from keyleash.protocol.payloads import SETTING

if TYPE_CHECKING:
    from keyleash.audit.undo import KeyPlan, Obstacle, Step


def label(obstacle: Obstacle) -> str:
    """Return the word before a reason: a conflict can be overridden, the others cannot."""
    if obstacle.is_forced:
        return "forced"
    if obstacle.kind == "unvalidated":
        return "not restored"
    return "nothing to restore" if obstacle.is_final else "conflict"


def reason(plan: KeyPlan, obstacle: Obstacle) -> str:
    """One obstacle of *plan* as a sentence about its key."""
    first = plan.steps[0]
    match obstacle.kind:
        case "changed" if (undo := undone_by(plan)) is not None:
            return f"was already undone by {undo}"
        case "changed":
            return f"{_when(obstacle)} {_by_whom(plan, obstacle)}"
        case "unverified":
            left = "was too large to be compared" if _is_large(obstacle) else "is not recorded"
            after = obstacle.after.event if obstacle.after else first.event
            others = f"; it was changed {_by_whom(plan, obstacle)}" if obstacle.by else ""
            return f"may have been changed by others: what event {after} left {left}{others}"
        case "ungranted":
            names = ", ".join(f"`{name}`" for name in obstacle.identities)
            return f"the active policy no longer lets {names} change it"
        case "not-recorded":
            # It brings the compiler along, which `--help` does not need.
            from keyleash.compiler.emit import MAX_IMAGES

            return (
                f"no before-image was taken when event {first.event} changed it: `before_images`"
                f" was off for it, or the event changed more than {MAX_IMAGES} keys"
            )
        case "large":
            size = counted(obstacle.size, "byte")
            return f"not reversible: it took {size} before event {first.event}, too many to be kept"
        case "masked":
            return "not reversible: it is masked, so its name is not recorded"
        case "unreadable":
            return f"this server cannot read what event {first.event} kept of it"
        case "unvalidated":
            return (
                f"{UNVALIDATED} (set `{SETTING} yes`), and an agent of `{first.identity}` may have"
                f" made up what event {first.event} recorded"
            )
        case _:
            return "one of keyleash's own keys"


def undone_by(plan: KeyPlan) -> str | None:
    """Return the undo that gave the key back what it held, if that is what it holds now."""
    if plan.action != "keep":
        return None
    by = [step for obstacle in plan.obstacles for step in obstacle.by]
    newest = by[-1] if by else None
    is_undo = newest is not None and newest.identity == OPERATORS
    return newest.correlation if newest and is_undo else None


def _is_large(obstacle: Obstacle) -> bool:
    following = obstacle.until
    return "large" in {
        obstacle.after.became.digest if obstacle.after else None,
        "large" if following and following.large else None,
    }


def _when(obstacle: Obstacle) -> str:
    if obstacle.until is None:
        return "changed since"
    after = obstacle.after.event if obstacle.after else ""
    return f"changed between events {after} and {obstacle.until.event}"


def _by_whom(plan: KeyPlan, obstacle: Obstacle) -> str:
    if not obstacle.by:
        # A field that expires by itself changes the hash, and nobody tells.
        may_expire = ", or fields of it expired" if "hash" in _kinds(plan) else ""
        return f"outside the guards{may_expire}"
    first, *more = obstacle.by
    rest = f", and {counted(len(more), 'further event')}" if more else ""
    return f"by {deed(first)}{rest}"


def _kinds(plan: KeyPlan) -> set[str]:
    return {plan.now.kind, *([plan.then.kind] if plan.then else [])}


def deed(step: Step) -> str:
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
