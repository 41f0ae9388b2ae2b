"""The options that say which entries of which trails are meant, and reading these."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.cli.audit.parameters import correlation_id, key_pattern, token_id, upper
from keyleash.cli.audit.trails import time_range, trail_names
from keyleash.cli.errors import UsageError
from keyleash.cli.identity_names import IDENTITY
from keyleash.cli.settings import Settings
from keyleash.cli.times import Moment, since_option
from keyleash.errors import ReplyCode

if TYPE_CHECKING:
    from keyleash.audit import AuditEvent, ControlEvent, Denial, Query
    from keyleash.policy.model import Pattern

    AnyEntry = AuditEvent | Denial | ControlEvent

F = TypeVar("F", bound=Callable[..., Any])


class Kind(StrEnum):
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
                from keyleash.audit.undo import Trust

                found = audit.read_events(*where, names, query, newest_first=newest_first)
                return Trust.of(*where).marked(found)
            case Kind.DENIALS:
                return audit.read_denials(*where, names, query, newest_first=newest_first)
            case Kind.CONTROL:
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
