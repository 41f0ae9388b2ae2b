"""Read and follow events, denials and operator actions: the operations of `Operator.audit`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Unpack

from keyleash.audit import follow as streams
from keyleash.audit.entries import AuditEvent, Denial
from keyleash.audit.operator_actions import ControlEvent, read_control
from keyleash.audit.read import read_denials, read_events
from keyleash.audit.selection import (
    ActionFilters,
    DenialFilters,
    EventFilters,
    FollowDenialFilters,
    FollowFilters,
    query_of,
    reachable,
)
from keyleash.audit.streams import stream_names
from keyleash.operations import reading
from keyleash.policy.quantities import Moment
from keyleash.store.store import Store


@reading("audit log")
def events(
    store: Store, *identities: str, newest_first: bool = False, **filters: Unpack[EventFilters]
) -> Iterator[AuditEvent]:
    """Yield audit events by time, those of a batch command by command.

    Args:
        identities: Names; all known ones if none is given.
        since: The earliest time: how long ago (`10m` or a `timedelta`), ISO 8601 text, or an
            aware `datetime`; unlimited if None.
        until: The latest time, in the same form.
        key: A key, or a pattern as in policies.
        correlation: The correlation id.
        token_id: The calling token.
        delegated_from: An ancestor of the calling token, by its id.
        op: The command.
        meta: Labels of the calling token, such as `{"run": "r-17"}`.
        newest_first: Whether to begin with the newest.
        on_missing: Called with each node of a cluster that does not answer, and why; its events
            are left out. If None, such a node is an error.

    Raises:
        OperationError (unknown-identity): there never was such an identity.
        OperationError (node-unreachable): a node of a cluster does not answer.
    """
    names, query = stream_names(store, identities), query_of(store, filters)
    return read_events(reachable(store, filters), names, query, newest_first=newest_first)


@reading("audit log")
def denials(
    store: Store, *identities: str, newest_first: bool = False, **filters: Unpack[DenialFilters]
) -> Iterator[Denial]:
    """Yield denials by time, with the number of repetitions of each; see `events`.

    Args:
        code: The reply code, such as `RATE_LIMITED`.
    """
    names = stream_names(store, identities, operators=False)
    query = query_of(store, filters)
    return read_denials(reachable(store, filters), names, query, newest_first=newest_first)


@reading("audit log")
def control(
    store: Store, *identities: str, newest_first: bool = False, **filters: Unpack[ActionFilters]
) -> Iterator[ControlEvent]:
    """Yield operator actions by time; see `events`.

    Args:
        identities: Only actions that concern one of them.
        token_id: Only actions on this token.
        meta: Only actions on tokens with these labels.
    """
    names = stream_names(store, identities) if identities else None
    return read_control(store, names, query_of(store, filters), newest_first=newest_first)


@reading("audit follow")
def follow(
    store: Store, *identities: str, **filters: Unpack[FollowFilters]
) -> Iterator[AuditEvent | None]:
    """Yield events as they are recorded, without end.

    Identities that are loaded meanwhile are followed too, if none is named.

    Args:
        identities: Names; all known ones if none is given.
        since: Also yield what was recorded from then on, in the forms of `events`; only what is
            new if None.

    Other filters are those of `events`.
    """
    names = partial(stream_names, store, identities)
    names()
    return streams.follow_events(store, names, query_of(store, filters))


@reading("audit follow")
def follow_denials(
    store: Store, *identities: str, **filters: Unpack[FollowDenialFilters]
) -> Iterator[Denial | None]:
    """Yield denials as they are recorded, without end; see `follow` and `denials`.

    A repeated denial is yielded again, with its count, at the end of its minute.
    """
    names = partial(stream_names, store, identities, operators=False)
    names()
    return streams.follow_denials(store, names, query_of(store, filters))


@reading("audit follow")
def follow_control(
    store: Store, *identities: str, since: Moment | None = None, token_id: str | None = None
) -> Iterator[ControlEvent | None]:
    """Yield operator actions as they are recorded, without end; see `follow` and `control`."""
    names = stream_names(store, identities)
    query = query_of(store, {"since": since, "token_id": token_id})
    return streams.follow_control(store, names if identities else None, query)
