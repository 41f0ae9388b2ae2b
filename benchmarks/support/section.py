"""A section of the suite as plain data, and the results file of a run."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from benchmarks.support.bars import Bar, Side, Spread
from benchmarks.support.servers import Cores, ServerChoice

# A section of the suite: what it measured, as plain data that tables, JSON and plots are made of.
#
# A section is a module with three names: `NAME`, `measure(setting) -> Section` and
# `draw(section, folder) -> list[Path]`, which makes SVG files of the section's figures
# and is the only one to import matplotlib.


@dataclass(frozen=True, slots=True)
class Setting:
    """Servers and cores for a section.

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
    """A measured number.

    Attributes:
        series: What was measured, such as `guarded SET`.
        unit: Of the number, such as `µs of server CPU` or `× raw SET, ops/s`.
        value: Median, least and greatest of the rounds.
        server: Name and version of the server.
        at: The circumstances, such as `{"clients": 50, "pipeline": 16}`.
    """

    series: str
    unit: str
    value: Spread
    server: str
    at: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Section:
    """Results of a section.

    Attributes:
        name: The module's `NAME`.
        text: The table with remarks.
        bars: Bars with their servers.
        notes: Other facts, such as versions of libraries.
        noisy: Whether other processes used the cores, which makes the bars unreliable.
    """

    name: str
    text: str
    figures: tuple[Figure, ...]
    bars: tuple[tuple[str, Bar], ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    noisy: bool = False

    def plain(self) -> dict[str, object]:
        """Return the section as data for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Section:
        """Return the section from `plain` or its JSON."""
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
    """The interface of a section's module."""

    NAME: str

    def measure(self, setting: Setting) -> Section:
        """Measure the section."""

    def draw(self, section: Section, folder: Path) -> list[Path]:
        """Write SVG files to the existing *folder*."""


def joined(name: str, parts: Sequence[Section]) -> Section:
    """Join sections, such as one per server."""
    return Section(
        name,
        "\n\n".join(part.text for part in parts),
        tuple(chain.from_iterable(part.figures for part in parts)),
        tuple(chain.from_iterable(part.bars for part in parts)),
        {key: value for part in parts for key, value in part.notes.items()},
        noisy=any(part.noisy for part in parts),
    )


ROOT = Path(__file__).resolve().parents[2]


def machine(*, quick: bool) -> dict[str, object]:
    """Describe the run: time, commit, processor, kernel, versions, load average."""
    return {
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("redis", "hiredis")},
    }


def write_results(about: dict[str, object], sections: Sequence[Section], folder: Path) -> Path:
    """Write `<date>.json`, replacing that of an earlier run of the day; return the file.

    Args:
        about: See `machine`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{datetime.datetime.now(datetime.UTC).date()}.json"
    servers = dict.fromkeys(figure.server for section in sections for figure in section.figures)
    plain = {
        **about,
        "servers": list(servers),
        "sections": [section.plain() for section in sections],
    }
    file.write_text(_dumped(_rounded(plain)), encoding="utf-8")
    return file


def read_sections(file: Path) -> list[Section]:
    """Read the sections of a file from `write_results`."""
    plain = json.loads(file.read_text(encoding="utf-8"))
    return [Section.from_plain(item) for item in plain["sections"]]


def _dumped(plain: object, depth: int = 0, deepest: int = 5) -> str:
    """Return JSON with a line per figure."""
    if depth == deepest or not isinstance(plain, dict | list | tuple) or not plain:
        return json.dumps(plain, ensure_ascii=False)
    if isinstance(plain, dict):
        items = [f"{json.dumps(key)}: {_dumped(value, depth + 1)}" for key, value in plain.items()]
    else:
        items = [_dumped(value, depth + 1) for value in plain]
    inside = ",\n".join("  " * (depth + 1) + item for item in items)
    begin, end = "{}" if isinstance(plain, dict) else "[]"
    return f"{begin}\n{inside}\n{'  ' * depth}{end}" + ("" if depth else "\n")


def _rounded(plain: Any) -> Any:
    """Return *plain* with numbers of six digits."""
    if isinstance(plain, float):
        return float(f"{plain:.6g}")
    if isinstance(plain, dict):
        return {key: _rounded(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_rounded(value) for value in plain]
    return plain


def _commit() -> str:
    """Return the commit, with `-dirty` if the working tree differs."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or "unknown"


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
