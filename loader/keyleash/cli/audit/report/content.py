"""Everything that a report shows, gathered."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from keyleash.audit import Query
from keyleash.audit.report import (
    Activity,
    BeforeAndAfter,
    KeyLife,
    Standing,
    read_activity,
    read_lives,
    read_standing,
)
from keyleash.audit.stats import Tally, key_prefix
from keyleash.audit.undo import Selection, UndoPlan, plan_undo
from keyleash.cli.standing import server_time_ms
from keyleash.cli.text import iso_time
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.protocol.active import Client
from keyleash.protocol.keyspace import Keyspace

if TYPE_CHECKING:
    from keyleash.status import IdentityStatus

MAX_PREFIXES = 20
MAX_DETAILED = 10
"""So many of the prefixes have their keys shown."""
MAX_KEYS = 12
"""Of each of them."""
MAX_PLANNED_EVENTS = 50_000
"""A plan of more is not made for a page: it holds every event in memory."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """
    The keys that begin alike.

    Attributes:
        changed: How many of them were changed, as far as they are followed.
        keys: Some of these, those with the most events first; empty of a prefix that is only
            counted.
    """

    name: bytes
    tally: Tally
    changed: int
    keys: tuple[BeforeAndAfter, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """
    What a page shows.

    Attributes:
        server: Its URL, without a password.
        made_ms: When, server time, Unix milliseconds.
        since_ms: Where the range begins: as asked for, else its first entry.
        until_ms: Where it ends.
        identity: Whose alone; None for all.
        correlation: Only this one; None for all.
        prefixes: Those with the most entries first.
        further_prefixes: How many more there are.
        plan: The way back; None if there is none, and *no_plan* says why.
        command: What shows the same plan.
    """

    server: str
    made_ms: int
    since_ms: int
    until_ms: int
    identity: str | None
    correlation: str | None
    activity: Activity
    standing: Standing
    statuses: list[IdentityStatus]
    prefixes: list[Prefix]
    further_prefixes: int
    plan: UndoPlan | None = None
    no_plan: str = ""
    command: str = ""


def gather(
    client: Client,
    keyspace: Keyspace,
    names: Sequence[str],
    query: Query,
    *,
    server: str,
    identity: str | None = None,
    statuses: Sequence[IdentityStatus] = (),
) -> Report | None:
    """
    Read what a report shows of a time range.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        names: The identities whose streams are read.
        query: The time range, and perhaps a correlation id.
        server: The server's URL, without a password.
        identity: The only identity; None for all.
        statuses: The limits of the identities now.

    Returns:
        The report; None if there is no event and no denial.
    """
    made_ms = server_time_ms(client)
    bounded = query if query.until_ms is not None else replace(query, until_ms=made_ms)
    activity = read_activity(client, keyspace, names, bounded)
    if activity.stats.first_ms is None:
        return None
    since_ms = activity.stats.first_ms if query.since_ms is None else query.since_ms
    until_ms = made_ms if query.until_ms is None else query.until_ms
    used = [place for place in activity.tokens if place[1] != "-"]
    about = None if identity is None else [identity]
    prefixes = _prefixes(client, keyspace, activity)
    plan, no_plan = _plan(client, keyspace, activity, identity, query)
    return Report(
        server=server,
        made_ms=made_ms,
        since_ms=since_ms,
        until_ms=until_ms,
        identity=identity,
        correlation=query.correlation,
        activity=activity,
        standing=read_standing(client, keyspace, about, since_ms, until_ms, used),
        statuses=[one for one in statuses if identity in {None, one.name}],
        prefixes=prefixes,
        further_prefixes=len(activity.stats.prefixes) - len(prefixes),
        plan=plan,
        no_plan=no_plan,
        command=_command(identity, query, since_ms),
    )


def _prefixes(client: Client, keyspace: Keyspace, activity: Activity) -> list[Prefix]:
    by_prefix: dict[bytes, list[KeyLife]] = defaultdict(list)
    for life in activity.lives.by_key.values():
        by_prefix[key_prefix(life.key)].append(life)
    ordered = sorted(
        activity.stats.prefixes.items(),
        # What was changed first, and only then what was merely asked for.
        key=lambda row: (-len(by_prefix.get(row[0], ())), -row[1].total, row[0]),
    )[:MAX_PREFIXES]
    chosen = {
        name: sorted(by_prefix.get(name, ()), key=lambda life: -life.events)[:MAX_KEYS]
        for name, _ in ordered[:MAX_DETAILED]
    }
    everything = [life for lives in chosen.values() for life in lives]
    found = read_lives(client, keyspace, everything)
    read = {one.life.key: one for one in found}
    return [
        Prefix(
            name=name,
            tally=tally,
            changed=len(by_prefix.get(name, ())),
            keys=tuple(read[life.key] for life in chosen.get(name, ())),
        )
        for name, tally in ordered
    ]


def _plan(
    client: Client, keyspace: Keyspace, activity: Activity, identity: str | None, query: Query
) -> tuple[UndoPlan | None, str]:
    events = sum(tally.events for tally in activity.stats.identities.values())
    if events > MAX_PLANNED_EVENTS:
        return None, (
            f"No plan was made: {events:,} events are more than a page plans for. "
            "Ask for a shorter range, one identity or one correlation id."
        )
    selection = Selection(
        correlation=query.correlation,
        identity=identity,
        since_ms=query.since_ms,
        until_ms=query.until_ms,
    )
    try:
        plan = plan_undo(client, selection, keyspace=keyspace)
    except (NothingToUndoError, UndoTooLargeError) as error:
        help_ = f" ({error.help})" if isinstance(error, UndoTooLargeError) else ""
        return None, f"No plan was made: {error.message}{help_}."
    return plan, ""


def _command(identity: str | None, query: Query, since_ms: int) -> str:
    """What plans the same on the command line, which wants at least one narrowing option."""
    words = ["keyleash", "undo"]
    if identity is not None:
        words += ["--identity", identity]
    if query.correlation is not None:
        words += ["--correlation", query.correlation]
    if identity is None and query.correlation is None:
        words += ["--key", "*"]
    if query.since_ms is not None or query.correlation is None:
        words += ["--since", iso_time(since_ms)]
    if query.until_ms is not None:
        words += ["--until", iso_time(query.until_ms)]
    return shlex.join([*words, "--dry-run"])
