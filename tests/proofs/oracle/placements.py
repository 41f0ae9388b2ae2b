"""Calls whose keys servers place differently from `keys_of`, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keyleash.commands import CommandSpec, KeyUse, keys_of
from keyleash.commands.keys import is_option
from keyleash.errors import UnplacedKeysError
from proofs.oracle.arguments import Call

Uses = list[KeyUse]


@dataclass(frozen=True)
class PlacementDifference:
    """
    A reason why a server reports other keys of a call than those that it uses.

    Attributes:
        why: The correct placement.
        servers: Prefixes of the labels of the servers that differ.
        applies: Return whether this is the difference, by the call, our keys and the server's.
    """

    why: str
    servers: tuple[str, ...]
    applies: Callable[[Call, Uses, Uses], bool]


EVERYWHERE = ("redis", "valkey")
VALKEYS = ("valkey 8.1", "valkey 9.1")

DIFFERENCES: dict[str, PlacementDifference] = {
    "claims read": PlacementDifference(
        "XCLAIM replies with entries, and XAUTOCLAIM with entries whose owner it changes; no "
        "server flags the first as access, nor the second as anything but access and delete",
        EVERYWHERE,
        lambda call, ours, theirs: (
            call[0] in (b"XCLAIM", b"XAUTOCLAIM")
            and [use.key for use in ours] == [use.key for use in theirs]
            and all(set(item.needs) > set(it.needs) for item, it in zip(ours, theirs, strict=True))
        ),
    ),
    "PFMERGE without sources": PlacementDifference(
        "it makes the target, of which servers know nothing: the range of sources ends before "
        "it begins, and then they give up the whole call",
        EVERYWHERE,
        lambda call, ours, theirs: call[0] == b"PFMERGE" and len(call) == 2 and not theirs,
    ),
    "target of SORT named like an option": PlacementDifference(
        "Valkey goes on reading options at the target, so a target named STORE, LIMIT, BY or GET "
        "hides or makes another",
        VALKEYS,
        lambda call, ours, theirs: (
            call[0] == b"SORT"
            and ours[:1] == theirs[:1]
            and any(
                is_option(item, word)
                for item in stored_at(call)
                for word in ("STORE", "LIMIT", "BY", "GET")
            )
        ),
    ),
    "two targets of GEORADIUS": PlacementDifference(
        "the last STORE or STOREDIST counts; Valkey 8.1 names the first of each, and of a target "
        "that is named so what follows it",
        ("valkey 8.1",),
        lambda call, ours, theirs: (
            call[0].startswith(b"GEORADIUS") and ours[:1] == theirs[:1] and len(stored_at(call)) > 1
        ),
    ),
    "target of GEORADIUS named like an option": PlacementDifference(
        "the same with one target: Valkey 8.1 takes what follows a target named STOREDIST for "
        "another one",
        ("valkey 8.1",),
        lambda call, ours, theirs: (
            call[0].startswith(b"GEORADIUS")
            and ours[:1] == theirs[:1]
            and len(stored_at(call)) == 1
            and any(is_option(stored_at(call)[0], word) for word in ("STORE", "STOREDIST"))
        ),
    ),
    "group or consumer named STREAMS": PlacementDifference(
        "Valkey takes the first word STREAMS from the fifth argument on for the option, though "
        "it may be a group or a consumer, and the first five may hold the option",
        VALKEYS,
        lambda call, ours, theirs: (
            call[0] == b"XREADGROUP" and sum(is_option(word, "STREAMS") for word in call) > 1
        ),
    ),
}
"""All differences in calls that servers run; tests/commands shows that each is needed."""


def stored_at(call: Call) -> list[bytes]:
    """Return the keys after STORE and STOREDIST, as the commands read them; the last one counts."""
    found, place = [], 2
    while place < len(call) - 1:
        if is_option(call[place], "STORE") or is_option(call[place], "STOREDIST"):
            place += 1
            found.append(call[place])
        elif is_option(call[0], "SORT") and any(is_option(call[place], it) for it in ("BY", "GET")):
            place += 1
        place += 1
    return found


def ours_of(spec: CommandSpec, call: Call) -> Uses | None:
    """Return the keys of a call as we place them; None if a guard denies it for an option."""
    try:
        return list(keys_of(spec, call))
    except UnplacedKeysError:
        return None
