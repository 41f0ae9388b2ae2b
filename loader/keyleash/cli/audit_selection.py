"""Options that select audit events."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.audit import (
    Query,
    follow_control,
    follow_denials,
    follow_events,
    read_control,
    read_denials,
    read_events,
)
from keyleash.audit.streams import stream_names
from keyleash.audit.undo import Trust
from keyleash.cli.options import IDENTITY, Moment, since_option
from keyleash.cli.settings import Settings
from keyleash.errors import OperationError, PolicyError, ReplyCode, UsageError
from keyleash.policy.patterns import parse_pattern
from keyleash.text import clock_time, unescaped, without_tokens

if TYPE_CHECKING:
    from keyleash.audit import AuditEvent, ControlEvent, Denial
    from keyleash.policy.model import Pattern

    AnyEntry = AuditEvent | Denial | ControlEvent

F = TypeVar("F", bound=Callable[..., Any])

MAX_CORRELATION = 256
"""Bytes of a correlation id that a guard records."""


def resolve_key(settings: Settings, given: str) -> bytes:
    """Return a key of the command line: as given or, if it does not exist, unescaped."""
    raw = os.fsencode(given)
    escaped = unescaped(raw)
    if escaped == raw or settings.client.exists(settings.keyspace.physical(raw)):
        return raw
    where = (settings.store, stream_names(settings.store), Query(key=raw))
    is_recorded = any(True for _ in chain(read_events(*where), read_denials(*where)))
    return raw if is_recorded else escaped


def time_range(
    settings: Settings, since: Moment | None, until: Moment | None
) -> tuple[int | None, int | None]:
    """
    Return a time range in server time, Unix milliseconds.

    Raises:
        UsageError: It ends before it begins.
    """
    if since is None and until is None:
        return None, None
    now_ms = settings.store.now_ms()
    since_ms = None if since is None else since.at(now_ms)
    until_ms = None if until is None else until.at(now_ms)
    if since_ms is not None and until_ms is not None and since_ms > until_ms:
        assert since is not None and until is not None  # noqa: S101, PT018 - both have a time
        raise UsageError(f"`--since {since.text}` is after `--until {until.text}`")
    return since_ms, until_ms


def nothing_found(settings: Settings, what: str, query: Query) -> OperationError:
    """Return the error for a selection without entries, with its times and the server's."""
    bounds = [
        f"{word} {clock_time(time_ms)}"
        for word, time_ms in (("since", query.since_ms), ("until", query.until_ms))
        if time_ms is not None
    ]
    now = clock_time(settings.store.now_ms())
    return OperationError(
        "nothing-found",
        " ".join([f"found no {what}", *bounds]),
        help=f"the server's clock says {now}; `keyleash audit stats` counts all entries",
    )


def key_pattern(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Pattern | None:
    """Parse an option as a pattern of keys."""
    if value is None:
        return None
    try:
        return parse_pattern(value)
    except PolicyError as error:
        problem = error.problems[0]
        raise click.BadParameter(f"{problem.message}; {problem.help}") from None
    except UnicodeEncodeError:
        raise click.BadParameter("a pattern must be UTF-8") from None


def _token_id(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    if value is not None and without_tokens(value) != value:
        raise click.BadParameter("that is a token; give its id, see `keyleash token list`")
    return value


def _correlation_id(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """Truncate and escape a correlation id as guards do."""
    if value is None:
        return None
    return os.fsencode(value)[:MAX_CORRELATION].decode("utf-8", "backslashreplace")


def _upper(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    return None if value is None else value.upper()


class CodeType(click.Choice):  # type: ignore[type-arg]
    """A reply code in any case. With `case_sensitive=False`, click lists them in lower case."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the code in upper case."""
        return super().convert(value.upper(), param, ctx)


identity_option = click.option("--identity", metavar="NAME", type=IDENTITY, help="One identity.")
identities_option = click.option(
    "--identity",
    "identities",
    metavar="NAME",
    multiple=True,
    type=IDENTITY,
    help="One identity; repeatable.",
)
identities_argument = click.argument("named", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
correlation_option = click.option(
    "--correlation", metavar="ID", callback=_correlation_id, help="One correlation id."
)
key_option = click.option(
    "--key",
    "pattern",
    metavar="PATTERN",
    callback=key_pattern,
    help="A key, or a pattern as in policies: `{name}` is one segment, a final `*` any rest.",
)


class EntryKind(StrEnum):
    """The kinds of entries, as messages name them."""

    EVENTS = "event"
    DENIALS = "denial"
    CONTROL = "operators' event"


@dataclass(frozen=True, slots=True)
class Selection:
    """
    The entries that options select.

    Attributes:
        identities: Names as given; empty for all.
        filters: The query without its times.
    """

    kind: EntryKind
    identities: tuple[str, ...]
    filters: Query
    since: Moment | None
    until: Moment | None

    def query(self, settings: Settings) -> Query:
        """Return the query in server time.

        Raises:
            UsageError: Its time range ends before it begins.
        """
        since_ms, until_ms = time_range(settings, self.since, self.until)
        return replace(self.filters, since_ms=since_ms, until_ms=until_ms)

    def names(self, settings: Settings) -> list[str]:
        """Return the identities whose streams are read."""
        return stream_names(
            settings.store, self.identities, operators=self.kind is EntryKind.EVENTS
        )

    def read(self, settings: Settings, query: Query, *, newest_first: bool) -> Iterator[AnyEntry]:
        """Yield the selected entries."""
        names = self.names(settings)
        store = settings.store
        match self.kind:
            case EntryKind.EVENTS:
                found = read_events(store, names, query, newest_first=newest_first)
                return Trust.of(store).marked(found)
            case EntryKind.DENIALS:
                return read_denials(store, names, query, newest_first=newest_first)
            case EntryKind.CONTROL:
                concerned = names if self.identities else None
                return read_control(store, concerned, query, newest_first=newest_first)

    def follow(self, settings: Settings, query: Query) -> Iterator[AnyEntry | None]:
        """Yield the selected entries as they are recorded, and None while there are none."""
        store = settings.store
        match self.kind:
            case EntryKind.EVENTS:
                return follow_events(store, lambda: self.names(settings), query)
            case EntryKind.DENIALS:
                return follow_denials(store, lambda: self.names(settings), query)
            case EntryKind.CONTROL:
                return follow_control(store, self.identities or None, query)


def selection_options(function: F) -> F:
    """Add options that select entries; the command receives a `Selection`."""

    @identities_argument
    @identities_option
    @click.option("--token", metavar="ID", callback=_token_id, help="The id of a token.")
    @key_option
    @correlation_option
    @click.option(
        "--op",
        metavar="COMMAND",
        callback=_upper,
        help="The name of a command; of repeated denials, that of the first.",
    )
    @click.option(
        "--code",
        metavar="CODE",
        type=CodeType([str(code) for code in ReplyCode]),
        help="Denials with this code.",
    )
    @since_option
    @click.option("--denied", is_flag=True, help="Denials instead of events.")
    @click.option("--control", is_flag=True, help="Operator actions instead of events.")
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
        kind = EntryKind.EVENTS
        if denied or code is not None:
            kind = EntryKind.DENIALS
        if control:
            if kind is EntryKind.DENIALS:
                raise UsageError("operators have no denials: give `--denied` or `--control`")
            kind = EntryKind.CONTROL
            for option, value in (("key", pattern), ("correlation", correlation), ("op", op)):
                if value is not None:
                    raise UsageError(f"operator actions have no `--{option}`")
        filters = Query(token=token, pattern=pattern, correlation=correlation, op=op, code=code)
        selection = Selection(kind, (*named, *identities), filters, since, until)
        return function(*args, selection=selection, **others)

    return select  # type: ignore[return-value]
