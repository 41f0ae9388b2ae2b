"""The replies to KEYS, INFO and COMMAND INFO, which libraries send and no guard runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any

from keyleash.client.actions import Flow, Words
from keyleash.client.calls import Call
from keyleash.client.command_words import as_command, upper
from keyleash.commands import CommandTable
from keyleash.commands.facts import SCANNED
from keyleash.errors import LeashError
from keyleash.store.wire import BatchMode

COUNT, MAX_SCANS, MAX_UNLINKED = 1000, 100, 100
"""The keys that one SCAN looks at, the most of them for DBSIZE, and the keys of one UNLINK."""
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


def keys_reply(words: Words, scan: Callable[[Words], Flow], most: float = math.inf) -> Flow:
    """Return the reply to KEYS with one pattern or more, made from the replies to SCAN.

    Args:
        scan: Makes a guarded call; its reply is not decoded.
        most: The most calls. If there are more keys than these look at, the reply is None.
    """
    keys: dict[bytes, None] = {}
    for glob in words[1:]:
        cursor: Any = b"0"
        while cursor is not None and most > 0:
            # SCAN may list a key twice.
            try:
                cursor, names = yield from scan(("SCAN", cursor, "MATCH", glob, "COUNT", COUNT))
            except LeashError as denial:
                raise as_command(denial, str(words[0])) from None
            keys |= dict.fromkeys(names)
            cursor, most = (cursor if int(cursor) else None), most - 1
    return list(keys) if cursor is None else None


def scanned_reply(words: Words, caller: Any) -> Flow:
    """Return the reply to DBSIZE, FLUSHDB or FLUSHALL, made of SCAN and UNLINK.

    The guard denies what no grants allow, and a count of more keys than the calls look at.
    """
    # It also fetches the guard of a policy that was loaded since.
    who = caller.session.whoami((yield from caller.about_token(Call([], BatchMode.WHOAMI))))
    guard, is_size, keys = caller.session.guard, words[0] == "DBSIZE", None
    grants = [grant for grant in who.grants or () if SCANNED[words[0]] <= {*grant.allow}]
    globs = [key.glob for grant in grants for key in grant.keys]
    is_allowed = guard.flushes and {*map(upper, words[1:])} <= {"ASYNC", "SYNC"}
    if globs and (is_size or is_allowed):
        most = MAX_SCANS if is_size else math.inf
        keys = yield from keys_reply((words[0], *globs), caller.run, most)
    if keys is None:
        return (yield from caller.run(words))
    # On a cluster one key at a time, since the keys of a call have one slot.
    step = 1 if guard.lease else MAX_UNLINKED
    for at in range(0, 0 if is_size else len(keys), step):
        yield from caller.run(("UNLINK", *keys[at : at + step]))
    return len(keys) if is_size else b"OK"


@lru_cache(maxsize=64)
def callable_commands(grants: str, table: CommandTable) -> dict[str, None]:
    """Return the commands that the grants of a guard record allow; all if it has none."""
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
    """Return the reply to INFO: what HELLO says in RESP2, and fields that libraries look up."""
    facts = dict(zip(hello[::2], hello[1::2], strict=True))
    server, version, mode, role = (
        facts[name].decode() for name in (b"server", b"version", b"mode", b"role")
    )
    versions = f"redis_version:{version}"
    if server == "valkey":
        versions = f"redis_version:{COMPATIBLE_VERSION} server_name:valkey valkey_version:{version}"
        versions += f" server_mode:{mode}"
    sections = {
        "Server": f"{versions} redis_mode:{mode} arch_bits:64 uptime_in_seconds:0 uptime_in_days:0",
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
