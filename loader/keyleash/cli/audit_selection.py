"""Options that select audit events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keyleash.audit.lookup import nothing_found
from keyleash.audit.selection import time_range
from keyleash.cli.nodes import MissingNodes
from keyleash.cli.options import IDENTITY, since_option
from keyleash.cli.settings import Settings, pass_settings
from keyleash.errors import OperationError, PolicyError, ReplyCode, UsageError
from keyleash.policy.patterns import parse_pattern
from keyleash.text import without_tokens

if TYPE_CHECKING:
    from keyleash.audit.entries import AuditEvent, Denial
    from keyleash.audit.operator_actions import ControlEvent

    AnyEntry = AuditEvent | Denial | ControlEvent

F = TypeVar("F", bound=Callable[..., Any])


def no_entry(
    settings: Settings, what: str, filters: Mapping[str, Any], *, named: str | None = None
) -> OperationError:
    """Return the error for filters that select no entry; of these, it names the times."""
    now_ms = settings.now_ms()
    return nothing_found(what, time_range(filters, now_ms), now_ms, named=named)


def key_pattern(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    """Check that an option is a pattern of keys."""
    try:
        if value is not None:
            parse_pattern(value)
    except PolicyError as error:
        problem = error.problems[0]
        raise click.BadParameter(f"{problem.message}; {problem.help}") from None
    except UnicodeEncodeError:
        raise click.BadParameter("a pattern must be UTF-8") from None
    return value


def _token_id(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> str | None:
    if value is not None and without_tokens(value) != value:
        raise click.BadParameter("that is a token; give its id, see `keyleash token list`")
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
    """The entries that options select.

    Attributes:
        identities: Names as given; empty for all.
        filters: The other given options, as keyword arguments of the API.
    """

    kind: EntryKind
    identities: tuple[str, ...]
    filters: dict[str, Any]

    @classmethod
    def of(
        cls,
        *,
        named: tuple[str, ...],
        identities: tuple[str, ...],
        denied: bool,
        control: bool,
        **options: Any,
    ) -> Selection:
        """Return the selection of `selection_options`, with further options as filters.

        Raises:
            UsageError: options exclude each other.
        """
        filters = {name: value for name, value in options.items() if value not in (None, {})}
        kind = EntryKind.DENIALS if denied or "code" in filters else EntryKind.EVENTS
        if control:
            if kind is EntryKind.DENIALS:
                raise UsageError("operators have no denials: give `--denied` or `--control`")
            kind = EntryKind.CONTROL
            for name in ("delegated_from", "key", "correlation", "op"):
                if name in filters:
                    option = name.replace("_", "-")
                    raise UsageError(f"operator actions have no `--{option}`")
        return cls(kind, (*named, *identities), filters)

    @property
    def has_gaps(self) -> bool:
        """Return whether a missing sequence number is a gap: no entry is filtered out."""
        return self.filters.keys() <= {"since", "until"} and self.kind is not EntryKind.CONTROL

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
        return read[self.kind](*self.identities, **self.filters, newest_first=newest_first)

    def follow(self, settings: Settings) -> Iterator[AnyEntry]:
        """Yield the selected entries as they are recorded."""
        audit = settings.operator.audit
        follow: dict[EntryKind, Callable[..., Iterator[AnyEntry]]] = {
            EntryKind.EVENTS: audit.follow,
            EntryKind.DENIALS: audit.follow_denials,
            EntryKind.CONTROL: audit.follow_control,
        }
        return follow[self.kind](*self.identities, **self.filters)


def selection_options(function: F) -> F:
    """Add the options of a `Selection`."""
    for option in reversed(
        (
            identities_argument,
            identities_option,
            click.option(
                "--token", "token_id", metavar="ID", callback=_token_id, help="The id of a token."
            ),
            click.option(
                "--delegated-from",
                metavar="ID",
                callback=_token_id,
                help="The id of a token: calls of its children, and of theirs.",
            ),
            key_option,
            correlation_option,
            click.option(
                "--op",
                metavar="COMMAND",
                help="The name of a command; of repeated denials, that of the first.",
            ),
            click.option(
                "--code",
                metavar="CODE",
                type=CodeType([str(code) for code in ReplyCode]),
                help="Denials with this code.",
            ),
            since_option,
            click.option("--denied", is_flag=True, help="Denials instead of events."),
            click.option("--control", is_flag=True, help="Operator actions instead of events."),
            pass_settings,
        )
    ):
        function = option(function)
    return function
