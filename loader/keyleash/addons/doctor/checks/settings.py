"""Checks of server settings."""

from __future__ import annotations

import time
from collections.abc import Iterator

from keyleash.addons.doctor.context import Context
from keyleash.addons.doctor.findings import (
    SHOWN,
    CheckResult,
    DoctorFinding,
    Severity,
    Skipped,
    finding,
)
from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.operator.load.checks import RESTORE_CODE, find_eviction_risk, restoring_identities
from keyleash.policy import Policy
from keyleash.policy.problems import listing
from keyleash.store.deployment import Server
from keyleash.store.records import read_head
from keyleash.store.server import info_section, read_replicas, read_settings
from keyleash.store.server_check import find_payload_risk
from keyleash.store.store import Store

MIB = 1 << 20
LAZY = ("lazyfree-lazy-user-del", "lazyfree-lazy-server-del", "lazyfree-lazy-expire")
"""The settings with which a server frees large keys in the background."""


def check_clients(context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Check the limits of connections and arguments, and how large keys are freed."""
    settings = read_settings(
        server.client,
        "client-output-buffer-limit",
        "maxmemory-clients",
        "proto-max-bulk-len",
        *LAZY,
    )
    has_maxmemory = bool(int(info_section(server.client, "memory").get("maxmemory", 0)))
    is_output_open = _is_output_open(settings.get("client-output-buffer-limit", ""))
    total = settings.get("maxmemory-clients", "0")
    # A percentage refers to `maxmemory`.
    is_total_open = total.rstrip("%") == "0" or (total.endswith("%") and not has_maxmemory)
    severity = Severity.WARNING if is_output_open and is_total_open else Severity.ADVICE
    if is_output_open:
        yield finding("unbounded-output-buffers", server.name, severity)
    if is_total_open:
        without = " without a `maxmemory`" if total.endswith("%") else ""
        yield finding(
            "unbounded-client-memory", server.name, severity, limit=total, without=without
        )
    mib = int(settings.get("proto-max-bulk-len", 0)) // MIB
    needed_mib = -(-_longest_value(context.policy) // MIB)
    if mib > needed_mib:
        yield finding("large-bulk-length", server.name, mib=mib, needed_mib=needed_mib)
    if eager := [name for name in LAZY if settings.get(name) == "no"]:
        yield finding("deletes-at-once", server.name, names=eager, set=" yes ".join(eager))


def _longest_value(policy: Policy) -> int:
    """Return the longest string in bytes that the guards of a policy allow."""
    bounds = (grant.values.max_bytes for identity in policy.identities for grant in identity.grants)
    return max((DEFAULT_VALUE_BYTES, *(bound for bound in bounds if bound is not None)))


def _is_output_open(limits: str) -> bool:
    """Return whether the class `normal` of `client-output-buffer-limit` has neither limit."""
    words = limits.split()
    classes = dict(zip(words[::4], zip(words[1::4], words[2::4], strict=True), strict=True))
    return classes.get("normal") == ("0", "0")


TOLERATED_S = 5.0


def check_clock(_context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Compare the server's clock with this machine's."""
    before_s = time.time()
    server_s = Store(server.client).now_us() / 1_000_000
    after_s = time.time()
    # The duration of the round trip is tolerated.
    off_s = max(before_s - server_s, server_s - after_s, 0.0)
    if off_s > TOLERATED_S:
        direction = "ahead of" if server_s > after_s else "behind"
        yield finding("clock-differs", server.name, seconds=off_s, direction=direction)


NEARLY = 0.9
"""The share of `maxmemory` from which a warning is given."""


def check_eviction(_context: Context, server: Server) -> Iterator[CheckResult]:
    """Check `maxmemory-policy`."""
    risk = find_eviction_risk(server.client)
    if risk is None:
        return
    if risk.policy is None:
        yield Skipped("eviction", risk.message, server.name)
        return
    severity = Severity.ERROR if risk.has_bound else Severity.WARNING
    yield finding("eviction", server.name, severity, risk=risk.message)


def check_memory(_context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Compare the used memory with `maxmemory`."""
    memory = info_section(server.client, "memory")
    bound = int(memory.get("maxmemory", 0))
    # A server that evicts keys always has room.
    if not bound or memory.get("maxmemory_policy") != "noeviction":
        return
    # Buffers of replicas and of the append-only file do not count.
    used = int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))
    if used < NEARLY * bound:
        return
    severity, when = (Severity.ERROR, "") if used >= bound else (Severity.WARNING, "at 100 % ")
    yield finding("memory-full", server.name, severity, percent=used * 100 // bound, when=when)


def check_payloads(context: Context, server: Server) -> Iterator[CheckResult]:
    """Check `sanitize-dump-payload`; it is an error if an identity may RESTORE."""
    risk = find_payload_risk(server.client)
    if risk is None:
        return
    if risk.setting is None:
        yield Skipped("payload validation", risk.message, server.name)
        return
    names = restoring_identities(context.policy)
    if names:
        message = f"{listing(names, SHOWN)} may RESTORE, and {risk.message}"
        yield finding(RESTORE_CODE, server.name, risk=message)


def check_persistence(_context: Context, server: Server) -> Iterator[DoctorFinding]:
    """Check the append-only file and snapshots."""
    info = info_section(server.client, "persistence")
    failed = [
        what
        for name, what in (
            ("rdb_last_bgsave_status", "the last snapshot"),
            ("aof_last_write_status", "the last write to the append-only file"),
            ("aof_last_bgrewrite_status", "the last rewrite of the append-only file"),
        )
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        yield finding("persistence-failing", server.name, failed=" and ".join(failed))
    given = read_settings(server.client, "save", "appendfsync")
    if not int(info.get("aof_enabled", 0)):
        yield finding("snapshots-only" if given.get("save") else "no-persistence", server.name)
    elif given.get("appendfsync") == "no":
        yield finding("no-fsync", server.name)


LAG_S = 10
"""The default of the servers' `min-replicas-max-lag`."""


def check_replication(context: Context, _main: Server) -> Iterator[DoctorFinding]:
    """Check the replication between the servers."""
    primaries = [item for item in context.answering if item.role and item.role.primary is None]
    if len(primaries) > 1 and context.cluster is None:
        yield finding("several-primaries", names=[item.name for item in primaries])
    for server in context.answering:
        assert server.role is not None  # noqa: S101 - it answers
        if not server.role.is_linked:
            yield finding("replica-unlinked", server.name, primary=server.role.primary)
        elif server.role.primary is not None and context.cluster is None:
            yield from _behind(context, server)
    for primary in primaries:
        yield from _lagging(primary)
    for server in [context.main] if context.cluster is None else primaries:
        yield from _too_few(context, server)


def _lagging(primary: Server) -> Iterator[DoctorFinding]:
    for replica in read_replicas(primary.client):
        if replica.get("state") == "online" and int(replica.get("lag", 0)) > LAG_S:
            yield finding(
                "replica-lagging",
                primary.name,
                replica=f"{replica['ip']}:{replica['port']}",
                lag_s=replica["lag"],
            )


def _too_few(context: Context, main: Server) -> Iterator[DoctorFinding]:
    """Report identities that wait for more replicas than there are."""
    if main.role is None or main.role.primary is not None:
        return
    online = sum(replica.get("state") == "online" for replica in read_replicas(main.client))
    waits = {item.name: item.durability.wait_replicas for item in context.policy.identities}
    names = [name for name, count in waits.items() if count > online]
    if names:
        most = max(waits.values())
        yield finding("too-few-replicas", main.name, names=names, most=most, online=online)


def _behind(context: Context, server: Server) -> Iterator[DoctorFinding]:
    if context.active is None:
        return
    head = read_head(context.store_of(server))
    expected = context.active.generation
    if head is None or head.generation != expected:
        present = "no policy" if head is None else f"policy generation {head.generation}"
        yield finding(
            "policy-behind", server.name, present=present, main=context.main.name, expected=expected
        )
