"""The charts of the report: allowed and denied calls over time, as coordinates for SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from keyleash.addons.report.key_history import WIDTHS_MS, Timeline
from keyleash.text import clock_time, counted, iso_time

LEFT, RIGHT = 7.0, 99.5
"""The horizontal extent of the bars, in percent."""
HEIGHT = 150
"""Height of the bars of one panel, in pixels."""
MAX_NAMES = 6
MAX_TICKS = 7
OTHERS = "others"
_DAY_MS = 86_400_000
_UNITS = (("day", _DAY_MS), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000))


def draw(operations: Timeline, denied: Timeline) -> dict[str, Any]:
    """Return the variables of the template for two timelines with the same columns.

    `names` has the identities with the most calls, then perhaps `others`. Each of `panels` has its
    `bars`, whose `colour` is the index of a name, and its `ticks` in pixels. `ticks` are those of
    the time axis, in percent. `rows` has the time of each column with its counts by name, allowed
    and denied; `width` is the duration of a column.
    """
    totals: Counter[str] = Counter()
    for timeline in (operations, denied):
        for (_, name), count in timeline.counts.items():
            totals[name] += count
    names = sorted(totals, key=lambda name: (-totals[name], name))
    if len(names) > MAX_NAMES:
        names = [*names[: MAX_NAMES - 1], OTHERS]
    width_ms = operations.width_ms
    begins_ms = [piece * width_ms for piece in operations.pieces]
    end_ms = begins_ms[-1] + width_ms
    allowed_columns, denied_columns = _columns(operations, names), _columns(denied, names)
    rows = zip(map(clock_time, begins_ms), allowed_columns, denied_columns, strict=True)
    return {
        "names": names,
        "panels": [
            _panel("operation", allowed_columns, names, begins_ms),
            _panel("denial", denied_columns, names, begins_ms),
        ],
        "ticks": list(_time_ticks(begins_ms[0], end_ms)),
        "rows": [row for row in rows if any(row[1]) or any(row[2])],
        "width": next(counted(width_ms // ms, noun) for noun, ms in _UNITS if width_ms >= ms),
        "first": clock_time(begins_ms[0]),
        "last": clock_time(end_ms),
    }


def _columns(timeline: Timeline, names: Sequence[str]) -> list[list[int]]:
    """Return the counts by identity for each column."""
    columns = [[0] * len(names) for _ in timeline.pieces]
    places = {name: place for place, name in enumerate(names)}
    for (piece, name), count in timeline.counts.items():
        columns[piece - timeline.pieces[0]][places.get(name, len(names) - 1)] += count
    return columns


def _panel(
    noun: str, columns: list[list[int]], names: Sequence[str], begins_ms: Sequence[int]
) -> dict[str, Any]:
    highest = max(map(sum, columns))
    step = _step(highest)
    top = max(step * -(-highest // step), step)
    width = (RIGHT - LEFT) / len(columns)
    bars = []
    for place, column in enumerate(columns):
        y = float(HEIGHT)
        for colour, count in enumerate(column):
            height = HEIGHT * count / top
            y -= height
            if count:
                calls, begin = counted_large(count, noun), clock_time(begins_ms[place])
                bar = {"x": round(LEFT + place * width + width * 0.06, 3), "y": round(y, 2)}
                bar |= {"width": round(width * 0.88, 3), "height": round(height, 2)}
                title = f"{names[colour]}: {calls}, from {begin}"
                bars.append({**bar, "colour": colour, "title": title})
    ticks = [
        {"place": round(HEIGHT * (1 - value / top), 2), "label": _tick_number(value)}
        for value in range(0, top + 1, step)
    ]
    return {"noun": noun, "total": sum(map(sum, columns)), "bars": bars, "ticks": ticks}


def _step(highest: int) -> int:
    """Return the distance of two ticks: 1, 2 or 5 times a power of ten, at most 4 steps."""
    size = 1
    while True:
        for factor in (1, 2, 5):
            if highest <= factor * size * 4:
                return factor * size
        size *= 10


def _time_ticks(begin_ms: int, end_ms: int) -> Iterator[dict[str, Any]]:
    span_ms = end_ms - begin_ms
    step_ms = next((step for step in WIDTHS_MS if span_ms / step <= MAX_TICKS), WIDTHS_MS[-1])
    first_ms = -(-begin_ms // step_ms) * step_ms
    for time_ms in range(first_ms, end_ms + 1, step_ms):
        place = LEFT + (RIGHT - LEFT) * (time_ms - begin_ms) / span_ms
        anchor = "end" if place > 97 else "middle"
        label = _tick_label(time_ms, step_ms, span_ms)
        yield {"place": round(place, 3), "label": label, "anchor": anchor}


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


def counted_large(count: int, noun: str) -> str:
    """Return `1 token`, `2,000 tokens`."""
    return counted(count, noun).replace(str(count), f"{count:,}", 1)
