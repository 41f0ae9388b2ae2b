"""Patterns of keys on the command line."""

from __future__ import annotations

import click

from keyleash.cli.audit.parameters import key_pattern


def key_patterns(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    """See that each value is a pattern of keys, and give them as they are."""
    for value in values:
        key_pattern(context, parameter, value)
    return values
