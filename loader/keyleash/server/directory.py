"""The lock that keeps a data directory to one server."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from keyleash.errors import ServerStartError

LOCK_NAME = "server.lock"
LOCK_TIMEOUT_S = 5.0
LOCK_POLL_S = 0.02


class DirectoryLock:
    """
    A data directory, made if need be, locked against a second server.

    The server process inherits the open lock file, so the lock lasts as long as that
    process and not as long as its parent: a server that outlives a killed parent still
    keeps others out. Two servers on one append-only file would destroy it.
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
            raise ServerStartError(
                f"cannot write in {self._directory}: {error.strerror}",
                help="choose a data directory you may write",
            ) from error
        try:
            self._lock()
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def fileno(self) -> int:
        return self._file

    def record_holder(self, pid: int) -> None:
        """Write down whom the lock is left to, for the error message of the next one."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(pid).encode(), 0)

    def _lock(self) -> None:
        # Not refused at once: a server that was killed while it rewrote its append-only
        # file leaves a child, which holds the lock until it notices.
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    holder = os.pread(self._file, 20, 0).decode(errors="replace")
                    raise ServerStartError(
                        f"another server (pid {holder}) uses {self._directory}",
                        help="stop that server, or choose another data directory",
                    ) from None
                time.sleep(LOCK_POLL_S)
            else:
                return
