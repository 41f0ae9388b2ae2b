"""The command, against a server of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyleash.compiler.render import examples_root
from support.command_line import Cli
from support.servers import RealServer

EXAMPLE = examples_root() / "agents.yaml"


@pytest.fixture
def cli(embedded: RealServer) -> Cli:
    """The command, with the embedded server, on which nothing is loaded."""
    return Cli(embedded.url)


@pytest.fixture
def loaded(cli: Cli) -> Cli:
    """The command, with the example policy active."""
    cli.ok("load", EXAMPLE, "--yes")
    return cli


@pytest.fixture
def offline() -> Cli:
    """The command, with a server that is not there."""
    return Cli("redis://127.0.0.1:1")


@pytest.fixture
def example() -> Path:
    """The example policy."""
    return EXAMPLE


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A file to write policies to."""
    return tmp_path / "policy.yaml"
