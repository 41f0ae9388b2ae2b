"""What guarded clients cost their process, as a table for people or plain data for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from benchmarks.support.bars import Bar
from benchmarks.support.clients import Comparison

QUIET = 0.05
"""If more of the time was spent waiting for a core, others had a part of it."""


@dataclass(frozen=True, slots=True)
class ClientReport:
    """All that was compared on one server.

    Attributes:
        heading: What was measured, where.
        version: What the server says it is.
        rows: One per kind of work.
        waited: See `waits.Waited`.
        bars: What was promised.
    """

    heading: str
    version: str
    rows: tuple[Comparison, ...]
    waited: float | None
    bars: tuple[Bar, ...]

    @property
    def noisy(self) -> bool:
        """Whether other processes had a part of the cores: then no verdict is worth much."""
        return self.waited is not None and self.waited > QUIET

    def text(self) -> str:
        """The heading, a table, and a remark."""
        wide = max(len(row.name) for row in self.rows) + 1
        lines = [
            self.heading,
            f"{'':{wide}}{'':8}{'redis-py':>10}{'keyleash':>10}{'ratio (min–max)':>20}{'best':>7}"
            f"{'client CPU (min–max)':>22}",
        ]
        lines += [
            f"{row.name:{wide}}{row.unit:>8}{row.raw.median:10,.0f}{row.guarded.median:10,.0f}"
            f"{row.ratio!s:>20}{row.best_ratio:7.2f}{row.cpu_ratio or ''!s:>22}"
            for row in self.rows
        ]
        if self.noisy:
            lines.append(
                f"NOISE: for {self.waited:.0%} of the time client or server waited for a core that"
                " others had; repeat this while nothing else runs"
            )
        return "\n".join(lines)

    def plain(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)
