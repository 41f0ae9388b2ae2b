"""`keyleash freeze` and `keyleash thaw`."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from support.command_line import Cli
from support.replication import PATIENCE_S
from support.terminals import on_a_terminal, read_all, read_until

CALL = ("exec", "GET", "agents:context:1")


def test_freeze_for_a_time_shows_end_and_reason(loaded: Cli) -> None:
    """The command, the status and the denial have the same end and reason."""
    token = loaded.token("agent-reader")

    result = loaded.run(
        "freeze", "agent-reader", "agent-runner", "--for", "30m", "--reason", "bad writes"
    )

    assert result.exit_code == 0
    for name in ("agent-reader", "agent-runner"):
        row = rf"{name} +suspended until [-0-9]+ [:0-9]+Z \(in (30m|29m59s)\) +bad writes\n"
        assert re.search(row, result.stdout)
    assert re.search(r"2 identities changed, effective \S+Z, control event \d+-\d+", result.stderr)
    refused = loaded.run(*CALL, KEYLEASH_TOKEN=token)
    assert "the identity is suspended: bad writes" in refused.stderr
    assert "retry after" in refused.stderr
    status = loaded.ok("status")
    assert re.search(
        r"suspended  agent-reader until \S+ \S+Z \(in \S+\) by tester: bad writes", status
    )
    log = loaded.ok("audit", "log", "--control")
    assert "freeze" in log
    assert "bad writes" in log


def test_thaw_lists_the_resumed_identities(loaded: Cli) -> None:
    """Identities that were not suspended are unchanged."""
    token = loaded.token("agent-reader")
    loaded.ok("freeze", "agent-reader", "--reason", "x")

    output = loaded.ok("thaw", "agent-reader", "agent-runner")

    assert re.search(r"agent-reader +resumed", output)
    assert re.search(r"agent-runner +was not suspended", output)
    assert loaded.run(*CALL, KEYLEASH_TOKEN=token).exit_code == 0
    assert "nothing changed" in loaded.run("thaw", "agent-reader").stderr


@pytest.mark.parametrize("words", [("freeze", "--reason", "x"), ("thaw",)])
def test_freeze_or_thaw_of_all_needs_confirmation(loaded: Cli, words: tuple[str, ...]) -> None:
    """A forgotten name must not suspend or resume every identity."""
    assert loaded.run(*words).exit_code == 2
    assert [item["suspended"] for item in loaded.json("status")["identities"]] == [False] * 4
    assert len(loaded.json(*words, "--yes")["identities"]) == 4


@pytest.mark.parametrize(
    "words",
    [
        ("agent-reader",),
        ("agent-reader", "--reason", " "),
        ("agent-reader", "--reason", "x" * 129),
        ("agent-reader", "--reason", "x", "--for", "0s"),
        ("agent-reader", "--reason", f"leaked: kl_agent-reader_{'A' * 32}"),
        ("agent-reader", "--reason", "\udcff"),
    ],
)
def test_freeze_without_a_reason_or_a_time_is_a_usage_error(
    loaded: Cli, words: tuple[str, ...]
) -> None:
    """No identity is suspended."""
    assert loaded.run("freeze", *words).exit_code == 2
    assert loaded.json("status")["identities"][0]["suspended"] is False


def test_denial_of_a_frozen_identity_has_a_time_for_people(loaded: Cli) -> None:
    """Not Unix milliseconds."""
    loaded.ok("freeze", "agent-reader", "--reason", "x", "--for", "1h")

    result = loaded.run("can-i", "agent-reader", "GET", "x")

    assert re.match(r"help: it resumes at \d{4}-\d\d-\d\d ", result.stderr)


def test_freeze_of_an_unknown_identity_suspends_none(loaded: Cli) -> None:
    """All named identities are suspended, or none."""
    result = loaded.run("freeze", "agent-reader", "agent-runer", "--reason", "x")

    assert result.exit_code == 2
    assert "the active policy has no identity `agent-runer`\nhelp: did you mean" in result.stderr
    assert loaded.json("status")["identities"][0]["suspended"] is False


@pytest.mark.parametrize(
    ("words", "output"),
    [((), "stops until `keyleash thaw`"), (("--for", "90m"), "stops for 1h30m")],
)
def test_question_before_all_are_frozen_says_for_how_long(
    loaded: Cli, words: tuple[str, ...], output: str
) -> None:
    """The question has the duration of the suspension."""
    with on_a_terminal(loaded, "freeze", "--reason", "x", *words) as (process, terminal):
        asked = read_until(terminal, "[y/N]")
        os.write(terminal, b"n\n")
        assert "nothing was changed" in read_all(terminal)
        assert process.wait(timeout=PATIENCE_S) == 1

    assert f"every agent {output}" in asked


def test_freeze_of_a_name_given_twice_is_of_one_identity(loaded: Cli) -> None:
    """A name that is given twice is one identity, and reported as changed."""
    (item,) = loaded.json("freeze", *["agent-reader"] * 2, "--reason", "x")["identities"]
    assert item["changed"] is True
    (item,) = loaded.json("thaw", *["agent-reader"] * 2)["identities"]
    assert item["changed"] is True


def test_suspension_by_circuit_breaker_is_in_status_and_log(loaded: Cli) -> None:
    """Threshold, token and call are shown; `thaw` ends the suspension."""
    token = loaded.token("agent-reader")
    for _ in range(50):
        loaded.run("exec", "GET", "elsewhere", KEYLEASH_TOKEN=token)

    assert "on_denials: 50/minute" in loaded.run(*CALL, KEYLEASH_TOKEN=token).stderr
    assert re.search(r"agent-reader until .* by itself: on_denials: 50/minute", loaded.ok("status"))
    tripped = loaded.lines("audit", "log", "--code", "SUSPENDED")[0]
    assert (tripped["repeats"], tripped["op"]) == (0, "GET")
    assert tripped["until"].endswith("Z")
    assert "SUSPENDED itself until" in loaded.ok("audit", "log", "--denied")
    assert "suspended" in loaded.ok("audit", "show", tripped["id"])
    loaded.ok("thaw", "agent-reader")
    assert loaded.run(*CALL, KEYLEASH_TOKEN=token).exit_code == 0


def test_freeze_or_thaw_of_many_identities_folds_equal_rows(cli: Cli, policy: Path) -> None:
    """In an incident the exceptions must not be lost among a thousand rows."""
    names = [f"i{number:02}" for number in range(60)]
    body = '{kind: machine, grants: [{allow: [read], keys: ["a:*"]}]}'
    rows = "".join(f"  {name}: {body}\n" for name in names)
    policy.write_text(f"version: 1\nidentities:\n{rows}")
    cli.ok("load", policy, "--yes")
    cli.ok("freeze", "i07", "--reason", "before")

    frozen = cli.ok("freeze", "--reason", "x", "--yes").splitlines()
    thawed = cli.ok("thaw", "--yes").splitlines()

    assert len(frozen) == 3
    assert re.fullmatch(r"i00 and 58 more +suspended until `thaw` +x", frozen[1])
    assert frozen[2].startswith("i07 ")
    assert len(thawed) < 4
    assert len(cli.json("freeze", "--reason", "y", "--yes")["identities"]) == 60
