"""Every command that a server has, sent by an agent with a connection of its own."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import pytest

from keyleash.commands import CommandSpec, load_table
from keyleash.store.keyspace import Keyspace
from keyleash.store.live_table import read_table
from oracle.arguments import Call, Draws, drawn_call
from redteam.attempt import Tier
from redteam.stage import CLERK, NOBODYS, OTHER, OWN, WORKER, Stage, staged
from support.servers import find_server_binaries
from support.thorough import FACTOR

CALLS = 10 * FACTOR
"""Of each command."""
BYTES = 40
PUBLIC = Keyspace()
KEYS = [
    name.encode()
    for name in (
        OWN, OTHER, NOBODYS, "jobs:locked", "jobs:new", OWN, OTHER, PUBLIC.state(WORKER),
        PUBLIC.audit(WORKER), PUBLIC.state(CLERK), PUBLIC.policy,
        PUBLIC.guard(WORKER), PUBLIC.guard(CLERK), PUBLIC.source(WORKER),
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def stage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    """Every server, where agents have users of their own."""
    binary = find_server_binaries()[request.param]
    with staged(binary, Tier.FENCED, tmp_path_factory.mktemp("commands")) as stage:
        yield stage


def calls_of(spec: CommandSpec) -> Iterator[Call]:
    """Calls of a command: the same in every run, unless more are asked for."""
    dice = random.Random(spec.name if FACTOR == 1 else None)
    for _ in range(CALLS):
        yield drawn_call(Draws(dice.randbytes(BYTES)), spec, KEYS)


def reachable(stage: Stage, name: bytes) -> bool:
    """Return whether a fence lets its agent change that key directly."""
    return name.startswith(b"jobs:") or name in stage.written_down()


@pytest.mark.parametrize("stage", find_server_binaries(), indirect=True)
def test_no_command_reaches_what_the_tier_keeps(stage: Stage) -> None:
    """No key outside its grants changes or is revealed."""
    failures: dict[str, list[str]] = defaultdict(list)
    for spec in {**load_table().commands, **read_table(stage.operator).commands}.values():
        stage.reset()
        stage.intruder.forget()
        before = stage.snapshot()
        for call in calls_of(spec):
            stage.intruder.say(*call)
        after = stage.snapshot()
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        changed = {name for name in changed if not reachable(stage, name)}
        failures[spec.name] += [f"changed {name!r}" for name in changed]
        failures[spec.name] += stage.leaked(by_guard=True)

    assert {name: texts for name, texts in failures.items() if texts} == {}
