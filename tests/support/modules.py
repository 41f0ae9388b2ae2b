"""Servers that have loaded the test module, `module.c`."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.servers import EmbeddedServer
from support.servers import RealServer, find_server_binaries

SOURCE = Path(__file__).with_name("module.c")


def built_module(folder: Path) -> Path:
    """Compile the module in *folder*; skip the test if there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make a module with")
    built = folder / "doc.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return built


@contextlib.contextmanager
def server_with_module(label: str, module: Path, folder: Path) -> Iterator[RealServer]:
    """Start the server *label* with the module loaded; *folder* gets its start script."""
    started = folder / "server"
    started.write_text(
        f'#!/bin/sh\nexec "{find_server_binaries()[label]}" "$@" --loadmodule "{module}"\n'
    )
    started.chmod(0o755)
    with EmbeddedServer(binary=started) as process:
        server = RealServer(label, process)
        try:
            yield server
        finally:
            server.close_clients()
