"""The incident report as one HTML page, read with `gather`."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from keyleash.addons.report import chart
from keyleash.addons.report.activity import (
    Activity,
    ReportContext,
    TokenUse,
    read_activity,
    read_context,
)
from keyleash.addons.report.key_history import BeforeAndAfter, KeyHistory, read_before_and_after
from keyleash.audit.entries import ABSENT, LARGE
from keyleash.audit.entry_text import folded_text, short_value
from keyleash.audit.read import Query
from keyleash.audit.stats import Tally, key_prefix, ranked
from keyleash.audit.undo.key_plans import (
    UndoPlan,
    action_text,
    conflict_label,
    conflict_reason,
    plan_undo,
)
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.limits.counters import counter_of
from keyleash.results import Instant, Result
from keyleash.store.store import Store
from keyleash.text import clock_time, distance, iso_time, json_object, printable, short_digest

MAX_PREFIXES = 20
MAX_DETAILED = 10
"""Prefixes whose keys are shown."""
MAX_KEYS = 12
"""Keys shown for each of these prefixes."""
MAX_PLANNED_EVENTS = 50_000
"""Events in an undo plan at most: the plan holds all of them in memory."""
MAX_ROWS = 50
"""Rows of each table that has no bound of its own."""
MAX_CHARS = 160
"""Characters of a key or correlation id that are shown; agents choose their length."""
# Also an incomplete secret: a value may have been cut inside a token.
_TOKEN = re.compile(r"(kl_[a-z0-9-]{1,64})_[a-z0-9_-]+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Prefix:
    """The keys with a common prefix.

    Attributes:
        changed: Number of changed keys, of those that are followed.
        keys: The changed keys with the most events; empty past `MAX_DETAILED` prefixes.
    """

    name: bytes
    tally: Tally
    changed: int
    keys: tuple[BeforeAndAfter, ...] = ()


@dataclass(frozen=True, slots=True)
class HtmlReport(Result):
    """The content of a report.

    Attributes:
        server: The server's URL, without a password.
        made_ms: Server time of the report, Unix milliseconds.
        since_ms: Start of the time range; if none was given, the time of its first entry.
        until_ms: End of the time range.
        identity: The only identity; None for all.
        correlation: The only correlation id; None for all.
        prefixes: Those with the most changed keys first.
        plan: The undo plan; None if there is none.
        no_plan: The reason for that.
        command: The command that shows the same plan.
    """

    server: str
    made_ms: int
    since_ms: int
    until_ms: int
    identity: str | None
    correlation: str | None
    activity: Activity
    context: ReportContext
    statuses: list[Any]
    prefixes: list[Prefix]
    plan: UndoPlan | None = None
    no_plan: str = ""
    command: str = ""

    made_at = Instant[datetime]()
    since = Instant[datetime]("since_ms")
    until = Instant[datetime]("until_ms")

    @property
    def html(self) -> str:
        """Return the page, which shows values of keys."""
        activity = self.activity

        def calls(token: TokenUse) -> int:
            return activity.tokens.get((token.identity, token.id), Tally()).total

        return (
            _environment()
            .get_template("page.html.jinja")
            .render(
                report=self,
                activity=activity,
                context=self.context,
                chart=chart.draw(activity.operations, activity.denied),
                tokens=sorted(self.context.tokens, key=calls, reverse=True),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the extent of the report as `audit report --json` prints it."""
        return {
            **json_object(self, "since_ms", "until_ms"),
            "entries": self.activity.entries,
            "conflicts": None if self.plan is None else len(self.plan.blocked),
        }


def gather(
    store: Store,
    names: Sequence[str],
    query: Query,
    *,
    server: str,
    identity: str | None = None,
    statuses: Sequence[Any] = (),
) -> HtmlReport | None:
    """Read the content of a report; return None if there is no event and no denial.

    *names* are the identities whose streams are read, *statuses* their limits now.
    """
    made_ms = store.now_ms()
    until_ms = made_ms if query.until_ms is None else query.until_ms
    activity = read_activity(store, names, replace(query, until_ms=until_ms))
    if activity.stats.first_ms is None:
        return None
    since_ms = activity.stats.first_ms if query.since_ms is None else query.since_ms
    used = [token for token in activity.tokens if token[1] != "-"]
    about = None if identity is None else [identity]
    plan, no_plan = _plan(store, activity, identity, query)
    return HtmlReport(
        server=server,
        made_ms=made_ms,
        since_ms=since_ms,
        until_ms=until_ms,
        identity=identity,
        correlation=query.correlation,
        activity=activity,
        context=read_context(store, about, since_ms, until_ms, used),
        statuses=[status for status in statuses if identity in {None, status.name}],
        prefixes=_prefixes(store, activity),
        plan=plan,
        no_plan=no_plan,
        command=_undo_command(identity, query, since_ms),
    )


def _prefixes(store: Store, activity: Activity) -> list[Prefix]:
    by_prefix: dict[bytes, list[KeyHistory]] = defaultdict(list)
    for history in activity.histories.by_key.values():
        by_prefix[key_prefix(history.key)].append(history)
    ordered = sorted(
        activity.stats.prefixes.items(),
        key=lambda row: (-len(by_prefix.get(row[0], ())), -row[1].total, row[0]),
    )[:MAX_PREFIXES]
    shown = {
        name: sorted(by_prefix.get(name, ()), key=lambda history: -history.events)[:MAX_KEYS]
        for name, _ in ordered[:MAX_DETAILED]
    }
    wanted = [history for histories in shown.values() for history in histories]
    values = {item.history.key: item for item in read_before_and_after(store, wanted)}
    return [
        Prefix(
            name=name,
            tally=tally,
            changed=len(by_prefix.get(name, ())),
            keys=tuple(values[history.key] for history in shown.get(name, ())),
        )
        for name, tally in ordered
    ]


def _plan(
    store: Store, activity: Activity, identity: str | None, query: Query
) -> tuple[UndoPlan | None, str]:
    events = activity.stats.sum("events")
    if events > MAX_PLANNED_EVENTS:
        return None, (
            f"No undo plan: a report plans for at most {MAX_PLANNED_EVENTS:,} events, and there"
            f" are {events:,}. Use a shorter time range, one identity or one correlation id."
        )
    try:
        return plan_undo(store, query, identity=identity), ""
    except (NothingToUndoError, UndoTooLargeError) as error:
        help_ = f" ({error.help})" if isinstance(error, UndoTooLargeError) else ""
        return None, f"No undo plan: {error.message}{help_}."


def _undo_command(identity: str | None, query: Query, since_ms: int) -> str:
    """Return the command that shows the same plan; `undo` requires a narrowing option."""
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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # Second line of defence, where the template prints a value without `shown`.
        finalize=_safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "before": before_text,
        "after": after_text,
        "number": "{:,}".format,
        "numbers": partial(re.sub, r"\d+", lambda found: f"{int(found[0]):,}"),
        "amount": _amount,
        "shown": shown,
        "folded_text": folded_text,
        "clock": clock_time,
        "iso": iso_time,
        "ranked": ranked,
        "digest": short_digest,
    }
    environment.globals |= {
        "counted": chart.counted_large,
        "HEIGHT": chart.HEIGHT,
        "LEFT": chart.LEFT,
        "RIGHT": chart.RIGHT,
        "MAX_ROWS": MAX_ROWS,
    }
    for function in (action_text, conflict_label, conflict_reason, distance, now_text, short_value):
        environment.globals[function.__name__] = function
    return environment


def _safe(value: object) -> object:
    """Return a value of the page on one line, without the secret of a token."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _TOKEN.sub(r"\1_…", printable(value))


def shown(value: str | bytes, limit: int = MAX_CHARS) -> str:
    """Return a key or another untrusted text, shortened in the middle."""
    text = _TOKEN.sub(r"\1_…", printable(value))
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def before_text(item: BeforeAndAfter) -> str:
    """Describe the value of a key before the time range."""
    first = item.history.first
    if item.before is not None:
        return short_value(item.before, first.time_ms)
    if first.large:
        return f"not recorded: too large ({chart.counted_large(first.large, 'byte')})"
    if item.history.is_dropped:
        return "left out: this report has too many values"
    if first.before is not None:
        return "this server cannot read it"
    return "masked" if first.is_masked else "not recorded"


def after_text(item: BeforeAndAfter) -> str:
    """Describe the value of a key after the last event of the time range."""
    last = item.history.last
    if item.after is not None:
        return short_value(item.after, last.time_ms)
    digest = last.after_state.digest
    if digest is None:
        return "masked" if item.history.is_masked else "not recorded"
    return "too large to be compared" if digest == LARGE else f"not stored (SHA-1 {digest[:12]}…)"


def now_text(item: BeforeAndAfter, now_ms: int) -> str:
    """Describe the present value of a key."""
    if item.now is None:
        return "not known"
    if not item.is_unchanged:
        return short_value(item.now, now_ms)
    had_value = item.history.last.after_state.digest not in {None, ABSENT}
    return "expired since" if item.now.is_absent and had_value else "unchanged since"


def _amount(value: int, limit: str) -> str:
    counter = counter_of(limit)
    return counter.rounded(value) if counter.is_bytes else f"{value:,}"
