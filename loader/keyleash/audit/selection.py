"""Select entries of the audit log: the filters of callers, and the query that they make."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, TypedDict

from keyleash.audit.read import Query, recorded_correlation
from keyleash.audit.token_use import labelled_tokens
from keyleash.errors import ArgumentError
from keyleash.operations.types import IdentityName, Labels, Param
from keyleash.policy.patterns import exactly, parse_pattern
from keyleash.policy.quantities import Moment, time_ms_of
from keyleash.store.store import Store

Since = Annotated[
    Moment, Param("moment", help="Start time: `10m` ago, or ISO 8601 (UTC by default).")
]
Until = Annotated[Moment, Param("moment", help="End time, in the same form.")]
OneIdentity = Annotated[IdentityName, Param(help="One identity.")]
Keys = Annotated[
    str | bytes,
    Param(
        "pattern",
        help="A key, or a pattern as in policies: `{name}` is one segment, a final `*` any rest.",
    ),
]
Correlation = Annotated[str, Param("id", help="One correlation id.")]
Caller = Annotated[str, Param("caller", help="The id of a token.", flag="--token")]
Ancestor = Annotated[
    str, Param("caller", help="The id of a token: calls of its children, and of theirs.")
]
Command = Annotated[
    str, Param("command", help="The name of a command; of repeated denials, that of the first.")
]
Code = Annotated[str, Param("code", help="Denials with this code.")]
CallerLabels = Annotated[
    Labels, Param(help="Only entries of tokens with this label, such as `run=r-17`. Repeatable.")
]


Forced = Annotated[
    Collection[str | bytes],
    Param("keys", help="Override conflicts of KEY, or of the keys of a pattern; repeatable."),
]
Skipped = Annotated[
    Collection[str | bytes],
    Param("keys", help="Leave KEY, or the keys of a pattern, as they are; repeatable."),
]
SkipConflicts = Annotated[bool, Param(help="Leave each key that has a conflict as it is.")]
AcrossPolicies = Annotated[
    bool, Param(help="Undo also changes that the active policy no longer allows to the identity.")
]


class Times(TypedDict, total=False):
    """A time range, by the server's clock; `Operator.audit.events` documents all filters."""

    since: Since | None
    until: Until | None


class ReadTimes(Times, total=False):
    """A time range of the audit streams of all nodes."""

    on_missing: Callable[[str, str], None] | None


class UndoOptions(Times, total=False):
    """The events to undo, and what is done about conflicts."""

    key: Keys | None
    correlation: Correlation | None
    force: Forced | None
    skip: Skipped | None
    skip_conflicts: SkipConflicts
    across_policies: AcrossPolicies


class FollowFilters(TypedDict, total=False):
    """Calls since a time."""

    since: Since | None
    key: Keys | None
    correlation: Correlation | None
    token_id: Caller | None
    delegated_from: Ancestor | None
    op: Command | None


class FollowDenialFilters(FollowFilters, total=False):
    """Denied calls since a time."""

    code: Code | None


class EventFilters(FollowFilters, ReadTimes, total=False):
    """Calls of a time range."""

    meta: CallerLabels | None


class DenialFilters(EventFilters, total=False):
    """Denied calls of a time range."""

    code: Code | None


class ActionFilters(Times, total=False):
    """Operator actions of a time range."""

    token_id: Caller | None
    meta: CallerLabels | None


def time_range(filters: Mapping[str, Any], now_ms: int) -> Query:
    """Return the times of filters as a query; see `query_of`."""
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
