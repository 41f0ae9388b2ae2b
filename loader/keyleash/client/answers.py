"""The replies to KEYS, INFO and COMMAND INFO, which libraries send and no guard runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from keyleash.client.actions import Flow, Words
from keyleash.client.command_words import as_command, upper
from keyleash.commands import CommandTable
from keyleash.errors import LeashError

COUNT = 1000
"""The keys that one SCAN looks at."""
COMPATIBLE_VERSION = "7.2.4"
"""The Redis version that Valkey reports in INFO."""
_EVERYTHING = {"DEFAULT", "ALL", "EVERYTHING"}
_FIELDS = {
    "Clients": "connected_clients:1 blocked_clients:0",
    "Memory": "used_memory:0 used_memory_human:0B used_memory_rss:0 used_memory_peak:0"
    " used_memory_peak_human:0B maxmemory:0 maxmemory_human:0B maxmemory_policy:noeviction",
    "Persistence": "loading:0",
    "Stats": "total_connections_received:0 total_commands_processed:0 instantaneous_ops_per_sec:0"
    " expired_keys:0 evicted_keys:0 keyspace_hits:0 keyspace_misses:0",
}
"""Fields that programs look up by name: those of an empty server without other clients, which
evicts nothing, as keyleash requires."""


def keys_reply(words: Words, scan: Callable[[Words], Flow]) -> Flow:
    """Return the reply to KEYS, made from the replies to SCAN.

    Args:
        words: The call, with one pattern.
        scan: Makes a guarded call; its reply is not decoded.
    """
    keys: dict[bytes, None] = {}
    cursor: Any = b"0"
    while True:
        # SCAN may list a key twice.
        try:
            cursor, names = yield from scan(("SCAN", cursor, "MATCH", words[1], "COUNT", COUNT))
        except LeashError as denial:
            raise as_command(denial, "KEYS") from None
        keys |= dict.fromkeys(names)
        if int(cursor) == 0:
            return list(keys)


@lru_cache(maxsize=64)
def callable_commands(grants: str, table: CommandTable) -> dict[str, None]:
    """Return the names of the commands that published grants allow, in the order of the table.

    Args:
        grants: The field of the guard record. If it is empty, all that a policy can grant.
    """
    from keyleash.evaluate.abilities import allowed_commands  # noqa: PLC0415
    from keyleash.store.grants import unpack_grants  # noqa: PLC0415

    published = unpack_grants(grants)
    names = [spec.name for spec in table if spec.refused is None]
    if published is not None:
        allowed = allowed_commands(published.grants, table)
        granted = {*allowed.together}.union(*allowed.by_grant)
        names = [name for name in names if name in granted]
    return dict.fromkeys(names)


def command_reply(commands: Collection[str], names: Iterable[Any]) -> list[Any]:
    """Return the reply to COMMAND INFO: of *commands*, without details."""
    return [
        [name.lower(), -1, [], 0, 0, 0, [], [], [], []] if name in commands else None
        for name in map(upper, names)
    ]


def info_reply(words: Words, hello: Sequence[Any]) -> bytes:
    """Return the reply to INFO: the version, and fields that libraries look up.

    Args:
        words: The call, with the names of sections.
        hello: The reply to HELLO in RESP2, not decoded.
    """
    facts = dict(zip(hello[::2], hello[1::2], strict=True))
    server, version, mode, role = (
        facts[name].decode() for name in (b"server", b"version", b"mode", b"role")
    )
    versions = f"redis_version:{version}"
    if server == "valkey":
        versions = f"redis_version:{COMPATIBLE_VERSION} server_name:valkey valkey_version:{version}"
        versions += f" server_mode:{mode}"
    sections = {
        "Server": f"{versions} redis_mode:{mode} uptime_in_seconds:0 uptime_in_days:0",
        **_FIELDS,
        "Replication": f"role:{'slave' if role == 'replica' else role} connected_slaves:0",
        "Cluster": f"cluster_enabled:{int(mode == 'cluster')}",
    }
    requested = {upper(word) for word in words[1:]}
    lines: list[str] = []
    for name, fields in sections.items():
        if not requested or not requested.isdisjoint({*_EVERYTHING, name.upper()}):
            lines += [*[""][: len(lines)], f"# {name}", *fields.split()]
    return "".join(f"{line}\r\n" for line in lines).encode()
