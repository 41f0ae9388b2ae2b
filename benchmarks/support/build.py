"""The load generator's program, compiled on first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("load.c")
CACHE = Path(__file__).resolve().parents[2] / ".bench"
FLAGS = ("-O2", "-Wall", "-Wextra")


class BuildError(Exception):
    """There is no C compiler, or it refused the program."""


def load_generator(cache: Path = CACHE) -> Path:
    """The compiled program; compiled now unless *cache* has it from the same source.

    Raises:
        BuildError: it cannot be compiled; the message says what to install.
    """
    compiler = os.environ.get("CC", "cc")
    built_from = " ".join((compiler, *FLAGS)).encode() + SOURCE.read_bytes()
    program = cache / f"load-{hashlib.sha256(built_from).hexdigest()[:16]}"
    if program.exists():
        return program
    if shutil.which(compiler) is None:
        raise BuildError(
            f"no C compiler `{compiler}`, which the load generator needs: install gcc or clang"
            " (Debian: apt-get install gcc libc6-dev), or name one in CC"
        )
    cache.mkdir(parents=True, exist_ok=True)
    # Renamed when whole: whoever runs at the same time never sees half a program.
    unfinished = program.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [compiler, *FLAGS, "-o", str(unfinished), str(SOURCE)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"`{compiler}` cannot compile {SOURCE.name}:\n{done.stderr.strip()}")
    unfinished.replace(program)
    return program
