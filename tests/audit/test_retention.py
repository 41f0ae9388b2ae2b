"""`retain: {until: exported}`: the archiver trims what it has, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.audit.export import verify_archive
from keyleash.errors import AuditFullError
from keyleash.store.keyspace import Keyspace
from support.archives import archived, export, stored
from support.leash import Leash, grant
from support.servers import RealServer

KEYS = Keyspace()
HARD_MAX = 30


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """Of two identities, `kept` has its events until they are exported."""
    leash = Leash(server)
    writes: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
    leash.load(
        kept={**writes, "audit": {"retain": {"until": "exported", "hard_max": HARD_MAX}}},
        other={**writes, "audit": {"retain": 1000}},
    )
    return leash


def test_full_trail_is_free_again_once_it_is_exported(leash: Leash, tmp_path: Path) -> None:
    """All the room comes back, and the archive has every event of the write that passed."""
    client = leash.agent("kept")
    for turn in range(1, 3):
        for number in range(HARD_MAX):
            client.set(f"t:{number}", turn)
        with pytest.raises(AuditFullError):
            client.set("t:more", turn)
        export(leash.admin, tmp_path / "archive", max_entries=12)

        assert leash.admin.xlen(KEYS.audit("kept")) == 0
        assert len(archived(tmp_path / "archive", "audit/kept")) == HARD_MAX * turn
    assert verify_archive(tmp_path / "archive").is_valid


def test_export_trims_no_other_trail(leash: Leash, tmp_path: Path) -> None:
    """Others have their own rule; refusals and the control stream theirs."""
    client = leash.agent("other")
    for number in range(5):
        client.set(f"t:{number}", 1)
    with pytest.raises(keyleash.KeyNotGrantedError):
        leash.agent("kept").set("u:1", 1)
    export(leash.admin, tmp_path / "archive")

    assert len(archived(tmp_path / "archive", "audit/other")) == 5
    assert leash.admin.xlen(KEYS.audit("other")) == 5
    assert leash.admin.xlen(KEYS.denied("kept")) == 1
    assert len(stored(leash.admin, KEYS.control)) > 1


def test_run_that_finds_nothing_new_trims_what_a_killed_one_left(
    leash: Leash, tmp_path: Path
) -> None:
    """A crash between acknowledging and trimming does not leave the room taken."""
    client = leash.agent("other")
    for number in range(5):
        client.set(f"t:{number}", 1)
    export(leash.admin, tmp_path / "archive")
    leash.load(
        other={
            "grants": [grant("read", "write", keys="t:*")],
            "audit": {"retain": {"until": "exported", "hard_max": HARD_MAX}},
        }
    )
    export(leash.admin, tmp_path / "archive")

    assert leash.admin.xlen(KEYS.audit("other")) == 0
    assert len(archived(tmp_path / "archive", "audit/other")) == 5
