"""Servers that are well, and the command with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doctor.targets import POLICY, DoctorTarget
from keyleash.servers import EmbeddedServer


@pytest.fixture
def flawless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the flaws of the release that happens to be embedded."""
    monkeypatch.setattr("keyleash.doctor.checks.settings.advisories", lambda: ())


@pytest.fixture
def target(flawless: None, tmp_path: Path) -> Iterator[DoctorTarget]:
    """A server of its own with nothing wrong, and a policy active."""
    with EmbeddedServer(data=tmp_path / "data") as server:
        yield DoctorTarget(server, tmp_path).with_policy(POLICY)


@pytest.fixture
def other(flawless: None, tmp_path: Path) -> Iterator[DoctorTarget]:
    """Another one, without a policy."""
    folder: Any = tmp_path / "other"
    folder.mkdir()
    with EmbeddedServer(data=folder / "data") as server:
        yield DoctorTarget(server, folder)
