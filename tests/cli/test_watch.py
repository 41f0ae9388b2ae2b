"""`keyleash watch`: runs until a signal, or checks once with `--once`."""

from __future__ import annotations

import json
import signal

import pytest

from keyleash.store.keyspace import Keyspace
from support.command_line import Cli
from support.fake_resp import fake_resp
from support.replication import PATIENCE_S
from support.servers import RealServer

SOURCE = Keyspace().source("agent-runner")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watch_prints_events_until_a_signal(
    loaded: Cli, embedded: RealServer, number: signal.Signals
) -> None:
    """One object per line, at once; then exit code 0."""
    with loaded.spawn(["watch", "--json"]) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        embedded.client().script_flush()
        second = json.loads(watching.stdout.readline())
        watching.send_signal(number)
        rest, errors = watching.communicate(timeout=PATIENCE_S)

    assert (first["kind"], first["state"]) == ("role", "done")
    assert second["kind"] == "loaded"
    assert second["node"] == f"127.0.0.1:{embedded.port}"
    assert second["message"] == "8 scripts that it lacked"
    assert (rest, errors, watching.returncode) == ("", "stopped\n", 0)


def test_watch_once_loads_and_exits(loaded: Cli, embedded: RealServer) -> None:
    """For timers, and after a restart."""
    embedded.client().script_flush()
    out = loaded.ok("watch", "--once")

    assert "role: watching it, a primary" in out
    assert "loaded: 8 scripts that it lacked" in out
    assert "loaded" not in loaded.ok("watch", "--once")


def test_watch_once_with_drift_exits_with_1(loaded: Cli, embedded: RealServer) -> None:
    """A line names server, identity and script."""
    embedded.client().hset(SOURCE, "0" * 40, "return 1")
    result = loaded.run("watch", "--once")

    assert result.exit_code == 1
    assert f"source-changed: the script {'0' * 40} of `agent-runner`" in result.stdout
    assert result.stderr == "1 drift found\n"


def test_watch_once_without_an_answer_exits_with_69(offline: Cli) -> None:
    """As every command."""
    result = offline.run("watch", "--once")

    assert result.exit_code == 69
    assert result.stderr.startswith("error: cannot reach `redis://127.0.0.1:1`: ")
    assert "\nhelp: check --url or KEYLEASH_URL" in result.stderr


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_watch_once_waits_once_for_a_server_that_does_not_answer(scheme: str) -> None:
    """For `--timeout`; the reason and what to check are reported."""
    with fake_resp(lambda _: None) as server:
        url = server.url.replace("redis:", f"{scheme}:")
        result = Cli(url).run("--timeout", "0.2", "watch", "--once")

    assert result.exit_code == 69
    # On a busy machine the timeout ends before this process accepts the connection.
    assert server.connections <= 1
    assert result.stderr.startswith("error: cannot re")
    assert "\nhelp: " in result.stderr
    assert "TLS" in result.stderr


def test_watch_once_reports_one_unreachable_server(loaded: Cli) -> None:
    """The others are watched."""
    result = loaded.run("watch", "--once", "--node", loaded.url, "--node", "redis://127.0.0.1:1")

    assert result.exit_code == 1
    assert "127.0.0.1:1  unreachable: it does not answer: connection refused" in result.stdout


def test_watch_runs_without_any_server(offline: Cli) -> None:
    """A daemon that starts before its servers must not exit."""
    with offline.spawn(["watch"]) as watching:
        assert watching.stdout is not None
        assert "unreachable" in watching.stdout.readline()
        watching.send_signal(signal.SIGTERM)
        watching.communicate(timeout=PATIENCE_S)

    assert watching.returncode == 0


@pytest.mark.parametrize("option", ["--node", "--sentinel"])
def test_watch_rejects_a_password_on_the_command_line(cli: Cli, option: str) -> None:
    """The error does not repeat it."""
    result = cli.run("watch", "--once", option, "redis://ops:secret@127.0.0.1:6379")

    assert result.exit_code == 2
    assert "secret" not in result.output
    assert "a password on the command line" in result.stderr


def test_watch_reads_users_from_the_environment(loaded: Cli, embedded: RealServer) -> None:
    """From the main URL for nodes without a user, or from the node's URL in the variable."""
    admin = embedded.client()
    for user in ("one", "two"):
        admin.execute_command("ACL", "SETUSER", user, "on", f">{user}", "~*", "+@all")
    admin.execute_command("ACL", "SETUSER", "default", "off")
    try:
        port = embedded.port
        node = f"redis://127.0.0.1:{port}"
        loaded.ok("watch", "--once", "--node", node, KEYLEASH_URL="redis://one:one@x:1")
        loaded.ok(
            "watch",
            "--once",
            KEYLEASH_URL="redis://x:1",
            KEYLEASH_NODES=f"redis://two:two@127.0.0.1:{port}",
        )
    finally:
        admin.execute_command("ACL", "SETUSER", "default", "on")


@pytest.mark.parametrize("url", ["http://x", "redis://x:port"])
def test_watch_with_an_invalid_url_is_a_usage_error(cli: Cli, url: str) -> None:
    """Before any server is watched."""
    assert cli.run("watch", "--node", url).exit_code == 2
