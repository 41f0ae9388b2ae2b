"""Options that select audit events."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.audit import Query, nothing_found
from keyleash.cli.nodes import MissingNodes
from keyleash.cli.options import IDENTITY, Moment, since_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.errors import OperationError, PolicyError, ReplyCode, UsageError
from keyleash.policy.patterns import parse_pattern
from keyleash.text import moment, without_tokens

if TYPE_CHECKING:
    from keyleash.audit import AuditEvent, ControlEvent, Denial
    from keyleash.policy.model import Pattern

    AnyEntry = AuditEvent | Denial | ControlEvent

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The options `--since` and `--until`, by the server's clock."""

    since_ms: int | None
    until_ms: int | None

    @property
    def arguments(self) -> dict[str, datetime]:
        """Return the given times as keyword arguments of the API."""
        given = {"since": self.since_ms, "until": self.until_ms}
        return {name: moment(at_ms) for name, at_ms in given.items() if at_ms is not None}

    def nothing_found(
        self, settings: Settings, what: str, *, named: str | None = None
    ) -> OperationError:
        """Return the error for a selection without entries."""
        query = Query(since_ms=self.since_ms, until_ms=self.until_ms)
        return nothing_found(what, query, settings.now_ms(), named=named)


def time_range(settings: Settings, since: Moment | None, until: Moment | None) -> TimeRange:
    """Return a time range in server time.

    Raises:
        UsageError: It ends before it begins.
    """
    now_ms = 0 if since is None and until is None else settings.now_ms()
    since_ms = None if since is None else since.at(now_ms)
    until_ms = None if until is None else until.at(now_ms)
    if since and until and (since_ms or 0) > (until_ms or 0):
        raise UsageError(f"`--since {since.text}` is after `--until {until.text}`")
    return TimeRange(since_ms, until_ms)


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


def _pattern(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    key_pattern(context, parameter, value)
    return value


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
correlation_option = click.option("--correlation", metavar="ID", help="One correlation id.")
key_option = click.option(
    "--key",
    metavar="PATTERN",
    callback=_pattern,
    help="A key, or a pattern as in policies: `{name}` is one segment, a final `*` any rest.",
)


class EntryKind(StrEnum):
    """The kinds of entries, as messages name them."""

    EVENTS = "event"
    DENIALS = "denial"
    CONTROL = "operators' event"


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries that options select.

    Attributes:
        identities: Names as given; empty for all.
        filters: The other given options, as keyword arguments of the API.
    """

    kind: EntryKind
    identities: tuple[str, ...]
    filters: dict[str, Any]
    times: TimeRange

    @property
    def has_gaps(self) -> bool:
        """Return whether a missing sequence number is a gap: no entry is filtered out."""
        return not self.filters and self.kind is not EntryKind.CONTROL

    def read(
        self, settings: Settings, missing: MissingNodes, *, newest_first: bool
    ) -> Iterator[AnyEntry]:
        """Yield the selected entries; nodes that do not answer are noted in *missing*."""
        audit = settings.operator.audit
        read: dict[EntryKind, Callable[..., Iterator[AnyEntry]]] = {
            EntryKind.EVENTS: partial(audit.events, on_missing=missing.note),
            EntryKind.DENIALS: partial(audit.denials, on_missing=missing.note),
            EntryKind.CONTROL: audit.control,
        }
        return read[self.kind](
            *self.identities, **self.filters, **self.times.arguments, newest_first=newest_first
        )

    def follow(self, settings: Settings) -> Iterator[AnyEntry]:
        """Yield the selected entries as they are recorded."""
        audit = settings.operator.audit
        follow: dict[EntryKind, Callable[..., Iterator[AnyEntry]]] = {
            EntryKind.EVENTS: audit.follow,
            EntryKind.DENIALS: audit.follow_denials,
            EntryKind.CONTROL: audit.follow_control,
        }
        return follow[self.kind](*self.identities, **self.filters, **self.times.arguments)


def selection_options(function: F) -> F:
    """Add options that select entries; the command receives a `Selection`."""

    @identities_argument
    @identities_option
    @click.option(
        "--token", "token_id", metavar="ID", callback=_token_id, help="The id of a token."
    )
    @click.option(
        "--delegated-from",
        metavar="ID",
        callback=_token_id,
        help="The id of a token: calls of its children, and of theirs.",
    )
    @key_option
    @correlation_option
    @click.option(
        "--op",
        metavar="COMMAND",
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
    @pass_settings
    @functools.wraps(function)
    def select(
        settings: Settings,
        *,
        named: tuple[str, ...],
        identities: tuple[str, ...],
        denied: bool,
        control: bool,
        since: Moment | None,
        until: Moment | None = None,
        **others: Any,
    ) -> Any:
        names = ("token_id", "delegated_from", "key", "correlation", "op", "code")
        given = {name: value for name in names if (value := others.pop(name)) is not None}
        kind = EntryKind.DENIALS if denied or "code" in given else EntryKind.EVENTS
        if control:
            if kind is EntryKind.DENIALS:
                raise UsageError("operators have no denials: give `--denied` or `--control`")
            kind = EntryKind.CONTROL
            if unknown := given.keys() - {"token_id"}:
                option = next(name for name in names if name in unknown)
                raise UsageError(f"operator actions have no `--{option.replace('_', '-')}`")
        times = time_range(settings, since, until)
        selection = Selection(kind, (*named, *identities), given, times)
        return function(settings, selection=selection, **others)

    return select  # type: ignore[return-value]
