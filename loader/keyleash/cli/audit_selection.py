"""Options that select audit events."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash import audit
from keyleash.audit import Query, read_denials, read_events
from keyleash.audit.undo import Trust
from keyleash.cli.options import IDENTITY, Moment, since_option
from keyleash.cli.settings import Settings
from keyleash.errors import (
    OperationError,
    PolicyError,
    ReplyCode,
    UsageError,
)
from keyleash.policy.patterns import parse_pattern
from keyleash.store.identities import known_identities, require_known, server_time_ms
from keyleash.store.keyspace import OPERATORS
from keyleash.store.token import without_tokens
from keyleash.text import clock_time, unescaped

if TYPE_CHECKING:
    from keyleash.audit import AuditEvent, ControlEvent, Denial, Query
    from keyleash.policy.model import Pattern


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
        OperationError (no-policy): nothing was ever loaded.
        OperationError (unknown-identity): none has that name.
    """
    client, keyspace = settings.client, settings.keyspace
    for name in given:
        if name != OPERATORS:
            require_known(client, keyspace, name)
    if given:
        return list(given)
    require_known(client, keyspace, None)
    return [*known_identities(client, keyspace), *([OPERATORS] if operators else [])]


def resolve_key(settings: Settings, given: str) -> bytes:
    """A key of the command line: as it is, or, if there is none, as it is printed."""
    raw = os.fsencode(given)
    escaped = unescaped(raw)
    if escaped == raw or settings.client.exists(settings.keyspace.physical(raw)):
        return raw
    where = (settings.client, settings.keyspace, trail_names(settings), Query(key=raw))
    is_recorded = any(True for _ in chain(read_events(*where), read_denials(*where)))
    return raw if is_recorded else escaped


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
        raise UsageError(f"`--since {since.text}` is after `--until {until.text}`")
    return since_ms, until_ms


def nothing_found(settings: Settings, what: str, query: Query) -> OperationError:
    """The error that says that no entry is meant, and by which clock."""
    bounds = [
        f"{word} {clock_time(time_ms)}"
        for word, time_ms in (("since", query.since_ms), ("until", query.until_ms))
        if time_ms is not None
    ]
    now = clock_time(server_time_ms(settings.client))
    return OperationError(
        "nothing-found",
        " ".join([f"found no {what}", *bounds]),
        help=f"the server's clock says {now}; `keyleash audit stats` says what there is",
    )


MAX_CORRELATION = 256
"""Bytes of a correlation id that a guard records."""


def key_pattern(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> Pattern | None:
    """Read an option as a pattern of keys."""
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


if TYPE_CHECKING:
    AnyEntry = AuditEvent | Denial | ControlEvent

F = TypeVar("F", bound=Callable[..., Any])


class EntryKind(StrEnum):
    """What is read, in the words of messages."""

    EVENTS = "event"
    DENIALS = "refusal"
    CONTROL = "operators' event"


class CodeType(click.Choice):  # type: ignore[type-arg]
    """A code in any case. Click would list the codes in lower case if it ignored the case."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the code, in upper case."""
        return super().convert(value.upper(), param, ctx)


@dataclass(frozen=True, slots=True)
class EventOptions:
    """Which entries are meant, as the options say it.

    Attributes:
        identities: Names as given; empty for all.
    """

    kind: EntryKind
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
        return trail_names(settings, self.identities, operators=self.kind is EntryKind.EVENTS)

    def read(self, settings: Settings, query: Query, *, newest_first: bool) -> Iterator[AnyEntry]:
        """Read them."""
        names = self.names(settings)
        where = (settings.client, settings.keyspace)
        match self.kind:
            case EntryKind.EVENTS:
                found = audit.read_events(*where, names, query, newest_first=newest_first)
                return Trust.of(*where).marked(found)
            case EntryKind.DENIALS:
                return audit.read_denials(*where, names, query, newest_first=newest_first)
            case EntryKind.CONTROL:
                about = names if self.identities else None
                return audit.read_control(*where, about, query, newest_first=newest_first)


def selecting(function: F) -> F:
    """Let options choose entries; the command receives them as a `Selection`."""

    @click.argument("named", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)
    @click.option(
        "--identity",
        "identities",
        metavar="NAME",
        multiple=True,
        type=IDENTITY,
        help="Whose; repeat.",
    )
    @click.option("--token", metavar="ID", callback=token_id, help="The token's id.")
    @click.option(
        "--key",
        "pattern",
        metavar="PATTERN",
        callback=key_pattern,
        help="A key, or a pattern as in policies: `{name}` is one segment, a final `*` any rest.",
    )
    @click.option(
        "--correlation", metavar="ID", callback=correlation_id, help="The correlation id."
    )
    @click.option(
        "--op",
        metavar="COMMAND",
        callback=upper,
        help="The command's name; of repeated denials, that of the first.",
    )
    @click.option(
        "--code",
        metavar="CODE",
        type=CodeType([str(code) for code in ReplyCode]),
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
        selection = EventOptions(
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


def _kind(denied: bool, control: bool) -> EntryKind:
    if denied and control:
        raise UsageError("operators are refused nothing: give `--denied` or `--control`")
    return EntryKind.DENIALS if denied else EntryKind.CONTROL if control else EntryKind.EVENTS


def _require_possible(selection: EventOptions) -> None:
    if selection.kind is not EntryKind.CONTROL:
        return
    for option, value in (
        ("--key", selection.pattern),
        ("--correlation", selection.correlation),
        ("--op", selection.op),
    ):
        if value is not None:
            raise UsageError(f"what operators did has no `{option}`")
