"""Run the checks against a deployment."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import exceptions as redis_errors

from keyleash.doctor.checks import clusters, records, settings, users
from keyleash.doctor.deployment import Deployment, Server
from keyleash.doctor.findings import (
    CODES,
    CheckResult,
    DoctorFinding,
    Severity,
    Skipped,
    finding,
    require_codes,
)
from keyleash.errors import KeyleashError
from keyleash.fence import FenceRecord, read_records
from keyleash.operator.load.compile import prepare_active
from keyleash.results import Result
from keyleash.store.connect import NODE_TIMEOUT_S
from keyleash.store.deployment import Cluster, Node, each_at_once
from keyleash.store.keyspace import HOME_TAG, Keyspace
from keyleash.store.prefixes import SealRecord, read_seal
from keyleash.store.records import read_active
from keyleash.store.server import Address, ping, read_role
from keyleash.store.server_check import Client, operator_client, require_supported
from keyleash.store.store import Store
from keyleash.store.wire import is_down, is_of_a_cluster
from keyleash.text import counted, json_object
from keyleash.watch.sentinels import node_connector
from keyleash.watch.topology import Topology, WatchedNode

Connect = Callable[[Address], Client]
Check = Callable[[Deployment, Server], Iterable[CheckResult]]

SERVER_CHECKS: dict[str, Check] = {
    "version": settings.check_version,
    "payload validation": settings.check_payloads,
    "eviction": settings.check_eviction,
    "memory": settings.check_memory,
    "client limits": settings.check_clients,
    "persistence": settings.check_persistence,
    "default user": users.check_default_user,
    "clock": settings.check_clock,
}
"""Checks of every server, by name."""

NODE_CHECKS: dict[str, Check] = {
    "slots": clusters.check_slots,
    "keys of one server": clusters.check_keys_of_one_server,
    "keys of scripts": clusters.check_scripts_of_slots,
}
"""Further checks of every node of a cluster, by name."""

EVERYTHING = "everything"
"""The check name of a server on which every check is skipped."""
LOOKS = 3
"""Attempts if a policy is activated during each one."""


@dataclass(frozen=True, slots=True)
class Examination(Result):
    """
    The result of an examination.

    Attributes:
        servers: The servers that were found, with their roles.
        findings: The findings by severity, errors first, without accepted ones.
        skipped: The checks that could not be made.
        accepted: The accepted findings, in the same order.
    """

    servers: tuple[Server, ...]
    findings: tuple[DoctorFinding, ...]
    skipped: tuple[Skipped, ...]
    accepted: tuple[DoctorFinding, ...] = ()

    @property
    def is_healthy(self) -> bool:
        """Return whether all findings are accepted or advice."""
        return all(item.severity is Severity.ADVICE for item in self.findings)

    @property
    def is_blind(self) -> bool:
        """Return whether no server could be examined."""
        unseen = {item.node for item in self.skipped if item.check == EVERYTHING}
        return unseen >= {server.name for server in self.servers}

    @property
    def summary(self) -> str:
        """The numbers of servers, findings and skipped checks, on one line."""
        looked = counted(len(self.servers), "server")
        count = Counter(str(finding.severity) for finding in self.findings)
        numbers = [counted(count[name], name) for name in ("error", "warning") if count[name]]
        # "advice" has no plural.
        numbers += [f"{count['advice']} advice"] if count["advice"] else []
        found = ", ".join(numbers) or "no finding"
        if self.accepted:
            found += f", {len(self.accepted)} accepted"
        if not self.skipped:
            return f"{looked}: {found}"
        return f"{looked}: {found}; {counted(len(self.skipped), 'check')} could not be made"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `keyleash doctor --json` prints it."""
        servers = [
            {"name": server.name, "role": None if server.role is None else str(server.role)}
            for server in self.servers
        ]
        return {"servers": servers, **json_object(self, "findings", "accepted", "skipped")}


def examine(
    connect: Connect,
    seeds: Sequence[Address],
    *,
    accept: Collection[str] = (),
    try_moving: bool = False,
) -> Examination:
    """
    Diagnose a deployment; nothing is changed.

    Args:
        connect: Returns a client for an address.
        seeds: Servers; the first has the control keys, and must answer. Their replicas and
            primaries are found automatically.
        accept: Codes of accepted findings.
        try_moving: Whether to mark an empty slot of each primary of a cluster as moving for some
            milliseconds, to see whether scripts miss its keys.

    Raises:
        OperationError (unknown-code): *accept* contains an unknown code.
        redis.RedisError: The first server does not answer, or denies this user.
        OperationError (unsupported-server): It is older than the supported versions.
    """
    require_codes(accept)
    servers, nodes = _find_servers(connect, seeds)
    found = _results_of_one_generation(servers, nodes)
    if nodes is not None and try_moving:
        found += _try_moving(servers, nodes)
    results = dict.fromkeys(found)
    findings = sorted(
        (item for item in results if isinstance(item, DoctorFinding)),
        key=lambda item: ([*Severity].index(item.severity), CODES.index(item.code)),
    )
    return Examination(
        servers,
        tuple(item for item in findings if item.code not in accept),
        tuple(item for item in results if isinstance(item, Skipped)),
        tuple(item for item in findings if item.code in accept),
    )


def examine_nodes(
    first: Client,
    nodes: Sequence[Client] = (),
    *,
    accept: Collection[str] = (),
    timeout_s: float = NODE_TIMEOUT_S,
    try_moving: bool = False,
) -> Examination:
    """
    Diagnose the server of a client and some others; see `examine`.

    Args:
        first: A client. URLs without user and password have its ones.
        nodes: Clients or URLs of further servers.
        accept: Codes of accepted findings.
        timeout_s: Time to wait for each reply of the other servers.
        try_moving: As for `examine`.

    Raises:
        OperationError (bad-url): a URL does not name a server.
        Others as for `examine`.
    """
    first = operator_client(first)
    seeds, connect = node_connector([first, *nodes], first, timeout_s)
    return examine(connect, seeds, accept=accept, try_moving=try_moving)


def _find_servers(
    connect: Connect, seeds: Sequence[Address]
) -> tuple[tuple[Server, ...], Cluster | None]:
    """Return the servers, the one with the control keys first, and the nodes of a cluster."""
    first = connect(seeds[0])
    # Its errors are reported as for every command. A server that denies PING is reachable.
    with suppress(redis_errors.NoPermissionError):
        ping(first)
    if require_supported(first, cluster=True):
        cluster = Cluster(first)
        cluster.read()
        return _servers_of(cluster), cluster
    topology = Topology(lambda address: WatchedNode(address, connect(address)), seeds, None)
    topology.refresh()
    main = topology.named(seeds[0])
    nodes = sorted(topology.nodes.values(), key=lambda node: node is not main)
    found = tuple(Server(str(item.address), connect(item.address), item.role) for item in nodes)
    topology.close()
    return found, None


def _servers_of(nodes: Cluster) -> tuple[Server, ...]:
    """Return the nodes of a cluster, that of the home first."""

    def server(node: Node) -> Server:
        watched = WatchedNode(node.address, nodes.quick_client(node))
        return Server(str(node), watched.client, watched.read_role())

    # One that serves the home is required, as the first server is elsewhere.
    nodes.home().ping()
    home = nodes.find(HOME_TAG)
    return tuple(each_at_once(server, sorted(nodes.all, key=lambda node: node != home)))


def _try_moving(servers: tuple[Server, ...], nodes: Cluster) -> list[CheckResult]:
    seal = read_seal(servers[0].client, HOME_TAG)
    deployment = Deployment(servers, seal, None, {}, nodes)
    return [
        result
        for server in deployment.answering
        for result in _attempt("moving slot", deployment, server, clusters.try_moving_slot)
    ]


def _results_of_one_generation(
    servers: tuple[Server, ...], nodes: Cluster | None
) -> list[CheckResult]:
    """Repeat the checks if a policy is loaded meanwhile, which looks like corrupt records."""
    tag = "" if nodes is None else HOME_TAG
    try:
        read_seal(servers[0].client, tag)
    except redis_errors.ResponseError as error:
        if not is_of_a_cluster(error):
            raise
        # Keys that are not there are not distinct from those that have moved.
        deployment = Deployment(servers, SealRecord(Keyspace(tag=tag)), None, {}, nodes)
        reason = "the cluster is down" if is_down(error) else "the slot of the home is moving"
        skipped = Skipped("policy, guards, scripts and users", reason)
        return [*_check_servers(deployment), skipped]
    for _ in range(LOOKS):
        before = _generation(servers[0], tag)
        results = list(_run_checks(servers, nodes, tag))
        if _generation(servers[0], tag) == before:
            break
    return results


def _generation(main: Server, tag: str) -> int:
    active = read_active(Store(main.client, read_seal(main.client, tag).keyspace))
    return 0 if active is None else active.generation


def _run_checks(
    servers: tuple[Server, ...], nodes: Cluster | None, tag: str
) -> Iterator[CheckResult]:
    main = servers[0]
    seal = read_seal(main.client, tag)
    active = read_active(Store(main.client, seal.keyspace))
    fences: Mapping[str, FenceRecord] = {}
    try:
        fences = read_records(Store(main.client, seal.keyspace))
    except redis_errors.NoPermissionError as error:
        yield Skipped("ACL users", f"the server replies: {error}", main.name)
    deployment = Deployment(servers, seal, active, fences, nodes)
    yield from _check_servers(deployment)
    if seal.change is not None:
        yield records.half_changed(seal.change)
        if seal.change.is_switched:
            yield Skipped("policy, guards, scripts and users", "keys are being moved")
            return
    yield from _attempt("replication", deployment, main, settings.check_replication)
    if active is None:
        yield finding("no-policy")
        return
    for server in deployment.answering:
        yield from _attempt("scripts", deployment, server, records.check_scripts)
    yield from _attempt("tokens", deployment, main, records.check_tokens)
    yield from _attempt("tokens without an entry", deployment, main, records.check_unlisted)
    yield from _attempt("moments", deployment, main, settings.check_moments)
    yield from _attempt("guards and users", deployment, main, _check_compiled)


def _check_servers(deployment: Deployment) -> Iterator[CheckResult]:
    checks = SERVER_CHECKS if deployment.nodes is None else SERVER_CHECKS | NODE_CHECKS
    for server in deployment.servers:
        if server.role is None:
            yield from _attempt(EVERYTHING, deployment, server, _check_answer)
        else:
            for name, check in checks.items():
                yield from _attempt(name, deployment, server, check)


def _check_compiled(deployment: Deployment, main: Server) -> Iterator[CheckResult]:
    """Run the checks that need the compiled guards of the active policy."""
    active = deployment.active
    assert active is not None  # noqa: S101 - asked for by the caller
    prepared = prepare_active(deployment.store_of(main), active.document)
    yield from records.check_records(deployment, active, prepared)
    if deployment.fences:
        yield from _attempt(
            "ACL users", deployment, main, lambda *_: users.check_fences(deployment, prepared)
        )


def _check_answer(_deployment: Deployment, server: Server) -> Iterator[CheckResult]:
    """Report why a server has no role, as an error of this check."""
    read_role(server.client)
    yield Skipped(EVERYTHING, "it did not answer at first", server.name)


def _attempt(
    name: str, deployment: Deployment, server: Server, check: Check
) -> Iterator[CheckResult]:
    """Run a check; report it as skipped if it cannot be made."""
    try:
        yield from check(deployment, server)
    except redis_errors.AuthenticationError as error:
        yield Skipped(name, str(error), server.name)
    except (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError):
        yield finding("unreachable", server.name)
    except redis_errors.ResponseError as error:
        yield Skipped(name, f"the server replies: {error}", server.name)
    except (KeyleashError, LookupError, ValueError, struct.error) as error:
        reason = error.message if isinstance(error, KeyleashError) else type(error).__name__
        yield finding("unreadable", server.name, reason=reason)
