"""`keyleash exec`: one command as the holder of a token."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from keyleash.cli.exec import formatted, raw
from support.command_line import Cli
from support.servers import RealServer

KEY = "agents:jobs:1:state"


@pytest.fixture
def agent(loaded: Cli) -> Cli:
    """The command, with an admin's token in the environment: almost anything is granted."""
    token = loaded.token("human-admin")
    return Cli(loaded.url, {"KEYLEASH_TOKEN": token})


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (b"OK", "OK"),
        (b"", '""'),
        (b'say "a\\b"\n\xff', r'"say \"a\\b\"\n\xff"'),
        (None, "(nil)"),
        (7, "(integer) 7"),
        ([], "(empty array)"),
        ([b"a", None, [1, [b"b"]]], '1) "a"\n2) (nil)\n3) 1) (integer) 1\n   2) 1) "b"'),
        ([b"x"] * 10, "\n".join(f'{n:>2}) "x"' for n in range(1, 11))),
        (ResponseError("WRONGTYPE no"), "(error) WRONGTYPE no"),
    ],
)
def test_reply_on_a_terminal_looks_as_in_redis_cli(reply: Any, expected: str) -> None:
    """Operators read these forms every day."""
    assert formatted(reply) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [(b"a\xff", b"a\xff"), (None, b""), (7, b"7"), ([b"a", None, 1], b"a\n\n1")],
)
def test_reply_in_a_pipe_is_the_bare_value(reply: Any, expected: bytes) -> None:
    """`$(keyleash exec … GET key)` is the value, byte for byte."""
    assert raw(reply) == expected


def test_exec_runs_through_the_guard(server: RealServer, example: str) -> None:
    """A granted call runs; others are denied with a code, on every server."""
    cli = Cli(server.url)
    cli.ok("load", example, "--yes")
    token = cli.token("agent-runner")

    assert cli.ok("exec", "SET", KEY, "läuft", KEYLEASH_TOKEN=token) == "OK\n"
    assert cli.ok("exec", "GET", KEY, KEYLEASH_TOKEN=token) == "läuft\n"
    refused = cli.run("exec", "GET", "elsewhere", KEYLEASH_TOKEN=token)
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith(
        "error: KEY_NOT_GRANTED: no grant of the token covers the key `elsewhere`\nhelp: "
    )


def test_exec_as_json_keeps_types(agent: Cli) -> None:
    """One value: strings, integers, null, arrays; other bytes as base64."""
    assert agent.json("exec", "SET", KEY, "v") == "OK"
    assert agent.json("exec", "GET", "nothing") is None
    assert agent.json("exec", "APPEND", KEY, "w") == 2
    assert agent.json("exec", "MGET", KEY, "nothing") == ["vw", None]
    assert agent.json("exec", "HGETALL", "nothing") == []
    agent.ok("exec", "SETBIT", "bits", "0", "1")
    assert agent.json("exec", "GET", "bits") == {"base64": "gA=="}


def test_integer_too_long_for_lua_is_exact(agent: Cli) -> None:
    """Ids beyond 2^53 must not come back rounded, also as JSON."""
    agent.ok("exec", "SET", "n", str(2**53))

    assert agent.json("exec", "incr", "n") == 2**53 + 1


def test_arguments_after_the_command_are_the_commands_own(agent: Cli) -> None:
    """`--json` as a value is a value; so is anything after `--`."""
    agent.ok("exec", "SET", KEY, "--json")
    assert agent.ok("exec", "--", "GET", KEY) == "--json\n"


def test_rate_and_budget_denials_have_a_time(loaded: Cli) -> None:
    """The help says when the call will be allowed again."""
    token = loaded.token("agent-recovery")
    words = ("exec", "SETRANGE", "agents:recovery:1:checkpoint", "0", "x")
    for _ in range(60):
        loaded.ok(*words, KEYLEASH_TOKEN=token)

    result = loaded.run(*words, KEYLEASH_TOKEN=token)

    assert "RATE_LIMITED: `rate.writes` is exceeded" in result.stderr
    assert re.search(r"help: try again in (\d+ ms|\d+[ms]\d*s?)\n", result.stderr)


def test_correlation_is_in_the_audit_event(loaded: Cli) -> None:
    """The correlation id links a command to a task."""
    token = loaded.token("agent-runner")

    loaded.ok("exec", "--correlation", "job-42", "SET", KEY, "x", KEYLEASH_TOKEN=token)

    (event,) = loaded.lines("audit", "log")
    assert event["correlation"] == "job-42"


def test_token_can_come_from_standard_input(loaded: Cli) -> None:
    """The first line is the token, which no process list shows."""
    token = loaded.token("agent-runner")

    assert loaded.ok("exec", "--token", "-", "SET", KEY, "x", stdin=f"{token}\nrest\n") == "OK\n"


def test_token_can_come_from_a_file(loaded: Cli, tmp_path: Path) -> None:
    """The option has precedence over the variable."""
    file = tmp_path / "token"
    file.write_text(loaded.token("agent-runner") + "\n")

    call = ("exec", "--token", file, "SET", KEY, "x")
    assert loaded.ok(*call, KEYLEASH_TOKEN="kl_agent-runner_" + "A" * 32) == "OK\n"


@pytest.mark.parametrize("given", ["hunter2", "no\0file"])
def test_name_of_a_missing_token_file_is_not_repeated(loaded: Cli, given: str) -> None:
    """The name may be a secret that was passed by mistake."""
    result = loaded.run("exec", "--token", given, "GET", "x")

    assert result.exit_code == 66
    assert "cannot read the file of `--token`" in result.stderr
    assert given not in result.stderr


@pytest.mark.parametrize("stdin", ["", "\n"])
def test_no_token_is_a_usage_error(loaded: Cli, stdin: str) -> None:
    """Option, variable and input are empty."""
    assert loaded.run("exec", "GET", "x").exit_code == 2
    assert loaded.run("exec", "--token", "-", "GET", "x", stdin=stdin).exit_code == 2


@pytest.mark.parametrize(
    "wrong", ["kl_agent-runner_" + "A" * 32, "kl_nobody_" + "B" * 32, "hunter2", "kl_x_" + "é" * 20]
)
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_wrong_token_is_denied_and_not_repeated(
    loaded: Cli, wrong: str, words: tuple[str, ...]
) -> None:
    """Output is logged; a token that is almost right must not be."""
    result = loaded.run(*words, "exec", "GET", "x", KEYLEASH_TOKEN=wrong)

    assert result.exit_code == 1
    assert wrong not in result.output
    assert wrong.rpartition("_")[2] not in result.output
    assert "TOKEN_UNKNOWN" in result.output or "NOT_ACTIVE" in result.output


def test_token_in_place_of_the_command_is_not_repeated(loaded: Cli) -> None:
    """Nothing is sent: the help says where a token belongs."""
    token = loaded.token("agent-runner")

    result = loaded.run("exec", token, "GET", "x", KEYLEASH_TOKEN=token)

    assert result.exit_code == 2
    assert "error: a token on the command line" in result.stderr
    assert "help: set KEYLEASH_TOKEN" in result.stderr
    output = result.output + loaded.ok("audit", "log", "--denied")
    assert token[len("kl_agent-runner_") :].upper() not in output.upper()


def test_token_file_of_the_environment_is_read(loaded: Cli, tmp_path: Path) -> None:
    """As `keyleash.Redis.from_env` reads it; both variables together are an error."""
    token = loaded.token("agent-runner")
    file = tmp_path / "token"
    file.write_text(f"{token}\n")

    assert loaded.ok("exec", "SET", KEY, "x", KEYLEASH_TOKEN_FILE=str(file)) == "OK\n"
    assert loaded.json("whoami", KEYLEASH_TOKEN_FILE=str(file))["identity"] == "agent-runner"
    both = {"KEYLEASH_TOKEN": token, "KEYLEASH_TOKEN_FILE": str(file)}
    assert loaded.run("exec", "GET", KEY, **both).exit_code == 2


def test_call_that_no_replica_has_prints_its_reply_and_fails(cli: Cli, policy: Path) -> None:
    """The call ran, so its reply is printed; the exit code says that it may be lost."""
    rules = {
        "kind": "machine",
        "grants": [{"allow": ["read", "write"], "keys": ["t:*"]}],
        "durability": {"wait_replicas": 1, "timeout": "1ms"},
    }
    policy.write_text(json.dumps({"version": 1, "identities": {"one": rules}}))
    cli.ok("load", policy, "--yes")
    token = cli.token("one")

    result = cli.run("exec", "INCR", "t:n", KEYLEASH_TOKEN=token)
    assert (result.exit_code, result.stdout) == (1, "1\n")
    assert "0 of 1 replicas had it within 1 ms" in result.stderr
    assert "do not repeat it" in result.stderr
    result = cli.run("exec", "INCR", "t:n", "--json", KEYLEASH_TOKEN=token)
    assert result.exit_code == 1
