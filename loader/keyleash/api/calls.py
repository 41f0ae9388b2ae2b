"""Functions of a store that `Operator` calls, made of those of the packages below."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from keyleash import audit
from keyleash.api.inputs import Moment
from keyleash.audit import (
    AuditEvent,
    ControlEvent,
    Denial,
    Query,
    nothing_found,
    read_control,
    read_denials,
    read_events,
    read_stats,
    resolve_key,
)
from keyleash.audit.export import ArchiveReport, recorded_by_server, verify_archive
from keyleash.audit.point_in_time import ValueThen, value_as_of
from keyleash.audit.read import recorded_correlation
from keyleash.audit.report.html import HtmlReport, gather
from keyleash.audit.streams import stream_names
from keyleash.audit.token_use import labelled_tokens
from keyleash.audit.undo import Trust, UndoPlan, plan_undo
from keyleash.errors import ArgumentError
from keyleash.policy.model import Pattern
from keyleash.policy.patterns import exactly, parse_pattern
from keyleash.policy.quantities import time_ms_of
from keyleash.results import Progress
from keyleash.status import identity_statuses
from keyleash.store.connect import connect_nodes, server_name
from keyleash.store.identities import require_known
from keyleash.store.prefixes import ChangeKind
from keyleash.store.records import read_active
from keyleash.store.server_check import Client
from keyleash.store.store import Store
from keyleash.text import moment
from keyleash.vault import ChangeResult
from keyleash.vault.change import change_prefixes


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries of audit streams that a caller selects; None does not filter.

    Attributes:
        since, until: The time range.
        key: A pattern, or a literal key in bytes.
        meta: Labels of the tokens.
    """

    since: Moment | None = None
    until: Moment | None = None
    key: str | bytes | None = None
    correlation: str | None = None
    token_id: str | None = None
    op: str | None = None
    code: str | None = None
    on_missing: Callable[[str, str], None] | None = None
    delegated_from: str | None = None
    meta: Mapping[str, str] | None = None

    def of(self, store: Store) -> Store:
        """Return the store that leaves out nodes which do not answer, if that is wanted."""
        return replace(store, on_missing=self.on_missing)

    def query(self, store: Store) -> Query:
        """Return the query in server time.

        Raises:
            ArgumentError: its time range ends before it begins.
        """
        now_ms = 0 if self.since is None and self.until is None else store.now_ms()
        since_ms = time_ms_of("since", self.since, now_ms)
        until_ms = time_ms_of("until", self.until, now_ms)
        if since_ms is not None and until_ms is not None and since_ms > until_ms:
            raise ArgumentError("`since` is after `until`")
        return Query(
            token=self.token_id,
            delegated_from=self.delegated_from,
            pattern=_pattern(self.key),
            correlation=None
            if self.correlation is None
            else recorded_correlation(self.correlation),
            op=None if self.op is None else self.op.upper(),
            code=self.code,
            since_ms=since_ms,
            until_ms=until_ms,
            tokens=labelled_tokens(store, self.meta) if self.meta else None,
        )


def _pattern(key: str | bytes | None) -> Pattern | None:
    return parse_pattern(key) if isinstance(key, str) else None if key is None else exactly(key)


def select_events(
    store: Store, identities: Sequence[str], selection: Selection, *, newest_first: bool
) -> Iterator[AuditEvent]:
    """Return the selected events, those that no guard may have written marked as untrusted."""
    names = stream_names(store, identities)
    found = read_events(
        selection.of(store), names, selection.query(store), newest_first=newest_first
    )
    return Trust.of(store).marked(found)


def select_denials(
    store: Store, identities: Sequence[str], selection: Selection, *, newest_first: bool
) -> Iterator[Denial]:
    """Return the selected denials."""
    names = stream_names(store, identities, operators=False)
    return read_denials(
        selection.of(store), names, selection.query(store), newest_first=newest_first
    )


def select_control(
    store: Store, identities: Sequence[str], selection: Selection, *, newest_first: bool
) -> Iterator[ControlEvent]:
    """Return the operator actions that concern some identities, or all."""
    names = stream_names(store, identities) if identities else None
    return read_control(store, names, selection.query(store), newest_first=newest_first)


def follow_events(
    store: Store, identities: Sequence[str], selection: Selection
) -> Iterator[AuditEvent | None]:
    """Return new events as they are recorded, and None while there are none."""
    names = partial(stream_names, store, identities)
    names()
    return audit.follow_events(store, names, selection.query(store))


def follow_denials(
    store: Store, identities: Sequence[str], selection: Selection
) -> Iterator[Denial | None]:
    """Return new denials as they are recorded, and None while there are none."""
    names = partial(stream_names, store, identities, operators=False)
    names()
    return audit.follow_denials(store, names, selection.query(store))


def follow_control(
    store: Store, identities: Sequence[str], selection: Selection
) -> Iterator[ControlEvent | None]:
    """Return new operator actions as they are recorded, and None while there are none."""
    names = stream_names(store, identities)
    return audit.follow_control(store, names if identities else None, selection.query(store))


def timeline(
    store: Store, key: str | bytes, selection: Selection, limit: int | None
) -> audit.Timeline:
    """Return the trusted events and the denials that concern a key, oldest first."""
    return audit.read_timeline(selection.of(store), key, selection.query(store), limit)


def value_at(store: Store, key: str | bytes, time: Moment) -> ValueThen:
    """Return the value of a key at a past time."""
    time_ms = time_ms_of("time", time, store.now_ms())
    if time_ms is None:
        raise TypeError("`time` must be a str, timedelta or datetime, not None")
    return value_as_of(store, resolve_key(store, key), time_ms)


def stats(
    store: Store, identities: Sequence[str], selection: Selection, segments: int
) -> audit.Stats:
    """Return the tallies of a time range."""
    names = stream_names(store, identities)
    return read_stats(selection.of(store), names, selection.query(store), segments)


def verify(store: Store, directory: Path, recorded: bool) -> ArchiveReport:
    """Check an archive, and with *recorded* its chains in the control stream."""
    return verify_archive(directory, recorded_by_server(store) if recorded else None)


def incident_report(
    store: Store, identity: str | None, selection: Selection, server: str
) -> HtmlReport:
    """Return the incident report of a time range.

    Raises:
        OperationError (nothing-found): There is nothing to report.
    """
    query = selection.query(store)
    names = stream_names(store, [identity] if identity else ())
    active = read_active(store)
    found = gather(
        store,
        names,
        query,
        server=server or server_name(store.client),
        identity=identity,
        statuses=identity_statuses(store, active, store.now_ms()) if active else (),
    )
    if found is None:
        raise nothing_found("event or denial", query, store.now_ms())
    return found


def plan_selected(
    store: Store,
    *,
    events: tuple[str, ...],
    correlation: str | None,
    identity: str | None,
    key: str | bytes | None,
    since: Moment | None,
    until: Moment | None,
    forced: Collection[str | bytes],
    skipped: Collection[str | bytes],
    across_policies: bool,
) -> UndoPlan:
    """Return the undo plan of the selected events; the errors are those of `Operator`."""
    others = (correlation, identity, key)
    if events and any(item is not None for item in (*others, since, until)):
        raise ArgumentError("`events` cannot be combined with other selections")
    if not events and others == (None, None, None):
        raise ArgumentError(
            "no events are selected",
            help="give ids of events, a correlation id, or an identity or a key with `since`",
        )
    if not events and correlation is None and since is None:
        raise ArgumentError("`identity` and `key` need `since`", help="such as `10m`")
    query = Selection(since, until, key, correlation).query(store)
    return plan_undo(
        store,
        query,
        events=events,
        identity=identity,
        forced=forced,
        skipped=skipped,
        across_policies=across_policies,
    )


def change(
    store: Store,
    kind: ChangeKind,
    nodes: Sequence[Client],
    *,
    adopt: Sequence[str] = (),
    report: Progress | None = None,
) -> ChangeResult:
    """Change the prefixes of all keys."""
    others = connect_nodes(store.client, nodes)
    return change_prefixes(store, kind, adopt=adopt, report=report, others=others)


def server_time(store: Store) -> datetime:
    """Return the time by the server's clock."""
    return moment(store.now_ms())


def all_identities(store: Store) -> tuple[str, ...]:
    """Return the names of all identities that were ever active, sorted."""
    return tuple(require_known(store, None))
