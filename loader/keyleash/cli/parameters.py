"""Parameter types and options for identities, durations and points in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType
from redis import exceptions as redis_errors

from keyleash.cli.settings import node_client
from keyleash.errors import KeyleashError, PolicyError, Span
from keyleash.policy.quantities import parse_duration
from keyleash.store.identities import known_identities
from keyleash.store.prefixes import server_keyspace

F = TypeVar("F", bound=Callable[..., Any])
_HELP = "write a duration ago, such as `10m`, or a time, such as `2026-01-31T12:00Z`"


def duration_s(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | None:
    """Read an option as a duration of the policy language, `30s` or `1h30m`, in seconds."""
    if value is None:
        return None
    try:
        return parse_duration(value, Span("", 1, 1), because="nothing here lasts longer")
    except PolicyError as error:
        problem = error.problems[0]
        raise click.BadParameter(f"{problem.message}; {problem.help}") from None


@dataclass(frozen=True, slots=True)
class Moment:
    """A time by the server's clock.

    Attributes:
        said: As it was given.
        ago_ms: So long before now; None if it is a date.
        time_ms: Unix milliseconds; of a duration, 0.
    """

    said: str
    ago_ms: int | None
    time_ms: int = 0

    def at(self, now_ms: int) -> int:
        """Unix milliseconds, when the server's clock says *now_ms*."""
        return max(0, self.time_ms if self.ago_ms is None else now_ms - self.ago_ms)


def moment(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Moment | None:
    """Read an option or argument as `10m`, or as ISO 8601, in UTC if it names no zone."""
    if value is None:
        return None
    try:
        return Moment(value, parse_duration(value, Span("", 1, 1)) * 1000)
    except PolicyError as error:
        if error.problems[0].code == "duration-out-of-range":
            raise click.BadParameter(error.problems[0].message) from None
    try:
        date = datetime.fromisoformat(value)
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        return Moment(value, None, round(aware.timestamp() * 1000))
    except (ValueError, OverflowError):
        raise click.BadParameter(f"`{value}` is no time; {_HELP}") from None


def since_option(function: F) -> F:
    """Let `--since` give where to begin."""
    return click.option(
        "--since",
        metavar="TIME",
        callback=moment,
        help="Start time: `10m` ago, or ISO 8601 (UTC by default).",
    )(function)


def until_option(function: F) -> F:
    """Let `--until` give where to end."""
    return click.option(
        "--until", metavar="TIME", callback=moment, help="End time, in the same form."
    )(function)


class IdentityName(StringParamType):
    """The name of an identity. Commands check that it exists."""

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return the known identities that begin with *incomplete*; none if the server fails."""
        url = str(ctx.find_root().params.get("url") or "")
        try:
            client = node_client(url, url)
            names = known_identities(client, server_keyspace(client))
        except (redis_errors.RedisError, OSError, KeyleashError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


IDENTITY = IdentityName()
