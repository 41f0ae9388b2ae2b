"""Lay out the limits of an identity in its packed state."""

from __future__ import annotations

from dataclasses import replace

from keyleash.commands import CommandTable
from keyleash.compiler.ir import Guard
from keyleash.store.state import layout_of


def lay_out_state(guard: Guard, _table: CommandTable) -> Guard:
    """Fill `layout`."""
    return replace(guard, layout=layout_of(guard.identity.limits))
