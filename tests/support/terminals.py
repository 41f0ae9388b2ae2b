"""Commands on a terminal of their own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.command_line import Cli


@contextlib.contextmanager
def on_a_terminal(
    cli: Cli, *words: str | Path, rows: int = 40, columns: int = 80
) -> Iterator[tuple[Any, int]]:
    """The command on a terminal of its own, and what reads that."""
    ours, theirs = pty.openpty()
    # pytest-xdist sets the first two, which go before the size of the terminal.
    environment = {**cli.process_env(), **dict.fromkeys(("COLUMNS", "LINES"), "")}
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [*cli.command, *map(str, words)],
        env={**environment, "TERM": cli.env.get("TERM", "xterm")},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: str, times: int = 1) -> str:
    output = b""
    while output.decode("utf-8", "replace").count(wanted) < times:
        output += os.read(terminal, 65536)
    return output.decode("utf-8", "replace")


def read_all(terminal: int) -> str:
    """Return the output of a command until it ends."""
    output = b""
    # The end of a terminal whose last writer is gone is an error.
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            output += data
    return output.decode("utf-8", "replace")
