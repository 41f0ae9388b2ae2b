"""Servers whose clock is ahead, or moves as a test says."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "clock.c"


def clock_library(folder: Path) -> Path:
    """A library that puts a process's clock forward by CLOCK_AHEAD_S seconds."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a clock with")
    built = folder / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return built


def server_ahead(binary: Path, clock: Path, folder: Path, ahead_s: int) -> Path:
    """Return the command that starts a server with the library."""
    started = folder / "server"
    started.write_text(
        f'#!/bin/sh\nCLOCK_AHEAD_S={ahead_s} LD_PRELOAD="{clock}" exec "{binary}" "$@"\n'
    )
    started.chmod(0o755)
    return started


class MovableClock:
    """The clock of a server that `starter` starts; it begins with the right time."""

    def __init__(self, clock: Path, folder: Path) -> None:
        self._library, self._folder = clock, folder
        self._file = folder / "ahead"
        self.move(0)

    def starter(self, binary: Path) -> Path:
        """Return the command that starts a server with this clock."""
        started = self._folder / "server"
        started.write_text(
            f'#!/bin/sh\nCLOCK_AHEAD_FILE="{self._file}" LD_PRELOAD="{self._library}"'
            f' exec "{binary}" "$@"\n'
        )
        started.chmod(0o755)
        return started

    def move(self, ahead_s: int) -> None:
        """Set how far ahead it is, from now on."""
        # In place: the server has the file mapped.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", ahead_s))
