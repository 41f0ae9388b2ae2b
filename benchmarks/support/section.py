"""A section of the suite: what it measured, as plain data that tables, JSON and plots are made of.

A section is a module with three names: `NAME`, `measure(setting) -> Section` and
`draw(section, folder) -> list[Path]`, which makes SVG files of the section's figures
and is the only one to import matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from benchmarks.support.bars import Bar, Side
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

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Section:
        """The section again, from what `plain` said or JSON made of it."""
        return cls(
            name=plain["name"],
            text=plain["text"],
            figures=tuple(
                Figure(**{**figure, "value": Spread(**figure["value"])})
                for figure in plain["figures"]
            ),
            bars=tuple(
                (server, Bar(**{**bar, "side": Side(bar["side"])})) for server, bar in plain["bars"]
            ),
            notes=plain["notes"],
            noisy=plain["noisy"],
        )


class SectionModule(Protocol):
    """A module that is a section."""

    NAME: str

    def measure(self, setting: Setting) -> Section:
        """Measure all that the section is about."""

    def draw(self, section: Section, folder: Path) -> list[Path]:
        """Make SVG files in *folder*; it is there."""


def joined(name: str, parts: Sequence[Section]) -> Section:
    """One section of several, such as one for each server."""
    return Section(
        name,
        "\n\n".join(part.text for part in parts),
        tuple(chain.from_iterable(part.figures for part in parts)),
        tuple(chain.from_iterable(part.bars for part in parts)),
        {key: value for part in parts for key, value in part.notes.items()},
        noisy=any(part.noisy for part in parts),
    )
