"""`keyleash freeze` and `keyleash thaw`."""

from __future__ import annotations

import os
import re

import pytest

from support.command_line import Cli
from support.terminals import on_a_terminal, read_all, read_until

CALL = ("exec", "GET", "agents:context:1")


def test_freeze_for_a_time_says_until_when_and_why_to_everybody(loaded: Cli) -> None:
    """The operator, whoever looks at the status, and the agent read the same."""
    token = loaded.token("agent-reader")

    result = loaded.run(
        "freeze", "agent-reader", "agent-runner", "--for", "30m", "--reason", "bad writes"
    )

    assert result.exit_code == 0
    for name in ("agent-reader", "agent-runner"):
        row = rf"{name} +suspended until [-0-9]+ [:0-9]+Z \(in (30m|29m59s)\) +bad writes\n"
        assert re.search(row, result.stdout)
    assert re.search(
        r"2 identities changed, effective \S+Z, control event \d+-\d+",
        result.stderr,
    )
    refused = loaded.run(*CALL, KEYLEASH_TOKEN=token)
    assert "the identity is suspended: bad writes" in refused.stderr
    assert "it resumes at" in refused.stderr
    status = loaded.ok("status")
    assert re.search(
        r"suspended  agent-reader until \S+ \S+Z \(in \S+\) by tester: bad writes", status
    )
    log = loaded.ok("audit", "log", "--control")
    assert "freeze" in log
    assert "bad writes" in log


def test_thaw_says_who_was_suspended(loaded: Cli) -> None:
    """And lets the others be."""
    token = loaded.token("agent-reader")
    loaded.ok("freeze", "agent-reader", "--reason", "x")

    said = loaded.ok("thaw", "agent-reader", "agent-runner")

    assert re.search(r"agent-reader +resumed", said)
    assert re.search(r"agent-runner +unchanged", said)
    assert loaded.run(*CALL, KEYLEASH_TOKEN=token).exit_code == 0
    assert "nothing changed" in loaded.run("thaw", "agent-reader").stderr


@pytest.mark.parametrize("words", [("freeze", "--reason", "x"), ("thaw",)])
def test_everybody_is_meant_only_by_whoever_says_so(loaded: Cli, words: tuple[str, ...]) -> None:
    """A name that was forgotten must not stop the fleet, nor let it go."""
    assert loaded.run(*words).exit_code == 2
    assert [item["suspended"] for item in loaded.json("status")["identities"]] == [False] * 4
    assert len(loaded.json(*words, "--yes")["identities"]) == 4


def test_freeze_as_json_has_the_moment_and_each_identity(loaded: Cli) -> None:
    """What a runbook's next step needs."""
    said = loaded.json("freeze", "agent-reader", "--reason", "why", "--for", "1h")

    assert said["bound_at"].endswith("Z")
    assert re.fullmatch(r"\d+-\d+", said["event"])
    (one,) = said["identities"]
    assert one.pop("until").endswith("Z")
    assert one == {"identity": "agent-reader", "changed": True, "reason": "why"}
    assert loaded.json("status")["identities"][0]["suspension"]["by"] == "tester"


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
    """Nobody is stopped by half a command."""
    assert loaded.run("freeze", *words).exit_code == 2
    assert loaded.json("status")["identities"][0]["suspended"] is False


def test_freeze_of_an_unknown_identity_stops_nobody(loaded: Cli) -> None:
    """All that were meant, or none."""
    result = loaded.run("freeze", "agent-reader", "agent-runer", "--reason", "x")

    assert result.exit_code == 1
    assert "no identity `agent-runer` is active; nothing was changed" in result.stderr
    assert loaded.json("status")["identities"][0]["suspended"] is False


@pytest.mark.parametrize(
    ("words", "said"), [((), "stops until `keyleash thaw`"), (("--for", "90m"), "stops for 1h30m")]
)
def test_question_before_all_are_frozen_says_for_how_long(
    loaded: Cli, words: tuple[str, ...], said: str
) -> None:
    """Whoever answers knows whether somebody has to come back and thaw."""
    with on_a_terminal(loaded, "freeze", "--reason", "x", *words) as (process, terminal):
        asked = read_until(terminal, "[y/N]")
        os.write(terminal, b"n\n")
        assert "nothing was changed" in read_all(terminal)
        assert process.wait(timeout=30) == 1

    assert f"every agent {said}" in asked


def test_freeze_of_a_name_given_twice_is_of_one_identity(loaded: Cli) -> None:
    """A list that was put together by hand; it did change something."""
    (one,) = loaded.json("freeze", *["agent-reader"] * 2, "--reason", "x")["identities"]
    assert one["changed"] is True
    (one,) = loaded.json("thaw", *["agent-reader"] * 2)["identities"]
    assert one["changed"] is True


def test_freeze_for_years_is_refused_in_words_of_a_freeze(loaded: Cli) -> None:
    """Advice on the life of tokens would only be in the way."""
    result = loaded.run("freeze", "agent-reader", "--reason", "x", "--for", "400d")

    assert result.exit_code == 2
    assert "`366d` or less" in result.stderr
    assert "token" not in result.stderr


def test_agent_that_suspends_itself_is_told_by_status_and_log(loaded: Cli) -> None:
    """Who looks for why finds the threshold, the token and the call; and `thaw` ends it."""
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
