"""Issue many tokens of an identity from Python: `Operator.tokens.issue_many`.

    python -m benchmarks --section issuing

The policy has many identities, since issuing must not read it.
"""

from __future__ import annotations

import time
from pathlib import Path

import redis
from benchmarks.support.bars import Bar, Side, Spread, spread_of
from benchmarks.support.policy import document, operator_of, runner
from benchmarks.support.section import Figure, Section, Setting
from benchmarks.support.servers import pinned, running, version_of

import keyleash

NAME = "issuing"
BAR_S = 2.0
ROUNDS, QUICK_ROUNDS = 5, 1
IDENTITIES, QUICK_IDENTITIES = 1_000, 20
TOKENS, QUICK_TOKENS = 10_000, 1_000


def measure(setting: Setting) -> Section:
    """Measure on the first server: it is the client that is measured."""
    choice, cores, quick = setting.servers[0], setting.cores, setting.quick
    rounds = QUICK_ROUNDS if quick else ROUNDS
    identities = QUICK_IDENTITIES if quick else IDENTITIES
    tokens = QUICK_TOKENS if quick else TOKENS
    policy = keyleash.Policy(document(runner(f"agent-{n:04}") for n in range(identities)))
    with running(choice, cores.server) as server, redis.Redis.from_url(server.url) as admin:
        version = version_of(admin)
        operator = operator_of(admin)
        operator.load(policy)
        with pinned(cores.client):
            cpu, wall = zip(*(_issue(operator, tokens) for _ in range(rounds)), strict=True)
    per_s = spread_of([tokens / seconds for seconds in wall])
    at: dict[str, float | str] = {"tokens": tokens, "identities": identities}
    what = f"{tokens:,} tokens, policy of {identities:,} identities"
    return Section(
        NAME,
        f"{version} ({choice.name}): {what}\n"
        f"  client CPU  {spread_of(cpu)} s\n"
        f"  throughput  {_whole(per_s)} tokens/s",
        (
            Figure("issue_many", "s of client CPU", spread_of(cpu), version, at),
            Figure("issue_many", "tokens/s", per_s, version, at),
        ),
        ((version, Bar(f"client CPU, {what}", Side.AT_MOST, BAR_S, "1 s", spread_of(cpu).median)),),
    )


def _issue(operator: keyleash.Operator, count: int) -> tuple[float, float]:
    """Return the client CPU and the duration in seconds."""
    begun_s, cpu_s = time.perf_counter(), time.process_time()
    operator.tokens.issue_many("agent-0000", count, ttl="1h")
    return time.process_time() - cpu_s, time.perf_counter() - begun_s


def _whole(spread: Spread) -> str:
    return f"{spread.median:,.0f} ({spread.least:,.0f}–{spread.greatest:,.0f})"


def draw(section: Section, folder: Path) -> list[Path]:
    """Draw nothing."""
    del section, folder
    return []
