"""Healthy servers, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doctor.targets import POLICY, DoctorTarget
from keyleash.addons.servers import EmbeddedServer


@pytest.fixture
def target(tmp_path: Path) -> Iterator[DoctorTarget]:
    """A healthy server with an active policy."""
    with EmbeddedServer(data=tmp_path / "data") as server:
        yield DoctorTarget(server, tmp_path).with_policy(POLICY)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[DoctorTarget]:
    """Another healthy server, without a policy."""
    folder: Any = tmp_path / "other"
    folder.mkdir()
    with EmbeddedServer(data=folder / "data") as server:
        yield DoctorTarget(server, folder)
