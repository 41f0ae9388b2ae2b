"""The claims about the gateway, beyond single attempts."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.commands import CommandSpec, load_table
from keyleash.store.keyspace import Keyspace
from keyleash.store.live_table import read_table
from proofs.oracle.arguments import Call, Draws, drawn_call
from proofs.redteam import page
from proofs.redteam.attempt import Outcome, Tier
from proofs.redteam.attempts import ATTEMPTS
from proofs.redteam.behind_gateway import GatewayStage, staged_behind_gateway
from proofs.redteam.stage import CLERK, NOBODYS, OTHER, OWN, WORKER
from support.servers import find_server_binaries
from support.thorough import FACTOR, IS_QUICK

README = Path(__file__).parents[3] / "README.md"
CLAIM = "every direct command"
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


@pytest.fixture(params=find_server_binaries())
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GatewayStage]:
    """Every server, behind a gateway."""
    with staged_behind_gateway(find_server_binaries()[request.param], tmp_path) as stage:
        yield stage


def calls_of(spec: CommandSpec) -> Iterator[Call]:
    """Calls of a command: the same in every run, unless more are asked for."""
    dice = random.Random(spec.name if FACTOR == 1 else None)
    for _ in range(CALLS):
        yield drawn_call(Draws(dice.randbytes(BYTES)), spec, KEYS)


def test_nothing_is_possible_behind_a_gateway() -> None:
    """As README and the threat model claim."""
    outcomes = {item.expected.get(Tier.GATEWAY) for item in ATTEMPTS}

    assert Outcome.POSSIBLE not in outcomes
    for text, head in ((page.page(), "| **[gateway]"), (README.read_text(), "| gateway tier")):
        assert CLAIM in next(line for line in text.splitlines() if line.startswith(head))


def test_no_command_reaches_what_no_grant_covers(stage: GatewayStage) -> None:
    """Every command of a server, `make test` a third of them: nothing else changes or is revealed,
    and changes are recorded.
    """
    failures: dict[str, list[str]] = defaultdict(list)
    specs = [*{**load_table().commands, **read_table(stage.operator).commands}.values()]
    for spec in specs[:: 3 if IS_QUICK else 1]:
        stage.reset()
        stage.intruder.forget()
        stage.given("PING")
        dice = random.Random(spec.name)
        for call in calls_of(spec):
            before, after = dice.choice([([], []), ([("MULTI",)], [("EXEC",)]), ([], [])])
            stage.intruder.pipeline(*before, call, *after)
        failures[spec.name] += [f"changed {name!r}" for name in stage.changed(by_guard=True)]
        failures[spec.name] += stage.leaked(by_guard=True)
        failures[spec.name] += [f"unrecorded {k!r}" for k in stage.own_changes() - stage.recorded()]

    assert {name: texts for name, texts in failures.items() if texts} == {}
    assert stage.changed_upstream() == []
