"""Options that select audit events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import click

from keyleash.audit.log import denials
from keyleash.audit.lookup import Entry, nothing_found
from keyleash.audit.selection import time_range
from keyleash.cli.derive import options_of
from keyleash.cli.nodes import MissingNodes
from keyleash.cli.options import IDENTITY, all_of
from keyleash.cli.settings import Settings, pass_settings
from keyleash.errors import OperationError, UsageError


def no_entry(
    settings: Settings, what: str, filters: Mapping[str, Any], *, named: str | None = None
) -> OperationError:
    """Return the error for filters that select no entry; of these, it names the times."""
    now_ms = settings.now_ms()
    return nothing_found(what, time_range(filters, now_ms), now_ms, named=named)


identities_option = click.option(
    "--identity",
    "identities",
    metavar="NAME",
    multiple=True,
    type=IDENTITY,
    help="One identity; repeatable.",
)
identities_argument = click.argument("named", metavar="[IDENTITY]...", nargs=-1, type=IDENTITY)


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
        """Return the selection of `selection_options`, with further options as filters."""
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
    ) -> Iterator[Entry]:
        """Yield the selected entries; nodes that do not answer are noted in *missing*."""
        audit = settings.operator.audit
        read: dict[EntryKind, Callable[..., Iterator[Entry]]] = {
            EntryKind.EVENTS: partial(audit.events, on_missing=missing.note),
            EntryKind.DENIALS: partial(audit.denials, on_missing=missing.note),
            EntryKind.CONTROL: audit.control,
        }
        return read[self.kind](*self.identities, **self.filters, newest_first=newest_first)

    def follow(self, settings: Settings) -> Iterator[Entry]:
        """Yield the selected entries as they are recorded."""
        audit = settings.operator.audit
        follow: dict[EntryKind, Callable[..., Iterator[Entry]]] = {
            EntryKind.EVENTS: audit.follow,
            EntryKind.DENIALS: audit.follow_denials,
            EntryKind.CONTROL: audit.follow_control,
        }
        return follow[self.kind](*self.identities, **self.filters)


selection_options = all_of(
    identities_argument,
    identities_option,
    options_of(denials, "token_id delegated_from key correlation op code since"),
    click.option("--denied", is_flag=True, help="Denials instead of events."),
    click.option("--control", is_flag=True, help="Operator actions instead of events."),
    pass_settings,
)
"""The options of a `Selection`."""
