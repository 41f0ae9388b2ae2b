"""Every code, in the order of docs/operations.md."""

from __future__ import annotations

from keyleash.doctor.checks import (
    clock,
    fences,
    memory,
    persistence,
    records,
    replication,
    scripts,
    users,
    vault,
    version,
)

UNREADABLE = "unreadable"

CODES = (
    replication.UNREACHABLE,
    version.CODE,
    memory.EVICTION,
    memory.FULL,
    persistence.NONE,
    persistence.SNAPSHOTS,
    persistence.NO_FSYNC,
    persistence.FAILING,
    users.CODE,
    vault.CODE,
    records.NO_POLICY,
    records.DIGEST,
    records.NO_RECORD,
    records.OTHER_GUARD,
    records.STRAY,
    records.NO_STATE,
    records.STALE,
    scripts.NOT_LOADED,
    scripts.NO_TEXT,
    scripts.OTHER_TEXT,
    scripts.OTHER_FUNCTION,
    fences.DRIFT,
    fences.FOREIGN,
    fences.UNFENCED,
    clock.DIFFERS,
    clock.AHEAD,
    replication.SEVERAL,
    replication.LINK,
    replication.LAGGING,
    replication.TOO_FEW,
    replication.BEHIND,
    UNREADABLE,
)
