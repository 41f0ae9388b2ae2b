"""Every code, in the order of docs/operations.md."""

from __future__ import annotations

from collections.abc import Iterable

from keyleash.doctor.checks import (
    clients,
    clock,
    fences,
    memory,
    payloads,
    persistence,
    records,
    replication,
    scripts,
    users,
    vault,
    version,
)
from keyleash.errors import KeyleashError
from keyleash.policy.problems import listing, quote

UNREADABLE = "unreadable"


class UnknownCodeError(KeyleashError):
    """No finding has the code that is to be accepted."""

    code = "unknown-code"
    exit_code = 2

    def __init__(self, name: str, file: str | None = None) -> None:
        where = f"in the configuration file {quote(file)}: " if file else ""
        super().__init__(
            f"{where}no finding of the doctor is called {quote(name)}",
            help=f"the codes are {listing(CODES)}",
        )


CODES = (
    replication.UNREACHABLE,
    version.CODE,
    payloads.CODE,
    memory.EVICTION,
    memory.FULL,
    clients.OUTPUT,
    clients.TOTAL,
    clients.BULK,
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


def require_codes(names: Iterable[str], file: str | None = None) -> None:
    """
    Check that every name is a code. No name stands for several codes.

    Args:
        names: The names.
        file: The configuration file that has them, or None.

    Raises:
        UnknownCodeError: One is not.
    """
    for name in names:
        if name not in CODES:
            raise UnknownCodeError(name, file)
