"""Behaviour of the process: signals, pipes, exit codes, the demo."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import redis

from support.command_line import Cli
from support.replication import PATIENCE_S
from support.servers import RealServer
from support.terminals import on_a_terminal, read_all, read_until

URL = re.compile(r"redis://127\.0\.0\.1:\d+\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_ends_cleanly_on_a_signal(offline: Cli, number: signal.Signals) -> None:
    """Exit code 0, and no server is left behind."""
    with offline.spawn(["serve", "--port", "0"]) as serving:
        assert serving.stdout is not None
        url = serving.stdout.readline()
        assert URL.fullmatch(url)
        client = redis.Redis.from_url(url.strip())
        assert client.ping()
        assert serving.stderr is not None
        assert serving.stderr.readline() == "data is in memory only: no --data\n"
        assert f"kill {serving.pid}" in serving.stderr.readline()
        assert serving.stderr.readline() == f"for other commands: export KEYLEASH_URL={url}"
        serving.send_signal(number)
        _, errors = serving.communicate(timeout=PATIENCE_S)

    assert serving.returncode == 0
    assert errors == "stopped\n"
    with pytest.raises(redis.ConnectionError):
        client.ping()


def test_serve_keeps_its_data_from_run_to_run(offline: Cli, tmp_path: Path) -> None:
    """With a directory, what was loaded is there again."""
    for turn in range(2):
        with offline.spawn(["--json", "serve", "--port", "0", "--data", tmp_path / "d"]) as serving:
            assert serving.stdout is not None
            document = "".join(iter(serving.stdout.readline, "}\n")) + "}"
            output = json.loads(document)
            client = redis.Redis.from_url(output["url"])
            assert client.incr("turns") == turn + 1
            serving.terminate()
            serving.communicate(timeout=PATIENCE_S)
        assert serving.returncode == 0
        assert output["data"] == str(tmp_path / "d")
        assert output["pid"] == serving.pid


def test_serve_bounds_the_output_buffers_of_its_clients(offline: Cli) -> None:
    """The doctor has no warning of settings, only advice that does not suit every policy."""
    with offline.spawn(["serve", "--port", "0"]) as serving:
        assert serving.stdout is not None
        found = Cli(serving.stdout.readline().strip()).json("doctor", exit_code=1)["findings"]
        serving.terminate()
        serving.communicate(timeout=PATIENCE_S)

    severity = {item["code"]: item["severity"] for item in found}
    assert "unbounded-output-buffers" not in severity
    assert severity["unbounded-client-memory"] == "advice"


def test_serve_on_a_taken_port_says_what_to_do(cli: Cli) -> None:
    """The port of the running test server is taken."""
    port = cli.url.rpartition(":")[2]

    result = cli.process("serve", "--port", port)

    assert result.returncode == 1
    assert f"error: port {port} on 127.0.0.1 is already in use by Valkey 9." in result.stderr
    assert "--port 0" in result.stderr
    assert "Traceback" not in result.stderr


def test_serve_ends_with_an_error_when_its_server_dies(offline: Cli) -> None:
    """A server that is gone must not look like one that was stopped."""
    with offline.spawn(["serve", "--port", "0"]) as serving:
        assert serving.stdout is not None
        client = redis.Redis.from_url(serving.stdout.readline().strip())
        os.kill(int(client.info("server")["process_id"]), signal.SIGKILL)
        _, errors = serving.communicate(timeout=PATIENCE_S)

    assert serving.returncode == 1
    assert "ended by itself" in errors
    assert "Traceback" not in errors


def test_serve_runs_a_cluster_until_a_signal(offline: Cli) -> None:
    """The URLs of primaries come first; no node is left behind."""
    with offline.spawn(["serve", "--cluster", "3", "--port", "0"]) as serving:
        assert serving.stdout is not None
        urls = [serving.stdout.readline().strip() for _ in range(6)]
        nodes = [redis.Redis.from_url(url) for url in urls]
        roles = [node.info("replication")["role"] for node in nodes]
        assert roles == ["master"] * 3 + ["slave"] * 3
        with redis.RedisCluster.from_url(urls[0]) as client:
            assert client.set("key", "value")
        serving.send_signal(signal.SIGINT)
        _, errors = serving.communicate(timeout=PATIENCE_S)

    assert serving.returncode == 0
    assert errors == (
        "3 primaries, followed by their replicas in the same order; data is in memory only\n"
        f"stop it with Ctrl-C, or with `kill {serving.pid}`\n"
        f"for other commands: export KEYLEASH_URL={urls[0]}\n"
        "stopped\n"
    )
    for node in nodes:
        with pytest.raises(redis.ConnectionError):
            node.ping()


def test_serve_runs_redis_with_modules(offline: Cli, stack_server: RealServer) -> None:
    """The fixture skips the test where there are none."""
    with offline.spawn(["serve", "--stack", "--port", "0"]) as serving:
        assert serving.stdout is not None
        client = redis.Redis.from_url(serving.stdout.readline().strip())
        assert client.execute_command("JSON.SET", "doc", "$", "1")
        serving.terminate()
        serving.communicate(timeout=PATIENCE_S)

    assert serving.returncode == 0


def test_serve_of_a_cluster_names_the_taken_port(cli: Cli) -> None:
    """The port of the running test server is taken."""
    port = cli.url.rpartition(":")[2]

    result = cli.run("serve", "--cluster", "2", "--replicas", "0", "--port", port)

    assert result.exit_code == 1
    assert f"port {port} on 127.0.0.1 is already in use by Valkey 9." in result.stderr


def test_exec_reads_the_token_from_standard_input(loaded: Cli) -> None:
    """The way that keeps a token out of the process list, with a real pipe."""
    token = loaded.token("agent-runner")

    result = loaded.process(
        *("exec", "--token", "-", "--", "SET", "agents:jobs:1:state", "x"), stdin=f"{token}\n"
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "OK\n", "")


def test_argument_that_is_not_utf8_arrives_as_it_was_given(loaded: Cli) -> None:
    """Redis values are bytes, and so are a shell's arguments."""
    token = loaded.token("agent-runner")
    loaded.env["KEYLEASH_TOKEN"] = token

    loaded.process("exec", "SET", "agents:jobs:1:state", os.fsdecode(b"\xff\xfe"))

    assert loaded.json("exec", "GET", "agents:jobs:1:state") == {"base64": "//4="}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--help",), 0),
        (("exec", "GET", "x"), 1),
        (("bogus",), 2),
        (("check", __file__), 65),
        (("--url", "redis://127.0.0.1:1", "status"), 69),
    ],
)
def test_exit_code_reaches_the_shell(loaded: Cli, words: tuple[str, ...], code: int) -> None:
    """Every code of the contract, as a shell sees it, and no traceback with it."""
    loaded.env["KEYLEASH_TOKEN"] = "kl_agent-runner_" + "A" * 32
    result = loaded.process(*words)

    assert result.returncode == code
    assert "Traceback" not in result.stderr
    assert "A" * 32 not in result.stdout + result.stderr


def test_exit_code_of_a_wrong_password_reaches_the_shell(loaded: Cli) -> None:
    """Not permitted is not out of reach."""
    port = loaded.url.rpartition(":")[2]
    loaded.env["KEYLEASH_URL"] = f"redis://:wr0ng@127.0.0.1:{port}"

    result = loaded.process("status")

    assert result.returncode == 77
    assert "wr0ng" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@h",
        "redis://h?password=s3cret",
        "redis://u:s3/cret@h",
        "rediss://u:s3cret@h",
    ],
)
def test_password_on_the_command_line_is_refused(offline: Cli, url: str) -> None:
    """The process list shows arguments; the same URL is accepted from the variable."""
    result = offline.run("--url", url, "status")

    assert result.exit_code == 2
    assert "help: set KEYLEASH_URL" in result.stderr
    assert "s3" not in result.output


def test_reader_that_has_enough_gets_no_traceback(offline: Cli, example: Path) -> None:
    """`keyleash compile … | head -1` ends quietly, with the code that shells give such an end."""
    read, write = os.pipe()
    os.close(read)
    with subprocess.Popen(
        [*offline.command, "compile", str(example), "--identity", "human-admin"],
        env=offline.process_env(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(write)
        _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 128 + signal.SIGPIPE
    assert errors == ""


def test_demo_finds_every_answer_as_expected(offline: Cli) -> None:
    """The whole of it, as a newcomer runs it: every line ok, and no token in sight."""
    result = offline.process("demo")

    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"all \d+ replies are as expected", lines[-1])
    assert sum(line.endswith(" ok") for line in lines) == int(lines[-1].split()[1])
    assert "kl_agent" not in result.stdout
    for code in (
        *("KEY_NOT_GRANTED", "CLASS_NOT_GRANTED", "KEY_DENIED", "RATE_LIMITED"),
        *("BUDGET_EXHAUSTED", "TOKEN_EXPIRED", "TOKEN_REVOKED", "SUSPENDED"),
    ):
        assert code in result.stdout
    # A place comes free every 100 ms, also while the demo writes.
    assert re.search(r"\b([6-9]|\d\d)\d writes pass at once", result.stdout)
    assert "5000 calls pass" in result.stdout


def test_demo_that_is_interrupted_leaves_no_server(offline: Cli) -> None:
    """Ctrl-C in the middle: the code of an interrupt, and nothing listens any more."""
    with offline.spawn(["demo"]) as playing:
        assert playing.stdout is not None
        line = playing.stdout.readline()
        playing.send_signal(signal.SIGINT)
        _, errors = playing.communicate(timeout=PATIENCE_S)

    assert playing.returncode == 130
    assert "Traceback" not in errors
    found = URL.search(line.replace(";", "\n"))
    assert found is not None
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(found[0].strip()).ping()


@pytest.mark.parametrize(
    ("answer", "code", "output"),
    [("n\n", 1, "error: nothing was activated"), ("y\n", 0, "activate?")],
)
def test_load_on_a_terminal_asks(
    cli: Cli, example: Path, answer: str, code: int, output: str
) -> None:
    """A person sees what will happen, and may say no."""
    controller, terminal = pty.openpty()
    with cli.spawn(["load", example], stdin=terminal) as loading:
        os.write(controller, answer.encode())
        _, errors = loading.communicate(timeout=PATIENCE_S)
    os.close(controller)
    os.close(terminal)

    assert loading.returncode == code
    assert output in errors
    assert (cli.json("status")["policy"] is not None) == (code == 0)


@pytest.mark.parametrize(("answer", "generation"), [("n\n", 1), ("y\n", 2)])
def test_load_on_a_terminal_asks_whether_access_may_widen(
    loaded: Cli, example: Path, policy: Path, answer: str, generation: int
) -> None:
    """The answer is the permission; no option is needed."""
    policy.write_text(example.read_text().replace("3000/minute", "4000/minute"))
    controller, terminal = pty.openpty()
    with loaded.spawn(["load", policy], stdin=terminal) as loading:
        os.write(controller, answer.encode())
        _, errors = loading.communicate(timeout=PATIENCE_S)
    os.close(controller)
    os.close(terminal)

    assert "activate, and widen access of 1 identity?" in errors
    assert loaded.json("status")["policy"]["generation"] == generation


def test_question_that_gets_no_answer_ends_its_line(cli: Cli, example: Path) -> None:
    """After Ctrl-D or Ctrl-C, the message is on a line of its own."""
    with on_a_terminal(cli, "load", example) as (loading, terminal):
        read_until(terminal, "[y/N]")
        os.write(terminal, b"\x04")
        output = read_all(terminal)
        loading.wait(timeout=PATIENCE_S)

    assert loading.returncode == 130
    assert output.endswith("\r\ninterrupted\r\n")
    assert cli.json("status")["policy"] is None


def test_of_two_loads_that_were_both_agreed_to_one_wins(
    loaded: Cli, example: Path, policy: Path
) -> None:
    """Two people look at two plans at once: the later answer changes nothing, and says so."""
    other = policy.with_name("other.yaml")
    for file, rate in ((policy, 2000), (other, 1000)):
        file.write_text(example.read_text().replace("3000/minute", f"{rate}/minute"))
    with (
        on_a_terminal(loaded, "load", policy) as (_, first),
        on_a_terminal(loaded, "load", other) as (losing, second),
    ):
        for terminal in (first, second):
            read_until(terminal, "[y/N]")
        os.write(first, b"y\n")
        won = read_all(first)
        os.write(second, b"y\n")
        lost = read_all(second)
        losing.wait(timeout=PATIENCE_S)

    assert "activated generation 2" in won
    assert "another policy was activated since the plan was made" in lost
    assert losing.returncode == 1
    assert loaded.ok("policy", "show") == policy.read_text()


def test_what_is_no_redis_server_is_69() -> None:
    """A port on which something else answers."""
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        Cli(f"redis://127.0.0.1:{other.getsockname()[1]}").spawn(["status"]) as asking,
    ):
        connection, _ = other.accept()
        with connection:
            connection.recv(1)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            _, errors = asking.communicate(timeout=PATIENCE_S)

    assert asking.returncode == 69
    assert "Traceback" not in errors
