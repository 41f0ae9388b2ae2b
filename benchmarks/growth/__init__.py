"""Growth of the cost of calls, of memory and of loading with various sizes."""

from __future__ import annotations

from pathlib import Path

import redis
from benchmarks.growth import audit, identities, images, limits, patterns, reading, sizes, tokens
from benchmarks.growth.curves import figures_of, text_of
from benchmarks.growth.sampling import Yard
from benchmarks.support.load import Generator
from benchmarks.support.section import Section, Setting
from benchmarks.support.servers import running, version_of

NAME = "growth"
MEASURES = (identities, patterns, tokens, audit, reading, limits, sizes, images)


def measure(setting: Setting) -> Section:
    """Measure all growths on the first server."""
    choice = setting.servers[0]
    with running(choice, setting.cores.server) as server, redis.Redis.from_url(server.url) as admin:
        version = version_of(admin)
    with Generator(setting.cores.client) as generator:
        yard = Yard(choice, setting.cores, generator, setting.quick)
        growths = [growth for item in MEASURES for growth in item.measure(yard)]
    return Section(
        name=NAME,
        text="\n\n".join([version, *map(text_of, growths)]),
        figures=tuple(figure for growth in growths for figure in figures_of(growth, version)),
        bars=tuple((version, bar) for growth in growths for bar in growth.bars),
        noisy=any(growth.noisy for growth in growths),
    )


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw all panels in one file."""
    from benchmarks.growth.plot import draw as draw_panels  # noqa: PLC0415 - it takes matplotlib

    return draw_panels(section, folder)
