"""The charts of the report: allowed and denied calls over time, as coordinates for SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from keyleash.audit.report.key_history import WIDTHS_MS, Timeline
from keyleash.text import clock_time, counted, iso_time

LEFT, RIGHT = 7.0, 99.5
"""The horizontal extent of the bars, in percent."""
HEIGHT = 150
"""Height of the bars of one panel, in pixels."""
MAX_NAMES = 6
MAX_TICKS = 7
OTHERS = "others"
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Bar:
    """A segment of a stacked column; *colour* is the index of its identity."""

    x: float
    width: float
    y: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled position on an axis: in percent on the time axis, else in pixels."""

    place: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart: calls of one kind over time, stacked by identity."""

    noun: str
    total: int
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class ChartRow:
    """One column as numbers, by identity."""

    time: str
    allowed: tuple[int, ...]
    denied: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """
    Both panels, and the same numbers as table rows.

    Attributes:
        names: Identities with the most calls; the last may be `others`.
        width: Duration of one column, for people.
    """

    names: tuple[str, ...]
    panels: tuple[Panel, ...]
    ticks: tuple[Tick, ...]
    rows: tuple[ChartRow, ...]
    width: str
    first: str
    last: str


def draw(operations: Timeline, denied: Timeline) -> Chart:
    """Return the chart of two timelines with the same columns."""
    names = _names(operations, denied)
    pieces = operations.pieces
    width_ms = operations.width_ms
    allowed_columns = _columns(operations, names)
    denied_columns = _columns(denied, names)
    return Chart(
        names=names,
        panels=(
            _panel("operation", allowed_columns, names, operations),
            _panel("denial", denied_columns, names, operations),
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
    """Return the counts by identity for each column."""
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
            Tick(round(HEIGHT * (1 - value / top), 2), _tick_number(value))
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
                    title=(
                        f"{names[colour]}: {counted_large(count, noun)},"
                        f" from {clock_time(begin_ms)}"
                    ),
                )


def _step(highest: int) -> int:
    """Return the distance of two ticks: 1, 2 or 5 times a power of ten, at most 4 steps."""
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


def _tick_number(value: int) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:,}"


def _duration(width_ms: int) -> str:
    units = (("day", _DAY_MS), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000))
    return next(counted(width_ms // size, noun) for noun, size in units if width_ms >= size)


def counted_large(count: int, noun: str) -> str:
    """Return `1 token`, `2,000 tokens`."""
    return counted(count, noun).replace(str(count), f"{count:,}", 1)
