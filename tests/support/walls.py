"""ACL users written by hand: what a sealed agent may do at all, and nothing else."""

from __future__ import annotations

from keyleash.commands import CommandTable
from keyleash.protocol.active import Client, guard_record
from keyleash.protocol.keyspace import Keyspace

PASSWORD = "correct-horse"
HELPERS = ("memory|usage", "dump", "type", "pexpiretime", "getrange", "strlen", "get", "exists")
HOLED = {"PFMERGE", "SORT", "XREADGROUP", "GEORADIUS", "GEORADIUSBYMEMBER"}
"""Their keys a server does not always find when it asks its rules."""


def wall(
    admin: Client, keyspace: Keyspace, identity: str, table: CommandTable, pattern: str
) -> None:
    """Make a user of the identity's name whose keys match *pattern*."""
    record = guard_record(admin.hgetall(keyspace.guard(identity)))
    assert record is not None
    has = {name.decode().upper().replace("|", " ") for name in admin.command_list()}
    inner = sorted(
        spec.name.lower().replace(" ", "|")
        for spec in table
        if spec.refused is None and spec.keys and spec.name in has and spec.name not in HOLED
    )
    own = {
        "get getrange pttl": (keyspace.state(identity), keyspace.token_prefix(identity) + "*"),
        "setrange": (keyspace.state(identity), keyspace.token_prefix(identity) + "*"),
        "xadd xtrim xlen": (keyspace.audit(identity), keyspace.denied(identity)),
        "hincrby hset hget hgetall hlen del": (keyspace.repeats(identity),),
        "hget": (keyspace.suspension(identity),),
        "set get getrange setrange pexpire": (keyspace.limit_prefix(identity, "*"),),
    }
    rules = [
        f">{PASSWORD}",
        "on",
        "+ping",
        "+echo",
        "+time",
        "+client|setinfo",
        "+client|setname",
        f"(+hgetall %R~{keyspace.guard(identity)})",
        f"(+evalsha|{record.digest} +evalsha|{record.batch_digest} ~*)",
    ]
    rules += [
        f"({' '.join(f'+{name}' for name in names.split())} {' '.join(f'~{key}' for key in keys)})"
        for names, keys in own.items()
    ]
    rules.append(
        f"({' '.join(f'+{name}' for name in (*inner, *HELPERS))} ~{keyspace.vault}{pattern})"
    )
    admin.execute_command("ACL", "SETUSER", identity, "reset", *rules)
