"""The collector of the server's Lua, moved on by us where it would be in the way."""

from __future__ import annotations

from keyleash.compiler.templates import render
from keyleash.protocol.active import Client

STEP_KIB = 10
"""How far it goes on in one command."""


def come_around(client: Client) -> None:
    """Let it mark and sweep all there is, a little in each command.

    It works whenever something is allocated, and then rests until its memory has doubled. Left
    alone, it sweeps what thousands of scripts are made of within one command: a SCRIPT LOAD, or
    the activation of many identities.
    """
    step = client.script_load(render("collect.lua"))
    done_kib = 0
    # Not until it is seen to come around: the server moves it too, and may be the one who ends
    # every round.
    while (held_kib := client.evalsha(step, 0, STEP_KIB)) and done_kib < held_kib:
        done_kib += STEP_KIB
