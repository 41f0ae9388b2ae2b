"""The options that `fence plan` and `fence apply` share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from keyleash.cli.fence.nodes import node_option
from keyleash.cli.file_names import FILE

F = TypeVar("F", bound=Callable[..., Any])

TIERS = ("fenced", "sealed")


@dataclass(frozen=True)
class Asked:
    """The options of both commands."""

    file: str | None
    tier: str | None
    nodes: Sequence[str]
    wide: Collection[str]
    hashes: str | None


def asked_options(function: F) -> F:
    """The arguments of both commands, as `Asked` has them."""
    for option in (
        click.option(
            "--hashes",
            metavar="FILE",
            type=FILE,
            help="Passwords for those who have none: lines `identity sha256`, `-` for standard"
            " input.",
        ),
        click.option(
            "--wide",
            metavar="NAME",
            multiple=True,
            help="Fence NAME although its keys may reach keyleash's own. Any number of times.",
        ),
        node_option,
        click.option(
            "--tier",
            type=click.Choice(TIERS),
            help="Insist that the server is of this tier.  [default: the one that it is of]",
        ),
        click.argument("file", required=False, type=FILE),
    ):
        function = option(function)
    return function
