"""`keyleash explain` and `keyleash can-i`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from support.command_line import Cli
from support.servers import RealServer

POLICY = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - allow: [read, write]
        keys: ["k:{part}", "k:{part}:*"]
      - {allow: [delete], keys: ["k:{part}"]}
      - {allow: [scan], keys: ["k:*"]}
      - {allow: [publish], channels: ["c:*"]}
    deny: [{keys: ["k:locked"]}]
    rate:
      requests: {limit: 9/day, per: token}
      writes: {limit: 5/day, per: "{part}"}
      reads: {limit: 6/minute, burst: 3}
    budget: {requests: 7/month}
"""


def steps(said: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [step for step in said["steps"] if step["step"] == kind]


def left(said: dict[str, Any]) -> dict[str, int]:
    return {step["limit"]: step["left"] for step in steps(said, "limit")}


@pytest.fixture
def file(policy: Path) -> Path:
    policy.write_text(POLICY)
    return policy


def test_file_is_explained_without_a_server(offline: Cli, file: Path) -> None:
    """The rule that decided each key is named by line, column and text."""
    said = offline.json("explain", "one", "--policy", file, "--", "SET", "k:1", "v", "GET")

    assert said["allowed"]
    assert said["code"] is None
    assert [step["class"] for step in steps(said, "class")] == ["read", "write"]
    (key,) = steps(said, "key")
    first, second, _ = key["granted_by"]
    assert (first["pattern"], first["captures"], first["allow"]) == (
        "k:{part}",
        {"part": "1"},
        ["read", "write"],
    )
    assert (first["place"]["file"], first["place"]["line"]) == (str(file), 7)
    assert first["place"]["text"] == 'keys: ["k:{part}", "k:{part}:*"]'
    assert second["rule"]["line"] == 8
    assert left(said) == {
        "rate.requests": 9,
        "rate.reads": 3,
        "rate.writes": 5,
        "budget.requests": 7,
    }


@pytest.mark.parametrize(
    ("call", "code", "last"),
    [
        (("FLUSHALL",), "COMMAND_REFUSED", "command"),
        (("NOSUCH", "k:1"), "COMMAND_REFUSED", "command"),
        (("SORT", "k:1", "BY", "x"), "COMMAND_REFUSED", "argument"),
        (("SET", "k:1:2", "v", "GET", *"x" * 7000), "ARGS_TOO_MANY", "arguments"),
        (("DEL", "k:1:2"), "CLASS_NOT_GRANTED", "key"),
        (("GET", "other"), "KEY_NOT_GRANTED", "key"),
        (("MGET", "k:1", "k:locked"), "KEY_DENIED", "key"),
        (("SCAN", "0"), "KEY_NOT_GRANTED", "argument"),
        (("PUBLISH", "d:1", "x"), "CHANNEL_NOT_GRANTED", "argument"),
    ],
)
def test_refusal_is_the_last_step(
    offline: Cli, file: Path, call: tuple[str, ...], code: str, last: str
) -> None:
    """Exit 1, and the step that refused says so itself."""
    said = offline.json("explain", "one", "--policy", file, "--", *call, exit_code=1)

    assert (said["allowed"], said["code"]) == (False, code)
    *before, refusing = said["steps"]
    assert (refusing["step"], refusing["code"]) == (last, code)
    assert {step["code"] for step in before} <= {None}
    text = offline.run("explain", "one", "--policy", file, "--", *call)
    assert text.exit_code == 1
    assert "DENIED" in text.stdout
    assert text.stdout.splitlines()[-1].startswith(f"denied    {code}")


def test_text_names_rule_pattern_and_place(offline: Cli, file: Path) -> None:
    """What somebody needs who is to change the policy."""
    said = offline.run("explain", "one", "--policy", file, "--", "GET", "k:locked").stdout

    assert "deny by `k:locked`" in said
    assert f'{file}:11:20  deny: [{{keys: ["k:locked"]}}]' in said


def test_live_server_is_explained_as_it_stands(server: RealServer, file: Path) -> None:
    """What each limit has left is what the guard would find, of a token and a segment as well."""
    cli = Cli(server.url)
    cli.ok("load", file, "--yes")
    issued = cli.json("token", "issue", "one")
    for _ in range(3):
        cli.ok("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])

    said = cli.json("explain", "one", "--token-id", issued["id"], "--", "SET", "k:1", "v")
    other = cli.json("explain", "one", "--", "SET", "k:2", "v")

    assert said["policy"]["file"] is None
    assert left(said) == {"rate.requests": 6, "rate.writes": 2, "budget.requests": 4}
    assert left(other) == {"rate.requests": 9, "rate.writes": 5, "budget.requests": 4}
    for _ in range(2):
        cli.ok("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])
    assert cli.run("can-i", "one", "--", "SET", "k:1", "v").stdout.startswith(
        "no RATE_LIMITED limit=rate.writes retry_after_ms="
    )
    refused = cli.run("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])
    assert "RATE_LIMITED" in refused.stderr


def test_token_that_is_named_is_judged_too(loaded: Cli) -> None:
    """A yes for somebody whose token was revoked would be read as a token that works."""
    words = ["agent-runner", "--", "GET", "agents:jobs:1:state"]
    token = loaded.json("token", "issue", "agent-runner")["id"]
    asked = ["--token-id", token, *words]
    assert loaded.ok("can-i", *asked) == "yes\n"
    loaded.ok("token", "revoke", token)

    assert loaded.run("can-i", *asked).stdout == "no TOKEN_REVOKED\n"
    said = loaded.json("explain", *asked, exit_code=1)
    assert said["steps"] == [{"step": "token", "code": "TOKEN_REVOKED"}]
    assert "token     DENIED: TOKEN_REVOKED" in loaded.run("explain", *asked).stdout
    loaded.ok("freeze", "agent-runner", "--reason", "why not")
    assert loaded.run("can-i", *asked).stdout.startswith("no SUSPENDED")


@pytest.mark.parametrize("token", ["nosuchtokenx", "of another"])
def test_token_of_nobody_or_of_another_is_no_answer(loaded: Cli, token: str) -> None:
    """It could not be judged, which is neither yes nor no."""
    if token == "of another":
        token = loaded.json("token", "issue", "agent-reader")["id"]
    refused = loaded.run("can-i", "agent-runner", "--token-id", token, "--", "PING")

    assert refused.exit_code == 2
    assert f"`agent-runner` has no token with the id `{token}`" in refused.stderr


def test_question_changes_nothing(loaded: Cli, embedded: RealServer) -> None:
    """No limit is taken, no event is written, no key is touched."""
    admin = embedded.client()
    before = {key: admin.dump(key) for key in admin.scan_iter()}

    for question in ("explain", "can-i"):
        loaded.ok(question, "agent-runner", "--", "SET", "agents:jobs:1:state", "x")
        loaded.run(question, "agent-runner", "--", "SET", "agents:jobs:1:lock", "x")

    assert {key: admin.dump(key) for key in admin.scan_iter()} == before


def test_suspended_identity_is_refused_whatever_it_asks(loaded: Cli) -> None:
    """As its guard does, before it looks at anything else."""
    loaded.ok("freeze", "agent-runner", "--reason", "x")

    assert loaded.run("can-i", "agent-runner", "PING").stdout == "no SUSPENDED reason=x\n"
    said = loaded.json("explain", "agent-runner", "PING", exit_code=1)
    assert [step["step"] for step in said["steps"]] == ["standing"]


def test_identity_without_a_state_is_refused(loaded: Cli, embedded: RealServer) -> None:
    """It was evicted, or flushed: the guard refuses, and so does the answer."""
    embedded.client().delete("keyleash:state:agent-runner")

    assert loaded.run("can-i", "agent-runner", "PING").stdout == "no NOT_ACTIVE\n"


def test_full_trail_refuses_what_would_be_recorded(cli: Cli, policy: Path) -> None:
    """Where nothing is trimmed before its export, writes end when there is no room."""
    policy.write_text(
        "version: 1\nidentities: {one: {kind: machine,"
        " grants: [{allow: [read, write], keys: ['*']}],"
        " audit: {retain: {until: exported, hard_max: 2}}}}\n"
    )
    cli.ok("load", policy, "--yes")
    token = cli.token("one")
    for _ in range(2):
        cli.ok("exec", "SET", "k", "v", KEYLEASH_TOKEN=token)

    assert cli.run("can-i", "one", "SET", "k", "v").stdout == "no AUDIT_FULL events=2\n"
    assert cli.run("can-i", "one", "GET", "k").stdout == "yes\n"


@pytest.mark.parametrize(
    ("call", "said", "exit_code"),
    [
        (("GET", "agents:context:1"), "yes\n", 0),
        (("get", "agents:context:1"), "yes\n", 0),
        (("SET", "agents:context:1", "x"), "no CLASS_NOT_GRANTED class=write command=SET\n", 1),
        (("GET", "läuft"), "no KEY_NOT_GRANTED key=läuft\n", 1),
    ],
)
def test_can_i_answers_in_a_line(
    offline: Cli, example: Path, call: tuple[str, ...], said: str, exit_code: int
) -> None:
    """For scripts: `if keyleash can-i …`."""
    result = offline.run("can-i", "agent-reader", "--policy", example, "--", *call)

    assert (result.stdout, result.exit_code) == (said, exit_code)


LISTED = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read], keys: ["a:*"]}
      - {allow: [write], keys: ["b:{x}"], only: ["@string", COPY]}
      - {allow: [publish], channels: ["c:*"]}
    deny: [{keys: ["b:locked"]}]
    rate: {requests: {limit: 9/day, per: token}, writes: {limit: 5/day, per: "{x}"}}
"""


def test_list_has_grants_with_their_commands_denials_and_limits(offline: Cli, policy: Path) -> None:
    """What an identity may do, without asking for one command after the other."""
    policy.write_text(LISTED)

    lines = offline.ok("can-i", "--list", "one", "--policy", policy).splitlines()

    assert lines[0] == "identity  one (machine)"
    assert lines[1:3] == ["grant     read", "          keys      a:*"]
    assert re.fullmatch(r" {10}commands  \d+: \d+ string, .*", lines[3])
    assert lines[4:] == [
        "grant     write",
        "          keys      b:{x}",
        "          only      @string, COPY",
        "          values    strings of up to 64 MiB by default",
        "          commands  APPEND, MSET, MSETEX, MSETNX, PSETEX, SET, SETEX, SETNX, SETRANGE,"
        " STRLEN",
        "grant     publish",
        "          channels  c:*",
        "          commands  ECHO, PING, PUBLISH, SPUBLISH, TIME",
        "together  by several grants: COPY",
        "denied    b:locked",
        "limit     rate.requests: 9 a day, per token",
        "limit     rate.writes: 5 a day, per {x}",
        "limit     work: 250000 a call or batch",
    ]


def test_list_shows_the_bound_of_a_grant_that_does_not_write(offline: Cli, policy: Path) -> None:
    """It holds for what another grant lets the identity write to the same key."""
    policy.write_text(
        "version: 1\nidentities:\n  one:\n    kind: machine\n    grants:\n"
        '      - {allow: [read], keys: ["z:*"], values: {max_bytes: 10b}}\n'
        '      - {allow: [write], keys: ["z:*"]}\n'
    )

    lines = offline.ok("can-i", "--list", "one", "--policy", policy).splitlines()
    denied = offline.run("can-i", "one", "--policy", policy, "--", "SET", "z:1", "x" * 13)
    steps = offline.run("explain", "one", "--policy", policy, "--", "SET", "z:1", "x" * 13)

    assert denied.stdout == "no VALUE_TOO_LARGE key=z:1 bytes=13 limit=10\n"
    assert [line.strip() for line in lines if "values " in line] == [
        "values    strings of up to 10 bytes",
        "values    strings of up to 64 MiB by default",
        "values    the smallest bound of all grants that match a key applies;",
    ]
    assert "size      DENIED: 13 bytes for z:1, and the limit is 10\n" in steps.stdout
    assert f"            {policy}:6:9  - {{allow: [read]" in steps.stdout


def test_work_is_explained_in_units(offline: Cli, policy: Path) -> None:
    """A bare number would have no unit."""
    policy.write_text(LISTED + "    limits: {work: 1000}\n")

    said = offline.run(
        "explain", "one", "--policy", policy, "--", "SETRANGE", "b:1", "50000000", "x"
    )

    assert re.search(r"DENIED: \d+ units of work, and the limit is 1000\n", said.stdout)


def test_list_counts_vector_sets_by_name(offline: Cli, policy: Path) -> None:
    """No server puts their commands into an ACL category of their own everywhere."""
    policy.write_text(LISTED.replace("[read]", "[read, write]"))

    listed = offline.ok("can-i", "--list", "one", "--policy", policy)

    assert re.search(r"\d+ vector set", listed)


def test_list_as_json_names_every_command_and_each_may_be_called(
    offline: Cli, policy: Path
) -> None:
    """What is listed is what `can-i` says yes to, and what is not listed it denies."""
    policy.write_text(LISTED)

    said = offline.json("can-i", "--list", "one", "--policy", policy)

    read, write, publish = said["grants"]
    assert (read["allow"], read["keys"], read["only"]) == (["read"], ["a:*"], None)
    assert write["place"]["line"] == 7
    assert publish["channels"] == ["c:*"]
    assert "GET" in read["commands"]
    assert not {"SET", "RESTORE", "INCR", "FLUSHALL", "EVAL"} & {*read["commands"]}
    assert said["together"] == ["COPY"]
    assert said["deny"] == ["b:locked"]
    assert [(item["name"], item["per"]) for item in said["limits"]] == [
        ("rate.requests", "token"),
        ("rate.writes", "{x}"),
    ]
    assert (said["work"], write["value_bytes"]) == (250_000, 64 << 20)
    assert said["denied_now"] is None
    offline.ok("can-i", "one", "--policy", policy, "--", "COPY", "a:1", "b:1")
    assert offline.run("can-i", "one", "--policy", policy, "--", "INCR", "b:1").exit_code == 1


def test_list_of_a_suspended_identity_says_that_every_call_is_denied(loaded: Cli) -> None:
    """A list of grants alone would pass for an answer."""
    loaded.ok("can-i", "--list", "agent-runner")
    loaded.ok("freeze", "agent-runner", "--reason", "incident 4107")

    result = loaded.run("can-i", "--list", "agent-runner")
    said = loaded.json("can-i", "--list", "agent-runner", exit_code=1)

    assert result.exit_code == 1
    assert result.stdout.endswith(
        "stopped   every call is denied: SUSPENDED reason=incident 4107\n"
    )
    assert said["denied_now"] == {"code": "SUSPENDED", "details": {"reason": "incident 4107"}}


@pytest.mark.parametrize(
    "words", [("can-i", "--list", "one", "GET", "a"), ("can-i", "one"), ("explain", "one")]
)
def test_question_without_a_command_or_with_one_too_many_is_a_usage_error(
    offline: Cli, words: tuple[str, ...]
) -> None:
    """Either a call is judged, or everything is listed."""
    result = offline.run(*words)

    assert result.exit_code == 2
    assert ("or list all that it may do: `--list`" in result.stderr) == (words == ("can-i", "one"))


def test_question_that_cannot_be_answered_is_no_refusal(
    cli: Cli, offline: Cli, example: Path
) -> None:
    """Its exit code is neither 0 nor 1."""
    unknown = offline.run("can-i", "agent-rader", "--policy", example, "--", "PING")
    assert unknown.exit_code == 2
    assert "has no identity `agent-rader`" in unknown.stderr
    assert "`agent-reader`" in unknown.stderr
    assert cli.run("can-i", "agent-reader", "PING").exit_code == 2
    assert offline.run("can-i", "agent-reader", "PING").exit_code == 69
    assert cli.run("can-i", "agent-reader").exit_code == 2


def test_token_in_the_place_of_an_argument_is_not_repeated(offline: Cli, example: Path) -> None:
    """Somebody pastes the wrong thing."""
    token = "kl_agent-reader_" + "s3cret" * 6
    for question in ("explain", "can-i"):
        result = offline.run(question, "agent-reader", "--policy", example, "--", "GET", token)
        assert result.exit_code == 1
        assert "s3cret" not in result.output


def test_can_i_as_json_has_code_and_details(offline: Cli, example: Path) -> None:
    """The same in a form for programs."""
    said = offline.json("can-i", "agent-reader", "--policy", example, "--", "DEL", "k", exit_code=1)

    assert said == {
        "allowed": False,
        "code": "CLASS_NOT_GRANTED",
        "details": {"class": "delete", "command": "DEL"},
    }
