"""Print a plan."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from keyleash.cli.terminal import is_plain

if TYPE_CHECKING:
    from keyleash.operator.load.load_plan import LoadPlan

_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_SIGN = re.compile(r"^((?:    )?)([+~-])(?= )", re.MULTILINE)
_WIDENS = re.compile(r"   \[widens[^]\n]*\]$|^widens access: (?!none$).*", re.MULTILINE)


def print_plan(server: str, plan: LoadPlan, *, full: bool = False, err: bool = False) -> None:
    """Print a plan below its server; *full* as for `LoadPlan.describe`, *err* to standard error."""
    text = plan.describe(full=full)
    if not is_plain():
        text = _SIGN.sub(lambda sign: sign[1] + click.style(sign[2], fg=_COLOURS[sign[2]]), text)
        text = _WIDENS.sub(lambda mark: click.style(mark[0], bold=True), text)
    click.echo(f"server     {server}\n{text}", err=err)
