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


@pytest.mark.parametrize(
    "words", [("explain", "one", "GET", "k:1"), ("can-i", "one", "GET", "k:1")]
)
def test_server_without_policy_names_the_option_that_needs_none(
    cli: Cli, words: tuple[str, ...]
) -> None:
    """A policy file can be tried before it is loaded."""
    result = cli.run(*words)

    assert "error: no policy is active" in result.stderr
    assert "`--policy FILE`, which needs no active policy" in result.stderr


def steps(output: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [step for step in output["steps"] if step["step"] == kind]


def left(output: dict[str, Any]) -> dict[str, int]:
    return {step["limit"]: step["left"] for step in steps(output, "limit")}


@pytest.fixture
def file(policy: Path) -> Path:
    policy.write_text(POLICY)
    return policy


def test_explain_of_a_file_needs_no_server(offline: Cli, file: Path) -> None:
    """The deciding rule of each key is named by line, column and text."""
    output = offline.json("explain", "one", "--policy", file, "--", "SET", "k:1", "v", "GET")

    assert output["allowed"]
    assert output["code"] is None
    assert [step["class"] for step in steps(output, "class")] == ["read", "write"]
    (key,) = steps(output, "key")
    first, second, _ = key["granted_by"]
    assert (first["pattern"], first["captures"], first["allow"]) == (
        "k:{part}",
        {"part": "1"},
        ["read", "write"],
    )
    assert (first["place"]["file"], first["place"]["line"]) == (str(file), 7)
    assert first["place"]["text"] == 'keys: ["k:{part}", "k:{part}:*"]'
    assert second["rule"]["line"] == 8
    assert left(output) == {
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
        (("COPY", "k:1", "k:2", "DB", "1"), "COMMAND_REFUSED", "argument"),
        (("SORT", "k:1", "BY", "x:*"), "KEY_NOT_GRANTED", "argument"),
        (("SORT", "k:1", "GET", "k:lo:*->f", "BY", "k:*"), "KEY_NOT_GRANTED", "argument"),
        (("SET", "k:1:2", "v", "GET", *"x" * 7000), "ARGS_TOO_MANY", "arguments"),
        (("DEL", "k:1:2"), "CLASS_NOT_GRANTED", "key"),
        (("GET", "other"), "KEY_NOT_GRANTED", "key"),
        (("MGET", "k:1", "k:locked"), "KEY_DENIED", "key"),
        (("SCAN", "0"), "KEY_NOT_GRANTED", "argument"),
        (("PUBLISH", "d:1", "x"), "CHANNEL_NOT_GRANTED", "argument"),
    ],
)
def test_denial_is_the_last_step(
    offline: Cli, file: Path, call: tuple[str, ...], code: str, last: str
) -> None:
    """Exit code 1, and the step has the code."""
    output = offline.json("explain", "one", "--policy", file, "--", *call, exit_code=1)

    assert (output["allowed"], output["code"]) == (False, code)
    *before, refusing = output["steps"]
    assert (refusing["step"], refusing["code"]) == (last, code)
    assert {step["code"] for step in before} <= {None}
    text = offline.run("explain", "one", "--policy", file, "--", *call)
    assert text.exit_code == 1
    assert "DENIED" in text.stdout
    denied, help = text.stdout.splitlines()[-2:]
    assert denied.startswith(f"denied    {code}: ")
    assert help.startswith("help      ")


@pytest.mark.parametrize("words", [("GET",), ("SET", "k:1"), ("GET", "k:1", "x"), ("WATCH", "k:1")])
def test_call_with_a_wrong_number_of_arguments_is_no_plain_allowed(
    offline: Cli, file: Path, words: tuple[str, ...]
) -> None:
    """The guard allows it, and the server rejects it."""
    output = offline.ok("explain", "one", "--policy", file, "--", *words)

    last = output.splitlines()[-1]
    rejected = "allowed   but the server rejects it: wrong number of arguments"
    assert last == ("allowed" if words[0] == "WATCH" else rejected)


def test_text_names_rule_pattern_and_place(offline: Cli, file: Path) -> None:
    """The place in the policy file is shown."""
    output = offline.run("explain", "one", "--policy", file, "--", "GET", "k:locked").stdout

    assert "deny by `k:locked`" in output
    assert f'{file}:11:20  deny: [{{keys: ["k:locked"]}}]' in output


def test_explain_of_a_server_uses_its_present_counts(server: RealServer, file: Path) -> None:
    """The rest of each limit is that of the guard, also per token and segment."""
    cli = Cli(server.url)
    cli.ok("load", file, "--yes")
    issued = cli.json("token", "issue", "one")
    for _ in range(3):
        cli.ok("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])

    output = cli.json("explain", "one", "--token-id", issued["id"], "--", "SET", "k:1", "v")
    other = cli.json("explain", "one", "--", "SET", "k:2", "v")

    assert output["policy"]["file"] is None
    assert left(output) == {"rate.requests": 6, "rate.writes": 2, "budget.requests": 4}
    assert left(other) == {"rate.requests": 9, "rate.writes": 5, "budget.requests": 4}
    for _ in range(2):
        cli.ok("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])
    asked = ("one", "--", "SET", "k:1", "v")
    assert cli.run("can-i", *asked).stdout == "no RATE_LIMITED: `rate.writes` is exceeded\n"
    assert re.search(r"help      it has room in \d+[dhm]", cli.run("explain", *asked).stdout)
    refused = cli.run("exec", "SET", "k:1", "v", KEYLEASH_TOKEN=issued["token"])
    assert "RATE_LIMITED" in refused.stderr


def test_dead_token_id_is_a_denial(loaded: Cli) -> None:
    """A revoked or expired token must not look valid."""
    words = ["agent-runner", "--", "GET", "agents:jobs:1:state"]
    token = loaded.json("token", "issue", "agent-runner")["id"]
    asked = ["--token-id", token, *words]
    assert loaded.ok("can-i", *asked) == "yes\n"
    loaded.ok("token", "revoke", token)

    assert loaded.run("can-i", *asked).stdout == "no TOKEN_REVOKED: the token was revoked\n"
    output = loaded.json("explain", *asked, exit_code=1)
    assert output["steps"] == [{"step": "token", "code": "TOKEN_REVOKED"}]
    assert "token     DENIED\n" in loaded.run("explain", *asked).stdout
    loaded.ok("freeze", "agent-runner", "--reason", "why not")
    assert loaded.run("can-i", *asked).stdout.startswith("no SUSPENDED")


@pytest.mark.parametrize("token", ["nosuchtokenx", "of another"])
def test_unknown_token_id_is_an_error(loaded: Cli, token: str) -> None:
    """It is neither a yes nor a no."""
    if token == "of another":
        token = loaded.json("token", "issue", "agent-reader")["id"]
    refused = loaded.run("can-i", "agent-runner", "--token-id", token, "--", "PING")

    assert refused.exit_code == 2
    assert f"`agent-runner` has no token with the id `{token}`" in refused.stderr


def test_explain_changes_nothing(loaded: Cli, embedded: RealServer) -> None:
    """No limit is charged, no event is written, no key is changed."""
    admin = embedded.client()
    before = {key: admin.dump(key) for key in admin.scan_iter()}

    for question in ("explain", "can-i"):
        loaded.ok(question, "agent-runner", "--", "SET", "agents:jobs:1:state", "x")
        loaded.run(question, "agent-runner", "--", "SET", "agents:jobs:1:lock", "x")

    assert {key: admin.dump(key) for key in admin.scan_iter()} == before


def test_suspended_identity_is_denied(loaded: Cli) -> None:
    """The guard checks the suspension first."""
    loaded.ok("freeze", "agent-runner", "--reason", "x")

    denied = loaded.run("can-i", "agent-runner", "PING").stdout
    assert denied == "no SUSPENDED: the identity is suspended: x\n"
    output = loaded.json("explain", "agent-runner", "PING", exit_code=1)
    assert [step["step"] for step in output["steps"]] == ["standing"]


def test_identity_without_a_state_is_denied(loaded: Cli, embedded: RealServer) -> None:
    """After an eviction or flush, the guard denies every call."""
    embedded.client().delete("keyleash:state:agent-runner")

    assert loaded.run("can-i", "agent-runner", "PING").stdout.startswith("no NOT_ACTIVE: ")


def test_full_audit_stream_denies_writes(cli: Cli, policy: Path) -> None:
    """If entries are not trimmed before their export, writes end at the maximum length."""
    policy.write_text(
        "version: 1\nidentities: {one: {kind: machine,"
        " grants: [{allow: [read, write], keys: ['*']}],"
        " audit: {retain: {until: exported, hard_max: 2}}}}\n"
    )
    cli.ok("load", policy, "--yes")
    token = cli.token("one")
    for _ in range(2):
        cli.ok("exec", "SET", "k", "v", KEYLEASH_TOKEN=token)

    denied = cli.run("can-i", "one", "SET", "k", "v").stdout
    assert denied == "no AUDIT_FULL: too many events await their export\n"
    assert cli.run("can-i", "one", "GET", "k").stdout == "yes\n"


@pytest.mark.parametrize(
    ("call", "output", "exit_code"),
    [
        (("GET", "agents:context:1"), "yes\n", 0),
        (("get", "agents:context:1"), "yes\n", 0),
        (
            ("SET", "agents:context:1", "x"),
            "no CLASS_NOT_GRANTED: no grant of the token gives `write` to `SET`\n",
            1,
        ),
        (("GET", "läuft"), "no KEY_NOT_GRANTED: no grant of the token covers the key `läuft`\n", 1),
    ],
)
def test_can_i_prints_one_line(
    offline: Cli, example: Path, call: tuple[str, ...], output: str, exit_code: int
) -> None:
    """For scripts: `if keyleash can-i …`."""
    result = offline.run("can-i", "agent-reader", "--policy", example, "--", *call)

    assert (result.stdout, result.exit_code) == (output, exit_code)


@pytest.mark.parametrize("question", ["explain", "can-i"])
def test_argument_that_looks_like_an_option_needs_dashes_before_the_command(
    offline: Cli, example: Path, question: str
) -> None:
    """The help shows where they go."""
    call = ("agent-reader", "--policy", example, "LRANGE", "k", "0", "-1")
    result = offline.run(question, *call)

    assert result.exit_code == 2
    assert "help: put `--` before the command" in result.stderr
    assert f"{question} … -- COMMAND`" in result.stderr


def test_can_i_says_why_a_command_is_not_allowed(offline: Cli, example: Path) -> None:
    """Of a script the help has the digest."""
    asked = ("can-i", "agent-reader", "--policy", example, "--")

    assert offline.run(*asked, "FLUSHALL").stdout == (
        "no COMMAND_REFUSED: the command `FLUSHALL` is not allowed: it deletes the keys of all"
        " clients\n"
    )
    assert offline.run(*asked, "EVALSHA", "a" * 40, "0").stdout == (
        f"no COMMAND_REFUSED: the script is not allowed: no grant approves the script {'a' * 40}\n"
    )
    explained = offline.run("explain", *asked[1:], "EVAL", "return 1", "0")
    assert "call      agent-reader: EVAL 'return 1' 0\n" in explained.stdout
    reason = "no grant approves the script e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
    assert "command   EVAL: DENIED\n" in explained.stdout
    assert f"help      {reason}: add its text to `scripts`" in explained.stdout
    assert explained.stdout.count("\n") == 5


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


def test_list_shows_grants_with_commands_deny_rules_and_limits(offline: Cli, policy: Path) -> None:
    """It lists all that the identity may do."""
    policy.write_text(LISTED)

    lines = offline.ok("can-i", "--list", "one", "--policy", policy).splitlines()

    assert lines[0] == "identity  one (machine)"
    assert lines[1:3] == ["grant     read", "          keys      a:*"]
    assert re.fullmatch(r" {10}commands  BITCOUNT, (\w+, ){10}\w+ and \d+ more", lines[3])
    assert lines[4:] == [
        "grant     write",
        "          keys      b:{x}",
        "          only      @string, COPY",
        "          values    strings of up to 16 MiB, elements of 200 KiB by default",
        "          commands  APPEND, MSET, MSETEX, MSETNX, PSETEX, SET, SETEX, SETNX, SETRANGE,"
        " STRLEN",
        "grant     publish",
        "          channels  c:*",
        "          commands  ECHO, PING, PUBLISH, SPUBLISH, TIME",
        "together  by several grants: COPY",
        "denied    b:locked",
        "limit     rate.requests: 9 a day, per token",
        "limit     rate.writes: 5 a day, per {x}",
        "limit     work: 250000, strings: 10000 a call or batch",
        "limit     key_bytes: 1 KiB",
    ]


BOUNDED = """\
version: 1
identities:
  one:
    kind: machine
    grants:
      - {allow: [read], keys: ["z:*"], values: {max_bytes: 10b}}
      - {allow: [write], keys: ["z:*"]}
      - {allow: [read, write], keys: ["t:*"], values: {ttl: {default: 1d, max: 7d}}}
    limits: {work: 1000}
    budget: {bytes_written: 2kb/day}
    on_denials: {threshold: 1/hour, suspend: 1h}
    token: {bound: true}
"""


def test_list_shows_the_bound_of_a_grant_that_does_not_write(offline: Cli, policy: Path) -> None:
    """It also bounds the writes of another grant to the same key."""
    policy.write_text(BOUNDED)

    lines = offline.ok("can-i", "--list", "one", "--policy", policy).splitlines()

    assert [line.strip() for line in lines if "values " in line] == [
        "values    strings and elements of up to 10 bytes",
        "values    strings of up to 16 MiB, elements of 200 KiB by default",
        "values    strings of up to 16 MiB, elements of 200 KiB by default",
        "values    keys expire after 1d by default, at most 7d",
        "values    the smallest bound of all grants that match a key applies;",
    ]


def test_call_whose_size_decides_is_open_without_a_server(offline: Cli, policy: Path) -> None:
    """Without a guard `explain` says what it cannot know."""
    policy.write_text(BOUNDED)
    call = ("one", "--policy", policy, "--", "SET", "z:1", "x" * 13)

    answer, explained = offline.run("can-i", *call), offline.run("explain", *call)

    assert (answer.stdout, answer.exit_code) == ("yes\n", 0)
    assert answer.stderr.startswith("note: sizes, work and values were not checked")
    assert "data      not checked: sizes, work and values depend on what keys hold\n" in (
        explained.stdout
    )
    assert "budget.bytes_written: 2kb of 2kb left (2kb a day)" in explained.stdout
    assert explained.stdout.endswith("\nallowed by the policy alone\n")


@pytest.mark.parametrize(
    ("call", "denial"),
    [
        (("SET", "z:1", "x" * 13), "it would have 13 bytes; raise"),
        (("SETRANGE", "t:1", "15000000", "x"), "units, and the policy allows 1000"),
        (("SET", "t:1", "v", "PX", "99999999000"), "allows 7d, and the call leaves 1157d9h"),
        (("SET", "t:1", "x" * 3000), "allows 2 KiB, and the call leaves 3003 bytes"),
        (("APPEND", "z:long", "y"), "it would have 11 bytes; raise"),
        (("SMEMBERS", "t:large"), "units, and the policy allows 1000"),
    ],
)
def test_call_is_denied_as_the_guard_denies_it(
    cli: Cli, embedded: RealServer, policy: Path, call: tuple[str, ...], denial: str
) -> None:
    """The question leaves no token and no denial, and does not trip the breaker."""
    policy.write_text(BOUNDED)
    cli.ok("load", policy, "--yes")
    token = cli.json("token", "issue", "one")["id"]
    embedded.client(decode_responses=True).set("z:long", "x" * 10)
    embedded.client(decode_responses=True).sadd("t:large", *range(3000))
    keys = sorted(embedded.client(decode_responses=True).keys("*"))

    for options in ((), ("--token-id", token)):
        explained = cli.run("explain", "one", *options, "--", *call)
        assert denial in explained.stdout
        assert explained.exit_code == 1
    answer = cli.run("can-i", "one", "--", *call)

    assert (answer.exit_code, answer.stdout[:3]) == (1, "no ")
    assert sorted(embedded.client(decode_responses=True).keys("*")) == keys
    assert cli.run("can-i", "one", "--", "GET", "z:1").stdout == "yes\n"


def test_restrictions_of_a_token_hold_in_the_question(cli: Cli, policy: Path) -> None:
    """The guard is asked with the restrictions of the token that is named."""
    policy.write_text(BOUNDED)
    cli.ok("load", policy, "--yes")
    token = cli.json("token", "issue", "one", "--keys", "z:1")["id"]
    ask = ("can-i", "one", "--token-id", token, "--")

    assert cli.run(*ask, "GET", "z:1").stdout == "yes\n"
    assert cli.run(*ask, "GET", "z:2").stdout.startswith("no KEY_NOT_GRANTED")


def test_operator_who_may_only_read_gets_the_answer_of_the_policy(
    cli: Cli, embedded: RealServer, policy: Path
) -> None:
    """Such an operator cannot make the token that asks a guard."""
    policy.write_text(BOUNDED)
    cli.ok("load", policy, "--yes")
    rules = ["nopass", "~*", "+@read", "+@connection", "+time", "+info", "+command"]
    embedded.client(decode_responses=True).execute_command("ACL", "SETUSER", "reader", "on", *rules)
    reader = Cli(embedded.url.replace("//", "//reader:any@"))

    answer = reader.run("can-i", "one", "--", "SET", "z:1", "x" * 13)

    assert answer.stdout == "yes\n"
    assert answer.stderr.startswith("note: sizes, work and values were not checked")


def test_list_as_json_agrees_with_can_i(offline: Cli, policy: Path) -> None:
    """`can-i` allows exactly the listed commands."""
    policy.write_text(LISTED)

    output = offline.json("can-i", "--list", "one", "--policy", policy)

    read, write, publish = output["grants"]
    assert (read["allow"], read["keys"], read["only"]) == (["read"], ["a:*"], None)
    assert write["place"]["line"] == 7
    assert publish["channels"] == ["c:*"]
    assert "GET" in read["commands"]
    assert not {"SET", "RESTORE", "INCR", "FLUSHALL", "EVAL"} & {*read["commands"]}
    assert output["together"] == ["COPY"]
    assert output["deny"] == ["b:locked"]
    assert [(item["name"], item["per"]) for item in output["limits"]] == [
        ("rate.requests", "token"),
        ("rate.writes", "{x}"),
    ]
    assert (output["work"], write["value_bytes"]) == (250_000, 16 << 20)
    assert output["denied_now"] is None
    offline.ok("can-i", "one", "--policy", policy, "--", "COPY", "a:1", "b:1")
    assert offline.run("can-i", "one", "--policy", policy, "--", "INCR", "b:1").exit_code == 1


def test_list_of_a_suspended_identity_reports_the_denial(loaded: Cli) -> None:
    """Grants alone would be misleading."""
    loaded.ok("can-i", "--list", "agent-runner")
    loaded.ok("freeze", "agent-runner", "--reason", "incident 4107")

    result = loaded.run("can-i", "--list", "agent-runner")
    output = loaded.json("can-i", "--list", "agent-runner", exit_code=1)

    assert result.exit_code == 1
    assert result.stdout.endswith(
        "stopped   every call is denied: SUSPENDED: the identity is suspended: incident 4107\n"
    )
    assert output["denied_now"] == {"code": "SUSPENDED", "details": {"reason": "incident 4107"}}


@pytest.mark.parametrize(
    "words", [("can-i", "--list", "one", "GET", "a"), ("can-i", "one"), ("explain", "one")]
)
def test_missing_or_extra_command_is_a_usage_error(offline: Cli, words: tuple[str, ...]) -> None:
    """A command and `--list` exclude each other."""
    result = offline.run(*words)

    assert result.exit_code == 2
    assert ("or list all that it may do: `--list`" in result.stderr) == (words == ("can-i", "one"))


def test_call_that_cannot_be_evaluated_is_not_a_denial(
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


def test_token_given_as_an_argument_is_redacted(offline: Cli, example: Path) -> None:
    """Secrets are not printed."""
    token = "kl_agent-reader_" + "s3cret" * 6
    for question in ("explain", "can-i"):
        result = offline.run(question, "agent-reader", "--policy", example, "--", "GET", token)
        assert result.exit_code == 1
        assert "s3cret" not in result.output


def test_can_i_as_json_has_code_and_details(offline: Cli, example: Path) -> None:
    """Programs need not parse text."""
    output = offline.json(
        "can-i", "agent-reader", "--policy", example, "--", "DEL", "k", exit_code=1
    )

    assert output == {
        "allowed": False,
        "code": "CLASS_NOT_GRANTED",
        "details": {"class": "delete", "command": "DEL"},
    }


def test_explained_call_is_quoted_as_for_a_shell(offline: Cli, example: Path) -> None:
    """An argument with blanks is one argument."""
    text = offline.run(
        "explain",
        "--policy",
        example,
        "agent-runner",
        "--",
        "SET",
        "agents:jobs:1:state",
        "a b",
        "",
    ).stdout

    assert "call      agent-runner: SET agents:jobs:1:state 'a b' ''\n" in text
