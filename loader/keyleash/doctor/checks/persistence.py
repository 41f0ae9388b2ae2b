"""What a restart would leave of counters, tokens and trails."""

from __future__ import annotations

from collections.abc import Iterator

from redis.exceptions import ResponseError

from keyleash.doctor.finding import Finding, Said, Severity, Skipped
from keyleash.doctor.patient import Server

NONE = "no-persistence"
SNAPSHOTS = "snapshots-only"
NO_FSYNC = "no-fsync"
FAILING = "persistence-failing"
APPEND = "set `appendonly yes` and `appendfsync everysec`, in the server's configuration file too"


def check_persistence(server: Server) -> Iterator[Said]:
    """Look at append-only file and snapshots."""
    said = server.client.info("persistence")
    yield from _failing(server, said)
    try:
        given = server.client.config_get("save", "appendfsync")
    except ResponseError as error:
        given = None
        reason = f"the server's settings cannot be read: {error}"
    if not int(said.get("aof_enabled", 0)):
        if given is None:
            yield Skipped("snapshots", reason, server.name)
        elif given.get("save"):
            yield Finding(
                SNAPSHOTS,
                Severity.WARNING,
                "there are snapshots and no append-only file: a crash takes back what was counted,"
                " recorded and revoked since the last snapshot",
                APPEND,
                server.name,
            )
        else:
            yield Finding(
                NONE,
                Severity.ERROR,
                "nothing is kept: a restart loses policy, tokens, counters and trails",
                APPEND,
                server.name,
            )
    elif given is None:
        yield Skipped("appendfsync", reason, server.name)
    elif given.get("appendfsync") == "no":
        yield Finding(
            NO_FSYNC,
            Severity.WARNING,
            "with `appendfsync no` a crash of the machine takes back what its operating system had"
            " not yet written, a revocation among it",
            "set `appendfsync everysec`, or `always`",
            server.name,
        )


def _failing(server: Server, said: dict[str, object]) -> Iterator[Finding]:
    failed = [
        what
        for name, what in (
            ("rdb_last_bgsave_status", "the last snapshot"),
            ("aof_last_write_status", "the last write to the append-only file"),
            ("aof_last_bgrewrite_status", "the last rewrite of the append-only file"),
        )
        if said.get(name, "ok") != "ok"
    ]
    if failed:
        yield Finding(
            FAILING,
            Severity.ERROR,
            f"{' and '.join(failed)} failed: the server may refuse every write",
            "make room on its disk; its log says what failed",
            server.name,
        )
