"""Checks of server settings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from redis.exceptions import ResponseError

from keyleash.commands.work import DEFAULT_VALUE_BYTES
from keyleash.doctor.advisories import advisories, parse_version, shown
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import CheckResult, DoctorFinding, Severity, Skipped, named
from keyleash.limits import LimitState, SlotKind
from keyleash.operator.load.checks import (
    EVICTION_ADVICE,
    RESTORE_CODE,
    find_eviction_risk,
    restoring_identities,
)
from keyleash.policy import Identity, Policy
from keyleash.status.identities import read_states
from keyleash.store.identities import server_time_us
from keyleash.store.keyspace import Keyspace
from keyleash.store.records import Client
from keyleash.store.server_check import PAYLOAD_ADVICE, find_payload_risk, release_of
from keyleash.watch.roles import replicas_of

VERSION = "vulnerable-version"


def check_version(server: Server) -> Iterator[CheckResult]:
    """Compare the release with the first fixed ones."""
    product, text = release_of(server.client.info("server"))
    version = parse_version(text)
    if version is None:
        yield Skipped("version", f"`{text}` is not a release of {product}", server.name)
        return
    concerning = [
        advisory
        for advisory in advisories()
        if advisory.concerns(product, version) and _is_on(server.client, advisory.setting)
    ]
    if not concerning:
        return
    target = max(item.upgrade(product, version) for item in concerning)
    names = ", ".join(item.name for item in concerning)
    yield DoctorFinding(
        VERSION,
        Severity.ERROR,
        f"{product.capitalize()} {text} has known vulnerabilities that agents, or clients that"
        f" may load scripts, can exploit: {names}; the worst: {concerning[0].what}",
        f"upgrade to {product.capitalize()} {shown(target)} or later; if your distribution"
        f" backported the fixes, accept it: `--accept {VERSION}`",
        server.name,
    )


def _is_on(client: Client, setting: str) -> bool:
    """Return whether *setting* is not 0, missing or unreadable."""
    if not setting:
        return True
    try:
        value = str(client.config_get(setting).get(setting, "0"))
    except ResponseError:
        return True
    return value.rstrip("%") != "0"


OUTPUT = "unbounded-output-buffers"
TOTAL = "unbounded-client-memory"
BULK = "large-bulk-length"
MIB = 1 << 20

_OUTPUT, _TOTAL, _BULK = "client-output-buffer-limit", "maxmemory-clients", "proto-max-bulk-len"


def check_clients(deployment: Deployment, server: Server) -> Iterator[CheckResult]:
    """Check the limits of one connection, of all connections and of one argument."""
    try:
        settings: Mapping[str, str] = server.client.config_get(_OUTPUT, _TOTAL, _BULK)
    except ResponseError as error:
        reason = f"the server's settings cannot be read: {error}"
        yield Skipped("client limits", reason, server.name)
        return
    has_maxmemory = bool(int(server.client.info("memory").get("maxmemory", 0)))
    is_output_open = _is_output_open(settings.get(_OUTPUT, ""))
    total = settings.get(_TOTAL, "0")
    # A percentage refers to `maxmemory`.
    is_total_open = total.rstrip("%") == "0" or (total.endswith("%") and not has_maxmemory)
    severity = Severity.WARNING if is_output_open and is_total_open else Severity.ADVICE
    if is_output_open:
        yield DoctorFinding(
            OUTPUT,
            severity,
            f"`{_OUTPUT}` is unlimited for normal clients: replies that an agent does not read stay"
            " in memory",
            f"set `{_OUTPUT} normal 256mb 64mb 60` in redis.conf, or by `CONFIG SET {_OUTPUT}"
            ' "normal 256mb 64mb 60"`; the first size must exceed the largest reply',
            server.name,
        )
    if is_total_open:
        without = " without a `maxmemory`" if total.endswith("%") else ""
        yield DoctorFinding(
            TOTAL,
            severity,
            f"with `{_TOTAL} {total}`{without} the buffers of all connections together are"
            " unlimited",
            f"set `{_TOTAL}` to a size such as `512mb`, or to a percentage of `maxmemory`; above"
            " it, the server closes the connections that use most",
            server.name,
        )
    bulk_mib = int(settings.get(_BULK, 0)) // MIB
    needed_mib = -(-_longest_value(deployment.policy) // MIB)
    if bulk_mib > needed_mib:
        yield DoctorFinding(
            BULK,
            Severity.ADVICE,
            f"`{_BULK}` allows arguments of {bulk_mib} MiB, and guards allow strings of"
            f" {needed_mib} MiB",
            f"set `{_BULK} {needed_mib}mb`, or what the values of other clients need",
            server.name,
        )


def _longest_value(policy: Policy | None) -> int:
    """Return the longest string in bytes that the guards of a policy allow."""
    identities = () if policy is None else policy.identities
    bounds = (grant.value_bytes for identity in identities for grant in identity.grants)
    return max((DEFAULT_VALUE_BYTES, *(bound for bound in bounds if bound is not None)))


def _is_output_open(limits: str) -> bool:
    """Return whether the class `normal` of `client-output-buffer-limit` has neither limit."""
    words = limits.split()
    classes = dict(zip(words[::4], zip(words[1::4], words[2::4], strict=True), strict=True))
    return classes.get("normal") == ("0", "0")


DIFFERS = "clock-differs"
AHEAD = "clock-was-ahead"
TOLERATED_S = 5.0
MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


def check_clock(server: Server) -> Iterator[CheckResult]:
    """Compare the server's clock with this machine's."""
    before_s = time.time()
    server_s = server_time_us(server.client) / 1_000_000
    after_s = time.time()
    # The duration of the round trip is tolerated.
    off_s = max(before_s - server_s, server_s - after_s, 0.0)
    if off_s > TOLERATED_S:
        way = "ahead of" if server_s > after_s else "behind"
        yield DoctorFinding(
            DIFFERS,
            Severity.WARNING,
            f"the server's clock is {off_s:.0f} s {way} this machine's; expiries and windows"
            " use the server's",
            "synchronize both by NTP; if a clock is set back, agents wait as long as it was ahead",
            server.name,
        )


def check_moments(deployment: Deployment, keyspace: Keyspace) -> Iterator[CheckResult]:
    """Look for times in the future in states and audit streams."""
    policy, client = deployment.policy, deployment.main.client
    if policy is None:
        return
    now_us = server_time_us(client)
    names = [item.name for item in policy.identities]
    ahead = []
    states = read_states(client, keyspace, names)
    for identity, (state, _) in zip(policy.identities, states, strict=True):
        if state is not None and any(_is_ahead(identity, limit, now_us) for limit in state.limits):
            ahead.append(identity.name)
    if ahead:
        yield _ahead(f"limits of {named(ahead)} contain times in the future")
    streams = [keyspace.control, *map(keyspace.audit, names), *map(keyspace.denied, names)]
    with client.pipeline(transaction=False) as pipe:
        for stream in streams:
            pipe.xrevrange(stream, count=1)
        newest = pipe.execute()
    times_us = [int(item[0][0].partition(b"-")[0]) * 1000 for item in newest if item]
    if times_us and max(times_us) > now_us + MINUTE_US:
        ahead_s = (max(times_us) - now_us) // 1_000_000
        yield _ahead(f"the newest entry of an audit stream is {ahead_s} s in the future")


def _is_ahead(identity: Identity, held: LimitState, now_us: int) -> bool:
    slot = held.slot
    match slot.kind:
        case SlotKind.BUDGET:
            # Months differ in length, and so do days of a clock change.
            return held.ends_us > now_us + slot.period_us + 2 * DAY_US
        case SlotKind.RING:
            return max(held.calls_us, default=0) > now_us + MINUTE_US
        case SlotKind.GCRA:
            bursts = [rate.burst for rate in identity.rates if rate.name == slot.name]
            burst = next((item for item in bursts if item), slot.limit)
            return held.tat_us > now_us + burst * slot.interval_us + MINUTE_US


def _ahead(what: str) -> DoctorFinding:
    return DoctorFinding(
        AHEAD,
        Severity.WARNING,
        f"{what}: the server's clock was ahead when they were written",
        "find out what set the clock; until it reaches these times, agents may be denied, and audit"
        " streams continue at their last time",
    )


EVICTION = "eviction"
FULL = "memory-full"
NEARLY = 0.9
"""The share of `maxmemory` from which a warning is given."""


def check_eviction(server: Server) -> Iterator[CheckResult]:
    """Check `maxmemory-policy`."""
    risk = find_eviction_risk(server.client)
    if risk is None:
        return
    if risk.policy is None:
        yield Skipped("eviction", risk.message, server.name)
        return
    severity = Severity.ERROR if risk.has_bound else Severity.WARNING
    yield DoctorFinding(EVICTION, severity, risk.message, EVICTION_ADVICE, server.name)


def check_room(server: Server) -> Iterator[DoctorFinding]:
    """Compare the used memory with `maxmemory`."""
    memory = server.client.info("memory")
    bound = int(memory.get("maxmemory", 0))
    # A server that evicts keys always has room.
    if not bound or memory.get("maxmemory_policy") != "noeviction":
        return
    # Buffers of replicas and of the append-only file do not count.
    used = int(memory["used_memory"]) - int(memory.get("mem_not_counted_for_evict", 0))
    if used < NEARLY * bound:
        return
    is_full = used >= bound
    yield DoctorFinding(
        FULL,
        Severity.ERROR if is_full else Severity.WARNING,
        f"{used * 100 // bound} % of `maxmemory` is used: "
        + ("every write is denied" if is_full else "at 100 % every write is denied"),
        "raise `maxmemory`, delete data, or shorten audit streams",
        server.name,
    )


def check_payloads(
    deployment: Deployment, server: Server, *, are_fenced: bool
) -> Iterator[CheckResult]:
    """
    Check `sanitize-dump-payload`; it is an error if an identity may RESTORE.

    Args:
        deployment: The deployment.
        server: One of its servers.
        are_fenced: Whether agents have ACL users, which may write to their audit streams unless the
            server is sealed.
    """
    risk = find_payload_risk(server.client)
    if risk is None:
        return
    if risk.setting is None:
        yield Skipped("payload validation", risk.message, server.name)
        return
    policy = deployment.policy
    names = () if policy is None else restoring_identities(policy)
    if names:
        message = f"{named(names)} may RESTORE, and {risk.message}"
        yield DoctorFinding(RESTORE_CODE, Severity.ERROR, message, PAYLOAD_ADVICE, server.name)
        return
    can_forge = are_fenced and not deployment.seal.keyspace.vault
    yield DoctorFinding(
        RESTORE_CODE,
        Severity.WARNING if can_forge else Severity.ADVICE,
        risk.message,
        f"{PAYLOAD_ADVICE}: a fenced agent can forge before-images in its audit stream,"
        " so until then `undo` and `audit as-of` do not restore those of fenced agents",
        server.name,
    )


NONE = "no-persistence"
SNAPSHOTS = "snapshots-only"
NO_FSYNC = "no-fsync"
FAILING = "persistence-failing"
APPEND = "set `appendonly yes` and `appendfsync everysec`, in the server's configuration file too"


def check_persistence(server: Server) -> Iterator[CheckResult]:
    """Check the append-only file and snapshots."""
    info = server.client.info("persistence")
    yield from _failing(server, info)
    try:
        given = server.client.config_get("save", "appendfsync")
    except ResponseError as error:
        given = None
        reason = f"the server's settings cannot be read: {error}"
    if not int(info.get("aof_enabled", 0)):
        if given is None:
            yield Skipped("snapshots", reason, server.name)
        elif given.get("save"):
            yield DoctorFinding(
                SNAPSHOTS,
                Severity.WARNING,
                "there are snapshots and no append-only file: a crash loses counts, events and"
                " revocations since the last snapshot",
                APPEND,
                server.name,
            )
        else:
            yield DoctorFinding(
                NONE,
                Severity.ERROR,
                "nothing is persisted: a restart loses policy, tokens, counters and audit streams",
                APPEND,
                server.name,
            )
    elif given is None:
        yield Skipped("appendfsync", reason, server.name)
    elif given.get("appendfsync") == "no":
        yield DoctorFinding(
            NO_FSYNC,
            Severity.WARNING,
            "with `appendfsync no` a crash of the machine loses what its operating system had"
            " not yet written, including revocations",
            "set `appendfsync everysec`, or `always`",
            server.name,
        )


def _failing(server: Server, info: dict[str, object]) -> Iterator[DoctorFinding]:
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
        yield DoctorFinding(
            FAILING,
            Severity.ERROR,
            f"{' and '.join(failed)} failed: the server may deny every write",
            "free space on its disk; its log names the failure",
            server.name,
        )


UNREACHABLE = "unreachable"
LINK = "replica-unlinked"
LAGGING = "replica-lagging"
TOO_FEW = "too-few-replicas"
BEHIND = "policy-behind"
SEVERAL = "several-primaries"
LAG_S = 10
"""The default of the servers' `min-replicas-max-lag`."""


def unreachable(server: Server) -> DoctorFinding:
    """Return the finding for a listed server that does not answer."""
    return DoctorFinding(
        UNREACHABLE,
        Severity.ERROR,
        "the server does not answer, so it was not checked",
        "start it or remove it; check that its address is reachable from here, and that user and"
        " password are valid there",
        server.name,
    )


def check_replication(deployment: Deployment, keyspace: Keyspace) -> Iterator[CheckResult]:
    """Check the replication between the servers."""
    primaries = [item for item in deployment.answering if item.role and item.role.primary is None]
    if len(primaries) > 1:
        yield DoctorFinding(
            SEVERAL,
            Severity.ERROR,
            f"more than one server accepts writes: {named(item.name for item in primaries)}",
            "connect agents to one only, and make the others its replicas",
        )
    for server in deployment.answering:
        assert server.role is not None  # noqa: S101 - it answers
        if not server.role.is_linked:
            yield DoctorFinding(
                LINK,
                Severity.ERROR,
                f"it has no link to its primary {server.role.primary}",
                "check its log; `masterauth` and `masteruser` must be valid at the primary",
                server.name,
            )
        elif server.role.primary is not None:
            yield from _behind(deployment, server, keyspace)
    for primary in primaries:
        yield from _lagging(primary)
    yield from _too_few(deployment)


def _lagging(primary: Server) -> Iterator[DoctorFinding]:
    for replica in replicas_of(primary.client.info("replication")):
        if replica.get("state") == "online" and int(replica.get("lag", 0)) > LAG_S:
            yield DoctorFinding(
                LAGGING,
                Severity.WARNING,
                f"its replica {replica['ip']}:{replica['port']} last answered"
                f" {replica['lag']} s ago: a failover to it loses later writes",
                "check that server and the network between them",
                primary.name,
            )


def _too_few(deployment: Deployment) -> Iterator[DoctorFinding]:
    """Report identities that wait for more replicas than there are."""
    main, policy = deployment.main, deployment.policy
    if policy is None or main.role is None or main.role.primary is not None:
        return
    online = sum(
        replica.get("state") == "online" for replica in replicas_of(main.client.info("replication"))
    )
    waiting = [
        identity for identity in policy.identities if identity.durability.wait_replicas > online
    ]
    if waiting:
        most = max(item.durability.wait_replicas for item in waiting)
        yield DoctorFinding(
            TOO_FEW,
            Severity.ERROR,
            f"{named(item.name for item in waiting)} wait for up to {most} replicas,"
            f" and the primary has {online}: every write fails as not replicated",
            "restore replicas, or lower `durability: {wait_replicas: …}`",
            main.name,
        )


def _behind(deployment: Deployment, server: Server, keyspace: Keyspace) -> Iterator[DoctorFinding]:
    if deployment.active is None:
        return
    raw = server.client.hget(keyspace.policy, "generation")
    ours = deployment.active.generation
    if raw is None or int(raw) != ours:
        has = "no policy" if raw is None else f"policy generation {int(raw)}"
        yield DoctorFinding(
            BEHIND,
            Severity.ERROR,
            f"it has {has}, {deployment.main.name} has generation {ours}",
            "make it a replica of that server; retry if a policy was just loaded",
            server.name,
        )
