"""Select entries of the audit log: the filters of callers, and the query that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

from keyleash.audit.read import Query, recorded_correlation
from keyleash.audit.token_use import labelled_tokens
from keyleash.errors import ArgumentError
from keyleash.policy.patterns import exactly, parse_pattern
from keyleash.policy.quantities import Moment, time_ms_of
from keyleash.store.store import Store


class Times(TypedDict, total=False):
    """A time range, by the server's clock; `Operator.audit.events` documents all filters."""

    since: Moment | None
    until: Moment | None


class ReadTimes(Times, total=False):
    """A time range of the audit streams of all nodes."""

    on_missing: Callable[[str, str], None] | None


class UndoFilters(Times, total=False):
    """The events to undo."""

    key: str | bytes | None
    correlation: str | None


class FollowFilters(TypedDict, total=False):
    """Calls since a time."""

    since: Moment | None
    key: str | bytes | None
    correlation: str | None
    token_id: str | None
    delegated_from: str | None
    op: str | None


class FollowDenialFilters(FollowFilters, total=False):
    """Denied calls since a time."""

    code: str | None


class EventFilters(FollowFilters, ReadTimes, total=False):
    """Calls of a time range."""

    meta: Mapping[str, str] | None


class DenialFilters(EventFilters, total=False):
    """Denied calls of a time range."""

    code: str | None


class ActionFilters(Times, total=False):
    """Operator actions of a time range."""

    token_id: str | None
    meta: Mapping[str, str] | None


def time_range(filters: Mapping[str, Any], now_ms: int) -> Query:
    """Return the times of filters as a query.

    Raises:
        ArgumentError: the time range ends before it begins.
    """
    since_ms, until_ms = (
        None if (time := filters.get(name)) is None else time_ms_of(name, time, now_ms)
        for name in ("since", "until")
    )
    if since_ms is not None and until_ms is not None and since_ms > until_ms:
        raise ArgumentError("`since` is after `until`")
    return Query(since_ms=since_ms, until_ms=until_ms)


def query_of(store: Store, filters: Mapping[str, Any]) -> Query:
    """Return filters as a query in server time.

    Raises:
        ArgumentError: the time range ends before it begins.
    """
    has_times = filters.get("since") is not None or filters.get("until") is not None
    key, op, correlation = (filters.get(name) for name in ("key", "op", "correlation"))
    if key is not None:
        key = exactly(key) if isinstance(key, bytes) else parse_pattern(key)
    return replace(
        time_range(filters, store.now_ms() if has_times else 0),
        token=filters.get("token_id"),
        delegated_from=filters.get("delegated_from"),
        pattern=key,
        correlation=None if correlation is None else recorded_correlation(correlation),
        op=None if op is None else op.upper(),
        code=filters.get("code"),
        tokens=labelled_tokens(store, filters["meta"]) if filters.get("meta") else None,
    )


def reachable(store: Store, filters: Mapping[str, Any]) -> Store:
    """Return the store that leaves out nodes which do not answer, if that is wanted."""
    return replace(store, on_missing=filters.get("on_missing"))
