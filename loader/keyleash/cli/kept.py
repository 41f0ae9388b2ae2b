"""Which of the policies that a server keeps is meant."""

from __future__ import annotations

from collections.abc import Sequence

from keyleash.cli.text import clock_time, printable, short_digest
from keyleash.errors import NoPolicyError, UnknownPolicyError
from keyleash.protocol.active import ActivePolicy

MIN_DIGITS = 6
"""So much of a digest must be given."""


def find_kept(kept: Sequence[ActivePolicy], digest: str) -> ActivePolicy:
    """
    The kept policy whose digest begins with *digest*.

    Raises:
        UnknownPolicyError: there is none, or several; the help lists those that there are.
        NoPolicyError: none is kept at all.
    """
    if not kept:
        raise NoPolicyError("no policy is kept here", help="load one with `keyleash load FILE`")
    wanted = digest.lower()
    found = [one for one in kept if one.digest.startswith(wanted)]
    if len(wanted) < MIN_DIGITS or len(found) != 1:
        shown = printable(digest[:64])
        message = (
            f"more of the digest `{shown}` is needed: at least {MIN_DIGITS} digits"
            if len(wanted) < MIN_DIGITS
            else f"no policy with the digest `{shown}` is kept"
            if not found
            else f"{len(found)} policies have a digest that begins with `{shown}`"
        )
        raise UnknownPolicyError(message, help=f"there are {'; '.join(map(_named, kept))}")
    return found[0]


def _named(one: ActivePolicy) -> str:
    when = clock_time(one.activated_ms)
    return f"`{short_digest(one.digest)}` (generation {one.generation}, {when})"
