"""The incident report as one HTML page."""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from keyleash.audit import Query
from keyleash.audit.describe import (
    UNVALIDATED,
    label,
    reason,
    short_value,
    shown_folded,
    what_happens,
)
from keyleash.audit.report import (
    Activity,
    BeforeAndAfter,
    KeyHistory,
    ReportContext,
    read_activity,
    read_before_and_after,
    read_context,
)
from keyleash.audit.report.key_history import WIDTHS_MS, Timeline
from keyleash.audit.stats import Tally, key_prefix
from keyleash.audit.undo import UndoPlan, UndoSelection, described, plan_undo
from keyleash.errors import NothingToUndoError, UndoTooLargeError
from keyleash.store.identities import server_time_ms
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.text import clock_time, counted, distance, iso_time, printable, short_digest

if TYPE_CHECKING:
    from keyleash.audit.report import TokenUse
    from keyleash.audit.undo import KeyPlan


LIMIT = 160
"""So many characters of a key or correlation id are shown: both can be as long as their writer
likes."""
# Whatever stands behind the name, since a value is cut before it comes here, perhaps in a token.
_TOKEN = re.compile(r"(kl_[a-z0-9-]{1,64})_[a-z0-9_-]+", re.IGNORECASE)


def safe(value: object) -> object:
    """Whatever is put into the page: on one line, and without the secret of a token."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _TOKEN.sub(r"\1_…", printable(value))


def shown(value: str | bytes, limit: int = LIMIT) -> str:
    """A key or another word of a stranger, shortened in the middle."""
    text = _TOKEN.sub(r"\1_…", printable(value))
    if len(text) <= limit:
        return text
    half = (limit - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def number(count: int) -> str:
    """A count, readable when it is large."""
    return f"{count:,}"


def amount(count: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return counted(count, noun).replace(str(count), number(count), 1)


def before_words(before_and_after: BeforeAndAfter) -> str:
    """What a key held before the range."""
    if before_and_after.before is not None:
        return short_value(before_and_after.before, before_and_after.history.first.time_ms)
    return (
        f"not restored: {UNVALIDATED}"
        if before_and_after.is_withheld
        else _why_unknown(before_and_after.history)
    )


def after_words(before_and_after: BeforeAndAfter) -> str:
    """What the last event of the range left."""
    last = before_and_after.history.last
    if before_and_after.after is not None:
        return short_value(before_and_after.after, last.time_ms)
    match last.after_state.digest:
        case None if before_and_after.history.is_masked:
            return "masked"
        case None:
            return "not recorded"
        case "large":
            return "too large to be compared"
        case digest:
            return f"not kept (SHA-1 {digest[:12]}…)"


def now_words(before_and_after: BeforeAndAfter, now_ms: int) -> str:
    """What it holds now."""
    if before_and_after.now is None:
        return "not known"
    has_expired = (
        before_and_after.now.is_absent
        and before_and_after.history.last.after_state.digest not in {None, "absent"}
    )
    if before_and_after.is_unchanged:
        return "expired since" if has_expired else "as it was left"
    return short_value(before_and_after.now, now_ms)


def _why_unknown(history: KeyHistory) -> str:
    if history.first.large:
        return f"too large to be kept: {amount(history.first.large, 'byte')}"
    if history.is_dropped:
        return "left out: too much for this page"
    if history.first.before is not None:
        return "cannot be read by this server"
    return "masked" if history.first.is_masked else "not recorded"


LEFT, RIGHT = 7.0, 99.5
"""Where the bars begin and end, percent."""
HEIGHT = 150
"""Of the bars of one panel, pixels."""
MAX_NAMES = 6
MAX_TICKS = 7
OTHERS = "others"
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Bar:
    """A part of a column; *colour* is the number of its name."""

    x: float
    width: float
    y: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place of an axis: percent on the one of time, else pixels."""

    place: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Panel:
    """One kind of thing over time, stacked by name."""

    noun: str
    total: int
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class ChartRow:
    """A piece of time in numbers; both counts by name."""

    time: str
    done: tuple[int, ...]
    denied: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """
    What is drawn, and the same as rows.

    Attributes:
        names: Whose; the last may be `others`.
        width: How long a piece of time is, in words.
    """

    names: tuple[str, ...]
    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]
    rows: tuple[ChartRow, ...]
    width: str
    first: str
    last: str


def draw(operations: Timeline, denied: Timeline) -> Chart:
    """Draw two timelines of the same pieces, one above the other."""
    names = _names(operations, denied)
    pieces = operations.pieces
    width_ms = operations.width_ms
    allowed_columns = _columns(operations, names)
    denied_columns = _columns(denied, names)
    return Chart(
        names=names,
        panels=(
            _panel("operation", allowed_columns, names, operations),
            _panel("refusal", denied_columns, names, operations),
        ),
        ticks=tuple(_time_ticks(pieces, width_ms)),
        rows=tuple(
            ChartRow(clock_time(piece * width_ms), allowed_columns[place], denied_columns[place])
            for place, piece in enumerate(pieces)
            if any(allowed_columns[place]) or any(denied_columns[place])
        ),
        width=_duration(width_ms),
        first=clock_time(pieces[0] * width_ms),
        last=clock_time((pieces[-1] + 1) * width_ms),
    )


def _names(*timelines: Timeline) -> tuple[str, ...]:
    totals: Counter[str] = Counter()
    for timeline in timelines:
        for (_, name), count in timeline.counts.items():
            totals[name] += count
    ordered = sorted(totals, key=lambda name: (-totals[name], name))
    return tuple(ordered if len(ordered) <= MAX_NAMES else [*ordered[: MAX_NAMES - 1], OTHERS])


def _columns(timeline: Timeline, names: Sequence[str]) -> list[tuple[int, ...]]:
    """For each piece the counts by name."""
    columns = [[0] * len(names) for _ in timeline.pieces]
    places = {name: place for place, name in enumerate(names)}
    for (piece, name), count in timeline.counts.items():
        columns[piece - timeline.pieces[0]][places.get(name, len(names) - 1)] += count
    return [tuple(column) for column in columns]


def _panel(
    noun: str, columns: Sequence[tuple[int, ...]], names: Sequence[str], timeline: Timeline
) -> Panel:
    step = _step(max(map(sum, columns)))
    top = max(step * -(-max(map(sum, columns)) // step), step)
    return Panel(
        noun=noun,
        total=sum(map(sum, columns)),
        bars=tuple(_bars(noun, columns, names, timeline, top)),
        ticks=tuple(
            Tick(round(HEIGHT * (1 - value / top), 2), _short(value))
            for value in range(0, top + 1, step)
        ),
    )


def _bars(
    noun: str,
    columns: Sequence[tuple[int, ...]],
    names: Sequence[str],
    timeline: Timeline,
    top: int,
) -> Iterator[Bar]:
    width = (RIGHT - LEFT) / len(columns)
    for place, column in enumerate(columns):
        begin_ms = timeline.pieces[place] * timeline.width_ms
        y = float(HEIGHT)
        for colour, count in enumerate(column):
            if count:
                height = HEIGHT * count / top
                y -= height
                yield Bar(
                    x=round(LEFT + place * width + width * 0.06, 3),
                    width=round(width * 0.88, 3),
                    y=round(y, 2),
                    height=round(height, 2),
                    colour=colour,
                    title=f"{names[colour]}: {amount(count, noun)}, from {clock_time(begin_ms)}",
                )


def _step(highest: int) -> int:
    """The distance of two ticks: 1, 2 or 5 by a power of ten, so that there are few."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if highest <= factor * size * 4:
                return factor * size
        size *= 10


def _time_ticks(pieces: range, width_ms: int) -> Iterator[Tick]:
    begin_ms, end_ms = pieces[0] * width_ms, (pieces[-1] + 1) * width_ms
    step_ms = next(
        (step for step in WIDTHS_MS if (end_ms - begin_ms) / step <= MAX_TICKS), WIDTHS_MS[-1]
    )
    first_ms = -(-begin_ms // step_ms) * step_ms
    for time_ms in range(first_ms, end_ms + 1, step_ms):
        place = LEFT + (RIGHT - LEFT) * (time_ms - begin_ms) / (end_ms - begin_ms)
        anchor = "end" if place > 97 else "middle"
        yield Tick(round(place, 3), _tick_label(time_ms, step_ms, end_ms - begin_ms), anchor)


def _tick_label(time_ms: int, step_ms: int, span_ms: int) -> str:
    date, _, time = iso_time(time_ms).partition("T")
    if step_ms >= _DAY_MS:
        return date
    clock = time[:8] if step_ms < 60_000 else time[:5]
    return clock if span_ms <= _DAY_MS else f"{date[5:]} {clock}"


def _short(value: int) -> str:
    for unit, size in (("M", 1_000_000), ("k", 10_000)):
        if value >= size:
            return f"{value / (1_000_000 if unit == 'M' else 1000):g}{unit}"
    return number(value)


def _duration(width_ms: int) -> str:
    for noun, size in (("day", _DAY_MS), ("hour", 3_600_000), ("minute", 60_000)):
        if width_ms >= size:
            return counted(width_ms // size, noun)
    return counted(width_ms // 1000, "second")


if TYPE_CHECKING:
    pass

MAX_ROWS = 50
"""Of each table that can become long."""
MAX_PLANNED = 50


def render(report: HtmlReport) -> str:
    """The page."""
    activity = report.activity
    tallies = activity.stats.identities.values()
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            activity=activity,
            context=report.context,
            chart=draw(activity.operations, activity.denied),
            operations=sum(tally.events for tally in tallies),
            failed=sum(tally.failed for tally in tallies),
            denied=sum(tally.denied for tally in tallies),
            planned=_planned(report),
            tokens=_tokens(report),
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # The second line of defence: also where the template takes a word as it is.
        finalize=safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        before=before_words,
        after=after_words,
        number=number,
        shown=shown,
        shown_folded=shown_folded,
        clock=clock_time,
        iso=iso_time,
        ranked=_ranked,
        digest=short_digest,
    )
    made.globals.update(
        counted=amount,
        described=described,
        distance=distance,
        now_words=now_words,
        label=label,
        reason=reason,
        short_value=short_value,
        what_happens=what_happens,
        HEIGHT=HEIGHT,
        LEFT=LEFT,
        RIGHT=RIGHT,
        MAX_ROWS=MAX_ROWS,
        MAX_PLANNED=MAX_PLANNED,
    )
    return made


def _ranked(tallies: dict[str, Tally]) -> list[tuple[str, Tally]]:
    """The rows of a table of tallies, the largest first."""
    return sorted(tallies.items(), key=lambda row: (-row[1].total, row[0]))


def _planned(report: HtmlReport) -> list[KeyPlan]:
    """The keys of the plan, those that are in the way first."""
    if report.plan is None:
        return []
    return sorted(report.plan.keys, key=lambda item: not item.is_blocked)


def _tokens(report: HtmlReport) -> list[TokenUse]:
    """Those that were used most first."""
    tallies = report.activity.tokens

    def uses(token_use: TokenUse) -> int:
        tally = tallies.get((token_use.identity, token_use.id))
        return tally.total if tally else 0

    return sorted(report.context.tokens, key=lambda item: -uses(item))


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
class HtmlReport:
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
    context: ReportContext
    statuses: list[Any]
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
    statuses: Sequence[Any] = (),
) -> HtmlReport | None:
    """
    Read what a report shows of a time range.

    Args:
        client: A redis-py client of an operator.
        keyspace: Where the control keys are.
        names: The identities whose streams are read.
        query: The time range, and perhaps a correlation id.
        server: The server's URL, without a password.
        identity: The only identity; None for all.
        statuses: The limits of the identities now, as `keyleash.status.identity_statuses`.

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
    return HtmlReport(
        server=server,
        made_ms=made_ms,
        since_ms=since_ms,
        until_ms=until_ms,
        identity=identity,
        correlation=query.correlation,
        activity=activity,
        context=read_context(client, keyspace, about, since_ms, until_ms, used),
        statuses=[statuse for statuse in statuses if identity in {None, statuse.name}],
        prefixes=prefixes,
        further_prefixes=len(activity.stats.prefixes) - len(prefixes),
        plan=plan,
        no_plan=no_plan,
        command=_command(identity, query, since_ms),
    )


def _prefixes(client: Client, keyspace: Keyspace, activity: Activity) -> list[Prefix]:
    by_prefix: dict[bytes, list[KeyHistory]] = defaultdict(list)
    for history in activity.histories.by_key.values():
        by_prefix[key_prefix(history.key)].append(history)
    ordered = sorted(
        activity.stats.prefixes.items(),
        # What was changed first, and only then what was merely asked for.
        key=lambda row: (-len(by_prefix.get(row[0], ())), -row[1].total, row[0]),
    )[:MAX_PREFIXES]
    chosen = {
        name: sorted(by_prefix.get(name, ()), key=lambda history: -history.events)[:MAX_KEYS]
        for name, _ in ordered[:MAX_DETAILED]
    }
    everything = [history for histories in chosen.values() for history in histories]
    found = read_before_and_after(client, keyspace, everything)
    read = {item.history.key: item for item in found}
    return [
        Prefix(
            name=name,
            tally=tally,
            changed=len(by_prefix.get(name, ())),
            keys=tuple(read[history.key] for history in chosen.get(name, ())),
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
    selection = UndoSelection(
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
