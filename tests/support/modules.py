"""Servers that have loaded the test module, `module.c`, or the modules of Redis Stack."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyleash.addons.servers import EmbeddedServer
from keyleash.addons.servers.embedded import stack_server
from keyleash.errors import KeyleashError
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


def stack_modules() -> list[Path]:
    """Return the modules of Redis Stack: search, JSON, Bloom and time series; skip without them."""
    try:
        _, settings = stack_server()
    except KeyleashError as error:
        pytest.skip(f"no modules of Redis Stack: {error.message}")
    return [Path(line) for line in settings["loadmodule"].split("\n")]


def stack_label() -> str:
    """Return the server that loads the modules of Redis Stack; skip the test without it."""
    label = next((name for name in find_server_binaries() if name.startswith("redis-8.0")), None)
    return label or pytest.skip("the modules of Redis Stack need redis-server 8.0")


@contextlib.contextmanager
def stack_of(folder: Path) -> Iterator[RealServer]:
    """Start a server with the modules of Redis Stack; skip the test where that is not possible."""
    with server_with_module(stack_label(), folder, *stack_modules()) as server:
        yield server


def start_script(label: str, folder: Path, *modules: Path) -> Path:
    """Write a script into *folder* that starts the server *label* with modules."""
    started = folder / "server"
    loads = "".join(f' --loadmodule "{module}"' for module in modules)
    started.write_text(f'#!/bin/sh\nexec "{find_server_binaries()[label]}" "$@"{loads}\n')
    started.chmod(0o755)
    return started


@contextlib.contextmanager
def server_with_module(label: str, folder: Path, *modules: Path) -> Iterator[RealServer]:
    """Start the server *label* with modules loaded; *folder* gets its start script."""
    with EmbeddedServer(binary=start_script(label, folder, *modules)) as process:
        server = RealServer(label, process)
        try:
            yield server
        finally:
            server.close_clients()
