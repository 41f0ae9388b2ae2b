"""`retain: {until: exported}`: the archiver trims only exported entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keyleash
from keyleash.addons.export.verify import verify_archive
from keyleash.errors import AuditFullError
from keyleash.store.keyspace import Keyspace
from support.archives import archived, export, stored
from support.leash import Leash, grant
from support.servers import RealServer

KEYS = Keyspace()
HARD_MAX = 30


@pytest.fixture
def leash(server: RealServer) -> Leash:
    """Two identities, of which `retained` stores its events until they are exported."""
    leash = Leash(server)
    writes: dict[str, Any] = {"grants": [grant("read", "write", keys="t:*")]}
    leash.load(
        retained={**writes, "audit": {"retain": {"until": "exported", "hard_max": HARD_MAX}}},
        other={**writes, "audit": {"retain": 1000}},
    )
    return leash


def test_full_stream_accepts_writes_after_its_export(leash: Leash, tmp_path: Path) -> None:
    """The stream is trimmed, and the archive has each event of an allowed write."""
    client = leash.agent("retained")
    for turn in range(1, 3):
        for number in range(HARD_MAX):
            client.set(f"t:{number}", turn)
        with pytest.raises(AuditFullError):
            client.set("t:more", turn)
        export(leash.admin, tmp_path / "archive", max_entries=12)

        assert leash.admin.xlen(KEYS.audit("retained")) == 0
        assert len(archived(tmp_path / "archive", "audit/retained")) == HARD_MAX * turn
    assert verify_archive(tmp_path / "archive").is_valid


def test_export_trims_no_other_stream(leash: Leash, tmp_path: Path) -> None:
    """Other identities, denials and the control stream have their own retention."""
    client = leash.agent("other")
    for number in range(5):
        client.set(f"t:{number}", 1)
    with pytest.raises(keyleash.KeyNotGrantedError):
        leash.agent("retained").set("u:1", 1)
    export(leash.admin, tmp_path / "archive")

    assert len(archived(tmp_path / "archive", "audit/other")) == 5
    assert leash.admin.xlen(KEYS.audit("other")) == 5
    assert leash.admin.xlen(KEYS.denied("retained")) == 1
    assert len(stored(leash.admin, KEYS.control)) > 1


def test_run_without_new_entries_trims_after_a_killed_run(leash: Leash, tmp_path: Path) -> None:
    """A crash between the record and trimming does not leave the stream full."""
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
