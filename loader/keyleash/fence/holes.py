"""
Commands that a fence leaves out though the policy grants them, and which the guard then cannot run.

A server finds the keys of some calls wrongly, and its ACLs then check others than the call
touches. A guard refuses these calls; a user that is allowed the command could make them by
itself. So each is tried on the server, by COMMAND GETKEYS, which shares the code of the check.
Where the server is sealed, what it finds must begin with the vault's prefix, which no agent
knows; so only those calls matter in which it finds no key at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

LEFT_OUT: Mapping[str, str] = {"SCAN": "an ACL lets it list every key of the server"}
"""Whatever the server and the tier."""

LEFT_OUT_UNSEALED: Mapping[str, str] = {"COPY": "an ACL lets it write into another database"}
"""Unless the server is sealed: then an agent would have to know the name of a key."""


class Hole(NamedTuple):
    """A call, and the keys that it touches."""

    command: str
    call: tuple[str, ...]
    keys: tuple[str, ...]
    why: str


HOLES = (
    Hole("PFMERGE", ("other",), ("other",), "called without sources, it makes any key"),
    Hole(
        "SORT", ("key", "STORE", "LIMIT", "STORE", "other"), ("key", "other"),
        "behind a target named like an option, it writes any key",
    ),
    Hole(
        "GEORADIUS", ("key", "1", "1", "1", "m", "STORE", "one", "STORE", "other"),
        ("key", "other"), "with two targets, it writes any key",
    ),
    Hole(
        "GEORADIUSBYMEMBER", ("key", "m", "1", "m", "STORE", "one", "STORE", "other"),
        ("key", "other"), "with two targets, it writes any key",
    ),
    Hole(
        "XREADGROUP", ("COUNT", "1", "GROUP", "STREAMS", "c", "STREAMS", "other", ">"),
        ("other",), "with a group named STREAMS, it reads any stream",
    ),
)  # fmt: skip
