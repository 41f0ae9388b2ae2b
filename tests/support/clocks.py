"""Servers whose clock is ahead."""

from __future__ import annotations

import shutil
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
    """What starts a server with that library."""
    started = folder / "server"
    started.write_text(
        f'#!/bin/sh\nCLOCK_AHEAD_S={ahead_s} LD_PRELOAD="{clock}" exec "{binary}" "$@"\n'
    )
    started.chmod(0o755)
    return started
