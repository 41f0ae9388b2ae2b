"""Values of options as trails have them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from keyleash.cli.text import without_tokens

if TYPE_CHECKING:
    from keyleash.policy.model import Pattern

MAX_CORRELATION = 256
"""A guard records so many bytes."""


def key_pattern(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Pattern | None:
    """Read an option as a pattern of keys."""
    from keyleash.errors import PolicyError
    from keyleash.policy.patterns import parse_pattern

    if value is None:
        return None
    try:
        return parse_pattern(value)
    except PolicyError as error:
        problem = error.problems[0]
        raise click.BadParameter(f"{problem.message}; {problem.help}") from None
    except UnicodeEncodeError:
        raise click.BadParameter("a pattern is UTF-8") from None


def token_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Read an option as a token's id, and not a token."""
    if value is not None and without_tokens(value) != value:
        raise click.BadParameter("that is a token; give its id, as `keyleash token list` has it")
    return value


def correlation_id(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """As events have it: cut, and what is not UTF-8 escaped."""
    if value is None:
        return None
    return os.fsencode(value)[:MAX_CORRELATION].decode("utf-8", "backslashreplace")


def upper(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Read an option in upper case, as commands are recorded."""
    return None if value is None else value.upper()
