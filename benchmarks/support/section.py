"""A section of the suite: what it measured, as plain data that tables, JSON and plots are made of.

A section is a module with three names: `NAME`, `measure(setting) -> Section` and
`draw(section, folder) -> list[Path]`, which makes SVG files of the section's figures
and is the only one to import matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from benchmarks.support.bars import Bar
from benchmarks.support.servers import Cores, ServerChoice
from benchmarks.support.spread import Spread


@dataclass(frozen=True, slots=True)
class Setting:
    """What a section is given.

    Attributes:
        servers: To be measured, one after the other.
        cores: Of server and clients.
        quick: Fewer rounds and smaller sizes: to see that it works, not to quote.
    """

    servers: tuple[ServerChoice, ...]
    cores: Cores
    quick: bool


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        series: What was measured, such as `guarded SET`.
        unit: Of the number, such as `µs of server CPU` or `× raw SET, ops/s`.
        value: Median, least and greatest of the rounds.
        server: What the server said it is.
        at: The circumstances, such as `{"clients": 50, "pipeline": 16}`.
    """

    series: str
    unit: str
    value: Spread
    server: str
    at: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """What a section found.

    Attributes:
        name: The module's `NAME`.
        text: The table for people, with all remarks.
        figures: Every number that was measured.
        bars: What was promised, by server.
        notes: Whatever else belongs beside the figures, such as versions of libraries.
        noisy: Whether other processes had a part of the cores: then no verdict is worth much.
    """

    name: str
    text: str
    figures: tuple[Figure, ...]
    bars: tuple[tuple[str, Bar], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    noisy: bool = False

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)
