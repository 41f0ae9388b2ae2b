"""`--timeout`: a server that does not answer ends each command, once, with what may be wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from keyleash.addons.servers import EmbeddedServer
from keyleash.audit.follow import BLOCK_MS
from keyleash.store.connect import TIMEOUT_S, connect, connection_pool, node_client
from keyleash.store.store import Store
from keyleash.store.streams import block_ms
from support.command_line import Cli
from support.fake_resp import bulk, fake_resp, info
from support.servers import stopped

SHORT = "0.2"


@pytest.mark.parametrize(
    ("query", "given", "expected"),
    [
        ("", None, TIMEOUT_S),
        ("", 0.5, 0.5),
        ("?socket_timeout=9&socket_connect_timeout=9", None, 9),
        ("?socket_timeout=9&socket_connect_timeout=9", 0.5, 0.5),
    ],
)
def test_timeout_is_that_of_the_option_then_the_url_then_the_default(
    query: str, given: float | None, expected: float
) -> None:
    """For the connection and for each reply; and no try is repeated."""
    url = f"redis://127.0.0.1:1{query}"
    pool = connection_pool(url, given)
    client = connect(url, given)

    for options in (pool.connection_kwargs, client.connection_pool.connection_kwargs):
        assert (options["socket_connect_timeout"], options["socket_timeout"]) == (expected,) * 2
        assert options["retry"].get_retries() == 0


@pytest.mark.parametrize(
    ("url", "given", "expected"),
    [("redis://h", None, 3), ("redis://h", 7.5, 7.5), ("redis://h?socket_timeout=9", None, 9)],
)
def test_further_server_has_the_timeout_of_the_first_unless_given(
    url: str, given: float | None, expected: float
) -> None:
    """By the argument, or by its own URL."""
    client = node_client(connect("redis://first", 3), url, given)

    assert client.connection_pool.connection_kwargs["socket_timeout"] == expected


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "1e9"])
def test_timeout_that_is_none_is_a_usage_error(offline: Cli, value: str) -> None:
    """Nothing waits for ever."""
    assert offline.run("--timeout", value, "status").exit_code == 2
    assert offline.run("status", KEYLEASH_TIMEOUT=value).exit_code == 2


@pytest.mark.parametrize("value", ["0.5", "1s", "1m"])
def test_timeout_may_be_a_duration(offline: Cli, value: str) -> None:
    """As every other option that takes a time."""
    assert offline.run("--timeout", value, "status").exit_code == 69


OF_THEIR_OWN = {"status", "metrics"}
"""The commands that run in a process, which must end too."""


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("freeze", "agent-runner", "--reason", "x"),
        ("load", "FILE", "--yes"),
        ("plan", "FILE"),
        ("doctor",),
        ("exec", "GET", "agents:jobs:1:state"),
        ("metrics",),
    ],
    ids=lambda words: words[0],
)
def test_stopped_server_ends_a_command_with_69(example: Path, words: tuple[str, ...]) -> None:
    """The kernel of a stopped server still accepts connections."""
    with EmbeddedServer() as server, stopped(server):
        cli = Cli(server.url, {"KEYLEASH_TIMEOUT": SHORT})
        cli.env["KEYLEASH_TOKEN"] = "kl_agent-runner_" + "A" * 32
        given = [str(example) if word == "FILE" else word for word in words]
        if words[0] in OF_THEIR_OWN:
            process = cli.process(*given)
            exit_code, stderr = process.returncode, process.stderr
        else:
            result = cli.run(*given)
            exit_code, stderr = result.exit_code, result.stderr

    assert exit_code == 69
    assert "Traceback" not in stderr
    if words[0] != "metrics":
        assert f"cannot read from `{server.url}`: timeout reading from" in stderr
        assert "the server may be stopped or busy (`--timeout SECONDS` waits longer)" in stderr
        assert "may or may not" not in stderr


def test_frozen_server_that_wakes_up_too_late_is_not_asked_twice() -> None:
    """A retry would make of five seconds a minute."""
    with fake_resp(lambda _: None) as server:
        result = Cli(server.url).run("--timeout", SHORT, "status")

    assert result.exit_code == 69
    # CLIENT SETINFO travels with a connection, and only the first reply is waited for. On a busy
    # machine the timeout ends before this process accepts the connection.
    assert server.names.count("INFO") <= 1
    assert server.connections <= 1


@pytest.mark.parametrize(
    "words",
    [("freeze", "agent-runner", "--reason", "x"), ("thaw", "agent-runner")],
    ids=lambda words: words[0],
)
def test_change_without_a_reply_may_have_been_made(words: tuple[str, ...]) -> None:
    """The help says how to find out whether the change took effect."""

    def answer(words: list[bytes]) -> bytes | None:
        replies = {b"INFO": info(), b"HGETALL": b"*0\r\n", b"EVAL": None, b"EVALSHA": None}
        return replies.get(words[0], b"+OK\r\n")

    with fake_resp(answer) as server:
        cli = Cli(server.url, {"KEYLEASH_TIMEOUT": "2"})
        result = cli.run(*words)
        output = cli.json(*words, exit_code=69)

    assert result.exit_code == 69
    assert result.stderr.startswith(
        f"server     {cli.url}\n"
        "error: the server did not answer, and the change may or may not have taken effect: "
    )
    assert "help: look at `keyleash status`; `--timeout` waits longer" in result.stderr
    assert output["error"]["code"] == "unanswered"
    assert server.names.count("EVAL") == 2


def test_load_whose_activation_is_not_answered_says_that_it_may_be_active(
    cli: Cli, example: Path
) -> None:
    """As far as the server can still be asked; here it cannot."""
    import redis

    answering = redis.Redis.from_url(cli.url, protocol=2)
    is_lost = threading.Event()

    def answer(words: list[bytes]) -> bytes | None:
        if words[0] in (b"EVALSHA", b"EVAL") and b"tester" in words:
            is_lost.set()
        return None if is_lost.is_set() else _passed_on(answering, words)

    with fake_resp(answer) as server:
        result = Cli(server.url, {"KEYLEASH_TIMEOUT": "2"}).run("load", example, "--yes")

    assert result.exit_code == 69, result.output
    assert "the policy may be active: see `keyleash status`" in result.stderr


def _passed_on(client: object, words: list[bytes]) -> bytes:
    """The reply of a real server, as it came."""
    pool = client.connection_pool  # type: ignore[attr-defined]
    host, port = (pool.connection_kwargs[name] for name in ("host", "port"))
    with socket.create_connection((host, port)) as connection:
        packed = b"".join(bulk(word) for word in words)
        # The server hangs up after QUIT, so that everything before it is the reply.
        connection.sendall(b"*%d\r\n%s*1\r\n$4\r\nQUIT\r\n" % (len(words), packed))
        output = b""
        while data := connection.recv(65536):
            output += data
    return output.removesuffix(b"+OK\r\n")


def test_tls_to_a_port_without_it_hints_at_the_scheme() -> None:
    """The server waits for the rest of what it takes for a command, and the client for TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"rediss://127.0.0.1:{listener.getsockname()[1]}"
        for words in (["status"], ["freeze", "agent-runner", "--reason", "x"]):
            result = Cli(url).run("--timeout", SHORT, *words)

            assert result.exit_code == 69
            assert f"cannot reach `{url}`" in result.stderr
            assert "check the scheme of the URL: without TLS it is `redis://`" in result.stderr


def test_tls_to_a_redis_without_it_hints_at_the_scheme(cli: Cli) -> None:
    """On a real server, which may also answer with an error that is no TLS."""
    result = Cli(cli.url.replace("redis:", "rediss:")).run("--timeout", "1", "status")

    assert result.exit_code == 69
    assert "check the scheme of the URL: without TLS it is `redis://`" in result.stderr


def test_plain_text_to_a_tls_port_hints_at_the_scheme() -> None:
    """A server with TLS takes what is no handshake for an attack, and hangs up."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def serve(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    context.wrap_socket(connection, server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        result = Cli(f"redis://127.0.0.1:{listener.getsockname()[1]}").run("status")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)

    assert result.exit_code == 69
    assert "scheme" in result.stderr


@pytest.mark.parametrize(
    "words", [("exec", "BLPOP", "agents:jobs:1:state", "1"), ("exec", "XREAD", "BLOCK", "1000")]
)
def test_blocking_command_waits_longer_than_the_timeout(
    cli: Cli, policy: Path, words: tuple[str, ...]
) -> None:
    """It is polled, and each poll is answered at once."""
    policy.write_text(
        "version: 1\nidentities:\n  one:\n    kind: machine\n"
        '    grants: [{allow: [read, write, delete], keys: ["agents:*"]}]\n'
    )
    cli.ok("load", policy, "--yes")
    if words[1] == "XREAD":
        words = (*words, "STREAMS", "agents:s", "$")

    result = cli.run("--timeout", "0.5", *words, KEYLEASH_TOKEN=cli.token("one"))

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("timeout_s", [0.2, 5.0])
def test_server_holds_a_reply_back_for_less_than_the_timeout(timeout_s: float) -> None:
    """`audit follow` waits on the server, whose silence must not look like a lost connection."""
    held_ms = block_ms(Store(connect("redis://h", timeout_s)), BLOCK_MS)

    assert 0 < held_ms < timeout_s * 1000
