"""Peers: the work of a guarded SET with other libraries."""

from __future__ import annotations

from pathlib import Path

from benchmarks.support.section import Section, Setting

NAME = "peers"


def measure(setting: Setting) -> Section:
    """Measure every peer on the first server, in turn."""
    from benchmarks.peers.measuring import measured  # noqa: PLC0415 - needs the extra `bench`

    return measured(NAME, setting)


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw a bar chart: p50 of a call per peer."""
    from benchmarks.peers.chart import bars_of_calls  # noqa: PLC0415 - needs matplotlib

    return [bars_of_calls(section, folder / f"{NAME}.svg")]
