"""Whose trails, and of what time, as every command of `keyleash audit` understands it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from keyleash.cli.errors import UsageError
from keyleash.cli.settings import Settings
from keyleash.cli.standing import known_identities, require_known, server_time_ms
from keyleash.cli.text import clock_time, unescaped
from keyleash.cli.times import Moment
from keyleash.errors import NothingFoundError
from keyleash.protocol.keyspace import OPERATORS

if TYPE_CHECKING:
    from keyleash.audit import Query


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
        NoPolicyError: nothing was ever loaded.
        UnknownIdentityError: none has that name.
    """
    client, keyspace = settings.client, settings.keyspace
    for name in given:
        if name != OPERATORS:
            require_known(client, keyspace, name)
    if given:
        return list(given)
    require_known(client, keyspace, None)
    return [*known_identities(client, keyspace), *([OPERATORS] if operators else [])]


def meant_key(settings: Settings, given: str) -> bytes:
    """A key of the command line: as it is, or, if there is none, as it is printed."""
    from keyleash.audit import Query, read_denials, read_events

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
        raise UsageError(f"`--since {since.said}` is after `--until {until.said}`")
    return since_ms, until_ms


def nothing_found(settings: Settings, what: str, query: Query) -> NothingFoundError:
    """The error that says that no entry is meant, and by which clock."""
    bounds = [
        f"{word} {clock_time(time_ms)}"
        for word, time_ms in (("since", query.since_ms), ("until", query.until_ms))
        if time_ms is not None
    ]
    now = clock_time(server_time_ms(settings.client))
    return NothingFoundError(
        " ".join([f"found no {what}", *bounds]),
        help=f"the server's clock says {now}; `keyleash audit stats` says what there is",
    )
