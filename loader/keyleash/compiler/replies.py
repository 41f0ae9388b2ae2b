"""The commands whose replies a guard restores before it sends them."""

from __future__ import annotations

from keyleash.commands import CommandSpec

_NAMED = {
    **dict.fromkeys(
        ("BLPOP", "BRPOP", "LMPOP", "BLMPOP", "BZPOPMIN", "BZPOPMAX", "ZMPOP", "BZMPOP"), "named"
    ),
    **dict.fromkeys(("XREAD", "XREADGROUP"), "streams"),
}
"""Replies that name keys: as the first word, or with the entries of each stream."""


def names_widths(spec: CommandSpec) -> bool:
    """Return whether arguments like `u63` give the width of integers in the reply."""
    return spec.name in {"BITFIELD", "BITFIELD_RO"}


def restoration_of(spec: CommandSpec, *, sealed: bool = False) -> str | None:
    """Return the way in which the command's reply is restored; None if it is complete.

    From the reply of a scan, keys that are not granted are removed. Where keys are in a vault, its
    prefix is removed from names; a command of a module may have them anywhere.
    """
    if spec.scans:
        return "scan"
    if sealed:
        return "anywhere" if spec.named_only else _NAMED.get(spec.name)
    return None
