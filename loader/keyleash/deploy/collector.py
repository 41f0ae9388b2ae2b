"""The collector of the server's Lua, moved on by us where it would be in the way."""

from __future__ import annotations

import time

from redis.exceptions import ResponseError

from keyleash.compiler.templates import render
from keyleash.protocol.active import Client

MANY = 100
"""So many new scripts, or identities to activate, are worth it."""

STEP_KIB = 40
"""How far it goes on in one command, in its own measure; the server serves others in between."""

LONGEST_S = 0.5
"""Enough for 1,000 identities on a server nearby. It is worth no more: a load goes on anyway."""


def come_around(client: Client) -> None:
    """Let it mark and sweep all there is, a little in each command.

    It works whenever something is allocated, and then rests until its memory has doubled. Left
    alone, it sweeps what thousands of scripts are made of within one command: a SCRIPT LOAD, or
    the activation of many identities.
    """
    step, until_s = render("collect.lua"), time.monotonic() + LONGEST_S
    done_kib = 0
    try:
        # Not until it is seen to come around: the server moves it too, and may be the one who
        # ends every round. By EVAL, since scripts may be flushed meanwhile.
        while (held_kib := client.eval(step, 0, STEP_KIB)) and done_kib < held_kib:
            done_kib += STEP_KIB
            if time.monotonic() > until_s:
                return
    except ResponseError:
        # Whatever is wrong with the server, the load itself says it better.
        return
