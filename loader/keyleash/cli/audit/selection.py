"""The options that say which entries of which trails are meant, and reading these."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.cli.errors import UsageError
from keyleash.cli.settings import Settings
from keyleash.cli.standing import known_identities, require_known, server_time_ms
from keyleash.cli.text import clock_time, without_tokens
from keyleash.cli.times import Moment, since_option
from keyleash.errors import NothingFoundError, ReplyCode
from keyleash.protocol.keyspace import OPERATORS

if TYPE_CHECKING:
    from keyleash.audit import AuditEvent, ControlEvent, Denial, Query
    from keyleash.policy.model import Pattern

    AnyEntry = AuditEvent | Denial | ControlEvent

F = TypeVar("F", bound=Callable[..., Any])
MAX_CORRELATION = 256
"""A guard records so many bytes."""


class Kind(StrEnum):
    """What is read, in the words of messages."""

    EVENTS = "event"
    DENIALS = "refusal"
    CONTROL = "operators' event"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which entries are meant, as the options say it.

    Attributes:
        identities: Names as given; empty for all.
    """

    kind: Kind
    identities: tuple[str, ...]
    token: str | None
    pattern: Pattern | None
    correlation: str | None
    op: str | None
    code: str | None
    since: Moment | None
    until: Moment | None = None

    def query(self, settings: Settings) -> Query:
        """The same by the server's clock.

        Raises:
            UsageError: it ends before it begins.
        """
        from keyleash.audit import Query

        since_ms, until_ms = time_range(settings, self.since, self.until)
        return Query(
            token=self.token,
            pattern=self.pattern,
            correlation=self.correlation,
            op=self.op,
            code=self.code,
            since_ms=since_ms,
            until_ms=until_ms,
        )

    def names(self, settings: Settings) -> list[str]:
        """Whose trails; of all, the operators' own too where there is one."""
        return trail_names(settings, self.identities, operators=self.kind is Kind.EVENTS)

    def read(self, settings: Settings, query: Query, *, newest_first: bool) -> Iterator[AnyEntry]:
        """Read them."""
        from keyleash import audit

        names = self.names(settings)
        where = (settings.client, settings.keyspace)
        match self.kind:
            case Kind.EVENTS:
                return audit.read_events(*where, names, query, newest_first=newest_first)
            case Kind.DENIALS:
                return audit.read_denials(*where, names, query, newest_first=newest_first)
            case Kind.CONTROL:
                about = names if self.identities else None
                return audit.read_control(*where, about, query, newest_first=newest_first)


def selecting(function: F) -> F:
    """Let options choose entries; the command receives them as a `Selection`."""

    @click.argument("named", metavar="[IDENTITY]...", nargs=-1)
    @click.option("--identity", "identities", metavar="NAME", multiple=True, help="Whose; repeat.")
    @click.option("--token", metavar="ID", callback=_token_id, help="The token's id.")
    @click.option(
        "--key",
        "pattern",
        metavar="PATTERN",
        callback=key_pattern,
        help="A key, or a pattern as in policies: `{name}` is one segment, a final `*` any rest.",
    )
    @click.option("--correlation", metavar="ID", callback=_correlation, help="The correlation id.")
    @click.option("--op", metavar="COMMAND", callback=_upper, help="The command's name.")
    @click.option(
        "--code",
        metavar="CODE",
        type=click.Choice([str(code) for code in ReplyCode], case_sensitive=False),
        help="What was refused with that code.",
    )
    @since_option
    @click.option("--denied", is_flag=True, help="What was refused, in place of what was done.")
    @click.option("--control", is_flag=True, help="What operators did, in place of identities.")
    @functools.wraps(function)
    def select(
        *args: Any,
        named: tuple[str, ...],
        identities: tuple[str, ...],
        denied: bool,
        control: bool,
        token: str | None,
        pattern: Pattern | None,
        correlation: str | None,
        op: str | None,
        code: str | None,
        since: Moment | None,
        until: Moment | None = None,
        **others: Any,
    ) -> Any:
        selection = Selection(
            kind=_kind(denied or code is not None, control),
            identities=tuple(dict.fromkeys([*named, *identities])),
            token=token,
            pattern=pattern,
            correlation=correlation,
            op=op,
            code=code,
            since=since,
            until=until,
        )
        _require_possible(selection)
        return function(*args, selection=selection, **others)

    return select  # type: ignore[return-value]


def trail_names(
    settings: Settings, given: Sequence[str] = (), *, operators: bool = True
) -> list[str]:
    """
    Whose trails are meant.

    Args:
        settings: Of this run.
        given: Names; empty for all.
        operators: Whether the trail of what operators changed is one of all.

    Raises:
        NoPolicyError: nothing was ever loaded.
        UnknownIdentityError: none has that name.
    """
    client, keyspace = settings.client, settings.keyspace
    for name in given:
        if name != OPERATORS:
            require_known(client, keyspace, name)
    if given:
        return list(given)
    require_known(client, keyspace, None)
    return [*known_identities(client, keyspace), *([OPERATORS] if operators else [])]


def time_range(
    settings: Settings, since: Moment | None, until: Moment | None
) -> tuple[int | None, int | None]:
    """
    A range of time by the server's clock, Unix milliseconds.

    Raises:
        UsageError: it ends before it begins.
    """
    if since is None and until is None:
        return None, None
    now_ms = server_time_ms(settings.client)
    since_ms = None if since is None else since.at(now_ms)
    until_ms = None if until is None else until.at(now_ms)
    if since_ms is not None and until_ms is not None and since_ms > until_ms:
        assert since is not None and until is not None  # noqa: S101, PT018 - both have a time
        raise UsageError(f"`--since {since.said}` is after `--until {until.said}`")
    return since_ms, until_ms


def nothing_found(settings: Settings, what: str, query: Query) -> NothingFoundError:
    """The error that says that no entry is meant, and by which clock."""
    bounds = [
        f"{word} {clock_time(time_ms)}"
        for word, time_ms in (("since", query.since_ms), ("until", query.until_ms))
        if time_ms is not None
    ]
    now = clock_time(server_time_ms(settings.client))
    return NothingFoundError(
        " ".join([f"found no {what}", *bounds]),
        help=f"the server's clock says {now}; `keyleash audit stats` says what there is",
    )


def _kind(denied: bool, control: bool) -> Kind:
    if denied and control:
        raise UsageError("operators are refused nothing: give `--denied` or `--control`")
    return Kind.DENIALS if denied else Kind.CONTROL if control else Kind.EVENTS


def _require_possible(selection: Selection) -> None:
    if selection.kind is not Kind.CONTROL:
        return
    for option, value in (
        ("--key", selection.pattern),
        ("--correlation", selection.correlation),
        ("--op", selection.op),
    ):
        if value is not None:
            raise UsageError(f"what operators did has no `{option}`")


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


def _token_id(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    if value is not None and without_tokens(value) != value:
        raise click.BadParameter("that is a token; give its id, as `keyleash token list` has it")
    return value


def _correlation(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """As events have it: cut, and what is not UTF-8 escaped."""
    if value is None:
        return None
    return os.fsencode(value)[:MAX_CORRELATION].decode("utf-8", "backslashreplace")


def _upper(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else value.upper()
