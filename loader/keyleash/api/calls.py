"""Functions of a store that `Operator` calls, made of those of the packages below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from keyleash import audit
from keyleash.audit import (
    AuditEvent,
    ControlEvent,
    Denial,
    nothing_found,
    read_control,
    read_denials,
    read_events,
    read_stats,
    resolve_key,
)
from keyleash.audit.export import ArchiveReport, recorded_by_server, verify_archive
from keyleash.audit.point_in_time import ValueThen, value_as_of
from keyleash.audit.report.html import HtmlReport, gather
from keyleash.audit.selection import query_of
from keyleash.audit.streams import stream_names
from keyleash.audit.undo import Trust, UndoPlan, plan_undo
from keyleash.errors import ArgumentError
from keyleash.policy.quantities import Moment, time_ms_of
from keyleash.status import identity_statuses
from keyleash.store.connect import server_name
from keyleash.store.identities import require_known
from keyleash.store.records import read_active
from keyleash.store.store import Store
from keyleash.text import moment


def reachable(store: Store, filters: Mapping[str, Any]) -> Store:
    """Return the store that leaves out nodes which do not answer, if that is wanted."""
    return replace(store, on_missing=filters.get("on_missing"))


def select_events(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any], *, newest_first: bool
) -> Iterator[AuditEvent]:
    """Return the selected events, those that no guard may have written marked as untrusted."""
    names = stream_names(store, identities)
    found = read_events(
        reachable(store, filters), names, query_of(store, filters), newest_first=newest_first
    )
    return Trust.of(store).marked(found)


def select_denials(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any], *, newest_first: bool
) -> Iterator[Denial]:
    """Return the selected denials."""
    names = stream_names(store, identities, operators=False)
    return read_denials(
        reachable(store, filters), names, query_of(store, filters), newest_first=newest_first
    )


def select_control(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any], *, newest_first: bool
) -> Iterator[ControlEvent]:
    """Return the operator actions that concern some identities, or all."""
    names = stream_names(store, identities) if identities else None
    return read_control(store, names, query_of(store, filters), newest_first=newest_first)


def follow_events(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any]
) -> Iterator[AuditEvent | None]:
    """Return new events as they are recorded, and None while there are none."""
    names = partial(stream_names, store, identities)
    names()
    return audit.follow_events(store, names, query_of(store, filters))


def follow_denials(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any]
) -> Iterator[Denial | None]:
    """Return new denials as they are recorded, and None while there are none."""
    names = partial(stream_names, store, identities, operators=False)
    names()
    return audit.follow_denials(store, names, query_of(store, filters))


def follow_control(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any]
) -> Iterator[ControlEvent | None]:
    """Return new operator actions as they are recorded, and None while there are none."""
    names = stream_names(store, identities)
    return audit.follow_control(store, names if identities else None, query_of(store, filters))


def timeline(
    store: Store, key: str | bytes, filters: Mapping[str, Any], limit: int | None
) -> audit.Timeline:
    """Return the trusted events and the denials that concern a key, oldest first."""
    return audit.read_timeline(reachable(store, filters), key, query_of(store, filters), limit)


def value_at(store: Store, key: str | bytes, time: Moment) -> ValueThen:
    """Return the value of a key at a past time."""
    time_ms = time_ms_of("time", time, store.now_ms())
    if time_ms is None:
        raise TypeError("`time` must be a str, timedelta or datetime, not None")
    return value_as_of(store, resolve_key(store, key), time_ms)


def stats(
    store: Store, identities: Sequence[str], filters: Mapping[str, Any], segments: int
) -> audit.Stats:
    """Return the tallies of a time range."""
    names = stream_names(store, identities)
    return read_stats(reachable(store, filters), names, query_of(store, filters), segments)


def verify(store: Store, directory: Path, recorded: bool) -> ArchiveReport:
    """Check an archive, and with *recorded* its chains in the control stream."""
    return verify_archive(directory, recorded_by_server(store) if recorded else None)


def incident_report(
    store: Store, identity: str | None, filters: Mapping[str, Any], server: str
) -> HtmlReport:
    """Return the incident report of a time range.

    Raises:
        OperationError (nothing-found): There is nothing to report.
    """
    query = query_of(store, filters)
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
    /,
    filters: Mapping[str, Any],
    *,
    events: Sequence[str],
    identity: str | None,
    **options: Any,
) -> UndoPlan:
    """Return the undo plan of the selected events, with *options* of `plan_undo`."""
    values = {**filters, "identity": identity}
    given = {name for name, value in values.items() if value is not None}
    if events and given:
        raise ArgumentError("`events` cannot be combined with other selections")
    if not events and not given & {"correlation", "identity", "key"}:
        raise ArgumentError(
            "no events are selected",
            help="give ids of events, a correlation id, or an identity or a key with `since`",
        )
    if not events and not given & {"correlation", "since"}:
        raise ArgumentError("`identity` and `key` need `since`", help="such as `10m`")
    query = query_of(store, filters)
    return plan_undo(store, query, events=events, identity=identity, **options)


def server_time(store: Store) -> datetime:
    """Return the time by the server's clock."""
    return moment(store.now_ms())


def all_identities(store: Store) -> tuple[str, ...]:
    """Return the names of all identities that were ever active, sorted."""
    return tuple(require_known(store, None))
