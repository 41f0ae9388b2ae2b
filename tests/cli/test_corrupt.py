"""Corrupt states and records of tokens break no command."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from keyleash.store.keyspace import Keyspace
from keyleash.store.token import token_digest
from support.command_line import Cli
from support.servers import RealServer

RUNNER = "agent-runner"
NAMES = Keyspace()
NAN = float("nan")


def test_policy_is_loaded_over_a_corrupt_state(
    loaded: Cli, embedded: RealServer, example: Path, policy: Path
) -> None:
    """Its counts are migrated unchanged, or not at all."""
    corrupt = struct.pack("<3d", NAN, float("inf"), -1e300)
    embedded.client().setrange(NAMES.state(RUNNER), 16, corrupt)
    policy.write_text(example.read_text().replace("50000/day", "40000/day"))

    loaded.ok("load", policy, "--yes")

    assert loaded.run("status").exit_code == 0


@pytest.mark.parametrize("form", ["", "--json "])
@pytest.mark.parametrize("place", [24, 32, 40])
def test_corrupt_counter_is_explained(
    loaded: Cli, embedded: RealServer, form: str, place: int
) -> None:
    """The explanation has the code of the guard, and no time of a reset."""
    embedded.client().setrange(NAMES.state(RUNNER), place, struct.pack("<d", NAN))
    call = ("SET", "agents:jobs:7:state", "x")

    result = loaded.run(*form.split(), "explain", RUNNER, "--", *call)
    answer = loaded.run("exec", *call, KEYLEASH_TOKEN=loaded.token(RUNNER))

    assert (result.exit_code, answer.exit_code) == (1, 1)
    assert "COUNTER_CORRUPT" in result.output
    assert "COUNTER_CORRUPT" in answer.output
    assert "9999" not in result.output
    holder = loaded.run(*form.split(), "whoami", KEYLEASH_TOKEN=loaded.token(RUNNER))
    assert holder.exit_code == 0
    assert "9999" not in holder.output
    assert loaded.run("status").exit_code == 0


def test_short_record_of_a_token_stops_no_tool(loaded: Cli, embedded: RealServer) -> None:
    """Guards take it for none."""
    token = loaded.token(RUNNER)
    embedded.client().set(NAMES.token(RUNNER, token_digest(token)), b"x")

    for words in ("token list", "status", f"token rotate {RUNNER}", f"token revoke {RUNNER}"):
        result = loaded.run(*words.split())
        assert result.exit_code in (0, 1, 2), result.output
        assert "Traceback" not in result.output
