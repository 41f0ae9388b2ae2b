"""`keyleash limits reset`."""

from __future__ import annotations

import re
import struct

import pytest

from keyleash.store.keyspace import Keyspace
from support.command_line import Cli
from support.servers import RealServer

RUNNER = "agent-runner"
CALL = ("exec", "SET", "agents:jobs:7:state", "x")


def test_reset_lets_a_denied_agent_act_and_is_logged(loaded: Cli, embedded: RealServer) -> None:
    """A reset is the help for operators where a counter is corrupt."""
    token = loaded.token(RUNNER)
    embedded.client().setrange(Keyspace().state(RUNNER), 24, struct.pack("<d", float("nan")))
    denied = loaded.run(*CALL, KEYLEASH_TOKEN=token)
    assert denied.exit_code == 1
    assert "COUNTER_CORRUPT" in denied.stderr
    assert "keyleash limits reset" in loaded.run("can-i", RUNNER, *CALL[1:]).stderr

    result = loaded.run("limits", "reset", RUNNER, "--limit", "rate.writes", "--reason", "audit 7")

    assert result.exit_code == 0
    assert result.stdout == "`agent-runner` reset: rate.writes\n"
    assert re.search(r"effective \S+Z, control event \d+-\d+", result.stderr)
    assert loaded.run(*CALL, KEYLEASH_TOKEN=token).exit_code == 0
    log = loaded.ok("audit", "log", "--control")
    assert re.search(r"reset-limits +tester", log)
    assert "audit 7" in log


@pytest.mark.parametrize("reason", ["", " ", "x" * 129, "kl_agent-runner_" + "x" * 32])
def test_reset_needs_a_reason_without_a_secret(loaded: Cli, reason: str) -> None:
    """The reason is stored in the control stream."""
    result = loaded.run("limits", "reset", RUNNER, "--reason", reason)

    assert result.exit_code in (1, 2)
    assert "x" * 32 not in result.output
    assert "reset-limits" not in loaded.ok("audit", "log", "--control")
